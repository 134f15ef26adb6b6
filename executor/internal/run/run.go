package run

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/crucible-eval/crucible/executor/internal/lang"
	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/spool"
)

// Runner runs programs in boxes of one runtime.
type Runner struct {
	boxes     sandbox.Runtime
	isolation atomic.Pointer[eval.Isolation]
	warm      eval.Warm
	shelf     *shelf
	builds    *builds
}

// Options are what New needs.
type Options struct {
	Ready int       // boxes to keep ready for each kind of program that is run often
	Warm  eval.Warm // how far to go to spare the interpreter's start
}

// New returns a runner whose results say, in brief, that they ran with this
// isolation. It must be closed before the runtime.
func New(boxes sandbox.Runtime, isolation eval.Isolation, opt Options) *Runner {
	r := &Runner{boxes: boxes, warm: opt.Warm, shelf: newShelf(boxes, opt.Ready), builds: newBuilds(maxBuilds)}
	if w, ok := boxes.(sandbox.Warmer); !ok || !w.CanWarm() {
		r.warm = eval.WarmOff
	}
	r.SetIsolation(isolation)
	return r
}

// SetIsolation says what later results ran with.
func (r *Runner) SetIsolation(isolation eval.Isolation) {
	brief := isolation.Brief()
	r.isolation.Store(&brief)
}

// Close gives back the boxes that are ready.
func (r *Runner) Close() { r.shelf.close() }

// Forget gives back the boxes that are ready for a toolchain which is offered
// no more. Runs that have it go on.
func (r *Runner) Forget(t *lang.Toolchain) { r.shelf.forget(t) }

// ErrToolchain is in the error of a run whose interpreter or compiler could
// not be started: it may be gone.
var ErrToolchain = errors.New("the toolchain could not be started")

// Task is a program to run.
type Task struct {
	Language  *lang.Toolchain
	Program   *eval.Program              // valid, with its limits granted
	Languages map[string]*lang.Toolchain // of checker programs, by id
	Sink      func(eval.RunEvent)        // may be nil
	// Spare takes a slot that nobody else needs, for a test beside another, and
	// returns what gives it back, or nil. It may be nil: there is none.
	Spare  func() (release func())
	Policy *eval.Policy // bounds artifacts
	Client string       // for whom: programs of others meet no copy of their interpreter
	Cold   bool         // takes nothing from the shelf, and puts nothing on it
}

// job is one program on its way.
type job struct {
	*Runner
	task    Task
	lang    *lang.Toolchain
	program *eval.Program
	source  lang.Source
	env     []string // of runs
	result  eval.Result

	cold    bool        // take nothing from the shelf
	taken   atomic.Bool // something was taken
	started bool        // the sink knows
}

func (r *Runner) newJob(t Task) (*job, error) {
	source, err := t.Language.Layout(t.Program)
	if err != nil {
		return nil, err
	}
	source.MemoryBytes = t.Program.Limits.MemoryBytes
	return &job{Runner: r, task: t, lang: t.Language, program: t.Program, source: source, env: t.Language.Environ(t.Program.Env), cold: t.Cold}, nil
}

// Run takes a program through its phases. What the program does is in the
// result. When ctx ends it returns what there is so far and an error that
// wraps ctx's cause. KindInvalid: the program can never run. KindSandbox: a
// box failed.
func (r *Runner) Run(ctx context.Context, t Task) (eval.Result, error) {
	j, err := r.newJob(t)
	if err != nil {
		return eval.Result{}, err
	}
	err = j.attempt(ctx)
	if errors.Is(err, sandbox.ErrPlatform) && j.taken.Load() && j.silent() && ctx.Err() == nil {
		// What was prepared may have gone bad while it waited.
		j.cold = true
		err = j.attempt(ctx)
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("the run was ended: %w", context.Cause(ctx))
	}
	return j.result, err
}

// silent tells that nothing of the program was seen yet.
func (j *job) silent() bool {
	ended := func(t eval.TestResult) bool { return t.Verdict != eval.Skipped }
	return j.result.Stdout.Bytes == 0 && j.result.Stderr.Bytes == 0 && !slices.ContainsFunc(j.result.Tests, ended)
}

