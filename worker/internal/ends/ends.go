// Package ends does what is left to do when an evaluation has come to its end without its worker, or for good: dead
// letters are counted, told, and shown in the queue's archive, and a program that still runs for an evaluation that
// was taken from its worker is stopped.
package ends

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/service"
)

const (
	// mirrorEvery is the pause between two comparisons of the dead letters with the queue's archive.
	mirrorEvery = 5 * time.Second
	// stopsWaiting is how many programs may wait to be stopped. What comes beyond it runs into its own limits.
	stopsWaiting = 1024
	// patience bounds one call.
	patience = 5 * time.Second
)

// Deps is what a Watch works with.
type Deps struct {
	Store    eval.Store
	Queue    Queue
	Stop     func(ctx context.Context, id eval.ID) // stops a run at whichever executor has it
	Logger   *slog.Logger
	Registry *prometheus.Registry
	Every    time.Duration // between two comparisons; 0 is 5 s
}

// Watch sees evaluations end: through its Store, and in its loop.
type Watch struct {
	deps   Deps
	stops  chan eval.ID
	dead   *prometheus.CounterVec
	mirror mirror
}

// New returns a Watch.
func New(deps Deps) *Watch {
	if deps.Every <= 0 {
		deps.Every = mirrorEvery
	}
	w := &Watch{deps: deps, stops: make(chan eval.ID, stopsWaiting), mirror: mirror{store: deps.Store, queue: deps.Queue, every: deps.Every, log: deps.Logger}}
	w.dead = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "crucible_worker_dead_letters_total", Help: "Evaluations that failed for good, by the kind of the failure.",
	}, []string{"kind"})
	deps.Registry.MustRegister(w.dead)
	return w
}

// Store is the store of the configuration, watched.
func (w *Watch) Store() eval.Store { return &watched{w.deps.Store, w} }

type watched struct {
	eval.Store
	watch *Watch
}

func (s *watched) Finish(ctx context.Context, l eval.Lease, o eval.Outcome) (eval.Evaluation, error) {
	e, err := s.Store.Finish(ctx, l, o)
	if err == nil {
		s.watch.count(e)
	}
	return e, err
}

func (s *watched) Reap(ctx context.Context, limit int) ([]eval.Evaluation, error) {
	reaped, err := s.Store.Reap(ctx, limit)
	for _, e := range reaped {
		s.watch.count(e)
		if !e.Status.Terminal() {
			continue // the next attempt ends this one's run
		}
		select {
		case s.watch.stops <- e.ID:
		default:
		}
	}
	return reaped, err
}

func (s *watched) Expire(ctx context.Context, limit int) ([]eval.Evaluation, error) {
	expired, err := s.Store.Expire(ctx, limit)
	for _, e := range expired {
		s.watch.count(e)
	}
	return expired, err
}

func (w *Watch) count(e eval.Evaluation) {
	if e.Status != eval.Failed || e.Failure == nil {
		return
	}
	w.dead.WithLabelValues(string(e.Failure.Kind)).Inc()
	w.deps.Logger.Error("dead letter: the evaluation failed for good", "evaluation", e.ID, "kind", e.Failure.Kind, "attempts", e.Attempt, "reason", e.Failure.Message)
}

// Run stops programs and compares the lists until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	ticker := time.NewTicker(w.deps.Every)
	defer ticker.Stop()
	for {
		service.Beat(ctx)
		select {
		case <-ctx.Done():
			return nil
		case id := <-w.stops:
			call, cancel := context.WithTimeout(ctx, patience)
			w.deps.Stop(call, id)
			cancel()
		case <-ticker.C:
			call, cancel := context.WithTimeout(ctx, patience)
			// The store or the queue being away is in the log already.
			_ = w.mirror.round(call)
			cancel()
		}
	}
}
