// Package guard keeps a sandbox that has proven what it isolates. It has the
// proof repeated now and then and whenever a box fails, and takes a new sandbox
// when the old one does not hold any more. Nothing runs meanwhile, and nothing
// ever runs in a weaker sandbox than the first one was.
package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/executor/internal/run"
	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/service"
)

const (
	// patience is how long a run waits while a sandbox in doubt is proven again,
	// which takes a tenth of a second as a rule.
	patience = 10 * time.Second
	// proofTimeout bounds one proof, the start of a new sandbox included.
	proofTimeout = 30 * time.Second
	// Bounds of the pause between tries to get a sandbox that holds.
	firstPause = 200 * time.Millisecond
	lastPause  = 10 * time.Second
	// beatEvery is how often the loop beats while there is nothing to prove,
	// and bound what a loop that is well stays below: two proofs and a pause.
	beatEvery = 10 * time.Second
	bound     = 2*proofTimeout + lastPause + beatEvery
)

// Options are what New needs.
type Options struct {
	// Open makes a sandbox of a level; "" is the one that was configured.
	Open func(ctx context.Context, level string) (sandbox.Runtime, error)
	// Least is the weakest level to accept; empty: any.
	Least string
	// Run is for the runner.
	Run run.Options
	// Every is how often the sandbox is proven while nothing runs, and at half
	// that rate while something does; 0: never.
	Every time.Duration
	// Idle tells whether nothing runs.
	Idle func() bool
	// Proven is called with the outcome of each proof that held, from one
	// goroutine at a time.
	Proven func(eval.Isolation)
	Logger *slog.Logger
}

// Guard holds the sandbox that runs are made in. It must be closed.
type Guard struct {
	opt    Options
	ctx    context.Context // ends with the guard
	stop   context.CancelFunc
	work   sync.WaitGroup
	pulse  *service.Pulse
	first  eval.Isolation // what has to hold for ever
	renews chan struct{}  // has a place for one request to prove again

	mu        sync.Mutex
	now       *Sandbox
	isolation eval.Isolation
	settled   chan struct{} // not nil: in doubt; closed when that is over
	problem   string        // why there is no sandbox; empty: it is not known to be broken
	retryAt   time.Time
}

// Sandbox is one sandbox and the runner over it.
type Sandbox struct {
	Runner *run.Runner
	boxes  sandbox.Runtime
	users  sync.WaitGroup
}

// New opens a sandbox and has it prove what it isolates. The error says what
// to do.
func New(ctx context.Context, opt Options) (*Guard, error) {
	boxes, err := opt.Open(ctx, "")
	if err != nil {
		return nil, err
	}
	g := &Guard{opt: opt, renews: make(chan struct{}, 1), pulse: service.NewPulse("sandbox prover", bound)}
	g.first, err = g.prove(ctx, boxes)
	if err != nil {
		return nil, errors.Join(err, boxes.Close())
	}
	g.accept(boxes, g.first)
	g.ctx, g.stop = context.WithCancel(context.Background())
	g.pulse.Beat()
	g.work.Go(g.watch)
	return g, nil
}

