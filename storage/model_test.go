package storage_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/eval/evaltest"
	"github.com/crucible-eval/crucible/pkg/memory"
	"github.com/crucible-eval/crucible/storage"
)

func requireSameJSON(t require.TestingT, want, got any, message ...any) {
	w, err := json.Marshal(want)
	require.NoError(t, err)
	g, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, string(w), string(g), message...)
}

// Whatever is asked, in whatever order, a database answers as memory does.
func TestDatabasesBehaveAsMemoryDoes(t *testing.T) {
	databases(t, func(t *testing.T, cfg storage.Config) {
		clock := evaltest.NewClock()
		cfg.Now = clock.Now
		b := open(t, cfg)
		round := 0
		rapid.Check(t, func(rt *rapid.T) {
			round++
			model := memory.NewStore(memory.Options{Now: clock.Now})
			project := fmt.Sprint("project-", round)
			defer endAll(t, b.Store, clock, project) // all projects share the lines, and the model knows one project
			holdCallbacks(rt, b.Store, clock)
			for range rapid.IntRange(1, 25).Draw(rt, "steps") {
				op := drawOp(rt, project)
				want, got := op.call(model), op.call(b.Store)
				requireSameJSON(rt, want, got, op.name)
				clock.Advance(time.Duration(rapid.IntRange(0, 2).Draw(rt, "seconds")) * time.Second)
			}
			for _, s := range []eval.Status{"", eval.Queued, eval.Running, eval.Completed, eval.Failed, eval.Cancelled} {
				q := eval.Query{Project: project}
				if s != "" {
					q.Status = []eval.Status{s}
				}
				want, err := model.List(t.Context(), q)
				require.NoError(rt, err)
				got, err := b.Store.List(t.Context(), q)
				require.NoError(rt, err)
				requireSameJSON(rt, want, got)
			}
			want, err := model.Stats(t.Context(), project)
			require.NoError(rt, err)
			got, err := b.Store.Stats(t.Context(), project)
			require.NoError(rt, err)
			requireSameJSON(rt, want, got)
		})
	})
}

// holdCallbacks takes what earlier rounds have left: they are taken over all projects.
func holdCallbacks(rt *rapid.T, s eval.Store, clock *evaltest.Clock) {
	clock.Advance(time.Minute)
	for {
		taken, err := s.TakeCallbacks(rt.Context(), eval.TakeRequest{Deliverer: "before", Lease: 1e6 * time.Hour, Limit: 100, PerHost: 100})
		require.NoError(rt, err)
		if len(taken) == 0 {
			return
		}
	}
}

// endAll cancels what has not ended in a project.
func endAll(t *testing.T, s eval.Store, clock *evaltest.Clock, project string) {
	page, err := s.List(t.Context(), eval.Query{Project: project, Status: []eval.Status{eval.Queued, eval.Running}})
	require.NoError(t, err)
	for _, e := range page.Evaluations {
		_, err := s.Cancel(t.Context(), e.Key, "")
		require.NoError(t, err)
	}
	clock.Advance(time.Minute)
	_, err = s.Reap(t.Context(), 100)
	require.NoError(t, err)
}

type op struct {
	name string
	call func(eval.Store) any
}

// answer is what a call came to: its value, or the kind and words of its error.
func answer(v any, err error) any {
	if e, ok := err.(*eval.Error); ok {
		return []any{e.Kind, e.Message, e.Status}
	}
	if err != nil {
		return err.Error()
	}
	return v
}

