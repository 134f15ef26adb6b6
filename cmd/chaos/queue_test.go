//go:build chaos && linux

package chaos_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
)

// queueFaults spoil what is in Redis.
func (c *cluster) queueFaults() []fault {
	spoil := func(name, what string, do func(ctx context.Context, r *rand.Rand) error) fault {
		return fault{
			name: name, what: what, weight: 2, load: 12, nap: napTick,
			begin: func(ctx context.Context, r *rand.Rand) func() {
				ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
				defer cancel()
				// Beside another fault, Redis may be away.
				if err := do(ctx, r); err != nil {
					c.say("       %s: not done: %v", name, err)
				}
				return nil
			},
		}
	}
	return []fault{
		spoil("flush", "FLUSHALL", func(ctx context.Context, _ *rand.Rand) error { return c.queue.Client().FlushAll(ctx).Err() }),
		spoil("evict", "half of the tasks' hashes are deleted, as an eviction would", c.evict),
		spoil("corrupt", "entries that cannot be read: garbage, a changed payload, an id without a task", c.corrupt),
		spoil("dispatch twice", "the dispatches of all open evaluations, and others with numbers of before and after, enqueued again", c.dispatchAgain),
	}
}

// tasks lists the keys of asynq's tasks in any state.
func (c *cluster) tasks(ctx context.Context) ([]string, error) {
	var keys []string
	scan := c.queue.Client().Scan(ctx, 0, "asynq:{*}:t:*", 1000).Iterator()
	for scan.Next(ctx) {
		keys = append(keys, scan.Val())
	}
	return keys, scan.Err()
}

// unfinished lists the tasks of some lists: those that wait are pending, those in a worker's hand active.
func (c *cluster) unfinished(ctx context.Context, lists ...string) ([]string, error) {
	var keys []string
	for _, queue := range task.Queues() {
		prefix := "asynq:{" + queue + "}:"
		for _, list := range lists {
			ids, err := c.queue.Client().LRange(ctx, prefix+list, 0, -1).Result()
			if err != nil {
				return nil, err
			}
			for _, id := range ids {
				keys = append(keys, prefix+"t:"+id)
			}
		}
	}
	return keys, nil
}

func (c *cluster) evict(ctx context.Context, r *rand.Rand) error {
	keys, err := c.tasks(ctx)
	if err != nil {
		return err
	}
	open, err := c.unfinished(ctx, "pending", "active")
	if err != nil {
		return err
	}
	for _, key := range append(open, keys...) {
		if r.IntN(2) == 0 {
			if err := c.queue.Client().Del(ctx, key).Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *cluster) corrupt(ctx context.Context, r *rand.Rand) error {
	open, err := c.unfinished(ctx, "pending", "active")
	if err != nil {
		return err
	}
	redis := c.queue.Client()
	for _, key := range open {
		switch r.IntN(4) {
		case 0:
			err = redis.HSet(ctx, key, "msg", "\x00garbage\xff").Err()
		case 1: // asynq can read it, the handler cannot
			msg, _ := redis.HGet(ctx, key, "msg").Result()
			err = redis.HSet(ctx, key, "msg", strings.Replace(msg, `"project"`, `"pr\\u00"}`, 1)).Err()
		case 2:
			err = redis.HDel(ctx, key, "msg").Err()
		}
		if err != nil {
			return err
		}
	}
	for n, queue := range task.Queues() {
		prefix := "asynq:{" + queue + "}:"
		id := fmt.Sprintf("nobody-%d-%d", n, r.IntN(1_000_000))
		if err := redis.LPush(ctx, prefix+"pending", id).Err(); err != nil {
			return err
		}
		if err := redis.LPush(ctx, prefix+"active", id+"-taken").Err(); err != nil {
			return err
		}
	}
	return nil
}

// dispatchAgain enqueues by hand what is queued, runs or has ended.
func (c *cluster) dispatchAgain(ctx context.Context, r *rand.Rand) error {
	queue := task.NewQueue(c.queue)
	ids := c.load.open()
	c.load.mu.Lock()
	for range 10 {
		ids = append(ids, c.load.items[r.IntN(len(c.load.items))].id)
	}
	c.load.mu.Unlock()
	for _, id := range ids {
		if id == "" {
			continue
		}
		seq := 1 + len(c.history.of(id))/2
		for _, s := range []int{seq, seq, seq + 1, max(seq-1, 1), 99} {
			d := eval.Dispatch{Key: eval.Key{Project: eval.DefaultProject, ID: id}, Seq: s, Priority: eval.Priorities()[r.IntN(4)]}
			if err := queue.Enqueue(ctx, d); err != nil {
				return err
			}
		}
	}
	return nil
}