func (j *job) attempt(ctx context.Context) error {
	j.result = eval.Result{Language: eval.LanguageRef{ID: j.lang.ID, Version: j.lang.Version}, Isolation: *j.isolation.Load()}
	made, ok, err := j.build(ctx)
	if err != nil || !ok {
		return err
	}
	if len(j.program.Tests) > 0 {
		return j.test(ctx, made)
	}
	own, err := j.begin(ctx, j.kind(j.program.Limits), made)
	if err != nil {
		return err
	}
	defer func() { _ = own.close() }()
	j.result.Start = own.start
	return j.single(ctx, own.box, own.workspace)
}

// single runs the program once, without tests.
func (j *job) single(ctx context.Context, box sandbox.Box, w sandbox.Workspace) error {
	out, err := j.execute(ctx, box, call{j.program.Args, j.program.Stdin, j.program.Limits, w, j.task.Sink})
	j.result.Usage, j.result.Stdout, j.result.Stderr = out.usage, out.stdout, out.stderr
	if err != nil {
		return err
	}
	if err := j.collect(w); err != nil {
		return err
	}
	j.result.Verdict, j.result.Cause = out.verdict, out.cause
	j.result.Explanation = out.explain(j.program.Limits)
	return nil
}

// beginCompile returns a box to compile in, on a work folder that is large
// enough for a run, too.
func (j *job) beginCompile(ctx context.Context) (*set, error) {
	return j.begin(ctx, kind{lang: j.lang, disk: j.program.Limits.DiskBytes + j.lang.Compile.Limits.DiskBytes, tmp: compileTmp}, nil)
}

// kind is what a run needs.
func (j *job) kind(l eval.Limits) kind {
	k := kind{lang: j.lang, disk: l.DiskBytes, tmp: tmpBytes(l.DiskBytes)}
	if j.cold || !j.mayBeWarm(eval.WarmPrestart, l) {
		return k
	}
	k.warm, k.memory = eval.WarmPrestart, j.lang.WarmMemory(l.MemoryBytes)
	if j.mayBeWarm(eval.WarmFork, l) && j.shelf.zygotes.ask(breed{k.lang, k.memory, j.task.Client}) {
		k.warm, k.client = eval.WarmFork, j.task.Client
	}
	return k
}

// mayBeWarm tells whether this mode is allowed here, wanted, and possible.
func (j *job) mayBeWarm(mode eval.Warm, l eval.Limits) bool {
	asked := cmp.Or(j.program.Warm, j.Runner.warm)
	return asked.Allows(mode) && j.Runner.warm.Allows(mode) && j.lang.CanBeWarm(mode, j.program, j.source, l.MemoryBytes)
}

// tmpBytes is the quota of /tmp where a work folder has disk bytes.
func tmpBytes(disk int64) int64 { return max(disk, 64<<10) }

// begin returns a box on a work folder with the program in it, and with it
// what the compiler made. They take nothing of the disk limit.
func (j *job) begin(ctx context.Context, k kind, made files) (*set, error) {
	var room int64
	for name, content := range j.source.Files {
		room += pages(name, content)
	}
	for name, content := range made {
		room += pages(name, content)
	}
	s, err := j.obtain(ctx, k, room)
	if err != nil {
		return nil, broken("make a box", err)
	}
	if !j.cold {
		s.over = func() { j.shelf.restock(k) }
	}
	if err := j.fill(s.workspace, made); err != nil {
		_ = s.close()
		return nil, err
	}
	return s, nil
}

// obtain takes a set from the shelf, or makes one. A copy of an interpreter is
// quickly made; one that would have to be started is left to the program.
func (j *job) obtain(ctx context.Context, k kind, room int64) (*set, error) {
	if !j.cold {
		var s *set
		if room <= shelfRoom {
			s = j.shelf.take(k)
		}
		if s == nil && k.warm == eval.WarmFork {
			s, _ = j.shelf.newSet(ctx, k, room)
		}
		if s != nil {
			j.taken.Store(true)
			return s, nil
		}
	}
	k.warm = ""
	s, err := j.shelf.newSet(ctx, k, room)
	if err != nil {
		return nil, err
	}
	s.start = eval.StartCold
	return s, nil
}

