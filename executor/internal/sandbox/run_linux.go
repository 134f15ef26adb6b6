package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/boxinit"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// prepareTimeout is how long init may take until the program runs.
const prepareTimeout = 15 * time.Second

func (b *box) Run(ctx context.Context, cmd Command) (Report, error) {
	if err := cmd.check(); err != nil {
		return Report{}, err
	}
	if b.warm != nil {
		if err := b.warm.fits(&cmd); err != nil {
			return Report{}, err
		}
	}
	b.mu.Lock()
	if b.used || b.closed {
		b.mu.Unlock()
		return Report{}, ErrUsed
	}
	b.used = true
	b.idle.Add(1)
	b.mu.Unlock()
	defer b.idle.Done()
	if b.workspace != nil {
		b.workspace.enter()
		defer b.workspace.leave()
	}
	x := &run{b: b, cmd: &cmd, messages: make(chan message, 4), over: make(chan Limit, 3)}
	if b.confined != nil {
		defer b.confined.attend(x)()
	}
	return x.do(ctx)
}

// run is one command on its way.
type run struct {
	b   *box
	cmd *Command

	messages chan message // from init; closed at its end
	over     chan Limit   // a limit of output or disk was reached, once for each
	fds      []int        // the program's ends of its streams, until they are sent
	out, err *stream
	started  wire.Started
	ended    *wire.Ended
	limit    Limit
	killedAt int64 // CLOCK_MONOTONIC, nanoseconds; 0: not by us
	alone    bool  // when it was killed, there was one process of one thread
}

// message is one message of init, decoded.
type message struct {
	kind    byte
	started wire.Started
	ended   wire.Ended
	text    string
}

func (x *run) do(ctx context.Context) (Report, error) {
	b := x.b
	if err := x.send(); err != nil {
		b.kill()
		x.finishStreams()
		return Report{}, platform("start", err)
	}
	go x.listen()
	err := x.watch(ctx)
	if x.ended == nil && x.started.Errno == 0 {
		// Killed, or init is gone: the end of init is the end of all.
		b.kill()
		if deadErr := b.awaitDeath(); deadErr != nil {
			err = errors.Join(err, deadErr)
		}
	}
	if streamErr := x.finishStreams(); streamErr != nil {
		err = errors.Join(err, streamErr)
	}
	for range x.messages { // until the listener has ended
		continue
	}
	if err != nil && b.guest != nil && x.started.At == 0 {
		err = fmt.Errorf("%w: runsc said %q", err, b.guest.said.kept)
	}
	if err != nil {
		return Report{}, platform("run", err)
	}
	return x.report()
}

// send makes the pipes, and gives init the command unless it has to be ready
// first.
func (x *run) send() error {
	if g := x.b.guest; g != nil {
		g.said.to, x.cmd.Stderr = x.cmd.Stderr, &g.said
		x.connect(g.stdio, true)
		g.stdio = nil
		return nil
	}
	if x.b.warm != nil {
		if err := x.bound(); err != nil {
			return err
		}
		return x.letGo()
	}
	stdio, fds, err := newStdio()
	if err != nil {
		return err
	}
	x.fds = fds
	x.connect(stdio, false)
	if x.b.initInside() {
		return nil
	}
	return x.release()
}

// initInside tells whether init, too, lives in the box's group: what it took
// to get ready is not the program's, and is measured when it is.
func (b *box) initInside() bool { return b.guest != nil || b.group != nil && b.group.FD() >= 0 }

// release sets the limits and gives init the command.
func (x *run) release() error {
	if err := x.bound(); err != nil {
		return err
	}
	err := x.b.control.Send(x.command(), x.fds...)
	x.closeFDs()
	return err
}

// bound sets the limits that the group keeps.
func (x *run) bound() error {
	b, l := x.b, &x.cmd.Limits
	if b.group == nil {
		return nil
	}
	if b.initInside() {
		if err := b.group.Settle(); err != nil {
			return err
		}
	}
	return b.group.Limit(l.MemoryBytes, b.processes(l))
}

// closeFDs closes the program's ends of its streams.
func (x *run) closeFDs() {
	wire.CloseAll(x.fds)
	x.fds = nil
}

// connect lets input and output flow. held: see stream.
func (x *run) connect(s *stdio, held bool) {
	cmd := x.cmd
	if cmd.Stdin == nil {
		_ = s.in.Close()
	} else {
		go feed(s.in, cmd.Stdin)
	}
	x.out = startStream(s.out, held, cmd.Stdout, cmd.Limits.OutputBytes, x.overflow(LimitStdout))
	x.err = startStream(s.err, held, cmd.Stderr, cmd.Limits.OutputBytes, x.overflow(LimitStderr))
}

