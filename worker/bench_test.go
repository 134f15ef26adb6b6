package worker_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/worker"
)

// BenchmarkOverhead is what the platform adds to a program that takes no time: from the submission until whoever waits
// for the result is told, one evaluation after the other. Most of it is asynq's look into an empty queue, every 10 ms.
func BenchmarkOverhead(b *testing.B) {
	overhead := func(b *testing.B, cfg task.RedisConfig) {
		r := newRig(b, cfg)
		r.worker(worker.Config{Lease: 15 * time.Second, Reconcile: 250 * time.Millisecond}, nil)
		notices, err := r.live.Watch(context.Background())
		require.NoError(b, err)
		var took []time.Duration
		for b.Loop() {
			began := time.Now()
			e := r.submit("hello")
			for n := range notices {
				if n.Key == e.Key && n.Status == eval.Completed {
					break
				}
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
		b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "p95-ms")
	}
	b.Run("embedded", func(b *testing.B) { overhead(b, task.RedisConfig{}) })
	b.Run("redis", func(b *testing.B) { overhead(b, task.RedisConfig{URL: testkit.Redis(b).URL}) })
}

// BenchmarkThroughput is how many programs that take no time pass through one worker in a second.
func BenchmarkThroughput(b *testing.B) {
	throughput := func(b *testing.B, cfg task.RedisConfig) {
		r := newRig(b, cfg)
		r.worker(worker.Config{Lease: 15 * time.Second, Reconcile: 250 * time.Millisecond, Concurrency: 8}, nil)
		notices, err := r.live.Watch(context.Background())
		require.NoError(b, err)
		b.ResetTimer()
		var last eval.Evaluation
		for range b.N {
			last = r.submit("hello")
		}
		for n := range notices {
			if n.Key == last.Key && n.Status.Terminal() {
				break
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "evaluations/s")
	}
	b.Run("embedded", func(b *testing.B) { throughput(b, task.RedisConfig{}) })
	b.Run("redis", func(b *testing.B) { throughput(b, task.RedisConfig{URL: testkit.Redis(b).URL}) })
}
