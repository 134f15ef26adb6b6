package worker_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/worker"
)

// series is a metric with these labels: its value, or for a histogram its count and sum.
func (w *running) series(name string, labels map[string]string) (value, sum float64) {
	w.t.Helper()
	families, err := w.registry.Gather()
	require.NoError(w.t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			have := map[string]string{}
			for _, l := range m.GetLabel() {
				have[l.GetName()] = l.GetValue()
			}
			fits := f.GetName() == name
			for k, v := range labels {
				fits = fits && have[k] == v
			}
			if fits {
				h := m.GetHistogram()
				value += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(h.GetSampleCount())
				sum += h.GetSampleSum()
			}
		}
	}
	return value, sum
}

// counts waits until a series has the value.
func (w *running) counts(want float64, name string, labels map[string]string) {
	w.t.Helper()
	testkit.Eventually(w.t, func() bool { got, _ := w.series(name, labels); return got == want }, name)
}

func TestMetricsTellOfWaitsAndRetries(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	full := fails(&eval.Error{Kind: eval.KindFull, Message: "no slot", RetryAfter: 100 * time.Millisecond})
	r.script.plays("moody", inOrder(full, full, full, full, prints("at last\n")))
	r.script.plays("refused", fails(eval.Errorf(eval.KindInvalid, "never")))
	w := r.worker(worker.Config{}, nil)
	high := func(s *eval.Spec) { s.Priority, s.RetryPolicy = eval.PriorityHigh, eval.PolicyConservative }
	require.Equal(t, eval.Completed, r.ended(r.submit("moody", high).Key).Status)
	require.Equal(t, eval.Completed, r.ended(r.submit("hello").Key).Status)
	require.Equal(t, eval.Failed, r.ended(r.submit("refused").Key).Status)

	w.counts(1, "crucible_worker_retries_total", map[string]string{"policy": eval.PolicyConservative, "kind": "full"})
	w.counts(1, "crucible_worker_retries_total", nil)
	w.counts(2, "crucible_worker_attempts_total", map[string]string{"status": "completed", "kind": ""})
	w.counts(1, "crucible_worker_attempts_total", map[string]string{"status": "failed", "kind": "invalid"})
	w.counts(1, "crucible_reconcile_redispatched_total", map[string]string{"reason": "retry"})
	// Of each evaluation the first claim counts, whatever came then.
	w.counts(1, "crucible_worker_wait_seconds", map[string]string{"priority": "high"})
	w.counts(2, "crucible_worker_wait_seconds", map[string]string{"priority": "default"})
	_, sum := w.series("crucible_worker_wait_seconds", nil)
	require.Positive(t, sum)
}

func TestMetricsTellOfCancels(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	program := newEndless()
	r.script.plays("endless", program.run)
	w := r.worker(worker.Config{}, nil)
	e := r.submit("endless")
	receive(t, program.begun)
	_, err := r.store.Cancel(context.Background(), e.Key, "enough")
	require.NoError(t, err)
	done := r.ended(e.Key)
	w.counts(1, "crucible_worker_cancel_seconds", nil)
	_, sum := w.series("crucible_worker_cancel_seconds", nil)
	require.InDelta(t, done.FinishedAt.Sub(*done.CancelRequestedAt).Seconds(), sum, 1e-6)
	w.counts(1, "crucible_worker_attempts_total", map[string]string{"status": "cancelled"})
}

func TestMetricsTellOfWhatTheReconcilerDoes(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	// A worker that takes it and is never heard of again.
	taken := r.create("hello")
	_, err := r.store.Claim(context.Background(), eval.ClaimRequest{Key: taken.Key, Worker: "ghost", Lease: 100 * time.Millisecond})
	require.NoError(t, err)
	// One that was accepted when the queue could not be reached.
	forgotten := r.create("hello")
	w := r.worker(worker.Config{}, nil)
	require.Equal(t, eval.Completed, r.ended(taken.Key).Status)
	require.Equal(t, eval.Completed, r.ended(forgotten.Key).Status)
	w.counts(1, "crucible_reconcile_reaped_total", map[string]string{"status": "queued"})
	w.counts(1, "crucible_reconcile_redispatched_total", map[string]string{"reason": "retry"})
	before, _ := w.series("crucible_reconcile_redispatched_total", map[string]string{"reason": "queue_lost"})
	rewinds := w.metric("crucible_reconcile_rewinds_total")

	// The queue is emptied while something waits in it.
	inspector := task.NewInspector(r.redis)
	require.NoError(t, inspector.Pause(context.Background(), string(eval.PriorityDefault)))
	e := r.submit("hello")
	require.NoError(t, r.redis.Client().FlushAll(context.Background()).Err()) // the pause goes, too
	require.Equal(t, eval.Completed, r.ended(e.Key).Status)
	testkit.Eventually(t, func() bool {
		lost, _ := w.series("crucible_reconcile_redispatched_total", map[string]string{"reason": "queue_lost"})
		return lost > before && w.metric("crucible_reconcile_rewinds_total") > rewinds
	}, "it is counted as lost with the queue")
}
