// Package handle brings one dispatched evaluation to its end: claim it, run it at an executor, finish it.
package handle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/worker/internal/pool"
)

// Store is the part of an eval.Store that is used here.
type Store interface {
	eval.Leaser
	Get(ctx context.Context, key eval.Key) (eval.Evaluation, error)
}

// Config are the numbers of a Handler.
type Config struct {
	Worker string        // the name that leases are held under; no two processes have the same
	Slots  int           // attempts in hand at once
	Lease  time.Duration // how long an attempt is ours without a beat
	Beat   time.Duration // between two beats
}

// Deps is what a Handler works with.
type Deps struct {
	Store     Store
	Blobs     eval.Blobs
	Executors *pool.Pool
	Output    eval.OutputLog
	Claimed   func() // called after each claim, if it is not nil, and must not wait
	Ended     func() // the same, when an attempt has ended
	Logger    *slog.Logger
	Registry  *prometheus.Registry
}

// Handler handles dispatches, as many at once as it has slots.
type Handler struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	slots   *slots

	mu       sync.Mutex
	draining bool
	active   sync.WaitGroup
	claiming map[eval.Key]struct{}
	running  map[eval.Key]*attempt
	ended    int64
}

// New returns a Handler.
func New(cfg Config, deps Deps) *Handler {
	for _, tell := range []*func(){&deps.Claimed, &deps.Ended} {
		if *tell == nil {
			*tell = func() {}
		}
	}
	h := &Handler{
		cfg: cfg, deps: deps, log: deps.Logger,
		slots: newSlots(cfg.Slots), claiming: map[eval.Key]struct{}{}, running: map[eval.Key]*attempt{},
	}
	h.metrics = newMetrics(deps.Registry, func() float64 { return float64(len(h.Running())) })
	return h
}

var (
	errCancelled = errors.New("somebody asked for its end")
	errExpired   = errors.New("its deadline has passed")
	errLeaseLost = eval.Errorf(eval.KindLeaseLost, "the lease is lost")
	errStopping  = eval.Errorf(eval.KindStopping, "the worker is shutting down")
)

// Handle is a task.Handler. It returns when the evaluation is at its end, or given back, or not ours to run. The
// work does not run under ctx, which ends when the queue takes the dispatch away: only the lease counts.
func (h *Handler) Handle(ctx context.Context, d eval.Dispatch) (note string, err error) {
	if !h.enter() {
		return "", &task.Failure{Err: errStopping}
	}
	defer h.active.Done()
	release, err := h.slots.take(ctx, d.Alone)
	if err != nil {
		return "", err
	}
	defer release()
	if err := h.await(ctx); err != nil {
		return "", err
	}
	if h.isDraining() {
		return "", &task.Failure{Err: errStopping}
	}

	parent := propagation.TraceContext{}.Extract(context.WithoutCancel(ctx), propagation.MapCarrier{"traceparent": d.Trace})
	work, span := otel.Tracer("crucible/worker").Start(parent, "evaluation",
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(attribute.String("crucible.evaluation", string(d.ID))))
	defer span.End()

	a, err := h.claim(work, d)
	switch kind := eval.KindOf(err); kind {
	case "":
	case eval.KindConflict, eval.KindNotFound:
		if failed := h.failed(work, d.Key, err); failed != nil {
			return "", failed
		}
		h.metrics.stale.Inc()
		return "stale: " + err.Error(), nil
	default:
		span.RecordError(err)
		h.log.Warn("evaluation not claimed: tried again in a second", "evaluation", d.ID, "error", err)
		return "", &task.Failure{Err: err, Delay: time.Second}
	}
	span.SetAttributes(attribute.Int("crucible.attempt", a.eval.Attempt), attribute.String("crucible.language", a.eval.Spec.Language))
	return a.handle(work)
}

// failed answers a dispatch of an evaluation that has failed for good, without a worker or before somebody ran its task
// by hand: the task goes to the queue's archive, as it would have from the worker that failed it. nil: it has not failed.
func (h *Handler) failed(ctx context.Context, key eval.Key, refused error) error {
	if e, ok := errors.AsType[*eval.Error](refused); !ok || e.Status != eval.Failed {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Lease/3)
	defer cancel()
	e, err := h.deps.Store.Get(ctx, key)
	if err != nil || e.Failure == nil {
		return nil
	}
	return final(*e.Failure)
}

// final is how a handler tells the queue that an evaluation has failed for good.
func final(f eval.Failure) *task.Failure {
	return &task.Failure{Err: fmt.Errorf("%s: %s", f.Kind, f.Message), Final: true}
}

// await waits a moment for an executor when none can be reached. What is not claimed yet loses no try by that, and
// another worker may have executors of its own.
func (h *Handler) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, handBack)
	defer cancel()
	if err := h.deps.Executors.Await(ctx); err != nil {
		return &task.Failure{Err: err, Delay: time.Second}
	}
	return nil
}

