package sandbox

import (
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/gate"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// CanWarm implements Warmer: the account of a run must be able to begin in the
// middle, which only the groups of version 1 can, and init has to hold it.
func (r *runtime) CanWarm() bool {
	return r.gvisor == nil && r.confined == nil && r.groups != nil && r.groups.Version() == 1
}

func (r *runtime) checkWarm(w *Warm) error {
	if !r.CanWarm() {
		return fmt.Errorf("%w: warm interpreters need a cgroup of version 1, namespaces, and no gVisor", ErrUnsupported)
	}
	if len(w.Start) == 0 || len(w.Args) == 0 {
		return fmt.Errorf("%w: no interpreter", ErrCommand)
	}
	return nil
}

// sendInterpreter gives init the interpreter to hold. Nobody has answered yet:
// init finds it in the socket after its setup.
func (b *box) sendInterpreter() error {
	stdio, fds, err := newStdio()
	if err != nil {
		return err
	}
	defer func() { wire.CloseAll(fds) }()
	b.stdio = stdio
	kind := ""
	if b.breeds != nil {
		kind = "fork "
		fd, err := unix.FcntlInt(b.breeds.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	var limits Limits
	if err := limits.check(); err != nil {
		return err
	}
	c := wire.Command{
		Hold: true, Argv: b.warm.Start, Dir: WorkDir, Rlimits: limits.rlimits(true),
		Env: slices.Concat(b.warm.Env, b.warm.Gate, []string{gate.EnvGate + "=" + kind + strconv.Itoa(gate.FD)}),
	}
	e := wire.NewEncoder(wire.KindCommand)
	c.Encode(e)
	return b.control.Send(e.Bytes(), fds...)
}

// letGo gives an interpreter that waits what it does not know.
func (x *run) letGo() error {
	b := x.b
	if err := b.group.Begin(); err != nil {
		return err
	}
	x.connect(b.stdio, false)
	b.stdio = nil
	if b.gate != nil {
		return x.letCopyGo()
	}
	return b.control.Send(x.command())
}

// fits tells whether the interpreter can become this command.
func (w *Warm) fits(cmd *Command) error {
	same := len(cmd.Argv) >= len(w.Args) && slices.Equal(cmd.Argv[:len(w.Args)], w.Args) &&
		(cmd.Dir == "" || cmd.Dir == WorkDir)
	if !same {
		return fmt.Errorf("%w: the interpreter waits for another program", ErrCommand)
	}
	return nil
}

// missing is what the interpreter does not know of the command yet.
func (w *Warm) missing(cmd *Command) (args, env []string) {
	for _, v := range cmd.Env {
		if !slices.Contains(w.Env, v) {
			env = append(env, v)
		}
	}
	return cmd.Argv[len(w.Args):], env
}
