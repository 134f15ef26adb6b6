package handle

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/worker/internal/spill"
)

// margin is how long before the end of its lease an attempt gives up, so that its program is dead when another worker
// may start.
func (a *attempt) margin() time.Duration { return a.h.cfg.Lease / 10 }

// silence is how long an executor lets a run go on that it hears nothing of: with the quarter that it adds, what is
// left of a lease at least when beats came in time. So a worker that is frozen loses its run before its evaluation.
func (h *Handler) silence() eval.Duration {
	return max(eval.Duration(h.cfg.Lease-h.cfg.Beat)*4/5, 2*eval.MinSilence)
}

// leaseEnds is when the attempt has to give up.
func (a *attempt) leaseEnds() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.until.Add(-a.margin())
}

// beats renews the lease until the attempt ends. Whoever cannot renew it has lost it before it runs out.
func (a *attempt) beats() {
	next := time.Now().Add(a.h.cfg.Beat)
	for {
		ends := a.leaseEnds()
		if !time.Now().Before(ends) {
			a.gone(fmt.Errorf("%w: the store could not be reached to renew it", errLeaseLost))
			return
		}
		if ends.Before(next) {
			next = ends
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-a.held.Done():
			timer.Stop()
			return
		case <-a.wake:
			timer.Stop()
		case <-timer.C:
		}
		if a.beat(ends) {
			next = time.Now().Add(a.h.cfg.Beat)
		} else {
			next = time.Now().Add(a.h.cfg.Beat / 5)
		}
	}
}

// beat asks the store once, and is done before the lease ends. It says whether there was an answer.
func (a *attempt) beat(ends time.Time) bool {
	ctx, cancel := context.WithDeadline(a.held, ends)
	defer cancel()
	sent := time.Now()
	b, err := a.h.deps.Store.Beat(ctx, a.lease, a.h.cfg.Lease)
	switch kind := eval.KindOf(err); {
	case kind == "":
		a.mu.Lock()
		a.until = sent.Add(a.h.cfg.Lease)
		a.mu.Unlock()
		if b.CancelRequested {
			a.stopRun(errCancelled)
		}
		return true
	case kind == eval.KindLeaseLost || kind == eval.KindNotFound || kind == eval.KindConflict:
		a.gone(err)
		return true
	case a.held.Err() != nil:
		return true
	default:
		a.h.metrics.storeErrors.WithLabelValues("beat").Inc()
		a.log.Debug("beat not answered", "error", err)
		return false
	}
}

// gone ends the attempt: the evaluation is not ours any more.
func (a *attempt) gone(why error) {
	a.stopRun(why)
	a.lose()
}

// finish hands the outcome to the store, and keeps trying while the lease lasts; beats go on meanwhile. An error means
// that the evaluation is not ours any more.
func (a *attempt) finish(ctx context.Context, o eval.Outcome) (eval.Evaluation, error) {
	_, span := otel.Tracer("crucible/worker").Start(ctx, "finish")
	defer span.End()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if a.held.Err() != nil {
			return eval.Evaluation{}, context.Cause(a.run)
		}
		now, err := a.finishOnce(trace.ContextWithSpan(a.held, span), o)
		if err == nil {
			return now, nil
		}
		switch {
		case eval.IsKind(err, eval.KindLeaseLost), eval.IsKind(err, eval.KindNotFound):
			return eval.Evaluation{}, err
		case eval.KindOf(err).Info().Retry == eval.RetryNever && (o.Failure == nil || o.Failure.Kind != eval.KindInternal):
			// The store does not take this outcome and never will. The evaluation must not wait for its lease to run
			// out, again and again.
			a.log.Error("the store refuses the outcome", "error", err)
			o = eval.Outcome{Executor: o.Executor, Failure: &eval.Failure{Kind: eval.KindInternal, Message: "the result could not be stored; the worker's log has the details"}}
			continue
		}
		a.h.metrics.storeErrors.WithLabelValues("finish").Inc()
		if pause == 20*time.Millisecond {
			a.log.Warn("evaluation has ended, but the store does not take the outcome: tried again while the lease lasts", "error", err)
		}
		select {
		case <-a.held.Done():
		case <-time.After(pause):
		}
	}
}

func (a *attempt) finishOnce(ctx context.Context, o eval.Outcome) (eval.Evaluation, error) {
	ctx, cancel := context.WithTimeout(ctx, a.h.cfg.Lease)
	defer cancel()
	if err := spill.Streams(ctx, a.h.deps.Blobs, o.Result); err != nil {
		return eval.Evaluation{}, err
	}
	return a.h.deps.Store.Finish(ctx, a.lease, o)
}
