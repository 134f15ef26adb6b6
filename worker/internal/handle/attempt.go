package handle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
	"github.com/crucible-eval/crucible/pkg/task"
)

// afterKill is how long an executor may take to return from a run that was stopped. Later than that its answer is of
// no use: the slot here is free again, and the executor's own deadline holds there.
const afterKill = 10 * time.Second

// attempt is one claimed evaluation on its way to its end.
type attempt struct {
	h     *Handler
	eval  eval.Evaluation
	lease eval.Lease
	alone bool // nothing else is in hand
	since time.Time
	log   *slog.Logger
	wake  chan struct{}

	// Two contexts, because an attempt that was cancelled or stopped still has to be finished: run ends when the
	// program must end, held when the evaluation is not ours any more.
	run     context.Context
	stopRun context.CancelCauseFunc
	held    context.Context
	lose    context.CancelFunc

	mu    sync.Mutex
	until time.Time // the end of the lease by our monotonic clock; at or before the store's
}

func (h *Handler) newAttempt(e eval.Evaluation, alone bool, sent time.Time) *attempt {
	a := &attempt{
		h: h, eval: e, lease: eval.Lease{Key: e.Key, Attempt: e.Attempt}, alone: alone, since: time.Now(),
		log:   h.log.With("evaluation", e.ID, "attempt", e.Attempt),
		wake:  make(chan struct{}, 1),
		until: sent.Add(h.cfg.Lease),
	}
	a.held, a.lose = context.WithCancel(context.Background())
	a.run, a.stopRun = context.WithCancelCause(a.held)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running[e.Key] = a
	h.deps.Claimed()
	if h.draining {
		a.stopRun(errStopping)
	}
	return a
}

// handle runs and finishes the attempt, and says how the queue goes on.
func (a *attempt) handle(ctx context.Context) (note string, err error) {
	var beats sync.WaitGroup
	defer func() {
		a.lose()
		beats.Wait()
		a.h.mu.Lock()
		defer a.h.mu.Unlock()
		if a.h.running[a.eval.Key] == a {
			delete(a.h.running, a.eval.Key)
		}
		a.h.ended++
		a.h.deps.Ended()
	}()
	a.log.Info("evaluation running", "language", a.eval.Spec.Language, "queue_ms", a.since.Sub(a.eval.CreatedAt).Milliseconds())
	if a.eval.CancelRequestedAt != nil {
		a.stopRun(errCancelled)
	}
	if e := a.eval; e.ExpiresAt != nil && e.StartedAt != nil {
		// Both times are the store's; from here on our monotonic clock counts. The answer to the claim took a moment, so
		// that we are never early.
		deadline := time.AfterFunc(e.ExpiresAt.Sub(*e.StartedAt), func() { a.stopRun(errExpired) })
		defer deadline.Stop()
	}
	beats.Go(a.beats)

	outcome := a.outcome(ctx)
	now, err := a.finish(ctx, outcome)
	if err != nil {
		a.h.metrics.dropped.Inc()
		a.log.Warn("evaluation lost to another attempt: the outcome is dropped", "error", err)
		return "lease lost: the outcome was dropped", nil
	}
	return a.report(now, outcome)
}

// outcome runs the program and sorts what happened.
func (a *attempt) outcome(ctx context.Context) (o eval.Outcome) {
	defer func() {
		if p := recover(); p != nil {
			o.Result = nil
			o.Failure, _ = a.failure(a.bug(p))
		}
	}()
	result, executor, err := a.execute(ctx)
	o.Executor = executor
	switch cause := context.Cause(a.run); {
	case err == nil:
		o.Result = &result
	case errors.Is(cause, errCancelled):
		o.Cancelled, o.Result = true, partial(result)
	case errors.Is(cause, errExpired):
		o.Failure, o.Result = &eval.Failure{Kind: eval.KindExpired, Message: fmt.Sprintf(
			"the program was stopped at its deadline, %s after it was due to run; give expires_in more time, or ask for less at once", a.eval.Spec.ExpiresIn)}, partial(result)
	case cause != nil && eval.IsKind(cause, eval.KindStopping):
		o.Failure = &eval.Failure{Kind: eval.KindStopping, Message: "the worker was shut down before the program had ended"}
	default:
		o.Failure, o.RetryAfter = a.failure(err)
	}
	return o
}

// execute runs the program at an executor, with its output relayed to those who watch.
func (a *attempt) execute(ctx context.Context) (eval.Result, string, error) {
	_, span := otel.Tracer("crucible/worker").Start(ctx, "run")
	defer span.End()
	run, cancel := context.WithCancelCause(trace.ContextWithSpan(a.run, span))
	defer cancel(nil)
	limit := time.AfterFunc(allowance(a.eval.Spec), func() {
		cancel(eval.Errorf(eval.KindUnavailable, "the executor did not end the run in %v, long after its limits", allowance(a.eval.Spec)))
	})
	defer limit.Stop()

	out := newRelay(a.h.deps.Output, a.eval.Key, a.eval.Attempt, a.h.metrics.outputLost)
	defer out.close()
	began := time.Now()
	answers := make(chan answer, 1)
	go func() { answers <- a.ask(run, out) }()
	got := wait(run, answers)
	a.h.metrics.runSeconds.Observe(time.Since(began).Seconds())
	if got.err != nil {
		span.SetStatus(codes.Error, got.err.Error())
	}
	return got.result, got.executor, got.err
}

