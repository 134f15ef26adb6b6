package evaltest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

const (
	deliverer = "deliverer-1"
	tryLease  = 30 * time.Second
)

func calling(url string) func(*eval.Evaluation) {
	return func(e *eval.Evaluation) { e.Spec.CallbackURL = url }
}

// called makes an evaluation that has ended and has a callback to the host.
func (f *fixture) called(host string, edit ...func(*eval.Evaluation)) eval.Key {
	f.Helper()
	e, l := f.claim(f.create(append(edit, calling("https://"+host+"/hook?token=1"))...).Key)
	f.finish(l, accepted("x"))
	return e.Key
}

func (f *fixture) take(limit, perHost int, busy ...string) []eval.Callback {
	f.Helper()
	taken, err := f.TakeCallbacks(f.ctx, eval.TakeRequest{Deliverer: deliverer, Lease: tryLease, Limit: limit, PerHost: perHost, Busy: busy})
	require.NoError(f, err)
	return taken
}

// takeOne takes the only callback that is due.
func (f *fixture) takeOne() (eval.Callback, eval.CallbackLease) {
	f.Helper()
	taken := f.take(10, 10)
	require.Len(f, taken, 1)
	return taken[0], eval.CallbackLease{Key: taken[0].Key, Try: taken[0].Tries}
}

func (f *fixture) report(l eval.CallbackLease, d eval.Delivery) eval.Callback {
	f.Helper()
	c, err := f.ReportCallback(f.ctx, l, d)
	require.NoError(f, err)
	return c
}

func (f *fixture) callback(key eval.Key) eval.Callback {
	f.Helper()
	c, err := f.Callback(f.ctx, key)
	require.NoError(f, err)
	return c
}

func hosts(all []eval.Callback) []string {
	var names []string
	for _, c := range all {
		names = append(names, c.Host)
	}
	return names
}

var broken = eval.Delivery{Reason: eval.CallbackBroken, Message: "it answered 502", HTTPStatus: 502}

