// Package callback delivers ended evaluations to the URLs that their clients
// gave. The store has the list, written with the end of each evaluation, and
// the rules of tries and delays (package eval); here is the loop that takes
// what is due, and one HTTP request for each try.
//
// Every worker process does it, without a leader. Delivery is at least once:
// a try whose report is lost is made again, under the same webhook-id.
package callback

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/service"
)

const (
	// patience bounds one call of the store.
	patience = 10 * time.Second
	// grace is how long a stop lets requests under way end by themselves.
	grace = 3 * time.Second
	// margin is how much longer than its request a try holds its callback: for
	// reading the evaluation before it, and for the report after it.
	margin = 20 * time.Second
	// reportTries is how often a report is sent while the store is away.
	reportTries = 5
	// countEvery is how often the callbacks are counted, for the metrics.
	countEvery = 15 * time.Second
)

// Config are the numbers of a Deliverer.
type Config struct {
	Name    string        // of this process: who holds what it delivers
	Version string        // for the User-Agent
	Every   time.Duration // between two looks when nothing wakes it
	Timeout time.Duration // of one request, from the name's look-up to the end of the answer
	AtOnce  int           // requests at once
	PerHost int           // of those, to one host
}

// Store is what is asked of the store.
type Store interface {
	eval.Outbox
	Get(ctx context.Context, key eval.Key) (eval.Evaluation, error)
}

// Deps is what a Deliverer works with.
type Deps struct {
	Store   Store
	Client  *http.Client        // reaches only what is allowed; follows no redirects
	Check   func(string) string // what is wrong with a URL, or ""
	Sign    *Signer
	Payload func(eval.Evaluation) ([]byte, error)

	Logger   *slog.Logger
	Registry *prometheus.Registry
}

// Deliverer is a loop; see [Deliverer.Run].
type Deliverer struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	wake    chan struct{}
}

// New returns a Deliverer.
func New(cfg Config, deps Deps) *Deliverer {
	return &Deliverer{cfg: cfg, deps: deps, log: deps.Logger, metrics: newMetrics(deps.Registry), wake: make(chan struct{}, 1)}
}

// Wake makes it look at once: there is a new callback.
func (d *Deliverer) Wake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run delivers until ctx ends. Requests that are under way then get a moment
// to end; what is cut is delivered by another process when its lease is over.
func (d *Deliverer) Run(ctx context.Context) error {
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer func() {
		timer := time.AfterFunc(grace, cut)
		running.Wait()
		timer.Stop()
		cut()
		d.deps.Client.CloseIdleConnections()
	}()
	busy := map[string]int{} // requests under way, by host
	total := 0
	done := make(chan string, d.cfg.AtOnce)
	away := false
	var counted time.Time
	for {
		service.Beat(ctx)
		if time.Since(counted) >= countEvery {
			counted = time.Now()
			d.count(ctx)
		}
		var taken []eval.Callback
		if free := d.cfg.AtOnce - total; free > 0 {
			var err error
			taken, err = d.take(ctx, free, slices.Collect(maps.Keys(busy)))
			if ctx.Err() == nil && away != (err != nil) {
				if away = err != nil; away {
					d.log.Warn("callbacks: the store cannot be asked; tried again until it can", "error", err)
				} else {
					d.log.Info("callbacks: the store can be asked again")
				}
			}
		}
		for _, c := range taken {
			busy[c.Host]++
			total++
			running.Go(func() {
				defer func() { done <- c.Host }()
				d.deliver(requests, c)
			})
		}
		// While there was something, there may be more, of hosts that are not busy.
		for look := len(taken) > 0 && total < d.cfg.AtOnce; !look; {
			select {
			case <-ctx.Done():
				return nil
			case host := <-done:
				total--
				if busy[host]--; busy[host] == 0 {
					delete(busy, host)
					look = true
				}
			case <-d.wake:
				look = true
			case <-time.After(d.cfg.Every):
				look = true
			}
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

func (d *Deliverer) take(ctx context.Context, limit int, busy []string) ([]eval.Callback, error) {
	// What was taken has to be delivered: a stop must not come in between.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	return d.deps.Store.TakeCallbacks(ctx, eval.TakeRequest{
		Deliverer: d.cfg.Name, Lease: d.cfg.Timeout + margin, Limit: limit, PerHost: d.cfg.PerHost, Busy: busy,
	})
}

// deliver makes one try and reports it.
func (d *Deliverer) deliver(ctx context.Context, c eval.Callback) {
	began := time.Now()
	delivery, err := d.try(ctx, c)
	if err != nil {
		d.log.Warn("callback left to another try: the evaluation cannot be read", "evaluation", c.ID, "host", c.Host, "error", err)
		return
	}
	if ctx.Err() != nil { // cut by a stop: nobody knows whether it has arrived
		return
	}
	d.metrics.seconds.Observe(time.Since(began).Seconds())
	now, err := d.report(ctx, c, delivery)
	if err != nil {
		d.log.Warn("callback sent, and its outcome not kept: it will be sent again", "evaluation", c.ID, "host", c.Host, "error", err)
		return
	}
	d.tell(c, delivery, now)
}

// report keeps what became of a try, again and again while the store is away.
func (d *Deliverer) report(ctx context.Context, c eval.Callback, delivery eval.Delivery) (now eval.Callback, err error) {
	ctx, cancel := context.WithTimeout(ctx, margin/2)
	defer cancel()
	for n := range reportTries {
		now, err = d.deps.Store.ReportCallback(ctx, eval.CallbackLease{Key: c.Key, Try: c.Tries}, delivery)
		if !eval.IsKind(err, eval.KindUnavailable) {
			break
		}
		select {
		case <-ctx.Done():
			return now, err
		case <-time.After(100 * time.Millisecond << n):
		}
	}
	return now, err
}

// tell puts the outcome of a try into the log and the metrics. The URL is not
// logged: it may hold a token.
func (d *Deliverer) tell(c eval.Callback, delivery eval.Delivery, now eval.Callback) {
	log := d.log.With("evaluation", c.ID, "host", c.Host, "try", c.Tries)
	if delivery.Reason != "" {
		d.metrics.failed.WithLabelValues(string(delivery.Reason)).Inc()
		log = log.With("reason", delivery.Reason, "detail", delivery.Message)
	}
	switch now.Status {
	case eval.CallbackDelivered:
		d.metrics.delivered.Inc()
		d.metrics.lag.Observe(now.EndedAt.Sub(now.CreatedAt).Seconds())
		log.Debug("callback delivered", "http_status", delivery.HTTPStatus)
	case eval.CallbackDead:
		d.metrics.dead.WithLabelValues(string(delivery.Reason)).Inc()
		log.Warn("callback given up; crucible callbacks retry sends it again")
	default:
		log.Info("callback not delivered; it is tried again", "next_at", now.NextAt)
	}
}

func (d *Deliverer) count(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stats, err := d.deps.Store.CountCallbacks(ctx, eval.DefaultProject)
	if err != nil {
		return // take says so in a moment
	}
	d.metrics.set(stats, time.Now())
}

// userAgent names the sender.
func (d *Deliverer) userAgent() string { return fmt.Sprintf("Crucible/%s (+callback)", d.cfg.Version) }
