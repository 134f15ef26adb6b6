// Package outage keeps callers from waiting again and again for a part of the platform that does not answer.
package outage

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Gate is a circuit breaker that one error opens: for the pause after a failure everybody is told to skip the
// call, and after it one caller per pause tries again until a try succeeds. It logs one line when the outage
// begins and one when it ends. Any number of goroutines may use it.
type Gate struct {
	what  string
	log   *slog.Logger
	pause time.Duration

	mu    sync.Mutex
	down  bool
	since time.Time
	until time.Time // nobody tries before
}

// NewGate makes a closed gate. what names the peer and what an outage of it means, for the log.
func NewGate(what string, pause time.Duration, logger *slog.Logger) *Gate {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Gate{what: what, log: logger, pause: pause}
}

// Allow says whether to make the call now. Whoever is allowed reports how it went.
func (g *Gate) Allow() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.down {
		return true
	}
	now := time.Now()
	if now.Before(g.until) {
		return false
	}
	g.until = now.Add(g.pause)
	return true
}

// Report takes the result of a call. What the caller cancelled says nothing about the peer.
func (g *Gate) Report(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	switch {
	case err != nil:
		g.until = now.Add(g.pause)
		if !g.down {
			g.down, g.since = true, now
			g.log.Warn(g.what+": not reachable", "error", err)
		}
	case g.down:
		g.down = false
		g.log.Info(g.what+": reachable again", "after", now.Sub(g.since).Round(time.Millisecond))
	}
}

// Down says whether the last call failed.
func (g *Gate) Down() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.down
}
