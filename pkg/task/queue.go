package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/internal/outage"
	"github.com/crucible-eval/crucible/pkg/live"
)

const (
	// patience is how long a caller may wait for Redis. Whoever submits an evaluation waits for it.
	patience = 500 * time.Millisecond
	// retention is how long a finished task can be looked at. It is short, because each one takes memory; the evaluation
	// itself is in the store. In the embedded Redis that is our own memory.
	retention, retentionEmbedded = 10 * time.Minute, time.Minute
	// limit ends a task's context, which work does not run under. When it passes, asynq hands the task out again, and
	// that handler finds the evaluation running and is done. It has to be in whole seconds.
	limit = 2 * time.Hour
	// tries is more than any retry policy has: the store decides when it is over, and asynq must not do so before.
	tries = 1000
	// reclaim is how long an active task may keep a queued evaluation waiting.
	reclaim = 30 * time.Second
	// probed is how many dispatches of an evaluation Forget looks for in the queue, the last ones.
	probed = 8
)

// Queue is an eval.Queue over asynq. After a failure it answers KindUnavailable at once for a second, so that an
// outage of Redis does not slow those who submit.
type Queue struct {
	redis     *Redis
	client    *asynq.Client
	inspector *asynq.Inspector
	gate      *outage.Gate
}

var _ eval.Queue = (*Queue)(nil)

// NewQueue returns the queue in this Redis. It lives as long as the connection.
func NewQueue(r *Redis) *Queue {
	return &Queue{
		redis:     r,
		client:    asynq.NewClientFromRedisClient(r.client),
		inspector: asynq.NewInspectorFromRedisClient(r.client),
		gate:      outage.NewGate("queue: Redis", time.Second, r.log),
	}
}

// payload is what a task carries.
type payload struct {
	Project string  `json:"project"`
	ID      eval.ID `json:"id"`
	Alone   bool    `json:"alone,omitempty"`
}

// Headers of a task.
const headerTrace = "traceparent"

// Enqueue implements eval.Queue.
func (q *Queue) Enqueue(ctx context.Context, d eval.Dispatch) error {
	return q.guarded(ctx, func(ctx context.Context) error { return q.enqueue(ctx, d) })
}

// EnqueueAll is Enqueue for dispatches of which most may be waiting in the queue already, as the reconciler has them:
// those are found in one round trip. An error leaves the rest undone. KindUnavailable.
func (q *Queue) EnqueueAll(ctx context.Context, all []eval.Dispatch) error {
	states := make([]*redis.StringCmd, len(all))
	err := q.guarded(ctx, func(ctx context.Context) error {
		_, err := q.redis.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, d := range all {
				states[i] = p.HGet(ctx, taskKey(queueOf(d.Priority), taskID(d.ID, d.Seq)), "state")
			}
			return nil
		})
		if errors.Is(err, redis.Nil) {
			return nil
		}
		return err
	})
	for i := 0; err == nil && i < len(all); i++ {
		if states[i].Val() != "pending" {
			err = q.Enqueue(ctx, all[i])
		}
	}
	return err
}

