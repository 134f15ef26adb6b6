package api_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// executor says what it offers, and can be cut off. The API never runs
// anything itself, so its other methods are not there.
type executor struct {
	eval.Executor
	mu     sync.Mutex
	status eval.ExecutorStatus
	err    error
	asked  int
}

func newExecutor() *executor {
	return &executor{status: eval.ExecutorStatus{
		Name: "test/1", Version: "v0-test", Load: eval.Load{Slots: 2, Busy: 1, MemoryBytes: 8 << 30, ReservedBytes: 256 << 20},
		Isolation: eval.Isolation{Level: "namespaces", Controls: []eval.Control{
			{Name: "network", State: eval.ControlEnforced},
			{Name: "memory", State: eval.ControlApproximated, Detail: "run as root for cgroups"},
		}},
		Languages: []eval.Language{
			{ID: "python", Name: "Python", Aliases: []string{"python3", "py"}, Extensions: []string{".py"}, SourceFile: "main.py", Available: true, Version: "Python 3.11.7", Example: "print('hello')"},
			{ID: "cobol", Name: "COBOL", SourceFile: "main.cob", Compiled: true, Problem: "cobc is not installed"},
		},
	}}
}

func (e *executor) Status(context.Context) (eval.ExecutorStatus, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	return e.status, e.err
}

func (e *executor) set(change func(*eval.ExecutorStatus)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(&e.status)
}

func (e *executor) away(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = err
}

// recordingQueue is the real queue; it remembers what it was given and can
// refuse.
type recordingQueue struct {
	eval.Queue
	mu       sync.Mutex
	enqueued []eval.Dispatch
	err      error
}

func (q *recordingQueue) Enqueue(ctx context.Context, d eval.Dispatch) error {
	if err := q.problem(); err != nil {
		return err
	}
	if err := q.Queue.Enqueue(ctx, d); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.enqueued = append(q.enqueued, d)
	return nil
}

func (q *recordingQueue) Cancel(ctx context.Context, d eval.Dispatch) error {
	if err := q.problem(); err != nil {
		return err
	}
	return q.Queue.Cancel(ctx, d)
}

func (q *recordingQueue) Forget(ctx context.Context, all []eval.Dispatch) error {
	if err := q.problem(); err != nil {
		return err
	}
	return q.Queue.Forget(ctx, all)
}

func (q *recordingQueue) problem() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

func (q *recordingQueue) refuse(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = err
}

func (q *recordingQueue) dispatches() []eval.Dispatch {
	q.mu.Lock()
	defer q.mu.Unlock()
	return append([]eval.Dispatch(nil), q.enqueued...)
}

// brokenStore is a store that can be cut off.
type brokenStore struct {
	eval.Store
	mu      sync.Mutex
	err     error
	retries atomic.Int64
}

func (s *brokenStore) cut(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *brokenStore) problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *brokenStore) Create(ctx context.Context, sub eval.Submission) ([]eval.Evaluation, bool, error) {
	if err := s.problem(); err != nil {
		return nil, false, err
	}
	return s.Store.Create(ctx, sub)
}

func (s *brokenStore) Get(ctx context.Context, key eval.Key) (eval.Evaluation, error) {
	if err := s.problem(); err != nil {
		return eval.Evaluation{}, err
	}
	return s.Store.Get(ctx, key)
}

func (s *brokenStore) Feed(ctx context.Context, project string, after int64, limit int) ([]eval.Event, error) {
	if err := s.problem(); err != nil {
		return nil, err
	}
	return s.Store.Feed(ctx, project, after, limit)
}

func (s *brokenStore) List(ctx context.Context, q eval.Query) (eval.Page, error) {
	if err := s.problem(); err != nil {
		return eval.Page{}, err
	}
	return s.Store.List(ctx, q)
}

func (s *brokenStore) Stats(ctx context.Context, project string) (eval.Stats, error) {
	if err := s.problem(); err != nil {
		return eval.Stats{}, err
	}
	return s.Store.Stats(ctx, project)
}

func (s *brokenStore) Cancel(ctx context.Context, key eval.Key, reason string) (eval.Evaluation, error) {
	if err := s.problem(); err != nil {
		return eval.Evaluation{}, err
	}
	return s.Store.Cancel(ctx, key, reason)
}

func (s *brokenStore) Retry(ctx context.Context, key eval.Key, newID eval.ID) (eval.Evaluation, error) {
	s.retries.Add(1)
	if err := s.problem(); err != nil {
		return eval.Evaluation{}, err
	}
	return s.Store.Retry(ctx, key, newID)
}

func newID() eval.ID { return eval.ID(uuid.Must(uuid.NewV7()).String()) }

// spec is a small program, as the API would store it.
func spec(t testing.TB) eval.Spec {
	t.Helper()
	granted, bad := eval.DefaultPolicy().Validate(eval.Spec{Program: eval.Program{Language: "python", Code: eval.Bytes("1")}}, time.Now(), nil)
	require.Empty(t, bad)
	return granted
}

func (s *brokenStore) Backlog(ctx context.Context) (eval.Backlog, error) {
	if err := s.problem(); err != nil {
		return eval.Backlog{}, err
	}
	return s.Store.Backlog(ctx)
}
