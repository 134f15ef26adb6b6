package executor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/crucible-eval/crucible/executor/internal/guard"
	"github.com/crucible-eval/crucible/executor/internal/lang"
	"github.com/crucible-eval/crucible/executor/internal/run"
	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/executor/internal/slots"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// maxID bounds the id of a run, which any client of the executor chooses.
const maxID = 128

// Local is an eval.Executor in this process. It must be closed.
type Local struct {
	cfg       Config
	log       *slog.Logger
	guard     *guard.Guard
	languages *lang.Registry
	slots     *slots.Slots
	fence     *slots.Fence
	metrics   *metrics
	tracer    trace.Tracer
	cleanup   func() error

	closing sync.Once
	closed  error
}

var (
	_ eval.Executor = (*Local)(nil)
	_ eval.Loaded   = (*Local)(nil)
)

// Open makes an executor: it starts the sandbox, has it prove what it
// isolates, and finds the languages. It returns when those that need no
// compiler are ready; the others follow in the background, and a run waits
// for its own. It fails where no sandbox is possible, and says what to do.
// logger and registry may be nil.
func Open(ctx context.Context, cfg Config, logger *slog.Logger, registry *prometheus.Registry) (_ *Local, err error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if cfg, err = cfg.filled(); err != nil {
		return nil, err
	}
	l := &Local{cfg: cfg, log: logger, fence: slots.NewFence(), tracer: otel.Tracer("github.com/crucible-eval/crucible/executor")}
	l.slots = slots.New(cfg.Slots, cfg.MemoryBytes, cfg.Patience)
	if l.metrics, err = newMetrics(registry, l.slots); err != nil {
		return nil, fmt.Errorf("executor: %w", err)
	}
	l.guard, err = guard.New(ctx, guard.Options{
		Open: l.openSandbox, Least: cfg.MinIsolation, Run: run.Options{Ready: cfg.Slots, Warm: cfg.Warm}, Every: cfg.ProveEvery,
		Idle: func() bool { return l.slots.Load().Busy == 0 }, Proven: l.metrics.proven, Logger: logger,
	})
	if err != nil {
		return nil, fmt.Errorf("executor: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	inPlace := sandbox.OneTree(l.guard.Isolation().Level)
	dir, remove, err := cfg.cacheDir(inPlace)
	if err != nil {
		return nil, fmt.Errorf("executor: a folder for caches: %w", err)
	}
	l.cleanup = remove
	l.languages, err = lang.Start(lang.Options{
		Dir: cfg.LanguagesDir, Only: cfg.Languages, CacheDir: dir, Remember: true, Sandbox: l.guard.Isolation().Level,
		InPlace: inPlace,
		Prove:   l.proveLanguage, Retire: func(t *lang.Toolchain) { l.guard.Runner().Forget(t) },
		Anew: cfg.OnLanguage != nil, Report: cfg.report, Logger: logger,
	})
	if err != nil {
		return nil, fmt.Errorf("executor: %w", err)
	}
	if err := register(registry, languageGauges(l.languages)); err != nil {
		return nil, fmt.Errorf("executor: %w", err)
	}
	if err := l.languages.Settled(ctx); err != nil {
		return nil, fmt.Errorf("executor: %w", err)
	}
	return l, nil
}

// openSandbox makes a sandbox of a level, or of the configured one for "".
func (l *Local) openSandbox(ctx context.Context, level string) (sandbox.Runtime, error) {
	return sandbox.Open(ctx, sandbox.Config{
		Level: cmp.Or(level, l.cfg.Isolation), AllowUnsafe: l.cfg.AllowUnsafe, RunscPath: l.cfg.RunscPath,
		InitPath: l.cfg.InitPath, Logger: l.log,
	})
}

// proveLanguage is a lang.Prove in the sandbox of the moment.
func (l *Local) proveLanguage(ctx context.Context, t *lang.Toolchain) (lang.Proof, error) {
	box, err := l.guard.Enter(ctx)
	if err != nil {
		return lang.Proof{}, err
	}
	defer box.Leave()
	proof, err := box.Runner.Prove(ctx, t)
	l.distrust(ctx, box, err)
	return proof, err
}

// distrust has the sandbox proven again when it, and not the program, failed.
func (l *Local) distrust(ctx context.Context, box *guard.Sandbox, err error) {
	if ctx.Err() == nil && !errors.Is(err, run.ErrToolchain) && (errors.Is(err, sandbox.ErrPlatform) || eval.KindOf(err) == eval.KindSandbox) {
		l.guard.Doubt(box, err)
	}
}

// Run implements eval.Runner.
func (l *Local) Run(ctx context.Context, req eval.Request, sink func(eval.RunEvent)) (eval.Result, error) {
	req.Silence = 0 // who calls from this process is as alive as we are
	return l.RunAdmitted(ctx, req, func() {}, sink)
}

// RunAdmitted is Run, and calls admitted when the run is taken on: from then
// on something of the request is at work here.
func (l *Local) RunAdmitted(ctx context.Context, req eval.Request, admitted func(), sink func(eval.RunEvent)) (eval.Result, error) {
	ctx, span := l.tracer.Start(ctx, "executor.run", trace.WithAttributes(
		attribute.String("crucible.id", string(req.ID)), attribute.Int("crucible.attempt", req.Attempt),
		attribute.String("crucible.language", req.Language)))
	defer span.End()
	res, err := l.run(ctx, req, admitted, sink)
	span.SetAttributes(attribute.String("crucible.verdict", string(res.Verdict)))
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, string(eval.KindOf(err)))
	}
	return res, err
}

