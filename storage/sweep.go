package storage

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/service"
)

// Defaults of SweepConfig, and the bounds of a step.
const (
	DefaultSweepEvery = time.Minute
	DefaultSweepStep  = 100
	DefaultSweepPause = 100 * time.Millisecond

	sweepStepTimeout = time.Minute
	sweepBound       = 3 * sweepStepTimeout
)

// SweepConfig says how what was kept long enough is removed. The zero value is
// ready for use.
type SweepConfig struct {
	Every time.Duration // between two rounds
	Step  int           // evaluations in one transaction
	Pause time.Duration // between two steps, for everybody else
}

// Sweeper removes what the backend has kept for longer than Config.Retention,
// in small steps. Any number of processes may sweep the same backend.
type Sweeper struct {
	*service.Loop
	backend *Backend
	cfg     SweepConfig
	log     *slog.Logger
	metrics sweepMetrics
}

// Swept says what a round has removed.
type Swept struct {
	Evaluations, Keys, Blobs int
	BlobBytes                int64
}

// NewSweeper makes the sweeper of a backend. logger and registry may be nil.
func NewSweeper(b *Backend, cfg SweepConfig, logger *slog.Logger, registry *prometheus.Registry) (*Sweeper, error) {
	s := &Sweeper{backend: b, cfg: cfg, log: cmp.Or(logger, slog.New(slog.DiscardHandler))}
	s.cfg.Every, s.cfg.Step, s.cfg.Pause = cmp.Or(cfg.Every, DefaultSweepEvery), cmp.Or(cfg.Step, DefaultSweepStep), cmp.Or(cfg.Pause, DefaultSweepPause)
	s.Loop = service.NewLoop("sweep", 2*s.cfg.Every+sweepBound, s.run)
	var err error
	s.metrics, err = newSweepMetrics(registry)
	return s, err
}

// run sweeps now and then. The first round waits until nobody remembers an
// answer that was given with an earlier setting: see [eval.MaxKept].
func (s *Sweeper) run(ctx context.Context) error {
	wait := time.NewTimer(max(s.cfg.Every, eval.MaxKept))
	defer wait.Stop()
	failing := false
	for {
		service.Beat(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-wait.C:
		}
		began := time.Now()
		swept, err := s.Round(ctx)
		if swept != (Swept{}) {
			s.log.Info("sweep: removed what was kept long enough", "evaluations", swept.Evaluations, "keys", swept.Keys,
				"blobs", swept.Blobs, "blob_bytes", swept.BlobBytes, "took", time.Since(began).Round(time.Millisecond))
		}
		if err != nil && ctx.Err() == nil && !failing {
			s.log.Warn("sweep: cannot remove what was kept long enough; it is tried again each round", "error", err)
		}
		failing = err != nil
		// Several that were started together are not to meet each time.
		wait.Reset(s.cfg.Every + rand.N(s.cfg.Every/4+1))
	}
}

// Round removes all that there is to remove now.
func (s *Sweeper) Round(ctx context.Context) (Swept, error) {
	var all Swept
	store := s.backend.sweeper
	err := errors.Join(
		s.each(ctx, func(ctx context.Context) (int, error) {
			n, err := store.Sweep(ctx, s.backend.retention, s.cfg.Step)
			all.Evaluations += n
			s.metrics.evaluations.Add(float64(n))
			return n, err
		}),
		s.each(ctx, func(ctx context.Context) (int, error) {
			n, err := store.SweepKeys(ctx, s.cfg.Step)
			all.Keys += n
			s.metrics.keys.Add(float64(n))
			return n, err
		}),
		s.each(ctx, func(ctx context.Context) (int, error) {
			swept, err := store.SweepBlobs(ctx, s.cfg.Step, s.backend.Blobs.Delete)
			all.Blobs += swept.Removed
			all.BlobBytes += swept.Bytes
			s.metrics.blobs.Add(float64(swept.Removed))
			s.metrics.blobBytes.Add(float64(swept.Bytes))
			return swept.Looked, err
		}))
	if err != nil && ctx.Err() == nil {
		s.metrics.failures.Inc()
	}
	return all, err
}

// each calls step until one has not enough to do.
func (s *Sweeper) each(ctx context.Context, step func(context.Context) (int, error)) error {
	for {
		service.Beat(ctx)
		limited, stop := context.WithTimeout(ctx, sweepStepTimeout)
		n, err := step(limited)
		stop()
		if err != nil || n < s.cfg.Step {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(s.cfg.Pause):
		}
	}
}

type sweepMetrics struct {
	evaluations, keys, blobs, blobBytes, failures prometheus.Counter
}

func newSweepMetrics(registry *prometheus.Registry) (sweepMetrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "crucible_sweep_" + name, Help: help})
	}
	m := sweepMetrics{
		evaluations: counter("evaluations_total", "Evaluations removed with all of their history, because they were kept long enough."),
		keys:        counter("idempotency_keys_total", "Idempotency keys forgotten."),
		blobs:       counter("blobs_total", "Blobs removed, because nothing refers to them any more."),
		blobBytes:   counter("blob_bytes_total", "Bytes of the blobs removed, as far as they are known."),
		failures:    counter("failures_total", "Rounds that met an error."),
	}
	if registry == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.evaluations, m.keys, m.blobs, m.blobBytes, m.failures} {
		errs = append(errs, registry.Register(c))
	}
	return m, errors.Join(errs...)
}

// keeper says how long what it answers stays as it is.
type keeper struct {
	eval.Store
	retention eval.Retention
	now       func() time.Time
}

var _ eval.Keeper = keeper{}

// GetKept implements [eval.Keeper].
func (k keeper) GetKept(ctx context.Context, key eval.Key) (eval.Evaluation, time.Duration, error) {
	e, err := k.Get(ctx, key)
	if err != nil {
		return e, 0, err
	}
	return e, k.retention.Kept(e, k.now()), nil
}