// enter counts a dispatch as in hand, unless the handler drains.
func (h *Handler) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return false
	}
	h.active.Add(1)
	return true
}

func (h *Handler) isDraining() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.draining
}

// claim takes the evaluation, unless the dispatch has been replaced by a later one: an old task that comes late, or
// one that asynq repeats so that it is seen in its list of retries, must not start the next try early.
//
// When the answer to a claim was lost on its way, the evaluation may be ours without our knowing, and would wait for
// its lease to run out: then it is adopted. So that this is certain, no two claims of an evaluation are under way here;
// KindUnavailable tells the second one to come back.
func (h *Handler) claim(ctx context.Context, d eval.Dispatch) (*attempt, error) {
	if !h.begin(d.Key) {
		return nil, eval.Errorf(eval.KindUnavailable, "evaluation %s is being claimed by another dispatch at this worker", d.ID)
	}
	defer h.done(d.Key)
	unsure := false
	for pause := 50 * time.Millisecond; ; pause *= 2 {
		sent := time.Now()
		e, err := h.claimOnce(ctx, d)
		switch {
		case err == nil:
			h.metrics.claimed(e)
			return h.newAttempt(e, d.Alone, sent), nil
		case eval.IsKind(err, eval.KindConflict) && unsure:
			return h.adopt(ctx, d, err)
		case !eval.IsKind(err, eval.KindUnavailable) || pause > 400*time.Millisecond || h.isDraining():
			return nil, err
		}
		h.metrics.storeErrors.WithLabelValues("claim").Inc()
		unsure = true
		<-time.After(pause)
	}
}

func (h *Handler) begin(key eval.Key) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, under := h.claiming[key]; under {
		return false
	}
	h.claiming[key] = struct{}{}
	return true
}

func (h *Handler) done(key eval.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.claiming, key)
}

func (h *Handler) claimOnce(ctx context.Context, d eval.Dispatch) (eval.Evaluation, error) {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Lease/3)
	defer cancel()
	return h.deps.Store.Claim(ctx, eval.ClaimRequest{Key: d.Key, Seq: d.Seq, Worker: h.cfg.Worker, Lease: h.cfg.Lease, Alone: d.Alone})
}

// adopt takes over an attempt that was claimed under our name and that nobody here has in hand.
func (h *Handler) adopt(ctx context.Context, d eval.Dispatch, conflict error) (*attempt, error) {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Lease/3)
	defer cancel()
	e, err := h.deps.Store.Get(ctx, d.Key)
	h.mu.Lock()
	_, held := h.running[d.Key]
	h.mu.Unlock()
	if err != nil || e.Status != eval.Running || e.Worker != h.cfg.Worker || held {
		return nil, conflict
	}
	sent := time.Now()
	if _, err := h.deps.Store.Beat(ctx, eval.Lease{Key: d.Key, Attempt: e.Attempt}, h.cfg.Lease); err != nil {
		return nil, conflict
	}
	return h.newAttempt(e, d.Alone, sent), nil
}

// Wake makes the worker ask the store about an evaluation that it runs: a cancel may have been asked for.
func (h *Handler) Wake(key eval.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.running[key]; a != nil {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
}

// Running returns the keys of the evaluations in hand.
func (h *Handler) Running() []eval.Key {
	h.mu.Lock()
	defer h.mu.Unlock()
	keys := make([]eval.Key, 0, len(h.running))
	for key := range h.running {
		keys = append(keys, key)
	}
	return keys
}

// Report returns what is in hand, the oldest first, and how many attempts have ended.
func (h *Handler) Report() (running []eval.RunningInfo, ended int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	running = make([]eval.RunningInfo, 0, len(h.running))
	for _, a := range h.running {
		running = append(running, eval.RunningInfo{ID: a.eval.ID, Language: a.eval.Spec.Language, Attempt: a.eval.Attempt, Since: a.since})
	}
	slices.SortFunc(running, func(a, b eval.RunningInfo) int {
		return strings.Compare(fmt.Sprint(a.Since.UnixNano(), a.ID), fmt.Sprint(b.Since.UnixNano(), b.ID))
	})
	return running, h.ended
}

// Refuse takes no more dispatches.
func (h *Handler) Refuse() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.draining {
		h.draining = true
		close(h.slots.refused)
	}
}

// Drain refuses new dispatches and waits for those in hand until ctx ends; then it gives them back, uncounted, and
// waits until that is done, which takes as long as an executor takes to kill, and the lease at most.
func (h *Handler) Drain(ctx context.Context) error {
	h.Refuse()
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		h.active.Wait()
	}()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	left := len(h.running)
	for _, a := range h.running {
		a.stopRun(errStopping)
	}
	h.mu.Unlock()
	if left > 0 {
		h.log.Warn("worker stops before its evaluations have ended: they are given back", "running", left)
	}
	<-idle
	return nil
}