func (j *job) fill(w sandbox.Workspace, made files) error {
	for name, content := range j.source.Files {
		if err := w.WriteFile(name, content, 0o644); err != nil {
			if errors.Is(err, sandbox.ErrPath) || errors.Is(err, sandbox.ErrNotRegular) {
				return eval.Invalid([]eval.FieldError{{Field: fmt.Sprintf("files[%q]", name), Message: err.Error()}})
			}
			return broken("write the program", err)
		}
	}
	for name, content := range made {
		if err := w.WriteFile(name, content, 0o755); err != nil {
			return broken("write the compiled program", err)
		}
	}
	return nil
}

// prepare makes another box on a work folder.
func (j *job) prepare(ctx context.Context, w sandbox.Workspace, tmp int64) (sandbox.Box, error) {
	box, err := j.boxes.Prepare(ctx, sandbox.BoxSpec{Workspace: w, Binds: j.lang.Binds, TmpBytes: tmp})
	if err != nil {
		return nil, broken("make a box", err)
	}
	return box, nil
}

// outcome is what one run came to.
type outcome struct {
	usage          eval.Usage
	stdout, stderr eval.Stream
	verdict        eval.Verdict
	cause          eval.Cause
	message        string // of the checker
	start          eval.Start
	startError     string
	hint           string // what the language has to say about it
}

// call is one run of the program.
type call struct {
	args   []string
	stdin  []byte
	limits eval.Limits
	work   sandbox.Workspace   // that the box has
	sink   func(eval.RunEvent) // may be nil
}

// execute runs the program in a box. When ctx ends, the outcome has what
// there was, without a verdict, and the error is not nil.
func (j *job) execute(ctx context.Context, box sandbox.Box, c call) (outcome, error) {
	kept := spool.New(c.sink)
	if c.sink != nil && !j.started {
		j.started = true
		kept.Started()
	}
	l, source := c.limits, j.source
	source.MemoryBytes = l.MemoryBytes
	cmd := sandbox.Command{
		Argv: j.lang.Command(source, c.args), Env: j.env,
		Stdout: kept.Stdout(), Stderr: kept.Stderr(),
		Limits: sandbox.Limits{
			Wall: l.Wall(), CPU: l.CPU(), MemoryBytes: l.MemoryBytes,
			Processes: int(l.Processes), OutputBytes: l.OutputBytes,
		},
	}
	if len(c.stdin) > 0 {
		cmd.Stdin = bytes.NewReader(c.stdin)
	}
	rep, err := box.Run(ctx, cmd)
	kept.Close()
	out := outcome{usage: usage(rep), startError: rep.StartError}
	out.stdout, out.stderr = kept.Streams()
	out.stdout.Truncated, out.stderr.Truncated = rep.StdoutTruncated, rep.StderrTruncated
	switch {
	case err != nil:
		return out, broken("run the program", err)
	case rep.Limit == sandbox.LimitCancelled:
		return out, context.Cause(ctx)
	case rep.StartError != "" && j.lang.Compile == nil:
		return out, eval.Errorf(eval.KindSandbox, "%s could not be started: %s; is its toolchain still there?: %w", j.lang.Name, rep.StartError, ErrToolchain)
	}
	if out.verdict, out.cause = judge(rep); out.verdict == eval.RuntimeError {
		out.hint = j.lang.Hint(j.source, out.stderr.Data)
		if u, err := c.work.Usage(); err == nil && u.Full() {
			// What a program does when it is refused a byte is up to the program: the
			// cause stays what it did.
			out.hint = strings.TrimSpace(out.hint + " " + fmt.Sprintf("Its work folder was full then; its limit is %s.", size(l.DiskBytes)))
		}
	}
	return out, nil
}

// broken sorts an error of the sandbox.
func broken(what string, err error) error {
	if errors.Is(err, sandbox.ErrCommand) {
		return eval.Errorf(eval.KindInvalid, "the program cannot be run: %v", err)
	}
	return eval.Errorf(eval.KindSandbox, "could not %s: %w", what, err)
}

// pages is what a file and its folders take on a file system in memory.
func pages(name string, content []byte) int64 {
	size := int64(os.Getpagesize())
	return (int64(len(content))+size-1)/size*size + size*int64(1+strings.Count(name, "/"))
}
