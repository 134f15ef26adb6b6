// Package evaltest has one conformance suite for each interface of package
// eval. Every implementation, twin and decorator passes it.
package evaltest

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// OpenStore makes an empty store whose clock is now and whose rules are
// [eval.DefaultRules], and closes it with the test.
type OpenStore func(t *testing.T, now func() time.Time) eval.Store

// TestStore checks that a store keeps the contract of [eval.Store].
func TestStore(t *testing.T, open OpenStore) {
	groups := []struct {
		name string
		run  func(*testing.T, OpenStore)
	}{
		{"intake", testIntake}, {"cancel", testCancel}, {"reader", testReader}, {"pages", testPages},
		{"worker", testWorker}, {"finish", testFinish}, {"scheduler", testScheduler}, {"fairness", testFairness},
		{"dead letters", testDeadLetters}, {"properties", testProperties}, {"outbox", testOutbox}, {"races", testRaces},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) { g.run(t, open) })
	}
}

// Clock is a clock that a test moves.
type Clock struct {
	mu sync.Mutex
	at time.Time
}

// NewClock makes a clock that stands still at a fixed time.
func NewClock() *Clock { return &Clock{at: time.Date(2026, 3, 4, 5, 6, 7, 891_234_000, time.UTC)} }

// Now is the time on the clock.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// Advance moves the clock on.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// fixture is an empty store, and what tests do with one.
type fixture struct {
	*testing.T
	eval.Store
	ctx   context.Context
	clock *Clock
	ids   int
}

const (
	lease  = 15 * time.Second
	worker = "worker-1"

	// patience is how long something may take that comes without a signal.
	patience = 30 * time.Second
)

func newFixture(t *testing.T, open OpenStore) *fixture {
	clock := NewClock()
	return &fixture{T: t, Store: open(t, clock.Now), ctx: t.Context(), clock: clock}
}

// each runs named tests, each on a store of its own.
func each(t *testing.T, open OpenStore, tests map[string]func(*fixture)) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(newFixture(t, open)) })
	}
}

// key makes a new key in the default project. Keys sort as they are made.
func (f *fixture) key() eval.Key {
	f.ids++
	return eval.Key{Project: eval.DefaultProject, ID: eval.ID(fmt.Sprintf("019a0000-0000-7000-8000-%012d", f.ids))}
}

func program(code string) eval.Spec {
	return eval.Spec{Program: eval.Program{Language: "python", Code: eval.Bytes(code)}, Priority: eval.PriorityDefault}
}

// create writes one evaluation, changed by edit.
func (f *fixture) create(edit ...func(*eval.Evaluation)) eval.Evaluation {
	f.Helper()
	e := eval.Evaluation{Key: f.key(), Spec: program("print(1)")}
	for _, change := range edit {
		change(&e)
	}
	created, replayed, err := f.Create(f.ctx, eval.Submission{Evaluations: []eval.Evaluation{e}})
	require.NoError(f, err)
	require.False(f, replayed)
	require.Len(f, created, 1)
	return created[0]
}

func (f *fixture) claim(key eval.Key) (eval.Evaluation, eval.Lease) {
	f.Helper()
	e, err := f.Claim(f.ctx, eval.ClaimRequest{Key: key, Worker: worker, Lease: lease})
	require.NoError(f, err)
	return e, eval.Lease{Key: key, Attempt: e.Attempt}
}

func (f *fixture) running() (eval.Evaluation, eval.Lease) {
	f.Helper()
	return f.claim(f.create().Key)
}

func (f *fixture) finish(l eval.Lease, o eval.Outcome) eval.Evaluation {
	f.Helper()
	e, err := f.Finish(f.ctx, l, o)
	require.NoError(f, err)
	return e
}

// failed makes an evaluation that the platform gave up on.
func (f *fixture) failed(kind eval.Kind, edit ...func(*eval.Evaluation)) eval.Evaluation {
	f.Helper()
	_, l := f.claim(f.create(edit...).Key)
	e := f.finish(l, eval.Outcome{Failure: &eval.Failure{Kind: kind, Message: "the platform says " + string(kind)}})
	require.Equal(f, eval.Failed, e.Status)
	return e
}

func (f *fixture) get(key eval.Key) eval.Evaluation {
	f.Helper()
	e, err := f.Get(f.ctx, key)
	require.NoError(f, err)
	return e
}

func (f *fixture) events(key eval.Key) []eval.Event {
	f.Helper()
	events, err := f.Events(f.ctx, key, 0, 1000)
	require.NoError(f, err)
	return events
}

func (f *fixture) attempts(key eval.Key) []eval.Attempt {
	f.Helper()
	attempts, err := f.Attempts(f.ctx, key)
	require.NoError(f, err)
	return attempts
}

// same compares values as clients see them.
func same(t require.TestingT, want, got any, message ...any) {
	if h, ok := t.(interface{ Helper() }); ok {
		h.Helper()
	}
	w, err := json.Marshal(want)
	require.NoError(t, err)
	g, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, string(w), string(g), message...)
}

// kind requires an error of the kind, and returns it.
func kind(t require.TestingT, want eval.Kind, err error) *eval.Error {
	if h, ok := t.(interface{ Helper() }); ok {
		h.Helper()
	}
	require.Error(t, err)
	require.Equal(t, want, eval.KindOf(err), "%v", err)
	e, _ := err.(*eval.Error)
	return e
}

func types(events []eval.Event) []eval.EventType {
	all := make([]eval.EventType, len(events))
	for i, e := range events {
		all[i] = e.Type
	}
	return all
}

func accepted(stdout string) eval.Outcome {
	zero := 0
	return eval.Outcome{Executor: "executor-1", Result: &eval.Result{
		Verdict: eval.Accepted, Usage: eval.Usage{ExitCode: &zero, WallMS: 12.5, CPUMS: 9.25, MemoryPeakBytes: 8 << 20},
		Stdout:   eval.Stream{Data: []byte(stdout), Bytes: int64(len(stdout))},
		Language: eval.LanguageRef{ID: "python", Version: "3.13"}, Isolation: eval.Isolation{Level: "namespaces"},
	}}
}

func platformFailure(kind eval.Kind) eval.Outcome {
	return eval.Outcome{Executor: "executor-1", Failure: &eval.Failure{Kind: kind, Message: "it broke"}}
}
