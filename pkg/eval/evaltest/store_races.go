package evaltest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// together runs n functions at once and waits for them.
func together(n int, fn func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			fn(i)
		})
	}
	close(start)
	wg.Wait()
}

func testRaces(t *testing.T, open OpenStore) {
	each(t, open, map[string]func(*fixture){
		"one claim wins": func(f *fixture) {
			for range 5 {
				e := f.create()
				var won atomic.Int32
				together(8, func(i int) {
					_, err := f.Claim(f.ctx, eval.ClaimRequest{Key: e.Key, Worker: fmt.Sprint("worker-", i), Lease: lease})
					if err == nil {
						won.Add(1)
						return
					}
					assert.Equal(f, eval.KindConflict, eval.KindOf(err), "%v", err)
				})
				require.EqualValues(f, 1, won.Load())
				require.Len(f, f.attempts(e.Key), 1)
				require.Equal(f, 1, f.get(e.Key).Attempt)
			}
		},
		"nothing is handed to two schedulers": func(f *fixture) {
			for range 40 {
				f.create()
			}
			f.clock.Advance(time.Hour)
			var mu sync.Mutex
			seen := map[eval.ID]int{}
			together(4, func(int) {
				for range 20 {
					due, err := f.Due(f.ctx, eval.DueRequest{Limit: 5, Again: time.Hour})
					if !assert.NoError(f, err) {
						return
					}
					mu.Lock()
					for _, d := range due {
						seen[d.ID]++
					}
					mu.Unlock()
				}
			})
			require.Len(f, seen, 40)
			for id, n := range seen {
				require.Equal(f, 1, n, id)
			}
		},
		"nothing is reaped twice": func(f *fixture) {
			for range 10 {
				f.running()
			}
			f.clock.Advance(lease)
			var total atomic.Int32
			together(4, func(int) {
				reaped, err := f.Reap(f.ctx, 10)
				assert.NoError(f, err)
				total.Add(int32(len(reaped)))
			})
			require.EqualValues(f, 10, total.Load())
		},
		"finish, cancel and reap: one end": func(f *fixture) {
			for range 5 {
				e, l := f.running()
				f.clock.Advance(lease)
				together(3, func(i int) {
					switch i {
					case 0:
						_, err := f.Finish(f.ctx, l, accepted("x"))
						assert.Contains(f, []eval.Kind{"", eval.KindLeaseLost}, eval.KindOf(err))
					case 1:
						_, err := f.Cancel(f.ctx, e.Key, "")
						assert.Contains(f, []eval.Kind{"", eval.KindConflict}, eval.KindOf(err))
					case 2:
						_, err := f.Reap(f.ctx, 10)
						assert.NoError(f, err)
					}
				})
				got, ends := f.get(e.Key), 0
				for i, event := range f.events(e.Key) {
					require.EqualValues(f, i+1, event.Seq)
					if event.Status.Terminal() {
						ends++
					}
				}
				if got.Status.Terminal() {
					require.Equal(f, 1, ends)
				} else {
					require.Equal(f, eval.Queued, got.Status)
				}
			}
		},
		"claim and cancel: it runs and is told, or never starts": func(f *fixture) {
			for range 10 {
				e := f.create()
				var claimed atomic.Bool
				together(3, func(i int) {
					if i == 0 {
						_, err := f.Claim(f.ctx, eval.ClaimRequest{Key: e.Key, Worker: worker, Lease: lease})
						assert.Contains(f, []eval.Kind{"", eval.KindConflict}, eval.KindOf(err))
						claimed.Store(err == nil)
						return
					}
					_, err := f.Cancel(f.ctx, e.Key, "")
					assert.Contains(f, []eval.Kind{"", eval.KindConflict}, eval.KindOf(err))
				})
				got := f.get(e.Key)
				if !claimed.Load() {
					require.Equal(f, eval.Cancelled, got.Status)
					require.Empty(f, f.attempts(e.Key))
					require.Equal(f, []eval.EventType{eval.EventQueued, eval.EventCancelled}, types(f.events(e.Key)))
					continue
				}
				require.Equal(f, eval.Running, got.Status)
				beat, err := f.Beat(f.ctx, eval.Lease{Key: e.Key, Attempt: 1}, lease)
				require.NoError(f, err)
				require.True(f, beat.CancelRequested)
				require.Equal(f, []eval.EventType{eval.EventQueued, eval.EventRunning, eval.EventCancelRequested}, types(f.events(e.Key)), "told once")
			}
		},
		"one retry of a failed evaluation": func(f *fixture) {
			for range 5 {
				e := f.failed(eval.KindInvalid)
				keys := []eval.Key{f.key(), f.key(), f.key(), f.key()}
				ids := make([]eval.ID, len(keys))
				together(len(keys), func(i int) {
					again, err := f.Retry(f.ctx, e.Key, keys[i].ID)
					assert.NoError(f, err)
					ids[i] = again.ID
				})
				for _, id := range ids {
					require.Equal(f, ids[0], id)
				}
				for _, key := range keys {
					if key.ID != ids[0] {
						_, err := f.Get(f.ctx, key)
						kind(f, eval.KindNotFound, err)
					}
				}
				require.Equal(f, e.ID, f.get(eval.Key{Project: e.Project, ID: ids[0]}).RetryOf)
			}
		},
		"one idempotency key creates once": func(f *fixture) {
			keys := []eval.Key{}
			for range 8 {
				keys = append(keys, f.key())
			}
			var first atomic.Int32
			ids := make([]eval.ID, 8)
			together(8, func(i int) {
				created, replayed, err := f.Create(f.ctx, eval.Submission{IdempotencyKey: "k", Fingerprint: "f",
					Evaluations: []eval.Evaluation{{Key: keys[i], Spec: program("1")}}})
				if assert.NoError(f, err) && assert.Len(f, created, 1) {
					ids[i] = created[0].ID
				}
				if !replayed {
					first.Add(1)
				}
			})
			require.EqualValues(f, 1, first.Load())
			for _, id := range ids {
				require.Equal(f, ids[0], id)
			}
			require.Len(f, f.walk(eval.Query{Project: eval.DefaultProject}), 1)
		},
		"a feed that is followed skips nothing": followFeed,
	})
}

