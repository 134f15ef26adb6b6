package evaltest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func ids(dispatches []eval.Dispatch) []eval.ID {
	all := []eval.ID{}
	for _, d := range dispatches {
		all = append(all, d.ID)
	}
	return all
}

func (f *fixture) due(limit int) []eval.Dispatch {
	f.Helper()
	due, err := f.Due(f.ctx, eval.DueRequest{Limit: limit, Again: time.Minute})
	require.NoError(f, err)
	return due
}

func testScheduler(t *testing.T, open OpenStore) {
	firstLook := eval.DefaultRules().FirstLook
	each(t, open, map[string]func(*fixture){
		"due hands out what has come, the most overdue first": func(f *fixture) {
			late := f.create()
			f.clock.Advance(time.Second)
			middle := f.create(func(e *eval.Evaluation) { e.Project = "other" })
			f.clock.Advance(time.Second)
			last := f.create()
			require.Empty(f, f.due(10))
			f.clock.Advance(firstLook - time.Second)
			require.Equal(f, []eval.ID{late.ID, middle.ID}, ids(f.due(10)), "over all projects")
			require.Empty(f, f.due(10), "not again before its time")
			f.clock.Advance(time.Second)
			require.Equal(f, []eval.ID{last.ID}, ids(f.due(10)))
			f.clock.Advance(time.Minute)
			require.Equal(f, []eval.ID{late.ID}, ids(f.due(1)), "at most limit")
			require.Equal(f, []eval.ID{middle.ID, last.ID}, ids(f.due(10)))
			require.Empty(f, f.due(0))
		},
		"the backlog counts what waits and what runs": func(f *fixture) {
			backlog := func() eval.Backlog {
				b, err := f.Backlog(f.ctx)
				require.NoError(f, err)
				return b
			}
			same(f, eval.NewBacklog(f.clock.Now()), backlog())
			first := f.create(func(e *eval.Evaluation) { e.Client = "a" })
			f.clock.Advance(time.Second)
			f.create(func(e *eval.Evaluation) { e.Client, e.Project = "b", "other" })
			f.create(func(e *eval.Evaluation) { e.Client, e.Spec.Priority = "b", eval.PriorityCritical })
			at := f.clock.Now().Add(time.Hour)
			f.create(func(e *eval.Evaluation) { e.Client, e.Spec.RunAt = "c", &at })
			f.claim(f.create(func(e *eval.Evaluation) { e.Client = "d" }).Key)
			f.failed(eval.KindInvalid)
			want := eval.NewBacklog(f.clock.Now())
			want.Clients = 2
			want.DeadLetters[eval.KindInvalid] = 1
			want.Priorities[0] = eval.Waiting{Priority: eval.PriorityCritical, Dispatched: 1, Since: new(f.clock.Now())}
			want.Priorities[2] = eval.Waiting{Priority: eval.PriorityDefault, Dispatched: 2, Later: 1, Running: 1, Since: new(first.CreatedAt)}
			same(f, want, backlog())

			// One that failed waits until its next try, and then again.
			e, l := f.claim(first.Key)
			e = f.finish(l, eval.Outcome{Failure: &eval.Failure{Kind: eval.KindUnavailable, Message: "away"}})
			require.Equal(f, eval.Queued, e.Status)
			got := backlog().Priorities[2]
			require.EqualValues(f, 2, got.Later)
			require.EqualValues(f, 1, got.Dispatched+got.Stored)
			require.True(f, f.clock.Now().Equal(*got.Since), "the other project's")
			f.clock.Advance(e.NextDispatchAt.Sub(f.clock.Now()))
			got = backlog().Priorities[2]
			require.EqualValues(f, 1, got.Stored, "it is due")
			f.clock.Advance(time.Hour)
			require.EqualValues(f, 0, backlog().Priorities[2].Later, "run_at has come")
		},
		"a dispatch says all that a queue needs": func(f *fixture) {
			at := f.clock.Now().Add(time.Hour)
			e := f.create(func(e *eval.Evaluation) {
				e.Spec.Priority, e.Spec.RunAt, e.Trace = eval.PriorityCritical, &at, "00-trace"
			})
			f.clock.Advance(time.Hour - time.Second)
			require.Empty(f, f.due(10))
			f.clock.Advance(time.Second)
			due := f.due(10)
			require.Len(f, due, 1)
			want := e.Dispatch()
			want.Reason = eval.DispatchTurn
			same(f, want, due[0])
			got := f.get(e.Key)
			require.True(f, f.clock.Now().Add(time.Minute).Equal(*got.NextDispatchAt))
			require.Len(f, f.events(e.Key), 1, "looking is no event")
		},
		"what runs or has ended is not due": func(f *fixture) {
			_, l := f.running()
			gone := f.create()
			_, err := f.Cancel(f.ctx, gone.Key, "")
			require.NoError(f, err)
			f.clock.Advance(time.Hour)
			require.Empty(f, f.due(10))
			f.finish(l, platformFailure(eval.KindUnavailable))
			require.Empty(f, f.due(10))
			f.clock.Advance(3 * time.Second)
			due := f.due(10)
			require.Equal(f, []eval.ID{l.ID}, ids(due))
			require.Equal(f, 2, due[0].Seq)
		},
		"reap takes what a vanished worker held": func(f *fixture) {
			e, _ := f.running()
			f.clock.Advance(time.Second)
			other, _ := f.claim(f.create(func(e *eval.Evaluation) { e.Project = "other" }).Key)
			f.clock.Advance(lease - time.Second)
			reaped, err := f.Reap(f.ctx, 10)
			require.NoError(f, err)
			require.Len(f, reaped, 1, "the other lease holds for a second more")
			got := reaped[0]
			require.Equal(f, eval.Queued, got.Status)
			require.Equal(f, 1, got.Lost)
			require.Zero(f, got.Tries)
			require.Equal(f, 2, got.DispatchSeq)
			require.True(f, f.clock.Now().Equal(*got.NextDispatchAt))
			require.Nil(f, got.LeaseUntil)
			same(f, got, f.get(e.Key))
			a := f.attempts(e.Key)[0]
			require.Equal(f, eval.AttemptLost, a.Outcome)
			require.Equal(f, eval.KindWorkerLost, a.Failure.Kind)
			require.Equal(f, got.Failure, a.Failure)
			require.True(f, f.clock.Now().Equal(*a.NextTryAt))
			require.Equal(f, eval.EventRequeued, f.events(e.Key)[2].Type)
			f.clock.Advance(time.Second)
			reaped, err = f.Reap(f.ctx, 10)
			require.NoError(f, err)
			require.Len(f, reaped, 1, "over all projects")
			require.Equal(f, other.Key, reaped[0].Key)
		},
		"reap takes at most limit": func(f *fixture) {
			for range 3 {
				f.running()
			}
			f.clock.Advance(lease)
			for _, want := range []int{2, 1, 0} {
				reaped, err := f.Reap(f.ctx, 2)
				require.NoError(f, err)
				require.Len(f, reaped, want)
			}
		},
		"what takes its workers down, alone, is poison": func(f *fixture) {
			e := f.create()
			f.claim(e.Key) // beside others: no blame
			most := eval.DefaultRules().PoisonAfter
			for n := range most + 1 {
				f.clock.Advance(lease)
				reaped, err := f.Reap(f.ctx, 10)
				require.NoError(f, err)
				require.Len(f, reaped, 1)
				require.Equal(f, n, reaped[0].LostAlone)
				if n == most {
					break
				}
				due := f.due(1)
				require.Len(f, due, 1)
				require.True(f, due[0].Alone)
				got, err := f.Claim(f.ctx, eval.ClaimRequest{Key: e.Key, Seq: due[0].Seq, Worker: worker, Lease: lease, Alone: true})
				require.NoError(f, err)
				require.Equal(f, n+1, got.Lost)
			}
			got := f.get(e.Key)
			require.Equal(f, eval.Failed, got.Status)
			require.Equal(f, eval.KindPoison, got.Failure.Kind)
			require.Equal(f, most+1, got.Lost)
			require.Equal(f, most, got.LostAlone)
			page, err := f.ListDeadLetters(f.ctx, eval.DeadLetterQuery{Project: e.Project, Kind: []eval.Kind{eval.KindPoison}})
			require.NoError(f, err)
			require.Len(f, page.DeadLetters, 1)
			attempts := f.attempts(e.Key)
			require.Equal(f, eval.AttemptLost, attempts[1].Outcome)
			require.False(f, attempts[0].Alone)
			require.True(f, attempts[1].Alone)
		},
		"expire fails what waits beyond its deadline": func(f *fixture) {
			expiring := func(e *eval.Evaluation) { e.Spec.ExpiresIn = eval.Duration(time.Minute) }
			e, late, other := f.create(expiring), f.create(), f.create(func(e *eval.Evaluation) { expiring(e); e.Project = "other" })
			require.True(f, f.clock.Now().Add(time.Minute).Equal(*e.ExpiresAt))
			running, l := f.claim(f.create(expiring).Key)
			f.clock.Advance(time.Minute - time.Microsecond)
			expired, err := f.Expire(f.ctx, 10)
			require.NoError(f, err)
			require.Empty(f, expired)
			_, err = f.Beat(f.ctx, l, lease)
			require.NoError(f, err)
			f.clock.Advance(time.Microsecond)
			_, err = f.Claim(f.ctx, eval.ClaimRequest{Key: e.Key, Worker: worker, Lease: lease})
			kind(f, eval.KindConflict, err)
			for _, want := range [][]eval.ID{{e.ID}, {other.ID}, nil} { // over all projects, at most limit
				expired, err = f.Expire(f.ctx, 1)
				require.NoError(f, err)
				var got []eval.ID
				for _, e := range expired {
					require.Equal(f, eval.Failed, e.Status)
					require.Equal(f, eval.KindExpired, e.Failure.Kind)
					same(f, e, f.get(e.Key))
					got = append(got, e.ID)
				}
				require.Equal(f, want, got)
			}
			require.Equal(f, []eval.EventType{eval.EventQueued, eval.EventFailed}, types(f.events(e.Key)))
			page, err := f.ListDeadLetters(f.ctx, eval.DeadLetterQuery{Project: e.Project, Kind: []eval.Kind{eval.KindExpired}})
			require.NoError(f, err)
			require.Len(f, page.DeadLetters, 1)
			require.Equal(f, eval.Queued, f.get(late.Key).Status, "it has no deadline")

			got := f.finish(l, eval.Outcome{Failure: &eval.Failure{Kind: eval.KindExpired, Message: "stopped"}, Result: &eval.Result{Stdout: eval.Stream{Data: []byte("x"), Bytes: 1}}})
			require.Equal(f, running.ID, got.ID)
			require.Equal(f, eval.Failed, got.Status)
			require.Equal(f, "x", string(f.get(l.Key).Result.Stdout.Data), "what there was is kept")
			require.Empty(f, got.Verdict)
		},
		"an attempt tells what came of it": func(f *fixture) {
			_, l := f.running()
			got := f.finish(l, platformFailure(eval.KindSandbox))
			a := f.attempts(l.Key)[0]
			require.True(f, a.Counted)
			require.True(f, got.NextDispatchAt.Equal(*a.NextTryAt))
			require.Equal(f, got.Failure, a.Failure)
			require.Contains(f, a.Failure.Message, "it broke; it is tried again in 2")
			require.Contains(f, a.Failure.Message, ", try 2 of 5")
			_, l = f.claim(l.Key)
			got = f.finish(l, platformFailure(eval.KindFull))
			require.Equal(f, 1, got.Refused)
			require.Equal(f, 1, f.get(l.Key).Refused)
			a = f.attempts(l.Key)[1]
			require.False(f, a.Counted)
			require.Contains(f, a.Failure.Message, ", which does not count as a try")
		},
		"rewind makes due what was in the queue, and nothing else": func(f *fixture) {
			lost := f.create()
			at := f.clock.Now().Add(time.Hour)
			f.create(func(e *eval.Evaluation) { e.Spec.RunAt = &at })
			_, l := f.running()
			_, rl := f.running()
			retried := f.finish(rl, platformFailure(eval.KindFull))
			n, err := f.Rewind(f.ctx)
			require.NoError(f, err)
			require.Equal(f, 1, n)
			require.Equal(f, []eval.ID{lost.ID}, ids(f.due(10)))
			require.Equal(f, eval.Running, f.get(l.Key).Status)
			same(f, retried, f.get(retried.Key), "the next try has its time")
		},
	})
}
