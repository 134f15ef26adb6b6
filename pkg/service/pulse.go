package service

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Lively is a service that can tell whether it makes progress. A dependency
// that is away is no lack of progress: its loop goes on trying.
type Lively interface {
	// Live returns nil, or which loop is stuck and for how long.
	Live() error
}

// Drainer is a service that can refuse new work while it goes on with the
// work that it has. [Group.Stop] has all of a group do so before it stops the
// first.
type Drainer interface {
	// Drain does not wait. Calling it twice is fine.
	Drain()
}

// Pulse tells whether a loop makes progress. It beats at each step of the
// loop; one that has not beaten for longer than its bound is stuck.
type Pulse struct {
	name  string
	bound time.Duration

	mu   sync.Mutex
	last time.Time // zero: the loop does not run
}

// NewPulse returns the pulse of a loop that does not run yet. bound is the
// longest time between two beats of a loop that is well: longer than the
// timeout of anything that it waits for.
func NewPulse(name string, bound time.Duration) *Pulse { return &Pulse{name: name, bound: bound} }

// Beat says that the loop has come to its next step.
func (p *Pulse) Beat() { p.set(time.Now()) }

// End says that the loop has ended: what does not run is not stuck.
func (p *Pulse) End() { p.set(time.Time{}) }

func (p *Pulse) set(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = t
}

// Live implements Lively.
func (p *Pulse) Live() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last.IsZero() {
		return nil
	}
	if still := time.Since(p.last); still > p.bound {
		return fmt.Errorf("%s has made no progress for %s; at most %s is right", p.name, still.Round(time.Second), p.bound)
	}
	return nil
}

type pulseKey struct{}

// Beat says that the [Loop] whose context this is, or is derived from, has
// come to its next step. Outside of a Loop it does nothing.
func Beat(ctx context.Context) {
	if p, ok := ctx.Value(pulseKey{}).(*Pulse); ok {
		p.Beat()
	}
}
