package boxinit

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/gate"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// hold starts an interpreter that waits at its gate for a program. A zygote
// has brought the descriptor of its own, at which it is never let go.
func hold(cmd *wire.Command, stdio []int) (*program, error) {
	defer wire.CloseAll(stdio)
	if len(stdio) > 3 {
		pid, err := spawn(cmd, nil, stdio...)
		if err != nil {
			return nil, fmt.Errorf("start zygote: %w", err)
		}
		return &program{pid: pid, starter: unix.Gettid(), cmd: cmd}, nil
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("gate: %w", err)
	}
	defer func() { _ = unix.Close(pipe[0]) }()
	pid, err := spawn(cmd, nil, stdio[0], stdio[1], stdio[2], pipe[0])
	if err != nil {
		_ = unix.Close(pipe[1])
		return nil, fmt.Errorf("start interpreter: %w", err)
	}
	return &program{pid: pid, starter: unix.Gettid(), cmd: cmd, gate: os.NewFile(uintptr(pipe[1]), "gate")}, nil
}

// letGo waits for the command, holds the interpreter to its limits and opens
// the gate. An interpreter that did not live to see it is an error, and not
// the program's fault.
func (p *program) letGo(c *wire.Conn) error {
	if p.gate == nil {
		return nil
	}
	defer func() { _ = p.gate.Close() }()
	var cmd wire.Command
	fds, err := receive(c, wire.KindCommand, &cmd)
	if err != nil {
		return err
	}
	wire.CloseAll(fds)
	for _, r := range cmd.Rlimits {
		if err := lower(p.pid, r); err != nil {
			return err
		}
	}
	p.cmd = &cmd
	release := gate.Release{Args: cmd.Argv, Env: cmd.Env}
	started := wire.Started{At: monotonic()}
	if _, err := p.gate.Write(release.Bytes()); err != nil {
		return fmt.Errorf("the interpreter ended while it waited: %w", err)
	}
	if err := p.gate.Close(); err != nil {
		return fmt.Errorf("gate: %w", err)
	}
	return send(c, wire.KindStarted, &started)
}

// lower sets a limit of another process, soft and hard, but raises none.
func lower(pid int, r wire.Rlimit) error {
	var have unix.Rlimit
	if err := unix.Prlimit(pid, int(r.Resource), nil, &have); err != nil {
		return fmt.Errorf("rlimit %d: %w", r.Resource, err)
	}
	v := min(uint64(r.Value), have.Max)
	if err := unix.Prlimit(pid, int(r.Resource), &unix.Rlimit{Cur: v, Max: v}, nil); err != nil {
		return fmt.Errorf("rlimit %d: %w", r.Resource, err)
	}
	return nil
}