func testOutbox(t *testing.T, open OpenStore) {
	each(t, open, map[string]func(*fixture){
		"every way to end writes the callback": func(f *fixture) {
			soon := calling("https://User.Example:8443/hook")
			ends := map[string]func() eval.Key{
				"completed": func() eval.Key { _, l := f.claim(f.create(soon).Key); return f.finish(l, accepted("")).Key },
				"failed":    func() eval.Key { return f.failed(eval.KindInvalid, soon).Key },
				"cancelled while queued": func() eval.Key {
					e, err := f.Cancel(f.ctx, f.create(soon).Key, "")
					require.NoError(f, err)
					return e.Key
				},
				"cancelled while running": func() eval.Key {
					_, l := f.claim(f.create(soon).Key)
					return f.finish(l, eval.Outcome{Cancelled: true}).Key
				},
				"reaped": func() eval.Key {
					e, _ := f.claim(f.create(soon).Key)
					_, err := f.Cancel(f.ctx, e.Key, "")
					require.NoError(f, err)
					f.clock.Advance(lease)
					_, err = f.Reap(f.ctx, 10)
					require.NoError(f, err)
					return e.Key
				},
				"expired": func() eval.Key {
					e := f.create(soon, func(e *eval.Evaluation) { e.Spec.ExpiresIn = eval.Duration(time.Second) })
					f.clock.Advance(time.Second)
					_, err := f.Expire(f.ctx, 10)
					require.NoError(f, err)
					return e.Key
				},
			}
			for name, end := range ends {
				key := end()
				require.True(f, f.get(key).Status.Terminal(), name)
				now := f.clock.Now()
				same(f, eval.Callback{
					Key: key, URL: "https://User.Example:8443/hook", Host: "user.example", Status: eval.CallbackPending,
					MaxTries: eval.CallbackTries(), NextAt: &now, CreatedAt: now,
				}, f.callback(key), name)
			}
			stats, err := f.CountCallbacks(f.ctx, eval.DefaultProject)
			require.NoError(f, err)
			require.EqualValues(f, len(ends), stats.Pending)
			require.NotNil(f, stats.DueAt)
		},
		"nothing else writes one": func(f *fixture) {
			asked, l := f.claim(f.create(calling("https://a.example/")).Key)
			f.finish(l, platformFailure(eval.KindUnavailable)) // queued again
			silent, l := f.running()
			f.finish(l, accepted(""))
			for _, key := range append(strangers(asked.Key), asked.Key, silent.Key) {
				_, err := f.Callback(f.ctx, key)
				kind(f, eval.KindNotFound, err)
				_, err = f.RetryCallback(f.ctx, key)
				kind(f, eval.KindNotFound, err)
				_, err = f.ReportCallback(f.ctx, eval.CallbackLease{Key: key, Try: 1}, eval.Delivery{})
				kind(f, eval.KindLeaseLost, err)
			}
			require.Empty(f, f.take(10, 10))
		},
		"the same report again writes no second one": func(f *fixture) {
			_, l := f.claim(f.create(calling("https://a.example/")).Key)
			f.finish(l, accepted(""))
			_, try := f.takeOne()
			f.finish(l, accepted(""))
			require.Equal(f, eval.CallbackDelivered, f.report(try, eval.Delivery{HTTPStatus: 204}).Status)
		},
		"delivered": func(f *fixture) {
			key := f.called("a.example")
			f.clock.Advance(time.Second)
			c, l := f.takeOne()
			require.Equal(f, 1, c.Tries)
			require.Equal(f, deliverer, c.Deliverer)
			require.Equal(f, "https://a.example/hook?token=1", c.URL)
			require.True(f, f.clock.Now().Add(tryLease).Equal(*c.NextAt))
			same(f, c, f.callback(key))
			require.Empty(f, f.take(10, 10), "somebody has it")
			got := f.report(l, eval.Delivery{HTTPStatus: 200})
			require.Equal(f, eval.CallbackDelivered, got.Status)
			require.Equal(f, 200, got.HTTPStatus)
			require.True(f, f.clock.Now().Equal(*got.EndedAt))
			require.Empty(f, got.Deliverer)
			require.Nil(f, got.NextAt)
			same(f, got, f.callback(key))
			f.clock.Advance(time.Hour)
			require.Empty(f, f.take(10, 10))
			_, err := f.ReportCallback(f.ctx, l, broken)
			kind(f, eval.KindLeaseLost, err)
			_, err = f.RetryCallback(f.ctx, key)
			kind(f, eval.KindConflict, err)
			same(f, got, f.callback(key))
		},
		"a failure is tried again later, and dead after the last try": func(f *fixture) {
			key := f.called("a.example")
			for try := 1; ; try++ {
				c, l := f.takeOne()
				require.Equal(f, try, c.Tries)
				got := f.report(l, broken)
				require.Equal(f, eval.CallbackBroken, got.Reason)
				require.Equal(f, "it answered 502", got.Message)
				require.Equal(f, 502, got.HTTPStatus)
				same(f, got, f.callback(key))
				if try == eval.CallbackTries() {
					require.Equal(f, eval.CallbackDead, got.Status)
					require.NotNil(f, got.EndedAt)
					break
				}
				require.Equal(f, eval.CallbackPending, got.Status)
				wait := got.NextAt.Sub(f.clock.Now())
				f.clock.Advance(wait - time.Second)
				require.Empty(f, f.take(10, 10))
				f.clock.Advance(time.Second)
			}
			stats, err := f.CountCallbacks(f.ctx, eval.DefaultProject)
			require.NoError(f, err)
			require.Equal(f, eval.CallbackStats{Dead: 1}, stats)
		},
		"a dead one can be retried, with all of its tries": func(f *fixture) {
			key := f.called("a.example")
			_, l := f.takeOne()
			require.Equal(f, eval.CallbackDead, f.report(l, eval.Delivery{Reason: eval.CallbackGone, HTTPStatus: 410}).Status)
			f.clock.Advance(time.Hour)
			got, err := f.RetryCallback(f.ctx, key)
			require.NoError(f, err)
			require.Equal(f, eval.CallbackPending, got.Status)
			require.Equal(f, 1+eval.CallbackTries(), got.MaxTries)
			require.True(f, f.clock.Now().Equal(*got.NextAt))
			require.Nil(f, got.EndedAt)
			same(f, got, f.callback(key))
			_, err = f.RetryCallback(f.ctx, key)
			kind(f, eval.KindConflict, err)
			c, again := f.takeOne()
			require.Equal(f, 2, c.Tries)
			_, err = f.ReportCallback(f.ctx, l, eval.Delivery{})
			kind(f, eval.KindLeaseLost, err)
			got = f.report(again, broken)
			wait := got.NextAt.Sub(f.clock.Now())
			require.True(f, wait >= 5*time.Second && wait <= 6250*time.Millisecond, "the delays begin anew: %v", wait)
		},
		"what a vanished deliverer held goes to another, which alone may report": func(f *fixture) {
			key := f.called("a.example")
			_, old := f.takeOne()
			f.clock.Advance(tryLease)
			c, l := f.takeOne()
			require.Equal(f, 2, c.Tries)
			require.Equal(f, eval.CallbackLost, c.Reason)
			_, err := f.ReportCallback(f.ctx, old, eval.Delivery{HTTPStatus: 200})
			kind(f, eval.KindLeaseLost, err)
			same(f, c, f.callback(key))
			f.report(l, eval.Delivery{HTTPStatus: 200})
		},
		"a report after the lease counts, if nobody was faster": func(f *fixture) {
			f.called("a.example")
			_, l := f.takeOne()
			f.clock.Advance(time.Hour)
			require.Equal(f, eval.CallbackDelivered, f.report(l, eval.Delivery{HTTPStatus: 200}).Status)
		},
		"deliverers that vanish each time use up the tries": func(f *fixture) {
			key := f.called("a.example")
			for range eval.CallbackTries() {
				f.takeOne()
				f.clock.Advance(tryLease)
			}
			require.Empty(f, f.take(10, 10))
			got := f.callback(key)
			require.Equal(f, eval.CallbackDead, got.Status)
			require.Equal(f, eval.CallbackLost, got.Reason)
			require.Empty(f, f.take(10, 10))
		},
		"counts what is not delivered": func(f *fixture) {
			f.called("a.example", func(e *eval.Evaluation) { e.Project = "other" })
			since := f.clock.Now()
			f.called("b.example")
			f.clock.Advance(time.Second)
			f.called("c.example")
			for _, want := range []eval.CallbackStats{{Pending: 2, DueAt: &since}, {Pending: 2}, {Pending: 1, Dead: 1}, {Dead: 1}} {
				got, err := f.CountCallbacks(f.ctx, eval.DefaultProject)
				require.NoError(f, err)
				same(f, want, got)
				switch {
				case want.DueAt != nil:
					require.Len(f, f.take(10, 10), 3)
				case want.Pending > 0:
					page, err := f.ListCallbacks(f.ctx, eval.CallbackQuery{Project: eval.DefaultProject, Status: eval.CallbackPending})
					require.NoError(f, err)
					f.report(eval.CallbackLease{Key: page.Callbacks[0].Key, Try: 1}, []eval.Delivery{{Reason: eval.CallbackGone}, {HTTPStatus: 200}}[2-want.Pending])
				}
			}
			none, err := f.CountCallbacks(f.ctx, "nobody")
			require.NoError(f, err)
			require.Zero(f, none)
		},
		"the most overdue first, over all projects, at most limit": func(f *fixture) {
			first := f.called("a.example")
			f.clock.Advance(time.Second)
			second := f.called("a.example", func(e *eval.Evaluation) { e.Project = "other" })
			f.clock.Advance(time.Second)
			third := f.called("b.example")
			require.Empty(f, f.take(0, 10))
			taken := f.take(2, 10)
			require.Len(f, taken, 2)
			require.Equal(f, []eval.Key{first, second}, []eval.Key{taken[0].Key, taken[1].Key})
			taken = f.take(10, 10)
			require.Len(f, taken, 1)
			require.Equal(f, third, taken[0].Key)
		},
		"one host does not hold up the others": func(f *fixture) {
			for range 5 {
				f.called("slow.example")
			}
			f.called("quick.example")
			require.Equal(f, []string{"quick.example", "slow.example", "slow.example"}, slices.Sorted(slices.Values(hosts(f.take(10, 2)))))
			f.called("quick.example")
			require.Equal(f, []string{"quick.example"}, hosts(f.take(10, 2, "slow.example", "other.example")))
			require.Equal(f, []string{"slow.example", "slow.example"}, hosts(f.take(10, 2, "quick.example")))
		},
		"lists by status, newest first, in pages": func(f *fixture) {
			var all []eval.Key
			for i := range 5 {
				all = append(all, f.called(fmt.Sprintf("h%d.example", i)))
				if i != 2 {
					f.clock.Advance(time.Second)
				}
			}
			f.called("elsewhere.example", func(e *eval.Evaluation) { e.Project = "other" })
			slices.Reverse(all)
			q := eval.CallbackQuery{Project: eval.DefaultProject, Limit: 2}
			var seen []eval.Key
			for {
				page, err := f.ListCallbacks(f.ctx, q)
				require.NoError(f, err)
				for _, c := range page.Callbacks {
					seen = append(seen, c.Key)
					same(f, f.callback(c.Key), c)
				}
				if q.Cursor = page.Next; q.Cursor == "" {
					break
				}
			}
			require.Equal(f, all, seen)
			for _, c := range f.take(1, 1) {
				f.report(eval.CallbackLease{Key: c.Key, Try: c.Tries}, eval.Delivery{Reason: eval.CallbackRefused, Message: "no"})
			}
			for status, n := range map[eval.CallbackStatus]int{eval.CallbackDead: 1, eval.CallbackPending: 4, eval.CallbackDelivered: 0} {
				page, err := f.ListCallbacks(f.ctx, eval.CallbackQuery{Project: eval.DefaultProject, Status: status})
				require.NoError(f, err)
				require.Len(f, page.Callbacks, n, status)
				require.NotNil(f, page.Callbacks)
			}
			for _, wrong := range []eval.CallbackQuery{{Limit: 501}, {Limit: -1}, {Cursor: "x"}, {Cursor: f.get(all[0]).Cursor()}} {
				wrong.Project = eval.DefaultProject
				_, err := f.ListCallbacks(f.ctx, wrong)
				kind(f, eval.KindInvalid, err)
			}
		},
		"several deliverers never hold the same one": func(f *fixture) {
			const n = 40
			for range n {
				f.called("a.example")
			}
			var mu sync.Mutex
			times := map[eval.ID]int{}
			together(4, func(i int) {
				for range 2 * n { // skipping what another one holds may leave a round empty
					taken, err := f.TakeCallbacks(f.ctx, eval.TakeRequest{Deliverer: fmt.Sprint(i), Lease: tryLease, Limit: 5, PerHost: 5})
					if !assert.NoError(f, err) {
						return
					}
					mu.Lock()
					for _, c := range taken {
						times[c.ID]++
					}
					mu.Unlock()
				}
			})
			require.Len(f, times, n)
			for id, n := range times {
				require.Equal(f, 1, n, id)
			}
		},
	})
}
