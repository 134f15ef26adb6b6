package evaltest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// QueueBench is an empty queue under test, and its other end.
type QueueBench struct {
	Queue eval.Queue
	// Receive starts one worker, which takes dispatches one at a time, and returns what it is handed.
	Receive func(t *testing.T) <-chan eval.Dispatch
	// Notices is where the workers that Cancel wakes listen.
	Notices eval.Notices
}

// TestQueue checks that a queue keeps the contract of [eval.Queue]. open makes an empty one that ends with the test.
func TestQueue(t *testing.T, open func(t *testing.T) QueueBench) {
	for name, test := range map[string]func(*testing.T, QueueBench){
		"what is enqueued is handed to a worker, whole": queueDelivers,
		"the same dispatch twice is handed out once":    queueDeduplicates,
		"many callers at once are still one dispatch":   queueRaces,
		"a later dispatch is another one":               queueNextSeq,
		"nothing is lost in a crowd":                    queueCrowd,
		"what is cancelled is not handed out":           queueCancels,
		"cancel wakes who listens":                      queueWakes,
		"cancelling what is not there is no error":      queueCancelsNothing,
		"what is forgotten is not handed out":           queueForgets,
		"run_at is waited for":                          queueWaits,
		"a run_at that has passed is now":               queuePast,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func dispatch(n int) eval.Dispatch {
	return eval.Dispatch{
		Key: eval.Key{Project: eval.DefaultProject, ID: eval.ID(fmt.Sprintf("0190a0a0-0000-7000-8000-%012d", n))},
		Seq: 1, Priority: eval.PriorityDefault,
	}
}

func enqueue(t *testing.T, q eval.Queue, all ...eval.Dispatch) {
	t.Helper()
	for _, d := range all {
		require.NoError(t, q.Enqueue(t.Context(), d))
	}
}

// next waits for a value.
func next[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	select {
	case v, ok := <-ch:
		require.True(t, ok, "the channel was closed")
		return v
	case <-ctx.Done():
		require.FailNow(t, "nothing came for 20 seconds")
		panic("unreachable")
	}
}

func queueDelivers(t *testing.T, b QueueBench) {
	got := b.Receive(t)
	for i, p := range append(eval.Priorities(), "") {
		d := dispatch(i)
		d.Seq, d.Priority, d.Trace = i+1, p, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		enqueue(t, b.Queue, d)
		if p == "" {
			d.Priority = eval.PriorityDefault
		}
		require.Equal(t, d, next(t, got))
	}
}

func queueDeduplicates(t *testing.T, b QueueBench) {
	enqueue(t, b.Queue, dispatch(1), dispatch(1), dispatch(1), dispatch(2))
	got := b.Receive(t)
	require.Equal(t, dispatch(1).ID, next(t, got).ID)
	require.Equal(t, dispatch(2).ID, next(t, got).ID)
}

func queueRaces(t *testing.T, b QueueBench) {
	var wg sync.WaitGroup
	errs := make(chan error, 16)
	for range cap(errs) {
		wg.Go(func() { errs <- b.Queue.Enqueue(t.Context(), dispatch(1)) })
	}
	wg.Wait()
	for range cap(errs) {
		require.NoError(t, <-errs)
	}
	enqueue(t, b.Queue, dispatch(2))
	got := b.Receive(t)
	require.Equal(t, dispatch(1).ID, next(t, got).ID)
	require.Equal(t, dispatch(2).ID, next(t, got).ID)
}

func queueNextSeq(t *testing.T, b QueueBench) {
	again := dispatch(1)
	again.Seq = 2
	enqueue(t, b.Queue, dispatch(1), again)
	got := b.Receive(t)
	require.Equal(t, 1, next(t, got).Seq)
	require.Equal(t, 2, next(t, got).Seq)
}

func queueCrowd(t *testing.T, b QueueBench) {
	const n = 300
	got := b.Receive(t)
	for i := range n {
		d := dispatch(i)
		d.Priority = eval.Priorities()[i%4]
		enqueue(t, b.Queue, d)
	}
	seen := map[eval.ID]int{}
	for range n {
		seen[next(t, got).ID]++
	}
	require.Len(t, seen, n, "each once")
}

func queueCancels(t *testing.T, b QueueBench) {
	later := dispatch(2)
	later.RunAt = time.Now().Add(time.Hour)
	enqueue(t, b.Queue, dispatch(1), later)
	require.NoError(t, b.Queue.Cancel(t.Context(), dispatch(1)))
	require.NoError(t, b.Queue.Cancel(t.Context(), later))
	later.RunAt = time.Time{}
	later.Seq = 9
	enqueue(t, b.Queue, later)
	got := next(t, b.Receive(t))
	require.Equal(t, later.ID, got.ID)
	require.Equal(t, 9, got.Seq)
}

func queueWakes(t *testing.T, b QueueBench) {
	notices, err := b.Notices.Watch(t.Context())
	require.NoError(t, err)
	require.NoError(t, b.Queue.Cancel(t.Context(), dispatch(1)))
	n := next(t, notices)
	require.Equal(t, dispatch(1).Key, n.Key)
	require.True(t, n.CancelRequested)
}

func queueCancelsNothing(t *testing.T, b QueueBench) {
	require.NoError(t, b.Queue.Cancel(t.Context(), dispatch(404)))
}

func queueForgets(t *testing.T, b QueueBench) {
	var all []eval.Dispatch
	for i := range 50 {
		d := dispatch(i)
		d.Seq, d.Priority = 1+i%12, eval.Priorities()[i%4]
		if i%3 == 0 {
			d.RunAt = time.Now().Add(time.Hour)
		}
		enqueue(t, b.Queue, d)
		all = append(all, d)
	}
	before := all[7]
	before.Seq = 2
	enqueue(t, b.Queue, before) // an earlier dispatch of one of them
	other := dispatch(100)
	enqueue(t, b.Queue, other)
	require.NoError(t, b.Queue.Forget(t.Context(), append(all, dispatch(404))))
	require.NoError(t, b.Queue.Forget(t.Context(), nil))
	require.Equal(t, other.ID, next(t, b.Receive(t)).ID, "the only one left")
}

func queueWaits(t *testing.T, b QueueBench) {
	got := b.Receive(t)
	d := dispatch(1)
	d.RunAt = time.Now().Add(1300 * time.Millisecond)
	enqueue(t, b.Queue, d, dispatch(2))
	require.Equal(t, dispatch(2).ID, next(t, got).ID)
	require.Equal(t, d.ID, next(t, got).ID)
	require.False(t, time.Now().Before(d.RunAt), "it was handed out before its time")
}

func queuePast(t *testing.T, b QueueBench) {
	d := dispatch(1)
	d.RunAt = time.Now().Add(-time.Hour)
	enqueue(t, b.Queue, d)
	require.Equal(t, d.ID, next(t, b.Receive(t)).ID)
}