// command is the message for init.
func (x *run) command() []byte {
	cmd, b := x.cmd, x.b
	c := wire.Command{
		Path: cmd.exe, Argv: cmd.Argv, Env: cmd.Env, Dir: cmp.Or(cmd.Dir, WorkDir),
		Rlimits: cmd.Limits.rlimits(b.group != nil),
	}
	if b.warm != nil {
		c.Argv, c.Env = b.warm.missing(cmd)
	}
	if b.group == nil {
		c.Sample, c.SampleMemory, c.SampleCPU = true, cmd.Limits.MemoryBytes, int64(cmd.Limits.CPU)
	}
	if b.group == nil || b.guest != nil {
		c.SampleProcesses = int64(cmd.Limits.Processes)
	}
	if b.guest != nil {
		c.Rlimits = slices.DeleteFunc(c.Rlimits, func(r wire.Rlimit) bool { return slices.Contains(notInGuest, r.Resource) })
	}
	e := wire.NewEncoder(wire.KindCommand)
	c.Encode(e)
	return e.Bytes()
}

// overflow is what happens when there is more output than allowed.
func (x *run) overflow(which Limit) func() {
	if x.cmd.Limits.CutOutput {
		return nil
	}
	return func() { x.over <- which }
}

// listen decodes what init says until it says no more.
func (x *run) listen() {
	defer close(x.messages)
	for {
		raw, fds, err := x.b.control.Recv()
		wire.CloseAll(fds)
		if err != nil {
			return
		}
		kind, d := wire.NewDecoder(raw)
		m := message{kind: kind}
		switch kind {
		case wire.KindStarted:
			m.started.Decode(d)
		case wire.KindEnded:
			m.ended.Decode(d)
		case wire.KindFatal:
			m.text = d.String()
		}
		if d.Err() != nil {
			m = message{kind: wire.KindFatal, text: d.Err().Error()}
		}
		if x.b.guest != nil {
			x.b.guest.translate(&m)
		}
		x.messages <- m
		if m.kind == wire.KindEnded || m.kind == wire.KindFatal || m.started.Errno != 0 {
			return
		}
	}
}

// watch waits for the end and brings it about at a limit. When it returns
// without x.ended, the box is dying, or has to be killed.
func (x *run) watch(ctx context.Context) error {
	l := &x.cmd.Limits
	timer := time.NewTimer(prepareTimeout) // then the wall limit
	defer timer.Stop()
	poll := time.NewTimer(time.Hour)
	defer poll.Stop()
	var oom <-chan struct{}
	cancel := ctx.Done()
	for {
		select {
		case m, ok := <-x.messages:
			if !ok {
				return x.initGone()
			}
			switch m.kind {
			case wire.KindReady:
				if x.b.initInside() {
					if err := x.release(); err != nil {
						return err
					}
				}
			case wire.KindStarted:
				x.started = m.started
				if m.started.Errno != 0 {
					return nil
				}
				timer.Reset(time.Duration(m.started.At + int64(l.Wall) - monotonic()))
				if g := x.b.group; g != nil {
					oom = g.OOM()
					if err := g.Seal(x.b.processes(l)); err != nil {
						return err
					}
					if l.CPU > 0 {
						poll.Reset(pollAfter(l.CPU))
					}
				}
			case wire.KindEnded:
				x.ended = &m.ended
				return nil
			case wire.KindFatal:
				return errors.New(m.text)
			}
		case <-timer.C:
			if x.started.At == 0 {
				return fmt.Errorf("init did not start the program within %v", prepareTimeout)
			}
			x.end(LimitWall, poll)
		case <-poll.C:
			if x.limit != LimitNone {
				x.b.kill() // asked to, init did not
				continue
			}
			x.b.charge()
			used, err := x.b.group.CPU()
			if err != nil {
				return err
			}
			if used >= l.CPU {
				x.end(LimitCPU, poll)
			} else {
				poll.Reset(pollAfter(l.CPU - used))
			}
		case <-oom:
			oom = nil
			x.end(LimitMemory, poll)
		case which := <-x.over:
			x.end(which, poll)
		case <-cancel:
			cancel = nil
			x.end(LimitCancelled, poll)
		}
	}
}

// politeness is how long init may take to kill its program.
const politeness = 100 * time.Millisecond

// end kills the box for a reason; the first one stands. The messages then
// come to their end.
func (x *run) end(why Limit, poll *time.Timer) {
	if x.limit != LimitNone {
		return
	}
	x.limit = why
	x.killedAt = monotonic()
	if (x.b.group == nil || x.b.confined != nil) && x.started.At != 0 {
		// Only init can tell what was used: it has to outlive its program.
		if x.b.control.Send([]byte{wire.KindKill}) == nil {
			poll.Reset(politeness)
			return
		}
	}
	if x.b.group != nil {
		n, err := x.b.group.Processes()
		x.alone = err == nil && n == 1
	}
	x.b.kill()
}

// initGone is what the end of init without a report means.
func (x *run) initGone() error {
	if x.limit != LimitNone {
		return nil
	}
	if x.b.group != nil {
		// On the unified hierarchy the kernel ends the whole box for memory.
		if s, err := x.b.group.Stats(); err == nil && s.OOMKills > 0 && x.started.At != 0 {
			x.limit, x.killedAt = LimitMemory, monotonic()
			return nil
		}
	}
	if x.b.client != nil && !x.b.client.alive() {
		return errLauncherGone
	}
	return errors.New("init ended without a report")
}

