package task

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// QueueInfo are the live numbers of a queue. They count tasks; the store counts evaluations.
type QueueInfo struct {
	Name      string `json:"name"`
	Weight    int    `json:"weight"`
	Paused    bool   `json:"paused"`
	Pending   int64  `json:"pending"`   // wait for a worker
	Active    int64  `json:"active"`    // in a worker's hand
	Scheduled int64  `json:"scheduled"` // wait for their run_at
	Retry     int64  `json:"retry"`     // wait for their next try
	Archived  int64  `json:"archived"`  // given up
	Completed int64  `json:"completed"` // ended, and still to be seen
	// ProcessedToday and FailedToday count since midnight UTC; a failed task may have been tried again.
	ProcessedToday int64 `json:"processed_today"`
	FailedToday    int64 `json:"failed_today"`
}

// Inspector looks at the queues.
type Inspector struct{ redis *Redis }

// NewInspector returns one. It lives as long as the connection.
func NewInspector(r *Redis) *Inspector { return &Inspector{redis: r} }

// Queues returns the numbers of all queues, the most urgent first, in one round trip. asynq's own GetQueueInfo
// measures the memory of queues each time, which is slow. KindUnavailable.
func (i *Inspector) Queues(ctx context.Context) ([]QueueInfo, error) {
	if err := i.redis.usable(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	type row struct {
		paused                                                *redis.IntCmd
		pending, active, scheduled, retry, archived, complete *redis.IntCmd
		processed, failed                                     *redis.StringCmd
	}
	names, today := Queues(), time.Now().UTC().Format(time.DateOnly)
	rows := make([]row, len(names))
	_, err := i.redis.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for n, q := range names {
			rows[n] = row{
				paused:  p.Exists(ctx, queueKey(q, "paused")),
				pending: p.LLen(ctx, queueKey(q, "pending")), active: p.LLen(ctx, queueKey(q, "active")),
				scheduled: p.ZCard(ctx, queueKey(q, "scheduled")), retry: p.ZCard(ctx, queueKey(q, "retry")),
				archived: p.ZCard(ctx, queueKey(q, "archived")), complete: p.ZCard(ctx, queueKey(q, "completed")),
				processed: p.Get(ctx, queueKey(q, "processed:"+today)), failed: p.Get(ctx, queueKey(q, "failed:"+today)),
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, unavailable(err)
	}
	infos := make([]QueueInfo, len(names))
	for n, q := range names {
		r := rows[n]
		processed, _ := r.processed.Int64()
		failed, _ := r.failed.Int64()
		infos[n] = QueueInfo{
			Name: q, Weight: weights[q], Paused: r.paused.Val() > 0, Pending: r.pending.Val(), Active: r.active.Val(),
			Scheduled: r.scheduled.Val(), Retry: r.retry.Val(), Archived: r.archived.Val(), Completed: r.complete.Val(),
			ProcessedToday: processed, FailedToday: failed,
		}
	}
	return infos, nil
}

// Pause lets no more work start from the queue. Pausing twice is fine. KindNotFound, KindUnavailable.
func (i *Inspector) Pause(ctx context.Context, queue string) error {
	return i.change(ctx, queue, func(ctx context.Context, key string) error {
		return i.redis.client.SetNX(ctx, key, time.Now().Unix(), 0).Err()
	})
}

// Resume ends a pause. Resuming what is not paused is fine. KindNotFound, KindUnavailable.
func (i *Inspector) Resume(ctx context.Context, queue string) error {
	return i.change(ctx, queue, func(ctx context.Context, key string) error { return i.redis.client.Del(ctx, key).Err() })
}

// change writes the mark that asynq looks at. Its own calls for it take no context, and call a second pause an error.
func (i *Inspector) change(ctx context.Context, queue string, do func(ctx context.Context, key string) error) error {
	if !slices.Contains(Queues(), queue) {
		return eval.Errorf(eval.KindNotFound, "there is no queue %q: there are %v", queue, Queues())
	}
	if err := i.redis.usable(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return unavailable(do(ctx, queueKey(queue, "paused")))
}

var (
	depthDesc  = prometheus.NewDesc("crucible_queue_tasks", "Tasks in the queue, by queue and state.", []string{"queue", "state"}, nil)
	pausedDesc = prometheus.NewDesc("crucible_queue_paused", "1 while the queue is paused.", []string{"queue"}, nil)
	upDesc     = prometheus.NewDesc("crucible_queue_up", "1 while the queue's Redis answers.", nil, nil)
)

var _ prometheus.Collector = (*Inspector)(nil)

// Describe implements prometheus.Collector.
func (i *Inspector) Describe(ch chan<- *prometheus.Desc) {
	ch <- depthDesc
	ch <- pausedDesc
	ch <- upDesc
}

// Collect implements prometheus.Collector. While Redis is away there are no numbers, rather than old ones.
func (i *Inspector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	infos, err := i.Queues(context.Background())
	if err != nil {
		gauge(upDesc, 0)
		return
	}
	gauge(upDesc, 1)
	for _, q := range infos {
		for state, n := range map[string]int64{
			"pending": q.Pending, "active": q.Active, "scheduled": q.Scheduled, "retry": q.Retry, "archived": q.Archived,
		} {
			gauge(depthDesc, float64(n), q.Name, state)
		}
		paused := 0.0
		if q.Paused {
			paused = 1
		}
		gauge(pausedDesc, paused, q.Name)
	}
}
