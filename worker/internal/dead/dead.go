// Package dead follows the dead letters: those that fail here are counted and told, and the queue's archive shows the
// ones there are.
package dead

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
	// patience bounds one comparison.
	patience = 10 * time.Second
)

// Deps is what a Watch works with.
type Deps struct {
	Store    eval.Store
	Queue    Queue
	Logger   *slog.Logger
	Registry *prometheus.Registry
	Every    time.Duration // between two comparisons; 0 is 5 s
}

// Watch sees evaluations fail, through its Store, and keeps the archive in step, in its loop.
type Watch struct {
	deps   Deps
	dead   *prometheus.CounterVec
	mirror mirror
}

// New returns a Watch.
func New(deps Deps) *Watch {
	if deps.Every <= 0 {
		deps.Every = mirrorEvery
	}
	w := &Watch{deps: deps, mirror: mirror{store: deps.Store, queue: deps.Queue, every: deps.Every, log: deps.Logger}}
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
	s.watch.tell(reaped)
	return reaped, err
}

func (s *watched) Expire(ctx context.Context, limit int) ([]eval.Evaluation, error) {
	expired, err := s.Store.Expire(ctx, limit)
	s.watch.tell(expired)
	return expired, err
}

// count says whether the evaluation has failed.
func (w *Watch) count(e eval.Evaluation) bool {
	if e.Status != eval.Failed || e.Failure == nil {
		return false
	}
	w.dead.WithLabelValues(string(e.Failure.Kind)).Inc()
	return true
}

// tell counts and logs those that failed without a worker; a worker logs its own.
func (w *Watch) tell(ended []eval.Evaluation) {
	for _, e := range ended {
		if w.count(e) {
			w.deps.Logger.Error("evaluation failed: dead letter", "evaluation", e.ID, "kind", e.Failure.Kind, "attempts", e.Attempt, "error", e.Failure.Message)
		}
	}
}

// Run compares the lists until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	ticker := time.NewTicker(w.deps.Every)
	defer ticker.Stop()
	for {
		service.Beat(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			call, cancel := context.WithTimeout(ctx, patience)
			// The store or the queue being away is in the log already.
			_ = w.mirror.round(call)
			cancel()
		}
	}
}
