// Package quota decides whether a client may submit now: how much at a time,
// and how much may wait. What it decides costs the store one question a
// second, however many submit.
package quota

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Limits are what one client may do. A zero field is no bound.
type Limits struct {
	Rate   float64 // evaluations accepted in a second, in the long run
	Burst  int     // as many at once, after a pause; 0: ten seconds' worth
	Queued int64   // evaluations that wait
}

// burst is how many may come at once: one at least.
func (l Limits) burst() int {
	if l.Burst > 0 {
		return l.Burst
	}
	return int(max(1, math.Ceil(10*l.Rate)))
}

// Config has the limits of all clients.
type Config struct {
	Each    Limits            // of a client that has none of its own
	Clients map[string]Limits // by name
	Queued  int64             // evaluations that wait, of all clients together; 0: no bound
}

// Of returns the limits of a client.
func (c Config) Of(client string) Limits {
	if l, ok := c.Clients[client]; ok {
		return l
	}
	return c.Each
}

// Source counts what waits: a store.
type Source interface {
	Clients(ctx context.Context, project string) ([]eval.ClientCount, error)
}

// Options are what New needs. Redis may be nil: then each replica of the API
// grants the rate by itself.
type Options struct {
	Config   Config
	Source   Source
	Redis    *redis.Client
	Logger   *slog.Logger
	Registry *prometheus.Registry
}

// Gate lets submissions in.
type Gate struct {
	cfg     Config
	line    *line
	rate    *rates
	refused *prometheus.CounterVec
}

// New returns a gate. Its Run keeps the counts fresh.
func New(o Options) (*Gate, error) {
	g := &Gate{cfg: o.Config, line: newLine(o.Source), rate: newRates(o.Redis, o.Logger),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "crucible_api_evaluations_refused_total",
			Help: "Evaluations refused because of a limit, by limit and client."}, []string{"limit", "client"})}
	if err := o.Registry.Register(g.refused); err != nil {
		there, ok := errors.AsType[prometheus.AlreadyRegisteredError](err)
		if !ok {
			return nil, err
		}
		g.refused = there.ExistingCollector.(*prometheus.CounterVec)
	}
	return g, nil
}

// ErrFull is in the errors of who finds no room to wait. A request that adds
// nothing, because it was accepted before, need not care.
var ErrFull = errors.New("no room to wait")

// Names of the limits, as problems and metrics show them.
const (
	limitRate   = "client_rate"
	limitQueued = "client_queued"
	limitAll    = "queue_depth"
)

// Admit asks for room for n evaluations of a client, all or none. Who is let
// in says with settle whether they were created. KindRateLimited: not now, and
// when. KindInvalid: never, because n is more than a limit.
func (g *Gate) Admit(ctx context.Context, client string, n int) (settle func(created bool), err error) {
	l := g.cfg.Of(client)
	if err := g.tooMany(client, l, n); err != nil {
		return nil, err
	}
	settle, err = g.wait(ctx, client, l, int64(n))
	if err != nil {
		return nil, err
	}
	if after := g.rate.take(ctx, client, l, n); after > 0 {
		settle(false)
		return nil, g.refuse(limitRate, nil, client, n, after,
			fmt.Sprintf("%s may submit %s evaluations a second, %d at once; slow down, and send the request again in %s",
				named(client), number(l.Rate), l.burst(), rounded(after)),
			fmt.Sprintf("%s a second, %d at once", number(l.Rate), l.burst()))
	}
	return settle, nil
}

// tooMany refuses what no waiting can help.
func (g *Gate) tooMany(client string, l Limits, n int) error {
	for _, most := range []struct {
		limit string
		n     int64
		what  string
	}{
		{limitQueued, l.Queued, "evaluations waiting"},
		{limitAll, g.cfg.Queued, "evaluations waiting, with those of all others"},
		{limitRate, int64(l.burst()), "evaluations at once"},
	} {
		if most.n > 0 && int64(n) > most.n && (most.limit != limitRate || l.Rate > 0) {
			g.refused.WithLabelValues(most.limit, client).Add(float64(n))
			return eval.Invalid([]eval.FieldError{{Field: "evaluations",
				Message: fmt.Sprintf("has %d entries, and %s may have %d %s: send smaller batches (limit %s)", n, named(client), most.n, most.what, most.limit)}})
		}
	}
	return nil
}

// wait reserves places among those that wait. When there is no room by what
// was counted a moment ago, it is counted again before anybody is refused.
func (g *Gate) wait(ctx context.Context, client string, l Limits, n int64) (settle func(bool), err error) {
	if l.Queued <= 0 && g.cfg.Queued <= 0 {
		return func(bool) {}, nil
	}
	g.line.refresh(ctx, stale, false)
	full, ok := g.line.reserve(client, n, l.Queued, g.cfg.Queued)
	if !ok {
		g.line.refresh(ctx, fresh, true)
		full, ok = g.line.reserve(client, n, l.Queued, g.cfg.Queued)
	}
	if ok {
		return func(created bool) { g.line.settle(client, n, created) }, nil
	}
	if full.all {
		return nil, g.refuse(limitAll, ErrFull, client, int(n), full.after,
			fmt.Sprintf("the queue is full: %d evaluations wait and %d may; send the request again in %s", full.used, full.limit, rounded(full.after)),
			fmt.Sprintf("%d of %d in use", full.used, full.limit))
	}
	return nil, g.refuse(limitQueued, ErrFull, client, int(n), full.after,
		fmt.Sprintf("%s has %d evaluations waiting and may have %d; let some start or cancel some, and send the request again in %s",
			named(client), full.used, full.limit, rounded(full.after)),
		fmt.Sprintf("%d of %d in use", full.used, full.limit))
}

func (g *Gate) refuse(limit string, why error, client string, n int, after time.Duration, message, use string) error {
	g.refused.WithLabelValues(limit, client).Add(float64(n))
	return &eval.Error{Kind: eval.KindRateLimited, Message: message, RetryAfter: after, Err: why,
		Fields: []eval.FieldError{{Field: limit, Message: use}}}
}

// State is where a client stands.
type State struct {
	Limits
	Now       eval.ClientCount
	AllQueued int64 // of all clients
	MaxQueued int64 // of all clients; 0: no bound
}

// State tells where a client stands, by counts that are a second old at most.
func (g *Gate) State(ctx context.Context, client string) (State, error) {
	if err := g.line.refresh(ctx, stale, true); err != nil {
		return State{}, err
	}
	l := g.cfg.Of(client)
	if l.Rate > 0 {
		l.Burst = l.burst()
	}
	s := State{Limits: l, MaxQueued: g.cfg.Queued}
	s.Now, s.AllQueued = g.line.state(client)
	return s, nil
}

// Run counts once a second while somebody submits, until ctx ends.
func (g *Gate) Run(ctx context.Context) error { return g.line.run(ctx) }

// named is the client as a subject: who asks, where there are no keys.
func named(client string) string {
	return cmp.Or(client, "this platform's only client")
}

func number(v float64) string { return fmt.Sprintf("%.4g", v) }

// rounded is a time for people, never 0.
func rounded(d time.Duration) time.Duration {
	if d < time.Second {
		return max(d.Round(10*time.Millisecond), 10*time.Millisecond)
	}
	return d.Round(time.Second)
}