// Enter returns the sandbox to run in, which the caller must leave. While it
// is in doubt the caller waits. KindUnavailable: there is none that holds.
func (g *Guard) Enter(ctx context.Context) (*Sandbox, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, unavailable("the sandbox is being proven again, which takes long", time.Second))
	defer cancel()
	for {
		g.mu.Lock()
		switch {
		case g.ctx.Err() != nil:
			g.mu.Unlock()
			return nil, eval.Errorf(eval.KindStopping, "this executor is shutting down; send the run to another one")
		case g.problem != "":
			defer g.mu.Unlock()
			return nil, unavailable("the sandbox does not hold any more, and nothing is run until one does: "+g.problem, time.Until(g.retryAt))
		case g.settled == nil:
			defer g.mu.Unlock()
			g.now.users.Add(1)
			return g.now, nil
		}
		settled := g.settled
		g.mu.Unlock()
		select {
		case <-settled:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Leave ends the use of the sandbox.
func (s *Sandbox) Leave() { s.users.Done() }

// Doubt says that a box of this sandbox failed: it has to prove itself before
// the next run. It does not wait.
func (g *Guard) Doubt(s *Sandbox, why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.now != s || g.settled != nil {
		return // it is gone already, or in doubt
	}
	g.opt.Logger.Warn("a box failed, the sandbox is proven again", "err", why)
	g.hold()
	select {
	case g.renews <- struct{}{}:
	default:
	}
}

// hold lets no run in until the sandbox is accepted.
func (g *Guard) hold() {
	if g.settled == nil {
		g.settled = make(chan struct{})
	}
}

// release lets those go on who wait.
func (g *Guard) release() {
	if g.settled != nil {
		close(g.settled)
		g.settled = nil
	}
}

// Isolation is what the last proof that held showed.
func (g *Guard) Isolation() eval.Isolation {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.isolation
}

// Problem says why nothing is run now; empty: it is.
func (g *Guard) Problem() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.problem
}

// Runner is that of the sandbox of the moment.
func (g *Guard) Runner() *run.Runner {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now.Runner
}

// Live implements service.Lively.
func (g *Guard) Live() error { return g.pulse.Live() }

// Close kills what runs and removes everything that was made.
func (g *Guard) Close() error {
	g.stop()
	g.work.Wait()
	return g.now.close()
}

func (s *Sandbox) close() error {
	s.Runner.Close()
	return s.boxes.Close()
}

// watch proves the sandbox when it is in doubt, and now and then.
func (g *Guard) watch() {
	var tick <-chan time.Time
	if g.opt.Every > 0 {
		ticker := time.NewTicker(g.opt.Every)
		defer ticker.Stop()
		tick = ticker.C
	}
	defer g.pulse.End()
	idle := time.NewTicker(beatEvery)
	defer idle.Stop()
	overdue := false
	for {
		g.pulse.Beat()
		select {
		case <-g.ctx.Done():
			return
		case <-idle.C:
			continue
		case <-g.renews:
		case <-tick:
			if overdue = !overdue && !g.opt.Idle(); overdue {
				continue
			}
		}
		g.renew()
	}
}

// renew returns when the sandbox has proven itself or another one has taken
// its place, or with the guard.
func (g *Guard) renew() {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		g.pulse.Beat()
		err := g.try()
		if err == nil || g.ctx.Err() != nil {
			return
		}
		g.opt.Logger.Error("no sandbox holds, nothing is run", "err", err, "next_try", pause)
		g.mu.Lock()
		g.problem, g.retryAt = err.Error(), time.Now().Add(pause)
		g.release() // nobody has to wait for the next try
		g.mu.Unlock()
		select {
		case <-g.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// try proves the sandbox, or else a new one of the same level.
func (g *Guard) try() error {
	ctx, cancel := context.WithTimeout(g.ctx, proofTimeout)
	defer cancel()
	seen, err := g.prove(ctx, g.now.boxes)
	if err == nil {
		g.accept(g.now.boxes, seen)
		return nil
	}
	if g.ctx.Err() != nil {
		return err
	}
	g.opt.Logger.Error("the sandbox does not hold any more, making a new one", "err", err)
	g.mu.Lock()
	g.hold()
	g.mu.Unlock()
	boxes, openErr := g.opt.Open(ctx, g.first.Level)
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	if seen, err = g.prove(ctx, boxes); err != nil {
		return errors.Join(err, boxes.Close())
	}
	g.accept(boxes, seen)
	return nil
}

// accept makes boxes, which have proven themselves, the sandbox to run in. One
// that they replace is closed when its last run has ended.
func (g *Guard) accept(boxes sandbox.Runtime, seen eval.Isolation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.now
	if old == nil || old.boxes != boxes {
		g.now = &Sandbox{Runner: run.New(boxes, seen, g.opt.Run), boxes: boxes}
	} else {
		old.Runner.SetIsolation(seen)
		old = nil
	}
	g.isolation, g.problem = seen, ""
	g.release()
	g.opt.Proven(seen)
	if old != nil {
		g.work.Go(func() {
			old.users.Wait()
			if err := old.close(); err != nil {
				g.opt.Logger.Warn("the old sandbox left something behind", "err", err)
			}
		})
	}
}

// prove has a sandbox try out what it promises, and compares that with what
// has to hold.
func (g *Guard) prove(ctx context.Context, boxes sandbox.Runtime) (eval.Isolation, error) {
	found, err := boxes.Probe(ctx)
	if err != nil {
		return eval.Isolation{}, fmt.Errorf("the sandbox does not hold: %w", err)
	}
	seen := eval.Isolation{Level: found.Level}
	var gaps []string
	for _, c := range found.Controls {
		seen.Controls = append(seen.Controls, eval.Control{Name: c.Name, State: string(c.State), Detail: c.Detail, Remedy: c.Remedy})
		if c.State != sandbox.Enforced {
			gaps = append(gaps, fmt.Sprintf("%s is %s (%s)", c.Name, c.State, c.Detail))
		}
	}
	if !eval.StrongEnough(seen.Level, g.opt.Least) {
		return seen, fmt.Errorf("this machine offers isolation %q, and at least %q is asked for; crucible doctor says what each stronger level lacks here", seen.Level, g.opt.Least)
	}
	if err := weaker(seen, g.first); err != nil {
		return seen, err
	}
	g.opt.Logger.Info("sandbox proven", "level", seen.Level, "controls", len(seen.Controls), "gaps", gaps)
	return seen, nil
}

// weaker tells what of before does not hold now.
func weaker(now, before eval.Isolation) error {
	if !eval.StrongEnough(now.Level, before.Level) {
		return fmt.Errorf("isolation has become %q, and was %q", now.Level, before.Level)
	}
	states := []string{eval.ControlEnforced, eval.ControlApproximated, eval.ControlAbsent}
	for _, b := range before.Controls {
		state := eval.ControlAbsent
		detail := ""
		for _, c := range now.Controls {
			if c.Name == b.Name {
				state, detail = c.State, c.Detail
			}
		}
		if slices.Index(states, state) > slices.Index(states, b.State) {
			return fmt.Errorf("%s was %s, and is %s: %s", b.Name, b.State, state, detail)
		}
	}
	return nil
}

func unavailable(why string, wait time.Duration) error {
	return &eval.Error{Kind: eval.KindUnavailable, Message: why, RetryAfter: max(wait, 100*time.Millisecond)}
}