// guarded runs one operation on Redis with the deadline and the gate.
func (q *Queue) guarded(ctx context.Context, do func(context.Context) error) error {
	if err := q.redis.usable(); err != nil {
		return err
	}
	if !q.gate.Allow() {
		return eval.Errorf(eval.KindUnavailable, "the queue's Redis cannot be reached; it is tried again in a second")
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := do(limited)
	if ctx.Err() == nil { // else it is the caller who gave up
		q.gate.Report(err)
	}
	return unavailable(err)
}

func (q *Queue) enqueue(ctx context.Context, d eval.Dispatch) error {
	body, err := json.Marshal(payload{d.Project, d.ID, d.Alone})
	if err != nil {
		return err
	}
	var headers map[string]string
	if d.Trace != "" {
		headers = map[string]string{headerTrace: d.Trace}
	}
	work, queue, id := asynq.NewTaskWithHeaders(typeRun, body, headers), queueOf(d.Priority), taskID(d.ID, d.Seq)
	keep := retention
	if q.redis.Embedded() {
		keep = retentionEmbedded
	}
	put := func(id string) error {
		options := []asynq.Option{asynq.Queue(queue), asynq.TaskID(id), asynq.MaxRetry(tries), asynq.Timeout(limit), asynq.Retention(keep)}
		if !d.RunAt.IsZero() {
			// asynq cuts fractions of a second off, and would start early.
			options = append(options, asynq.ProcessAt(d.RunAt.Add(time.Second-1).Truncate(time.Second)))
		}
		_, err := q.client.EnqueueContext(ctx, work, options...)
		return err
	}
	err = put(id)
	if !errors.Is(err, asynq.ErrTaskIDConflict) {
		return err
	}
	state, err := q.state(ctx, queue, id)
	if err != nil {
		return err
	}
	switch state {
	case "pending":
		return nil
	case "scheduled", "retry":
		// It waits for a time. Whoever enqueues it after that time is the reconciler, which is more exact than asynq's
		// forwarder; and a try that failed because the store was away need not wait out its delay.
		if d.RunAt.After(time.Now()) || q.inspector.RunTask(queue, id) == nil {
			return nil
		}
		if err := q.clear(ctx, queue, id); err != nil {
			return err
		}
	case "active":
		if d.Alone && q.held(ctx, queue, id) {
			return nil // it waits at a worker for all slots there; a second one would do so at another worker
		}
		// A worker has taken this dispatch, and yet the evaluation is queued: it may be about to be claimed, or the
		// worker died in between. asynq would notice that after 108 s at the earliest. A second task in its place
		// starts it now; if the first one lives, one of them finds the evaluation taken and is done. The time in the
		// id keeps the number of these small.
		id += "+" + strconv.FormatInt(time.Now().Unix()/int64(reclaim.Seconds()), 10)
	default:
		// Completed or archived without bringing the evaluation to its end, or gone in this moment: the dispatch is
		// over, and asked for again.
		if err := q.clear(ctx, queue, id); err != nil {
			return err
		}
	}
	if err = put(id); errors.Is(err, asynq.ErrTaskIDConflict) {
		return nil // somebody else was quicker
	}
	return err
}

// state is where asynq has a task, or "" when it has none.
func (q *Queue) state(ctx context.Context, queue, id string) (string, error) {
	state, err := q.redis.client.HGet(ctx, taskKey(queue, id), "state").Result()
	if errors.Is(err, redis.Nil) {
		return "", nil
	}
	return state, err
}

// held says whether a worker that lives has an active task in hand: every 5 s asynq's servers renew a lease of 30 s for
// theirs. One that was not renewed for 8 s belongs to a worker that is gone or frozen.
func (q *Queue) held(ctx context.Context, queue, id string) bool {
	until, err := q.redis.client.ZScore(ctx, queueKey(queue, "lease"), id).Result()
	return err == nil && until > float64(time.Now().Add(22*time.Second).Unix())
}

// clear removes a task that no worker has in hand. asynq refuses for a task that has moved on, which is fine, and for
// one whose place in its list is gone, after an eviction say: its remains would block the evaluation, and go.
func (q *Queue) clear(ctx context.Context, queue, id string) error {
	if q.inspector.DeleteTask(queue, id) == nil {
		return nil
	}
	state, err := q.state(ctx, queue, id)
	if err != nil || state == "" || state == "active" || state == "pending" {
		return err
	}
	return q.redis.client.Del(ctx, taskKey(queue, id)).Err()
}

// Cancel implements eval.Queue.
func (q *Queue) Cancel(ctx context.Context, d eval.Dispatch) error {
	return q.guarded(ctx, func(ctx context.Context) error {
		return errors.Join(
			live.Publish(ctx, q.redis.client, eval.Notice{Key: d.Key, CancelRequested: true}),
			q.forget(ctx, []eval.Dispatch{d}))
	})
}

// Forget implements eval.Queue.
func (q *Queue) Forget(ctx context.Context, all []eval.Dispatch) error {
	for part := range slices.Chunk(all, 20) {
		if err := q.guarded(ctx, func(ctx context.Context) error { return q.forget(ctx, part) }); err != nil {
			return err
		}
	}
	return nil
}

func (q *Queue) forget(ctx context.Context, all []eval.Dispatch) error {
	type place struct{ queue, id string }
	states := make(map[place]*redis.StringCmd)
	_, err := q.redis.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, d := range all {
			for seq := max(d.Seq-probed+1, 1); seq <= d.Seq; seq++ {
				id := taskID(d.ID, seq)
				for _, queue := range Queues() { // what has waited for long may stand in a more urgent one than its own
					states[place{queue, id}] = p.HGet(ctx, taskKey(queue, id), "state")
				}
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	for at, state := range states {
		switch state.Val() {
		case "pending", "scheduled", "retry", "archived":
			// One that has moved on meanwhile finds the evaluation ended.
			_ = q.inspector.DeleteTask(at.queue, at.id)
		}
	}
	return nil
}

func taskID(id eval.ID, seq int) string { return string(id) + ":" + strconv.Itoa(seq) }

func taskKey(queue, id string) string { return queueKey(queue, "t:"+id) }

// queueKey is where asynq keeps a part of a queue.
func queueKey(queue, part string) string { return fmt.Sprintf("asynq:{%s}:%s", queue, part) }