func (l *Local) run(ctx context.Context, req eval.Request, admitted func(), sink func(eval.RunEvent)) (eval.Result, error) {
	began := time.Now()
	task, err := l.admissible(ctx, &req)
	if err != nil {
		return eval.Result{}, l.rejected(err)
	}
	task.Sink = sink
	runCtx, pass, err := l.fence.Enter(ctx, req.ID, req.Attempt)
	if err != nil {
		return eval.Result{}, l.rejected(err)
	}
	defer pass.Leave()
	if req.Silence > 0 {
		pass.Watch(time.Duration(req.Silence))
	}
	asked := time.Now()
	room := want(task)
	room.Exclusive = req.Exclusive
	release, err := l.slots.Take(runCtx, room)
	if err != nil {
		return eval.Result{}, l.rejected(err)
	}
	defer release()
	box, err := l.guard.Enter(runCtx)
	if err != nil {
		return eval.Result{}, l.rejected(err)
	}
	defer box.Leave()
	l.metrics.admitted(time.Since(asked))
	admitted()
	pass.Begin(task.Language.ID)
	task.Spare = func() func() { return l.slots.TryTake(room) }
	res, err := box.Runner.Run(runCtx, task)
	l.distrust(runCtx, box, err)
	stopped := runCtx.Err() != nil
	l.metrics.ended(task.Language.ID, res, err, stopped, time.Since(began))
	if errors.Is(err, run.ErrToolchain) {
		l.languages.Recheck(task.Language)
		for _, checker := range task.Languages {
			l.languages.Recheck(checker)
		}
	}
	if err != nil && !stopped && eval.KindOf(err) != eval.KindInvalid {
		l.log.Error("run failed", "id", req.ID, "attempt", req.Attempt, "language", task.Language.ID, "err", err)
	}
	return res, err
}

// want is what a run needs of the executor: the phases follow one another, so
// the memory is that of the largest.
func want(t run.Task) slots.Want {
	w := slots.Want{Memory: t.Program.Limits.MemoryBytes, Longest: t.Program.Longest()}
	compiled := func(t *lang.Toolchain) {
		if t.Compile != nil {
			w.Memory = max(w.Memory, t.Compile.Limits.MemoryBytes)
			w.Longest += t.Compile.Limits.Wall()
		}
	}
	compiled(t.Language)
	for _, test := range t.Program.Tests {
		w.Memory = max(w.Memory, t.Program.LimitsOf(test).MemoryBytes, t.Program.CheckerOf(test).Limits.MemoryBytes)
	}
	for _, checker := range t.Languages {
		compiled(checker)
	}
	return w
}

