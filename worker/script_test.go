package worker_test

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// script is an executor that does what a test tells it, by the program's language.
type script struct {
	away  atomic.Bool // cannot be reached
	slots int

	mu       sync.Mutex
	roles    map[string]role
	requests []eval.Request
}

// role is what a program does: the arguments of Runner.Run, and what it returns.
type role func(ctx context.Context, req eval.Request, sink func(eval.RunEvent)) (eval.Result, error)

func newScript() *script {
	return &script{slots: 4, roles: map[string]role{"hello": prints("hello\n")}}
}

func (s *script) plays(language string, r role) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roles[language] = r
}

func (s *script) Run(ctx context.Context, req eval.Request, sink func(eval.RunEvent)) (eval.Result, error) {
	s.mu.Lock()
	s.requests = append(s.requests, req)
	r := s.roles[req.Language]
	s.mu.Unlock()
	if s.away.Load() {
		return eval.Result{}, eval.Errorf(eval.KindUnavailable, "connection refused")
	}
	return r(ctx, req, sink)
}

// runs counts the requests for an evaluation.
func (s *script) runs(id eval.ID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.requests {
		if r.ID == id {
			n++
		}
	}
	return n
}

func (s *script) Status(context.Context) (eval.ExecutorStatus, error) {
	if s.away.Load() {
		return eval.ExecutorStatus{}, eval.Errorf(eval.KindUnavailable, "connection refused")
	}
	return eval.ExecutorStatus{Name: "script", Load: eval.Load{Slots: s.slots}}, nil
}

func (s *script) Stop(context.Context, eval.ID) error { return nil }

func result(stdout string) eval.Result {
	code := 0
	return eval.Result{
		Verdict: eval.Accepted, Usage: eval.Usage{ExitCode: &code, WallMS: 1},
		Stdout: eval.Stream{Data: []byte(stdout), Bytes: int64(len(stdout))}, Language: eval.LanguageRef{ID: "script"},
	}
}

// prints plays a program that writes something and ends well.
func prints(stdout string) role {
	return func(_ context.Context, _ eval.Request, sink func(eval.RunEvent)) (eval.Result, error) {
		sink(eval.RunEvent{Type: eval.RunStarted, At: time.Now()})
		sink(eval.RunEvent{Type: eval.RunStdout, Data: eval.Bytes(stdout), At: time.Now()})
		return result(stdout), nil
	}
}

// fails plays an executor that answers with an error.
func fails(err error) role {
	return func(context.Context, eval.Request, func(eval.RunEvent)) (eval.Result, error) {
		return eval.Result{}, err
	}
}

// inOrder plays one role after the other, and the last one for ever.
func inOrder(roles ...role) role {
	var n atomic.Int64
	return func(ctx context.Context, req eval.Request, sink func(eval.RunEvent)) (eval.Result, error) {
		return roles[min(int(n.Add(1)), len(roles))-1](ctx, req, sink)
	}
}

// endless plays a program that writes "begun\n" and then runs until it is killed.
type endless struct{ begun chan eval.ID }

func newEndless() *endless { return &endless{begun: make(chan eval.ID, 64)} }

func (e *endless) run(ctx context.Context, req eval.Request, sink func(eval.RunEvent)) (eval.Result, error) {
	sink(eval.RunEvent{Type: eval.RunStdout, Data: eval.Bytes("begun\n"), At: time.Now()})
	e.begun <- req.ID
	<-ctx.Done()
	r := result("begun\n")
	r.Verdict = ""
	return r, &eval.Error{Kind: eval.KindUnavailable, Message: "killed", Err: context.Cause(ctx)}
}

// faulty is a store that can be told to be away.
type faulty struct {
	eval.Store
	finishDown, allDown atomic.Bool
	claimMute           atomic.Bool // the next claim succeeds, but its answer is lost
	finishMute          atomic.Bool // the next finish, likewise
	refused             atomic.Int64
	onClaim             func(n int64, e eval.Evaluation, err error) error // when set: decides about the answer to the nth claim
	claims              atomic.Int64
}

func (f *faulty) away(down bool) error {
	if down || f.allDown.Load() {
		f.refused.Add(1)
		return eval.Errorf(eval.KindUnavailable, "the store is away")
	}
	return nil
}

func (f *faulty) Claim(ctx context.Context, r eval.ClaimRequest) (eval.Evaluation, error) {
	if err := f.away(false); err != nil {
		return eval.Evaluation{}, err
	}
	e, err := f.Store.Claim(ctx, r)
	if f.onClaim != nil {
		err = f.onClaim(f.claims.Add(1), e, err)
	}
	if err == nil && f.claimMute.CompareAndSwap(true, false) {
		return eval.Evaluation{}, f.away(true)
	}
	return e, err
}

func (f *faulty) Beat(ctx context.Context, l eval.Lease, lease time.Duration) (eval.Beat, error) {
	if err := f.away(false); err != nil {
		return eval.Beat{}, err
	}
	return f.Store.Beat(ctx, l, lease)
}

func (f *faulty) Finish(ctx context.Context, l eval.Lease, o eval.Outcome) (eval.Evaluation, error) {
	if err := f.away(f.finishDown.Load()); err != nil {
		return eval.Evaluation{}, err
	}
	e, err := f.Store.Finish(ctx, l, o)
	if err == nil && f.finishMute.CompareAndSwap(true, false) {
		return eval.Evaluation{}, f.away(true)
	}
	return e, err
}

func (f *faulty) Due(ctx context.Context, r eval.DueRequest) ([]eval.Dispatch, error) {
	if err := f.away(false); err != nil {
		return nil, err
	}
	return f.Store.Due(ctx, r)
}

func (f *faulty) Reap(ctx context.Context, limit int) ([]eval.Evaluation, error) {
	if err := f.away(false); err != nil {
		return nil, err
	}
	return f.Store.Reap(ctx, limit)
}
