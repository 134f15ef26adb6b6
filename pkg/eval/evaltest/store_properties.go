package evaltest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// propertyTime is how long interleavings are tried on each store, when they
// are not all tried before: one with a network and a disk takes milliseconds
// for each step.
const propertyTime = 2 * time.Second

// testProperties does anything in any order, from one goroutine or several,
// and wants of every store what is promised of every evaluation.
func testProperties(t *testing.T, open OpenStore) {
	f := newFixture(t, open)
	round, failed, began := 0, false, time.Now()
	rapid.Check(t, func(rt *rapid.T) {
		if round++; round > 10 && time.Since(began) > propertyTime && !failed { // a failure is made smaller for as long as that takes
			return
		}
		defer func() { failed = failed || rt.Failed() }()
		w := &world{fixture: f, rt: rt, project: fmt.Sprint("round-", round), attempt: map[eval.ID]int{}, final: map[eval.ID]eval.Evaluation{}, removed: map[eval.ID]bool{}}
		lists := make([][]step, rapid.SampledFrom([]int{1, 1, 2, 3}).Draw(rt, "goroutines"))
		for i := range lists {
			lists[i] = rapid.SliceOfN(rapid.Custom(w.draw), 4, 20).Draw(rt, "steps")
		}
		together(len(lists), func(i int) {
			for _, s := range lists[i] {
				w.note(s.do(), s.name)
			}
		})
		w.check("after the steps")
		if rapid.Bool().Draw(rt, "rewind") {
			w.rewound()
		}
		w.settle()
		w.check("after all have ended")
	})
}

// world is a project in which anything happens.
type world struct {
	*fixture
	rt      *rapid.T
	project string

	mu      sync.Mutex
	attempt map[eval.ID]int             // the last one that was claimed
	final   map[eval.ID]eval.Evaluation // as they were when they had ended
	removed map[eval.ID]bool            // from the dead letters
	wrong   []string
}

// step is one call of the store.
type step struct {
	name string
	do   func() error
}

var propertyIDs = []eval.ID{"a", "b", "c"}

func (w *world) key(id eval.ID) eval.Key {
	return eval.Key{Project: w.project, ID: eval.ID(w.project) + "-" + id}
}

func (w *world) draw(rt *rapid.T) step {
	id := rapid.SampledFrom(propertyIDs).Draw(rt, "id")
	number := rapid.IntRange(0, 3).Draw(rt, "number")
	key, seq := w.key(id), rapid.SampledFrom([]int{0, 0, number}).Draw(rt, "seq")
	// Mostly the attempt that holds it, so that something comes of it.
	held := rapid.IntRange(0, 3).Draw(rt, "held") > 0
	lease := func() eval.Lease {
		l := eval.Lease{Key: key, Attempt: number}
		if held {
			w.mu.Lock()
			defer w.mu.Unlock()
			l.Attempt = w.attempt[key.ID]
		}
		return l
	}
	one := func(name string, call func() (eval.Evaluation, error)) step {
		return step{name, func() error {
			e, err := call()
			if err == nil {
				w.seen(e)
			}
			return err
		}}
	}
	several := func(name string, call func() ([]eval.Evaluation, error)) step {
		return step{name, func() error {
			all, err := call()
			for _, e := range all {
				w.seen(e)
			}
			return err
		}}
	}
	switch name := rapid.SampledFrom([]string{
		"create", "create", "create", "claim", "claim", "claim", "beat", "finish", "finish", "finish", "cancel",
		"due", "due", "reap", "expire", "rewind", "retry", "bury", "take", "report", "wait",
	}).Draw(rt, "step"); name {
	case "create":
		e := eval.Evaluation{Key: key, Spec: program("1")}
		e.Spec.RetryPolicy = rapid.SampledFrom([]string{"", eval.PolicyConservative}).Draw(rt, "policy")
		e.Spec.Priority = rapid.SampledFrom(eval.Priorities()).Draw(rt, "priority")
		e.Spec.CallbackURL = rapid.SampledFrom([]string{"", "https://a.example/"}).Draw(rt, "callback")
		e.Spec.ExpiresIn = rapid.SampledFrom([]eval.Duration{0, 0, eval.Duration(20 * time.Second)}).Draw(rt, "expires")
		if rapid.IntRange(0, 4).Draw(rt, "later") == 0 {
			at := w.clock.Now().Add(10 * time.Second)
			e.Spec.RunAt = &at
		}
		return several(name, func() ([]eval.Evaluation, error) {
			created, _, err := w.Create(w.ctx, eval.Submission{Evaluations: []eval.Evaluation{e}})
			return created, err
		})
	case "claim":
		worker := rapid.SampledFrom([]string{"w1", "w2"}).Draw(rt, "worker")
		alone := rapid.Bool().Draw(rt, "alone")
		return one(name, func() (eval.Evaluation, error) {
			return w.Claim(w.ctx, eval.ClaimRequest{Key: key, Seq: seq, Worker: worker, Lease: 5 * time.Second, Alone: alone})
		})
	case "beat":
		return step{name, func() error { _, err := w.Beat(w.ctx, lease(), 5*time.Second); return err }}
	case "finish":
		o := rapid.SampledFrom([]eval.Outcome{
			{}, {Cancelled: true}, accepted("x"), accepted("y"), platformFailure(eval.KindInvalid), platformFailure(eval.KindStopping),
			platformFailure(eval.KindFull), platformFailure(eval.KindSandbox), platformFailure(eval.KindSandbox), platformFailure(eval.KindExecutorLost),
		}).Draw(rt, "outcome")
		return one(name, func() (eval.Evaluation, error) { return w.Finish(w.ctx, lease(), o) })
	case "cancel":
		return one(name, func() (eval.Evaluation, error) { return w.Cancel(w.ctx, key, "because") })
	case "due":
		return step{name, func() error {
			_, err := w.Due(w.ctx, eval.DueRequest{Limit: number, Again: 10 * time.Second, Window: 1 + number})
			return err
		}}
	case "reap":
		return several(name, func() ([]eval.Evaluation, error) { return w.Reap(w.ctx, number) })
	case "expire":
		return several(name, func() ([]eval.Evaluation, error) { return w.Expire(w.ctx, number) })
	case "rewind":
		return step{name, func() error { _, err := w.Rewind(w.ctx); return err }}
	case "retry":
		as := w.key(rapid.SampledFrom(propertyIDs).Draw(rt, "as")).ID
		return step{name, func() error {
			e, err := w.Retry(w.ctx, key, as)
			if err == nil {
				w.remove(key.ID)
				w.seen(e)
			}
			return err
		}}
	case "bury":
		return step{name, func() error {
			err := w.DeleteDeadLetter(w.ctx, key)
			if err == nil {
				w.remove(key.ID)
			}
			return err
		}}
	case "take":
		return step{name, func() error {
			_, err := w.TakeCallbacks(w.ctx, eval.TakeRequest{Deliverer: deliverer, Lease: tryLease, Limit: number, PerHost: 2})
			return err
		}}
	case "report":
		d := rapid.SampledFrom([]eval.Delivery{{HTTPStatus: 200}, {Reason: eval.CallbackGone}, {Reason: eval.CallbackConnect}}).Draw(rt, "delivery")
		return step{name, func() error {
			_, err := w.ReportCallback(w.ctx, eval.CallbackLease{Key: key, Try: number}, d)
			return err
		}}
	default:
		d := time.Duration(rapid.IntRange(1, 15).Draw(rt, "seconds")) * time.Second
		return step{"wait", func() error { w.clock.Advance(d); return nil }}
	}
}

