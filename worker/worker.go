// Package worker takes evaluations from the queue, runs them at executors and brings them to their end. Its
// reconciler, one in each process, makes sure that none is forgotten. The life of one evaluation is told in package
// eval; here is who does it:
//
//   - internal/handle: claim, beat, run, finish, one evaluation each.
//   - internal/pool: which executor.
//   - internal/reconcile: the queue follows the store.
//   - internal/dead: the queue's archive follows the dead letters.
//   - internal/callback: who asked for it is told of the end.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
	"github.com/crucible-eval/crucible/pkg/live"
	"github.com/crucible-eval/crucible/pkg/service"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/worker/internal/callback"
	"github.com/crucible-eval/crucible/worker/internal/dead"
	"github.com/crucible-eval/crucible/worker/internal/handle"
	"github.com/crucible-eval/crucible/worker/internal/pool"
	"github.com/crucible-eval/crucible/worker/internal/reconcile"
)

const (
	reportEvery = 2 * time.Second
	reportFor   = 7 * time.Second // three reports may be lost
	// firstContact is how long a start waits to hear how many slots the executors have.
	firstContact = 5 * time.Second
	// lastSteps is what leaving may take after the last evaluation, and hurried the same when the stop is to be at once.
	lastSteps = 10 * time.Second
	hurried   = 2 * time.Second
	// loopBound is how long a loop that is well goes without a beat at most:
	// what each waits for ends after ten seconds.
	loopBound = 30 * time.Second
	// listenBeat is how often the loop of notices beats while there are none.
	listenBeat = 5 * time.Second
)

// Worker is a service.
type Worker struct {
	cfg      Config
	deps     Deps
	log      *slog.Logger
	pool     *pool.Pool
	live     *live.Live
	ownLive  bool
	handler  *handle.Handler
	callback *callback.Deliverer // nil: off
	server   *task.Server
	loops    *service.Group // the reconciler, the reports, the notices, the callbacks
	started  time.Time
	draining atomic.Bool
	stopped  bool

	mu     sync.Mutex
	failed chan error
}

var _ service.Service = (*Worker)(nil)

// New returns a worker that is ready to start.
func New(cfg Config, deps Deps) (*Worker, error) {
	if deps.Store == nil || deps.Blobs == nil || deps.Redis == nil || len(deps.Executors) == 0 {
		return nil, errors.New("worker: a store, blobs, a Redis and at least one executor are needed")
	}
	cfg, err := cfg.resolve(deps.Redis.Embedded())
	if err != nil {
		return nil, err
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Registry == nil {
		deps.Registry = prometheus.NewRegistry()
	}
	var members []pool.Member
	for _, e := range deps.Executors {
		members = append(members, pool.Member{Name: e.Name, Executor: e.Executor})
	}
	deliverer, err := newDeliverer(cfg, deps)
	if err != nil {
		return nil, err
	}
	w := &Worker{
		cfg: cfg, deps: deps, log: deps.Logger.With("worker", cfg.Name), pool: pool.New(members),
		live: deps.Live, callback: deliverer, failed: make(chan error, 1),
	}
	return w, nil
}

// ID is the name that the worker holds leases under.
func (w *Worker) ID() string { return w.cfg.Name }

// Name implements service.Service.
func (w *Worker) Name() string { return "worker" }

// Failed implements service.Service. A worker does not end by itself: it waits for what is away.
func (w *Worker) Failed() <-chan error { return w.failed }

// Parts are what the worker needs to do its work, and the worker itself, which may be starting or stopping.
func (w *Worker) Parts() []httpkit.Part {
	return []httpkit.Part{
		{Name: "worker", Try: w.takesWork},
		{Name: "queue", Try: w.deps.Redis.Ready},
		{Name: "storage", Try: func(ctx context.Context) error {
			_, err := w.deps.Store.Feed(ctx, eval.DefaultProject, -1, 1)
			return err
		}},
		{Name: "executors", Try: w.pool.Reach},
	}
}

func (w *Worker) takesWork(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.started.IsZero() || w.draining.Load() {
		return eval.Errorf(eval.KindStopping, "the worker is starting or shutting down")
	}
	return nil
}

// Live implements service.Lively.
func (w *Worker) Live() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.loops == nil {
		return nil
	}
	return w.loops.Live()
}

// Drain implements service.Drainer: the worker takes no more work.
func (w *Worker) Drain() {
	w.mu.Lock()
	started := !w.started.IsZero()
	w.mu.Unlock()
	if !started || w.draining.Swap(true) {
		return
	}
	w.log.Info("worker takes no more work", "running", len(w.handler.Running()))
	w.server.Pause()
	w.handler.Refuse()
}

// stopOnce says whether this is the first stop of a worker that has started.
func (w *Worker) stopOnce() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.started.IsZero() || w.stopped {
		return false
	}
	w.stopped = true
	return true
}