// answer is what an executor gave back.
type answer struct {
	result   eval.Result
	executor string
	err      error
}

func (a *attempt) ask(ctx context.Context, out *relay) (got answer) {
	defer func() {
		if p := recover(); p != nil {
			got = answer{err: a.bug(p)}
		}
	}()
	got.result, got.executor, got.err = a.h.deps.Executors.Run(ctx, eval.Request{
		ID: a.eval.ID, Attempt: a.eval.Attempt, Client: a.eval.Owner(), Exclusive: a.alone, Silence: a.h.silence(),
		Program: a.eval.Spec.Program,
	}, out.event)
	return got
}

// bug logs a panic, which has to be called from where it is recovered, and returns what users see of it.
func (a *attempt) bug(p any) error {
	a.log.Error("panic while an evaluation ran", "panic", p, "stack", string(debug.Stack()))
	return eval.Errorf(eval.KindInternal, "the worker met a bug while it ran this evaluation; its log has the details")
}

// wait returns the answer. An executor that does not return although its context has ended is left behind.
func wait(ctx context.Context, answers <-chan answer) answer {
	select {
	case got := <-answers:
		return got
	case <-ctx.Done():
	}
	timer := time.NewTimer(afterKill)
	defer timer.Stop()
	select {
	case got := <-answers:
		return got
	case <-timer.C:
		return answer{err: eval.Errorf(eval.KindUnavailable, "the executor did not stop the run: %w", context.Cause(ctx))}
	}
}

// allowance is longer than any run that keeps its limits: twice the program's own time, with room for a compiler.
func allowance(s eval.Spec) time.Duration {
	return 3*time.Minute + 2*s.Longest()
}

// failure describes why the platform failed.
func (a *attempt) failure(err error) (*eval.Failure, time.Duration) {
	p, kind := problem.From(err), eval.KindOf(err)
	message := p.Detail
	if message == "" {
		message = p.Title
	}
	for _, f := range p.Errors {
		message += fmt.Sprintf("; %s %s", f.Field, f.Message)
	}
	if kind == eval.KindConflict || kind == eval.KindLeaseLost {
		// The executor has seen a higher attempt. If that one is real, the store takes nothing from us. If the store
		// has forgotten it, the next attempt's number is higher again.
		kind = eval.KindUnavailable
	}
	var e *eval.Error
	var after time.Duration
	if errors.As(err, &e) {
		after = e.RetryAfter
	} else {
		a.log.Error("evaluation met an error without a kind", "error", err)
	}
	return &eval.Failure{Kind: kind, Message: text(message)}, after
}

// text makes an executor's words fit for a row: not too long, and characters that every database keeps.
func text(s string) string {
	const most = 4 << 10
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "?")
}

// partial returns what there was of a run that was ended, nil when it had not begun.
func partial(r eval.Result) *eval.Result {
	if r.Language.ID == "" && r.Verdict == "" && r.Stdout.Bytes == 0 && r.Stderr.Bytes == 0 {
		return nil
	}
	return &r
}

// report logs what became of the evaluation and translates it for the queue, which follows the store.
func (a *attempt) report(now eval.Evaluation, o eval.Outcome) (string, error) {
	var f eval.Failure
	if now.Failure != nil {
		f = *now.Failure
	}
	a.h.metrics.ended(now, f.Kind)
	took := float64(time.Since(a.since).Round(100*time.Microsecond).Microseconds()) / 1000
	switch now.Status {
	case eval.Completed:
		a.log.Info("evaluation completed", "verdict", now.Verdict, "cause", now.Cause, "executor", o.Executor, "took_ms", took)
	case eval.Cancelled:
		a.log.Info("evaluation cancelled", "reason", now.Reason, "took_ms", took)
	case eval.Failed:
		a.log.Error("evaluation failed: dead letter", "kind", f.Kind, "error", f.Message, "took_ms", took)
		return "", final(f)
	case eval.Queued:
		delay := time.Duration(0)
		if now.NextDispatchAt != nil {
			delay = now.NextDispatchAt.Sub(now.UpdatedAt)
		}
		a.log.Warn("evaluation queued again", "kind", f.Kind, "error", f.Message, "delay_ms", delay.Milliseconds(), "tries", now.Tries, "took_ms", took)
		if f.Kind.Info().Retry == eval.RetryCounted {
			return "", &task.Failure{Err: fmt.Errorf("%s: %s", f.Kind, f.Message), Delay: delay}
		}
	}
	return string(now.Status) + " " + string(now.Verdict), nil
}
