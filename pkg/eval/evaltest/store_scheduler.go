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
			same(f, e.Dispatch(), due[0])
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
			require.Equal(f, 1, got.Tries)
			require.Equal(f, 2, got.DispatchSeq)
			require.True(f, f.clock.Now().Equal(*got.NextDispatchAt))
			require.Nil(f, got.LeaseUntil)
			same(f, got, f.get(e.Key))
			a := f.attempts(e.Key)[0]
			require.Equal(f, eval.AttemptLost, a.Outcome)
			require.Equal(f, eval.KindUnavailable, a.Failure.Kind)
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
		"what takes its workers down is poison": func(f *fixture) {
			e := f.create()
			for range eval.DefaultRules().PoisonAfter {
				f.claim(e.Key)
				f.clock.Advance(lease)
				_, err := f.Reap(f.ctx, 10)
				require.NoError(f, err)
			}
			got := f.get(e.Key)
			require.Equal(f, eval.Failed, got.Status)
			require.Equal(f, eval.KindPoison, got.Failure.Kind)
			page, err := f.ListDeadLetters(f.ctx, eval.DeadLetterQuery{Project: e.Project, Kind: eval.KindPoison})
			require.NoError(f, err)
			require.Len(f, page.DeadLetters, 1)
			require.Equal(f, eval.AttemptLost, f.attempts(e.Key)[1].Outcome)
		},
		"rewind makes the queued due, but not those of the future": func(f *fixture) {
			soon := f.create()
			at := f.clock.Now().Add(time.Hour)
			f.create(func(e *eval.Evaluation) { e.Spec.RunAt = &at })
			_, l := f.running()
			retried, rl := f.running()
			f.finish(rl, platformFailure(eval.KindFull))
			n, err := f.Rewind(f.ctx)
			require.NoError(f, err)
			require.Equal(f, 2, n)
			require.ElementsMatch(f, []eval.ID{soon.ID, retried.ID}, ids(f.due(10)))
			require.Equal(f, eval.Running, f.get(l.Key).Status)
		},
	})
}
