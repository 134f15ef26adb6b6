// Package service is how the parts of Crucible start and stop: each is a
// [Service], and a [Group] starts several in order and stops them in reverse.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Service is something that runs until it is stopped.
type Service interface {
	// Name is one word for the log.
	Name() string
	// Start returns once the service is ready, or why it cannot be. ctx
	// bounds the start only. It is called once.
	Start(ctx context.Context) error
	// Stop refuses new work, lets what runs end until ctx does, then ends it
	// hard, and returns when nothing is left. Stopping twice, or what never
	// started, is fine.
	Stop(ctx context.Context) error
	// Failed delivers at most one error: why the service ended by itself.
	Failed() <-chan error
}

// Group runs services as one.
type Group struct {
	log      *slog.Logger
	services []Service
	failed   chan error

	mu      sync.Mutex
	started []Service
	watch   sync.WaitGroup
	stop    chan struct{}
	once    sync.Once
}

// NewGroup returns a group that starts the services in this order.
func NewGroup(log *slog.Logger, services ...Service) *Group {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Group{log: log, services: services, failed: make(chan error, 1), stop: make(chan struct{})}
}

// Name implements Service.
func (g *Group) Name() string { return "group" }

// Failed implements Service.
func (g *Group) Failed() <-chan error { return g.failed }

// Start starts each service in order. If one fails, those already started
// are stopped and its error is returned.
func (g *Group) Start(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.services {
		began := time.Now()
		if err := s.Start(ctx); err != nil {
			err = fmt.Errorf("start %s: %w", s.Name(), err)
			return errors.Join(err, g.stopLocked(context.WithoutCancel(ctx)))
		}
		g.started = append(g.started, s)
		g.log.Debug("service started", "service", s.Name(), "took_ms", time.Since(began).Milliseconds())
		g.watch.Go(func() {
			select {
			case err := <-s.Failed():
				select {
				case g.failed <- fmt.Errorf("%s: %w", s.Name(), err):
				default:
				}
			case <-g.stop:
			}
		})
	}
	return nil
}

// Live implements Lively: it asks all services that can tell.
func (g *Group) Live() error {
	var errs []error
	for _, s := range g.services {
		if s, ok := s.(Lively); ok {
			errs = append(errs, s.Live())
		}
	}
	return errors.Join(errs...)
}

// Drain implements Drainer for all services that have started.
func (g *Group) Drain() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drainLocked()
}

func (g *Group) drainLocked() {
	for _, s := range slices.Backward(g.started) {
		if s, ok := s.(Drainer); ok {
			s.Drain()
		}
	}
}

// Stop has all services refuse new work, then stops them in reverse order.
func (g *Group) Stop(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drainLocked()
	return g.stopLocked(ctx)
}

func (g *Group) stopLocked(ctx context.Context) error {
	g.once.Do(func() { close(g.stop) })
	var errs []error
	for len(g.started) > 0 {
		s := g.started[len(g.started)-1]
		g.started = g.started[:len(g.started)-1]
		began := time.Now()
		if err := s.Stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", s.Name(), err))
		}
		g.log.Debug("service stopped", "service", s.Name(), "took_ms", time.Since(began).Milliseconds())
	}
	g.watch.Wait()
	return errors.Join(errs...)
}

// Loop is a Service made of one function that runs until its context ends.
type Loop struct {
	*Pulse
	run    func(context.Context) error
	failed chan error
	cancel context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
}

// NewLoop returns a Loop. run must return soon after its context ends; an
// error before that is a failure of the service. It must call [Beat] with its
// context at each step, at least once in every bound: a loop that does not is
// stuck, and the process is not alive any more. Whatever it waits for needs a
// timeout below the bound.
func NewLoop(name string, bound time.Duration, run func(context.Context) error) *Loop {
	return &Loop{Pulse: NewPulse(name, bound), run: run, failed: make(chan error, 1)}
}

// Name implements Service.
func (l *Loop) Name() string { return l.name }

// Failed implements Service.
func (l *Loop) Failed() <-chan error { return l.failed }

// Start runs the function in its own goroutine.
func (l *Loop) Start(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	runCtx, cancel := context.WithCancel(context.WithValue(context.WithoutCancel(ctx), pulseKey{}, l.Pulse))
	l.cancel, l.done = cancel, make(chan struct{})
	l.Beat()
	go func() {
		defer close(l.done)
		defer l.End()
		if err := l.run(runCtx); err != nil && runCtx.Err() == nil {
			l.failed <- err
		}
	}()
	return nil
}

// Stop ends the function's context and waits for it, or for ctx.
func (l *Loop) Stop(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cancel == nil {
		return nil
	}
	l.cancel()
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s did not end in time: %w", l.name, ctx.Err())
	}
}