// finishStreams reads what is left in the pipes, whose writers are dead.
func (x *run) finishStreams() error {
	x.closeFDs()
	var errs []error
	for _, s := range []*stream{x.out, x.err} {
		if s != nil {
			errs = append(errs, s.finish())
		}
	}
	return errors.Join(errs...)
}

func (x *run) report() (Report, error) {
	rep := Report{Limit: x.limit}
	rep.StdoutBytes, rep.StdoutTruncated = x.out.result()
	rep.StderrBytes, rep.StderrTruncated = x.err.result()
	if x.started.Errno != 0 {
		e := syscall.Errno(x.started.Errno)
		rep.StartError, rep.ExitCode = e.Error(), 126
		if e == syscall.ENOENT {
			rep.ExitCode = 127
		}
		return rep, nil
	}
	var sampled wire.Ended
	if x.ended == nil {
		rep.ExitCode, rep.Signal = -1, int(unix.SIGKILL)
		if x.started.At != 0 {
			rep.Wall = time.Duration(x.killedAt - x.started.At)
		}
	} else {
		sampled = *x.ended
		status := syscall.WaitStatus(sampled.WaitStatus)
		rep.Wall = time.Duration(sampled.At - x.started.At)
		if rep.Limit == LimitWall && rep.Wall < x.cmd.Limits.Wall {
			rep.Limit = LimitNone // it made it, while we were waking up
		}
		rep.ExitCode = status.ExitStatus()
		if status.Signaled() {
			rep.Signal = int(status.Signal())
		}
	}
	if x.b.group == nil {
		rep.fromSamples(&sampled)
	} else if err := rep.fromGroup(x); err != nil {
		return Report{}, platform("account", err)
	}
	if l := x.cmd.Limits.CPU; rep.Limit == LimitNone && rep.Signal == int(unix.SIGKILL) && l > 0 && rep.CPU >= l {
		rep.Limit = LimitCPU // the kernel's backstop was first, on a machine too busy to look
	}
	if rep.Limit == LimitNone && rep.Signal == int(unix.SIGXFSZ) {
		rep.Limit = LimitFileSize
	}
	// Output that overflowed when the program was already over.
	if rep.Limit == LimitNone && !x.cmd.Limits.CutOutput {
		switch {
		case rep.StdoutTruncated:
			rep.Limit = LimitStdout
		case rep.StderrTruncated:
			rep.Limit = LimitStderr
		}
	}
	return rep, nil
}

func (rep *Report) fromGroup(x *run) error {
	b := x.b
	s, err := b.group.Stats()
	if err != nil {
		return err
	}
	rep.CPU, rep.MemoryPeak, rep.ProcessesPeak = s.CPU, s.MemoryPeak, s.ProcessesPeak
	if b.guest != nil {
		rep.ProcessesPeak = 0 // the host sees gVisor's own, and not the program's
	}
	if s.MemoryPeak == 0 && x.ended != nil {
		rep.MemoryPeak = x.ended.MaxRSS // no counter: at least this much
	}
	if rep.ProcessesPeak == 2 && (x.ended == nil && x.alone || x.ended != nil && x.ended.Alone) {
		// The thread of init that started the program was with it in its group.
		rep.ProcessesPeak = 1
	}
	rep.OOMKilled = s.OOMKills > 0
	if rep.OOMKilled && rep.Limit == LimitNone {
		rep.Limit = LimitMemory
	}
	return nil
}

func (rep *Report) fromSamples(s *wire.Ended) {
	rep.CPU, rep.MemoryPeak, rep.ProcessesPeak = time.Duration(s.CPU), s.MemoryPeak, int(s.ProcsPeak)
	if rep.Limit != LimitNone {
		return
	}
	switch s.Sampled {
	case wire.SampledMemory:
		rep.Limit = LimitMemory
	case wire.SampledCPU:
		rep.Limit = LimitCPU
	case wire.SampledProcesses:
		rep.Limit = LimitProcesses
	}
}

// pollAfter is when CPU time should be looked at again, if left remains. All
// cores may be at work, so half of what could have been used has passed then:
// the looks come closer together as the limit nears, and cost nothing far
// from it.
func pollAfter(left time.Duration) time.Duration {
	return max(left/time.Duration(cores), time.Millisecond/2)
}

// charge has the kernel bring the account of the box's CPU time up to date.
// By itself it charges a running thread at clock ticks only, which at 250 Hz
// hides up to 4 ms on each core. A change of niceness takes a thread off its
// queue and puts it back, which charges it at once (set_user_nice in the
// kernel's kernel/sched/syscalls.c); the value goes to and fro between two
// neighbours. Without ids of their own the box's threads cannot be told from
// ours, and the margin stays.
func (b *box) charge() {
	uid := b.ownUID
	if b.workspace != nil {
		uid = b.workspace.hostUID
	}
	if uid == 0 {
		return
	}
	if b.guest == nil {
		uid++ // the program; else all is done by the sentry, as the box's first id
	}
	b.nicer = !b.nicer
	nice := boxinit.Niceness
	if b.nicer {
		nice++
	}
	_ = unix.Setpriority(unix.PRIO_USER, int(uid), nice)
}

func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}