// followFeed reads the feed while several writers add to it, in transactions
// of different length, and requires every event once, in order.
func followFeed(f *fixture) {
	const writers, rounds, batch = 4, 12, 5
	total := writers * rounds * (1 + batch)
	keys := make(chan eval.Key, total)
	for range total {
		keys <- f.key()
	}
	ctx, cancel := context.WithCancel(f.ctx)
	var followed []eval.Event
	var reader sync.WaitGroup
	reader.Go(func() {
		var after int64
		for ctx.Err() == nil {
			events, err := f.Feed(f.ctx, eval.DefaultProject, after, 7)
			if !assert.NoError(f, err) {
				return
			}
			for _, e := range events {
				after = e.Cursor
			}
			if followed = append(followed, events...); len(followed) >= total {
				return
			}
		}
	})
	together(writers, func(int) {
		for range rounds {
			var s eval.Submission
			for range batch {
				s.Evaluations = append(s.Evaluations, eval.Evaluation{Key: <-keys, Spec: program("1")})
			}
			_, _, err := f.Create(f.ctx, s)
			assert.NoError(f, err)
			_, _, err = f.Create(f.ctx, eval.Submission{Evaluations: []eval.Evaluation{{Key: <-keys, Spec: program("1")}}})
			assert.NoError(f, err)
		}
	})
	done := make(chan struct{})
	go func() { reader.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
	}
	cancel()
	<-done
	seen := map[eval.ID]bool{}
	for i, e := range followed {
		require.False(f, seen[e.ID], "twice: %v", e)
		seen[e.ID] = true
		require.True(f, i == 0 || e.Cursor > followed[i-1].Cursor)
	}
	require.Len(f, seen, total)
}

// TestUnreachable checks what a store says that cannot be reached: every
// method answers KindUnavailable, and says so soon.
func TestUnreachable(t *testing.T, s eval.Store) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	key := eval.Key{Project: eval.DefaultProject, ID: "019a0000-0000-7000-8000-0000000000ff"}
	for name, call := range map[string]func() error{
		"Create": func() error {
			_, _, err := s.Create(ctx, eval.Submission{Evaluations: []eval.Evaluation{{Key: key, Spec: program("1")}}})
			return err
		},
		"Cancel":   func() error { _, err := s.Cancel(ctx, key, ""); return err },
		"Get":      func() error { _, err := s.Get(ctx, key); return err },
		"List":     func() error { _, err := s.List(ctx, eval.Query{Project: key.Project}); return err },
		"Events":   func() error { _, err := s.Events(ctx, key, 0, 1); return err },
		"Feed":     func() error { _, err := s.Feed(ctx, key.Project, 0, 1); return err },
		"Attempts": func() error { _, err := s.Attempts(ctx, key); return err },
		"Stats":    func() error { _, err := s.Stats(ctx, key.Project); return err },
		"Claim": func() error {
			_, err := s.Claim(ctx, eval.ClaimRequest{Key: key, Worker: worker, Lease: lease})
			return err
		},
		"Beat":    func() error { _, err := s.Beat(ctx, eval.Lease{Key: key, Attempt: 1}, lease); return err },
		"Finish":  func() error { _, err := s.Finish(ctx, eval.Lease{Key: key, Attempt: 1}, accepted("")); return err },
		"Due":     func() error { _, err := s.Due(ctx, eval.DueRequest{Limit: 1, Again: lease}); return err },
		"Reap":    func() error { _, err := s.Reap(ctx, 1); return err },
		"Rewind":  func() error { _, err := s.Rewind(ctx); return err },
		"Backlog": func() error { _, err := s.Backlog(ctx); return err },
		"ListDeadLetters": func() error {
			_, err := s.ListDeadLetters(ctx, eval.DeadLetterQuery{Project: key.Project})
			return err
		},
		"Retry":            func() error { _, err := s.Retry(ctx, key, "x"); return err },
		"DeleteDeadLetter": func() error { return s.DeleteDeadLetter(ctx, key) },
		"TakeCallbacks": func() error {
			_, err := s.TakeCallbacks(ctx, eval.TakeRequest{Deliverer: deliverer, Lease: lease, Limit: 1, PerHost: 1})
			return err
		},
		"ReportCallback": func() error {
			_, err := s.ReportCallback(ctx, eval.CallbackLease{Key: key, Try: 1}, eval.Delivery{})
			return err
		},
		"Callback":       func() error { _, err := s.Callback(ctx, key); return err },
		"ListCallbacks":  func() error { _, err := s.ListCallbacks(ctx, eval.CallbackQuery{Project: key.Project}); return err },
		"RetryCallback":  func() error { _, err := s.RetryCallback(ctx, key); return err },
		"CountCallbacks": func() error { _, err := s.CountCallbacks(ctx, key.Project); return err },
	} {
		err := call()
		require.Equal(t, eval.KindUnavailable, eval.KindOf(err), "%s: %v", name, err)
	}
}
