// Package pool chooses among several executors: the least loaded one that can be reached.
package pool

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
)

const (
	// shunned is how long an executor that could not be reached, or was full, comes last.
	shunned = time.Second
	// askAgain is how often Await asks executors of which none has answered.
	askAgain = 250 * time.Millisecond
	// ask bounds one question about an executor's status.
	ask = 2 * time.Second
)

// pauses are the waits before a full pool is tried again. A slot becomes free a moment after its run was answered, so
// the next dispatch is often that moment early; giving it back to the queue would cost a second.
var pauses = []time.Duration{10 * time.Millisecond, 30 * time.Millisecond, 100 * time.Millisecond}

// Member is an executor with the name that it is known by: its URL, or "local".
type Member struct {
	Name     string
	Executor eval.Executor
}

// Pool is a number of executors. Any number of goroutines may use it.
type Pool struct {
	mu      sync.Mutex
	members []*member
	asking  bool // somebody in Await is
}

type member struct {
	Member
	inFlight int
	slots    int       // as last heard; 0: never heard of
	until    time.Time // comes last until then
	problem  string
	away     bool // did not answer when it was asked last
}

// New returns a pool of the executors.
func New(members []Member) *Pool {
	p := &Pool{}
	for _, m := range members {
		p.members = append(p.members, &member{Member: m})
	}
	return p
}

// Refresh asks all executors for their status, at the same time, and returns the sum of the slots of those that have
// answered now or before, and how many have never answered.
func (p *Pool) Refresh(ctx context.Context) (slots, unknown int) {
	var wg sync.WaitGroup
	for _, m := range p.members {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, ask)
			defer cancel()
			status, err := m.Executor.Status(ctx)
			p.mu.Lock()
			defer p.mu.Unlock()
			m.away = err != nil
			if m.away {
				m.problem, m.until = message(err), time.Now().Add(2*shunned)
				return
			}
			m.slots, m.problem = status.Slots, ""
			switch {
			case status.Draining:
				m.problem = "shutting down"
			case status.Problem != "":
				m.problem = status.Problem
			}
			if m.problem != "" {
				m.until = time.Now().Add(2 * shunned)
			}
		})
	}
	wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		slots += m.slots
		if m.slots == 0 {
			unknown++
		}
	}
	return slots, unknown
}

// Reach asks all executors and returns nil when one of them takes on runs, else why each does not. KindUnavailable.
func (p *Pool) Reach(ctx context.Context) error {
	p.Refresh(ctx)
	var why []string
	for _, c := range p.Contacts() {
		if c.Problem == "" {
			return nil
		}
		why = append(why, c.Name+": "+c.Problem)
	}
	return eval.Errorf(eval.KindUnavailable, "no executor takes on runs: %s", strings.Join(why, "; "))
}

// Await returns at once when an executor is there, as far as is known. Else it asks all of them again and again until one
// answers or ctx ends: KindUnavailable. So an outage of all executors costs an evaluation no tries: they wait unclaimed.
func (p *Pool) Await(ctx context.Context) error {
	for {
		away, ask := p.away()
		if !away {
			return nil
		}
		if ask {
			p.Refresh(ctx)
			p.asked()
		}
		select {
		case <-ctx.Done():
			return eval.Errorf(eval.KindUnavailable, "no executor can be reached")
		case <-time.After(askAgain):
		}
	}
}

// away says whether no executor is there, and whether the caller is the one to ask them.
func (p *Pool) away() (away, ask bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		if !m.away {
			return false, false
		}
	}
	ask = !p.asking
	p.asking = true
	return true, ask
}

func (p *Pool) asked() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asking = false
}

// Contacts tells how each executor looks from here.
func (p *Pool) Contacts() []eval.ExecutorContact {
	p.mu.Lock()
	defer p.mu.Unlock()
	contacts := make([]eval.ExecutorContact, len(p.members))
	for i, m := range p.members {
		contacts[i] = eval.ExecutorContact{Name: m.Name, InFlight: m.inFlight, Problem: m.problem}
		if known, is := m.Executor.(eval.Loaded); is {
			if l, ok := known.Load(); ok {
				contacts[i].Load = &l
			}
		}
	}
	return contacts
}

// Run runs the request at the least loaded executor and names it. When that one is full, shutting down or cannot be
// reached, and the program has not started there, the next one is tried once. Its errors are the Runner's.
func (p *Pool) Run(ctx context.Context, req eval.Request, sink func(eval.RunEvent)) (result eval.Result, name string, err error) {
	for round := 0; ; round++ {
		result, name, err = p.round(ctx, req, sink)
		if !eval.IsKind(err, eval.KindFull) || round == len(pauses) || req.Exclusive { // that one has waited at the executor
			return result, name, err
		}
		select {
		case <-ctx.Done():
			return result, name, context.Cause(ctx)
		case <-time.After(pauses[round]):
		}
	}
}

func (p *Pool) round(ctx context.Context, req eval.Request, sink func(eval.RunEvent)) (result eval.Result, name string, err error) {
	var last *member
	for range 2 {
		m := p.take(last)
		if m == nil {
			break
		}
		started := false
		result, err = run(ctx, m, req, func(e eval.RunEvent) {
			started = true
			sink(e)
		}, func(err error) { p.give(m, err) })
		name = m.Name
		switch eval.KindOf(err) {
		case eval.KindFull, eval.KindUnavailable, eval.KindStopping:
			if started || ctx.Err() != nil {
				return result, name, err
			}
			last = m
		default:
			return result, name, err
		}
	}
	if err == nil {
		err = eval.Errorf(eval.KindUnavailable, "no executor is configured; name one with --executor-url")
	}
	return result, name, err
}

// run calls the executor and gives the member back, even when it panics.
func run(ctx context.Context, m *member, req eval.Request, sink func(eval.RunEvent), give func(error)) (result eval.Result, err error) {
	defer func() { give(err) }()
	return m.Executor.Run(ctx, req, sink)
}

// take chooses a member other than not and counts a run on it.
func (p *Pool) take(not *member) *member {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	var best *member
	for _, m := range p.members {
		if m != not && (best == nil || m.better(best, now)) {
			best = m
		}
	}
	if best != nil {
		best.inFlight++
	}
	return best
}

// better says whether m is the better choice: one that is not shunned, then the one with the smaller share of its
// slots taken.
func (m *member) better(than *member, now time.Time) bool {
	if a, b := now.Before(m.until), now.Before(than.until); a != b {
		return b
	}
	return m.inFlight*max(than.slots, 1) < than.inFlight*max(m.slots, 1)
}

// give ends a run on the member and learns from how it went.
func (p *Pool) give(m *member, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.inFlight--
	switch eval.KindOf(err) {
	case "":
		m.problem, m.until, m.away = "", time.Time{}, false
	case eval.KindFull:
		m.until = time.Now().Add(pauses[len(pauses)-1])
	case eval.KindUnavailable, eval.KindStopping, eval.KindExecutorLost:
		m.problem, m.until = message(err), time.Now().Add(shunned)
	}
}

// message is the part of an error that is for users.
func message(err error) string {
	p := problem.From(err)
	if p.Detail == "" {
		return p.Title
	}
	return p.Detail
}
