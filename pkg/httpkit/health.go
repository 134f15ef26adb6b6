package httpkit

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
)

const (
	// tryTimeout bounds one try of a part. Probes usually wait no longer.
	tryTimeout = 2 * time.Second
	// tryEvery is how long the outcome of a try counts as now: however many
	// probe, a part is tried once in that time.
	tryEvery = time.Second
	// comeBack is what who is refused by a server that shuts down is told to
	// wait: another replica can be asked at once, and a restart takes a moment.
	comeBack = time.Second
)

// Part is something that a service needs, such as its database.
type Part struct {
	Name string
	// Try really tries the part. Everybody may see the message of an
	// [eval.Error]; of other errors only that there was one.
	Try func(context.Context) error
	// Optional parts are those without which the service does less, and yet
	// what it is there for.
	Optional bool
}

// Readiness is the answer of /readyz: ok, degraded when an optional part is
// away, or unavailable, which is a 503.
type Readiness struct {
	Status  string      `json:"status"`
	Problem string      `json:"problem,omitempty"`
	Parts   []PartState `json:"parts,omitempty"`
}

// PartState is how a part was when it was tried last, a second ago at most.
type PartState struct {
	Name     string    `json:"name"`
	Status   string    `json:"status"` // ok or unavailable
	Optional bool      `json:"optional,omitempty"`
	Problem  string    `json:"problem,omitempty"`
	TookMS   float64   `json:"took_ms"`
	TriedAt  time.Time `json:"tried_at"`
}

const (
	statusOK          = "ok"
	statusDegraded    = "degraded"
	statusUnavailable = "unavailable"
)

// part is a Part with the outcome of its last try.
type part struct {
	Part
	log *slog.Logger

	mu    sync.Mutex // held during a try, so that there is one at a time
	state PartState
}

// now returns the part's state, from a try if the last one is too old. The try
// does not end with whoever asks: others wait for it too.
func (p *part) now(ctx context.Context) PartState {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.state
	if !before.TriedAt.IsZero() && time.Since(before.TriedAt) < tryEvery {
		return before
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tryTimeout)
	defer cancel()
	began := time.Now()
	err := p.Try(ctx)
	p.state = PartState{Name: p.Name, Status: statusOK, Optional: p.Optional,
		TookMS: float64(time.Since(began).Microseconds()) / 1000, TriedAt: time.Now().UTC()}
	if err != nil {
		said := problem.From(err)
		p.state.Status, p.state.Problem = statusUnavailable, cmp.Or(said.Detail, said.Title)
	}
	switch {
	case err != nil && before.Status != statusUnavailable:
		p.log.Warn("a part is not ready", "part", p.Name, "optional", p.Optional, "err", err)
	case err == nil && before.Status == statusUnavailable:
		p.log.Info("a part is ready again", "part", p.Name)
	}
	return p.state
}

// Ready tries all parts at the same time and says how the service is.
func (s *Server) Ready(ctx context.Context) Readiness {
	if s.isDraining() {
		return Readiness{Status: statusUnavailable, Problem: "shutting down"}
	}
	r := Readiness{Status: statusOK, Parts: make([]PartState, len(s.parts))}
	var tries sync.WaitGroup
	for i, p := range s.parts {
		tries.Go(func() { r.Parts[i] = p.now(ctx) })
	}
	tries.Wait()
	for _, p := range r.Parts {
		switch {
		case p.Status == statusOK:
		case !p.Optional && r.Status != statusUnavailable:
			r.Status, r.Problem = statusUnavailable, p.Name+": "+p.Problem
		case p.Optional && r.Status == statusOK:
			r.Status, r.Problem = statusDegraded, p.Name+": "+p.Problem
		}
	}
	return r
}

func (s *Server) readyz(c echo.Context) error {
	r := s.Ready(c.Request().Context())
	if r.Status == statusUnavailable {
		return c.JSON(http.StatusServiceUnavailable, r)
	}
	return c.JSON(http.StatusOK, r)
}

func (s *Server) livez(c echo.Context) error {
	if s.opt.Live != nil {
		if err := s.opt.Live(); err != nil {
			s.log.Error("a loop is stuck: whoever watches /livez ends this process", "service", s.opt.Name, "err", err)
			return c.JSON(http.StatusServiceUnavailable, Readiness{Status: statusUnavailable, Problem: err.Error()})
		}
	}
	return c.JSON(http.StatusOK, Readiness{Status: statusOK})
}

// Drain makes /readyz say no, so that load balancers look elsewhere, asks
// clients to close their connections, and has [Server.NewWork] refuse; the
// server goes on serving the rest until Stop.
func (s *Server) Drain() { s.drained.Do(func() { close(s.drain) }) }

// Draining is closed when the server shuts down: long streams end then.
func (s *Server) Draining() <-chan struct{} { return s.drain }

func (s *Server) isDraining() bool {
	select {
	case <-s.drain:
		return true
	default:
		return false
	}
}

// NewWork is for routes that begin something: while the server shuts down
// they answer 503 at once, and nothing has happened.
func (s *Server) NewWork(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if s.isDraining() {
			return &eval.Error{Kind: eval.KindStopping, RetryAfter: comeBack,
				Message: "this server is shutting down and takes on nothing new; send the request again, to another one if there is"}
		}
		return next(c)
	}
}

// farewell closes the connection after an answer of a server that shuts down,
// so that what its client sends next goes to another one. Closing connections
// while nothing is under way would cut off a request that is being sent.
func (s *Server) farewell(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		c.Response().Before(func() {
			if s.isDraining() {
				c.Response().Header().Set(echo.HeaderConnection, "close")
			}
		})
		return next(c)
	}
}