// Start implements service.Service. Store, Redis and executors may be away: it works when they are there. It waits a
// few seconds for the executors' slots, when the concurrency is to follow them.
func (w *Worker) Start(ctx context.Context) error {
	slots := w.cfg.Concurrency
	if slots == 0 {
		slots = w.countSlots(ctx)
	}
	if w.live == nil {
		w.live, w.ownLive = live.New(w.deps.Redis.Client(), w.log), true
	}
	w.cfg.Concurrency = slots
	queue := task.NewQueue(w.deps.Redis)
	watch := dead.New(dead.Deps{Store: w.deps.Store, Queue: queue, Every: w.cfg.Mirror, Logger: w.log, Registry: w.deps.Registry})
	store := watch.Store()
	reconciler := reconcile.New(reconcile.Config{
		Every: w.cfg.Reconcile, Again: w.cfg.Again, Worker: w.cfg.Name, Slots: slots, Window: w.cfg.Window,
	}, reconcile.Deps{
		Store: store, Queue: queue, Redis: w.deps.Redis, Roster: w.live, Logger: w.log, Registry: w.deps.Registry,
	})
	w.handler = handle.New(
		handle.Config{Worker: w.cfg.Name, Slots: slots, Lease: w.cfg.Lease, Beat: w.cfg.Beat},
		handle.Deps{
			Store: w.waking(store), Blobs: w.deps.Blobs, Executors: w.pool, Output: w.live, Claimed: reconciler.Claimed, Ended: reconciler.Moved,
			Logger: w.log, Registry: w.deps.Registry,
		})
	w.server = task.NewServer(w.deps.Redis, task.ServerConfig{
		Concurrency: slots, CheckInterval: w.cfg.CheckInterval, Cancel: w.cancelled,
	}, w.handler.Handle, w.log)
	all := []service.Service{
		service.NewLoop("notices", loopBound, w.listen),
		service.NewLoop("reports", loopBound, w.reports),
		service.NewLoop("reconciler", loopBound, reconciler.Run),
		service.NewLoop("dead letters", loopBound, watch.Run),
	}
	if w.callback != nil {
		all = append(all, service.NewLoop("callbacks", loopBound, w.callback.Run))
	}
	loops := service.NewGroup(w.log, all...)
	w.mu.Lock()
	w.started, w.loops = time.Now().UTC(), loops
	w.mu.Unlock()
	if err := loops.Start(ctx); err != nil {
		return err
	}
	if err := w.server.Start(ctx); err != nil {
		return errors.Join(err, loops.Stop(ctx))
	}
	w.log.Info("worker ready", "slots", slots, "executors", len(w.deps.Executors), "lease", w.cfg.Lease)
	return nil
}

// countSlots asks the executors, again and again for a while, until all have answered.
func (w *Worker) countSlots(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, firstContact)
	defer cancel()
	for {
		slots, unknown := w.pool.Refresh(ctx)
		if unknown == 0 && slots > 0 {
			return slots
		}
		select {
		case <-ctx.Done():
			slots += unknown * runtime.NumCPU()
			w.log.Warn("not all executors have said how many slots they have; set the worker's concurrency to be exact", "unknown", unknown, "assumed", slots)
			return max(slots, 1)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Stop implements service.Service: it takes no more work, lets evaluations end until the drain time is over or ctx
// ends, then gives the rest back to the queue, uncounted.
func (w *Worker) Stop(ctx context.Context) error {
	if !w.stopOnce() {
		return nil
	}
	w.Drain()
	w.report(ctx) // so that people see it drain
	patience, cancel := context.WithTimeout(ctx, w.cfg.Drain)
	defer cancel()
	errs := []error{w.handler.Drain(patience)}

	// What is left takes moments, and happens even when ctx has ended.
	left := lastSteps
	if ctx.Err() != nil {
		left = hurried
	}
	end, cancelEnd := context.WithTimeout(context.WithoutCancel(ctx), left)
	defer cancelEnd()
	errs = append(errs, w.server.Stop(end), w.loops.Stop(end))
	_ = w.live.Leave(end, w.cfg.Name) // it is forgotten in a moment anyway
	if w.ownLive {
		errs = append(errs, w.live.Close())
	}
	w.log.Info("worker stopped")
	return errors.Join(errs...)
}

// listen wakes attempts whose cancel was asked for.
func (w *Worker) listen(ctx context.Context) error {
	notices, err := w.live.Watch(ctx)
	if err != nil {
		return fmt.Errorf("watch notices: %w", err)
	}
	tick := time.NewTicker(listenBeat)
	defer tick.Stop()
	for {
		service.Beat(ctx)
		select {
		case n, open := <-notices:
			if !open {
				return nil
			}
			if n.CancelRequested {
				w.handler.Wake(n.Key)
			}
		case <-tick.C:
		}
	}
}

// cancelled makes a cancel in asynqmon, or by asynq's own command, a real one. Without that, asynq would only end the
// context of the task, which no evaluation runs under, and hand it out again a second later.
func (w *Worker) cancelled(ctx context.Context, d eval.Dispatch) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Lease/3)
	defer cancel()
	_, err := w.deps.Store.Cancel(ctx, d.Key, "cancelled in the queue monitor")
	if err != nil && !eval.IsKind(err, eval.KindConflict) { // a conflict: it has ended meanwhile
		w.log.Warn("evaluation not cancelled, though the queue monitor asked for it: cancel it again", "evaluation", d.ID, "error", err)
		return
	}
	w.log.Info("evaluation cancelled in the queue monitor", "evaluation", d.ID)
	w.handler.Wake(d.Key)
}

// reports tells who is alive and what it does, and asks the executors how they are.
func (w *Worker) reports(ctx context.Context) error {
	ticker := time.NewTicker(reportEvery)
	defer ticker.Stop()
	for {
		service.Beat(ctx)
		w.report(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			w.pool.Refresh(ctx)
		}
	}
}

func (w *Worker) report(ctx context.Context) {
	host, _ := os.Hostname()
	running, ended := w.handler.Report()
	// Redis being away is in the log already.
	_ = w.live.Report(ctx, eval.WorkerInfo{
		ID: w.cfg.Name, Host: host, PID: os.Getpid(), Version: w.cfg.Version, StartedAt: w.started, SeenAt: time.Now().UTC(),
		Slots: w.cfg.Concurrency, Draining: w.draining.Load(), Running: running, Executors: w.pool.Contacts(), Finished: ended,
	}, reportFor)
}