// note keeps errors that the contract does not have.
func (w *world) note(err error, what string) {
	switch eval.KindOf(err) {
	case "", eval.KindConflict, eval.KindNotFound, eval.KindLeaseLost, eval.KindInvalid:
	default:
		w.broken("%s: %v", what, err)
	}
}

func (w *world) broken(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

func (w *world) remove(id eval.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.removed[id] = true
}

// seen remembers an evaluation. One that had ended before has to be as it was.
func (w *world) seen(e eval.Evaluation) {
	w.mu.Lock()
	w.attempt[e.ID] = max(w.attempt[e.ID], e.Attempt)
	w.mu.Unlock()
	if !e.Status.Terminal() || e.Project != w.project {
		return
	}
	w.mu.Lock()
	first, known := w.final[e.ID]
	if !known {
		w.final[e.ID] = e
	}
	w.mu.Unlock()
	if known {
		same(w.rt, first, e, "what has ended never changes")
	}
}

// check wants what must hold at any time when nobody is in the middle of something.
func (w *world) check(when string) {
	require.Empty(w.rt, w.wrong, when)
	statuses := map[eval.Status]int64{}
	var dead, called []eval.ID
	for _, id := range propertyIDs {
		key := w.key(id)
		e, err := w.Get(w.ctx, key)
		if eval.IsKind(err, eval.KindNotFound) {
			require.NotContains(w.rt, w.final, key.ID, "what was accepted is kept")
			continue
		}
		require.NoError(w.rt, err)
		w.seen(e)
		statuses[e.Status]++
		if e.Status == eval.Failed && !w.removed[key.ID] {
			dead = append(dead, key.ID)
		}
		if e.Status.Terminal() && e.Spec.CallbackURL != "" {
			called = append(called, key.ID)
		}
		require.NoError(w.rt, w.one(e), "%s: %s", when, key.ID)
	}

	letters, err := w.ListDeadLetters(w.ctx, eval.DeadLetterQuery{Project: w.project, Limit: 100})
	require.NoError(w.rt, err)
	got := []eval.ID{}
	for _, d := range letters.DeadLetters {
		got = append(got, d.ID)
	}
	require.ElementsMatch(w.rt, dead, got, "%s: the dead letters are those that failed, until they are retried or deleted", when)

	callbacks, err := w.ListCallbacks(w.ctx, eval.CallbackQuery{Project: w.project, Limit: 100})
	require.NoError(w.rt, err)
	got = got[:0]
	for _, c := range callbacks.Callbacks {
		got = append(got, c.ID)
	}
	require.ElementsMatch(w.rt, called, got, "%s: one callback for each that has ended and wants one", when)

	stats, err := w.Stats(w.ctx, w.project)
	require.NoError(w.rt, err)
	for s, n := range stats.Statuses {
		require.Equal(w.rt, statuses[s], n, "%s: %s", when, s)
	}
}

// one checks an evaluation against its history and its attempts.
func (w *world) one(e eval.Evaluation) error {
	events, err := w.Events(w.ctx, e.Key, 0, 1000)
	if err != nil {
		return err
	}
	attempt := 0
	for i, event := range events {
		if event.Type == eval.EventRunning {
			attempt++
		}
		switch {
		case event.Seq != int64(i+1):
			return fmt.Errorf("event %d has number %d", i+1, event.Seq)
		case event.Attempt != attempt:
			return fmt.Errorf("event %d (%s) is of attempt %d, want %d", event.Seq, event.Type, event.Attempt, attempt)
		case event.Status.Terminal() && i < len(events)-1:
			return fmt.Errorf("event %d comes after the end", event.Seq+1)
		}
	}
	if n := len(events); int64(n) != e.EventSeq || n == 0 || events[n-1].Status != e.Status || e.Attempt != attempt {
		return fmt.Errorf("it is %s at attempt %d, event %d; its %d events say otherwise", e.Status, e.Attempt, e.EventSeq, n)
	}
	attempts, err := w.Attempts(w.ctx, e.Key)
	if err != nil {
		return err
	}
	if len(attempts) != e.Attempt {
		return fmt.Errorf("%d attempts are kept of %d", len(attempts), e.Attempt)
	}
	for i, a := range attempts {
		running := i == len(attempts)-1 && e.Status == eval.Running
		if a.Number != i+1 || (a.Outcome == eval.AttemptRunning) != running || (a.FinishedAt == nil) != running {
			return fmt.Errorf("attempt %d of an evaluation that is %s: %+v", i+1, e.Status, a)
		}
	}
	switch {
	case e.Status == eval.Running && (e.LeaseUntil == nil || e.Worker == ""):
		return errors.New("it runs without a lease: nobody would miss its worker")
	case e.Status == eval.Queued && e.NextDispatchAt == nil && (e.Turn == 0 || e.DispatchedAt != nil):
		return errors.New("it is queued, and nobody will look at it again")
	case e.Status.Terminal() && (e.FinishedAt == nil || e.NextDispatchAt != nil || e.LeaseUntil != nil):
		return errors.New("it has ended, and looks as if it went on")
	case e.Status == eval.Completed != (e.Verdict != ""):
		return fmt.Errorf("it is %s with verdict %q", e.Status, e.Verdict)
	case e.Status == eval.Failed && e.Failure == nil:
		return errors.New("it failed for no reason")
	}
	return nil
}

// drain claims and finishes all that the store hands out now, and wants every dispatch to be good.
func (w *world) drain() {
	for {
		due, err := w.Due(w.ctx, eval.DueRequest{Limit: 100, Again: time.Minute, Window: 2})
		require.NoError(w.rt, err)
		if len(due) == 0 {
			return
		}
		for _, d := range due {
			e, err := w.Claim(w.ctx, eval.ClaimRequest{Key: d.Key, Seq: d.Seq, Worker: "last", Lease: time.Minute})
			if d.Project != w.project { // of a round that failed
				continue
			}
			require.NoError(w.rt, err, "what is handed out can be claimed")
			e, err = w.Finish(w.ctx, eval.Lease{Key: d.Key, Attempt: e.Attempt}, accepted("at last"))
			require.NoError(w.rt, err)
			w.seen(e)
		}
	}
}

// rewound wants all that is queued to be handed out after the loss of the queue, except what is meant for later.
func (w *world) rewound() {
	_, err := w.Expire(w.ctx, 100)
	require.NoError(w.rt, err)
	_, err = w.Rewind(w.ctx)
	require.NoError(w.rt, err)
	w.drain()
	for _, id := range propertyIDs {
		e, err := w.Get(w.ctx, w.key(id))
		if err == nil && e.Status == eval.Queued {
			require.True(w.rt, e.NextDispatchAt != nil && e.NextDispatchAt.After(w.clock.Now()), "%s is forgotten after a rewind", e.ID)
		}
	}
}

// settle lets time pass until everything has ended, as reconcilers and workers would bring it about.
func (w *world) settle() {
	for range 4 {
		w.clock.Advance(7 * time.Minute) // longer than a lease, and than any wait for another try
		_, err := w.Reap(w.ctx, 100)
		require.NoError(w.rt, err)
		_, err = w.Expire(w.ctx, 100)
		require.NoError(w.rt, err)
		w.drain()
	}
	for _, id := range propertyIDs {
		e, err := w.Get(w.ctx, w.key(id))
		if err == nil {
			require.True(w.rt, e.Status.Terminal(), "%s is forgotten: it is still %s", e.ID, e.Status)
		}
	}
}