func drawOp(rt *rapid.T, project string) op {
	ctx := rt.Context()
	key := eval.Key{Project: project, ID: eval.ID(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "id"))}
	l := eval.Lease{Key: key, Attempt: rapid.IntRange(0, 3).Draw(rt, "attempt")}
	outcome := rapid.SampledFrom([]eval.Outcome{
		{}, {Cancelled: true}, {Result: &eval.Result{Verdict: eval.TimeLimit, Cause: eval.CauseWall}},
		{Failure: &eval.Failure{Kind: eval.KindInvalid, Message: "no"}}, {Failure: &eval.Failure{Kind: eval.KindStopping}},
		{Failure: &eval.Failure{Kind: eval.KindFull}, RetryAfter: time.Second}, {Failure: &eval.Failure{Kind: eval.KindSandbox}},
	}).Draw(rt, "outcome")
	switch name := rapid.SampledFrom([]string{"create", "claim", "beat", "finish", "finish", "cancel", "get", "events", "attempts", "retry", "clients", "dead", "bury", "take", "report", "call again", "callbacks"}).Draw(rt, "op"); name {
	case "create":
		e := eval.Evaluation{Key: key, Client: rapid.SampledFrom([]string{"", "ann"}).Draw(rt, "client"), Spec: eval.Spec{Program: eval.Program{Language: "c", Code: eval.Bytes("x")}, RetryPolicy: eval.PolicyConservative,
			CallbackURL: rapid.SampledFrom([]string{"", "https://a.example/", "https://b.example/"}).Draw(rt, "callback")}}
		sub := eval.Submission{Evaluations: []eval.Evaluation{e}, IdempotencyKey: rapid.SampledFrom([]string{"", "", "k"}).Draw(rt, "key"),
			Fingerprint: rapid.SampledFrom([]string{"f", "g"}).Draw(rt, "fingerprint"),
			Recall:      rapid.SampledFrom([]bool{false, false, true}).Draw(rt, "recall")}
		return op{name, func(s eval.Store) any {
			created, replayed, err := s.Create(ctx, sub)
			return answer([]any{created, replayed}, err)
		}}
	case "claim":
		return op{name, func(s eval.Store) any {
			return answer(s.Claim(ctx, eval.ClaimRequest{Key: key, Worker: "w", Lease: 3 * time.Second}))
		}}
	case "beat":
		return op{name, func(s eval.Store) any { return answer(s.Beat(ctx, l, 3*time.Second)) }}
	case "finish":
		return op{name, func(s eval.Store) any { return answer(s.Finish(ctx, l, outcome)) }}
	case "cancel":
		return op{name, func(s eval.Store) any { return answer(s.Cancel(ctx, key, "because")) }}
	case "get":
		return op{name, func(s eval.Store) any { return answer(s.Get(ctx, key)) }}
	case "events":
		return op{name, func(s eval.Store) any {
			events, err := s.Events(ctx, key, int64(l.Attempt), 3)
			all := []eval.Event{}
			for _, e := range events {
				e.Cursor = 0 // each store has its own
				all = append(all, e)
			}
			return answer(all, err)
		}}
	case "clients":
		return op{name, func(s eval.Store) any { return answer(s.Clients(ctx, project)) }}
	case "attempts":
		return op{name, func(s eval.Store) any {
			attempts, err := s.Attempts(ctx, key)
			return answer(append([]eval.Attempt{}, attempts...), err)
		}}
	case "retry":
		id := eval.ID(rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "new id"))
		return op{name, func(s eval.Store) any { return answer(s.Retry(ctx, key, id)) }}
	case "dead":
		ids := rapid.SampledFrom([][]eval.ID{nil, {key.ID}, {"a", "b"}}).Draw(rt, "ids")
		return op{name, func(s eval.Store) any {
			return answer(s.ListDeadLetters(ctx, eval.DeadLetterQuery{Project: project, IDs: ids, Limit: 2}))
		}}
	case "take":
		return op{name, func(s eval.Store) any {
			return answer(s.TakeCallbacks(ctx, eval.TakeRequest{Deliverer: "d", Lease: 2 * time.Second, Limit: l.Attempt, PerHost: 1}))
		}}
	case "report":
		delivery := rapid.SampledFrom([]eval.Delivery{{HTTPStatus: 200}, {Reason: eval.CallbackGone}}).Draw(rt, "delivery")
		return op{name, func(s eval.Store) any {
			return answer(s.ReportCallback(ctx, eval.CallbackLease{Key: key, Try: l.Attempt}, delivery))
		}}
	case "call again":
		return op{name, func(s eval.Store) any { return answer(s.RetryCallback(ctx, key)) }}
	case "callbacks":
		return op{name, func(s eval.Store) any {
			page, err := s.ListCallbacks(ctx, eval.CallbackQuery{Project: project, Limit: 2})
			if err != nil {
				return answer(page, err)
			}
			stats, err := s.CountCallbacks(ctx, project)
			return answer([]any{page, stats}, err)
		}}
	default:
		return op{name, func(s eval.Store) any { return answer(nil, s.DeleteDeadLetter(ctx, key)) }}
	}
}