// admissible checks a request as if nobody had before.
func (l *Local) admissible(ctx context.Context, req *eval.Request) (task run.Task, err error) {
	spec, bad := l.cfg.Policy.Validate(eval.Spec{Program: req.Program}, time.Now(), nil)
	if req.ID == "" || len(req.ID) > maxID {
		bad = append(bad, eval.FieldError{Field: "id", Message: fmt.Sprintf("must have 1 to %d bytes", maxID)})
	}
	if len(req.Client) > eval.MaxClientBytes {
		bad = append(bad, eval.FieldError{Field: "client", Message: fmt.Sprintf("must have at most %d bytes", eval.MaxClientBytes)})
	}
	if req.Silence != 0 && req.Silence < eval.MinSilence {
		bad = append(bad, eval.FieldError{Field: "silence", Message: fmt.Sprintf("must be at least %s, or absent", eval.MinSilence)})
	}
	if req.Attempt < 1 {
		bad = append(bad, eval.FieldError{Field: "attempt", Message: "must be 1 or more"})
	}
	if err := eval.Invalid(bad); err != nil {
		return task, err
	}
	if level := l.guard.Isolation().Level; !eval.StrongEnough(level, req.MinIsolation) {
		return task, eval.Errorf(eval.KindIsolation, "this executor isolates at level %q, and the request asks for at least %q; "+
			"ask for less, or for what GET /api/v1/isolation offers", level, req.MinIsolation)
	}
	task = run.Task{Client: req.Client, Program: &spec.Program, Policy: l.cfg.Policy, Languages: map[string]*lang.Toolchain{}}
	if task.Language, err = l.languages.Find(ctx, spec.Language, spec.Version); err != nil {
		return task, err
	}
	for _, t := range spec.Tests {
		if c := spec.CheckerOf(t); c.Type == eval.CheckProgram && task.Languages[c.Language] == nil {
			if task.Languages[c.Language], err = l.languages.Find(ctx, c.Language, ""); err != nil {
				return task, err
			}
		}
	}
	return task, nil
}

func (l *Local) rejected(err error) error {
	l.metrics.rejections.WithLabelValues(string(eval.KindOf(err))).Inc()
	return err
}

// Status implements eval.Executor.
func (l *Local) Status(context.Context) (eval.ExecutorStatus, error) {
	languages, problem := l.languages.List()
	return eval.ExecutorStatus{
		Name: l.cfg.Name, Version: l.cfg.Version, Load: l.slots.Load(), Running: l.fence.Running(),
		Problem: l.guard.Problem(), Isolation: l.guard.Isolation(), Languages: languages, LanguagesProblem: problem,
	}, nil
}

// Load implements eval.Loaded.
func (l *Local) Load() (eval.Load, bool) { return l.slots.Load(), true }

// Stop implements eval.Executor.
func (l *Local) Stop(_ context.Context, id eval.ID) error { return l.fence.Stop(id, 0) }

// StopAttempt kills the run with this id if it is of this attempt.
// KindNotFound when there is none.
func (l *Local) StopAttempt(_ context.Context, id eval.ID, attempt int) error {
	return l.fence.Stop(id, attempt)
}

// Heard notes a sign of life of whoever waits for an attempt. KindNotFound.
func (l *Local) Heard(_ context.Context, id eval.ID, attempt int) error {
	return l.fence.Heard(id, attempt)
}

// Reload has the language files read and every toolchain looked for again,
// in the background. Both also happen by themselves soon after a change that
// can be seen; see docs/languages.md.
func (l *Local) Reload() { l.languages.Reload() }

// Checked waits until every language is known to be available or not.
func (l *Local) Checked(ctx context.Context) error { return l.languages.AllSettled(ctx) }

// Ready tells why no run would be taken on, or nil.
func (l *Local) Ready(context.Context) error {
	if l.slots.Load().Draining {
		return eval.Errorf(eval.KindStopping, "the executor is shutting down")
	}
	if problem := l.guard.Problem(); problem != "" {
		return eval.Errorf(eval.KindUnavailable, "%s", problem)
	}
	return nil
}

// Live implements service.Lively: it tells whether the sandbox is looked after.
func (l *Local) Live() error { return l.guard.Live() }

// Refuse takes on no more runs (KindStopping) and does not wait.
func (l *Local) Refuse() { l.slots.Drain() }

// Drain takes on no more runs (KindStopping) and waits for those under way
// until ctx ends; then it kills them, and their Run returns KindStopping.
func (l *Local) Drain(ctx context.Context) {
	idle := l.slots.Drain()
	select {
	case <-idle:
		return
	case <-ctx.Done():
	}
	l.fence.StopAll(eval.Errorf(eval.KindStopping, "the executor shut down before the run ended"))
	<-idle
}

// Close kills what runs and removes everything that was made. Closing twice
// is fine.
func (l *Local) Close() error {
	l.closing.Do(func() {
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		l.Drain(gone)
		if l.languages != nil {
			l.languages.Close()
		}
		l.closed = l.guard.Close()
		if l.cleanup != nil {
			l.closed = errors.Join(l.closed, l.cleanup())
		}
	})
	return l.closed
}
