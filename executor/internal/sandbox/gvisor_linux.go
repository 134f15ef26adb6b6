package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// gvisor makes a runtime's boxes ones in which gVisor's runsc runs, and in it
// a second init and the program:
//
//	executor --socket--> launcher --clone--> runsc --> sentry { init --fork--> program }
//	    \________ socket, pipes, process descriptor __________/
//
// Everything about the box is as without it: namespaces, host ids, root,
// workspace, groups, and that the death of its first process, here runsc, is
// the death of all. The program just does not see the host's kernel: its
// system calls end in the sentry, which is a process of the box.
//
// The box is prepared when the sentry has started and its init waits for the
// command, so a warm box costs a run none of gVisor's start.
type gvisor struct {
	runsc *os.File
}

const (
	// runscTimeout is how long runsc may take to say its version.
	runscTimeout = 10 * time.Second
	// guestThreads are the threads that gVisor itself may start while a program
	// runs, and guestThreadsEach those of the host for each of the program's.
	guestThreads, guestThreadsEach = 256, 4
	// guestTmp is the least quota of runsc's own folder, for its state.
	guestTmp = 8 << 20
)

// notInGuest are resource limits that gVisor does not have, as they bound
// memory of the host's kernel and its scheduling, which the program does not
// reach; and that of CPU time, where gVisor counts the time in which the host
// runs something else.
var notInGuest = []int64{unix.RLIMIT_MSGQUEUE, unix.RLIMIT_SIGPENDING, unix.RLIMIT_NICE, unix.RLIMIT_CPU}

// openGVisor makes a runtime of boxes around gVisor, and tries one out.
func openGVisor(ctx context.Context, cfg Config) (Runtime, error) {
	runsc, err := openRunsc(ctx, cfg.RunscPath)
	if err != nil {
		return nil, err
	}
	// The limits of boxes with namespaces hold around gVisor too, and need cgroups.
	cfg.Level = LevelNamespaces
	r, err := openBoxes(cfg, &gvisor{runsc: runsc})
	if err != nil {
		return nil, err
	}
	r.level = LevelGVisor
	if _, _, err := r.probe(ctx, Limits{}, "nothing"); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: level %s: runsc is there, but a box with it does not start: %w",
			ErrUnsupported, LevelGVisor, err), r.Close())
	}
	return r, nil
}

// openRunsc finds the program: where it was configured, beside this one, or
// in PATH.
func openRunsc(ctx context.Context, configured string) (*os.File, error) {
	name := configured
	if name == "" {
		if self, err := os.Executable(); err == nil {
			name = filepath.Join(filepath.Dir(self), "runsc")
		}
		if _, err := os.Stat(name); err != nil {
			if name, err = exec.LookPath("runsc"); err != nil {
				return nil, fmt.Errorf("%w: level %s needs gVisor's runsc, in PATH or configured: "+
					"see docs/gvisor.md for how to install it", ErrUnsupported, LevelGVisor)
			}
		}
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: runsc: %w", ErrUnsupported, err)
	}
	ctx, cancel := context.WithTimeout(ctx, runscTimeout)
	defer cancel()
	said, err := exec.CommandContext(ctx, name, "--version").Output()
	if err == nil && !strings.HasPrefix(string(said), "runsc version") {
		err = errors.New("it does not say that it is runsc")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s: %w", ErrUnsupported, name, err), f.Close())
	}
	return f, nil
}

// guest is what a box has beside the usual when gVisor runs in it.
type guest struct {
	stdio *stdio // until there is a command
	// said is what came first on stderr: runsc's own complaint, where there was
	// no program yet.
	said firstWords
	// skew is by how much our clock is ahead of the one in the sandbox, which
	// starts at zero. It is taken once, so that differences stay exact.
	skew int64
}

// sendGuest makes the program's pipes, which have to exist before runsc does,
// and tells the first process of the box to become runsc, and what init
// inside shall be.
func (b *box) sendGuest(request *wire.BoxRequest, setup *wire.Setup) error {
	stdio, fds, err := newStdio()
	if err != nil {
		return err
	}
	defer wire.CloseAll(fds)
	b.guest = &guest{stdio: stdio}
	config, err := json.Marshal(bundle(&request.Tree, setup, request.ReadOnly))
	if err != nil {
		return err
	}
	outer := wire.Guest{Setup: *setup, Args: runscArgs, Config: string(config)}
	// The program never sees this /proc, and runsc needs all of it.
	outer.Setup.ProcMask, outer.Setup.ProcRO = nil, nil
	outer.Setup.TmpBytes = max(setup.TmpBytes, guestTmp)
	e := wire.NewEncoder(wire.KindGuest)
	outer.Encode(e)
	all := slices.Concat([]int{int(b.r.gvisor.runsc.Fd()), int(b.r.exe.Fd())}, fds, b.joinFDs())
	if err := b.control.Send(e.Bytes(), all...); err != nil {
		return err
	}
	inner := *setup
	inner.Guest, inner.KeepGroups = true, false
	e = wire.NewEncoder(wire.KindSetup)
	inner.Encode(e)
	return b.control.Send(e.Bytes())
}

// runscArgs start one sandbox and stay its parent. The platform is the one
// that needs nothing of the host; nothing of the host's network, sockets and
// pipes is reachable, and the root gets no writable layer.
var runscArgs = []string{
	"runsc", "--root=" + wire.GuestDir + "/state", "--platform=systrap", "--network=none",
	"--host-uds=none", "--host-fifo=none", "--overlay2=none", "--ignore-cgroups", "--host-settings=ignore",
	"run", "--bundle=" + wire.GuestDir, fmt.Sprintf("--exec-fd=%d", wire.GuestExeFD),
	fmt.Sprintf("--pass-fd=%d:%d", wire.GuestControlFD, wire.InitControlFD), "box",
}

// bundle is the OCI configuration: the box's root as it is, read-only, with
// what is fresh in each box on top. The workspace is shared with the host, as
// other boxes may work in it at the same time: nothing of it is cached, and
// its quota is the host's.
func bundle(tree *wire.Tree, setup *wire.Setup, readOnly bool) *specs.Spec {
	quiet := []string{"nosuid", "nodev"}
	size := fmt.Sprintf("size=%d", setup.TmpBytes)
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: append(quiet, "noexec")},
		{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: append(quiet, size, "mode=1777")},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: append(quiet, size, "mode=1777")},
		// gVisor would show its own /sys; ours is closed, as other boxes have none.
		{Destination: "/sys", Type: "tmpfs", Source: "tmpfs", Options: append(quiet, "ro", "size=4096", "mode=0700")},
	}
	for _, path := range setup.Overlays {
		mounts = append(mounts, specs.Mount{Destination: path, Type: "bind", Source: path, Options: append(quiet, "rw")})
	}
	if setup.Workspace {
		access := "rw"
		if readOnly {
			access = "ro"
		}
		mounts = append(mounts, specs.Mount{
			Destination: setup.WorkDir, Type: "bind", Source: setup.WorkDir, Options: append(quiet, access),
		})
	}
	// What init needs until it has started the program.
	caps := []string{"CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL", "CAP_SYS_RESOURCE"}
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: tree.Hostname,
		Root:     &specs.Root{Path: "/", Readonly: true},
		Mounts:   mounts,
		Process: &specs.Process{
			Args: []string{wire.InitArg}, Cwd: "/", Env: []string{"GOMAXPROCS=1", "GOGC=off"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
			{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
		}},
	}
}

// firstWords keeps the beginning of what it passes on.
type firstWords struct {
	to   io.Writer // nil: nowhere
	kept []byte
}

func (w *firstWords) Write(b []byte) (int, error) {
	w.kept = append(w.kept, b[:min(len(b), 300-len(w.kept))]...)
	if w.to == nil {
		return len(b), nil
	}
	return w.to.Write(b)
}

// processes is how many the host allows. In gVisor a limit of the program's
// user, kept by the sentry, holds the program to its number.
func (b *box) processes(l *Limits) int {
	if b.guest != nil {
		return guestThreads + guestThreadsEach*l.Processes
	}
	return l.Processes
}

// translate turns the times of a message into ours.
func (g *guest) translate(m *message) {
	switch m.kind {
	case wire.KindStarted:
		g.skew = monotonic() - m.started.At
		m.started.At += g.skew
	case wire.KindEnded:
		m.ended.At += g.skew
	}
}

// probeKernel looks whether programs see another kernel than the host's.
func (r *runtime) probeKernel(ctx context.Context) (Control, error) {
	_, inside, err := r.probe(ctx, Limits{}, "kernel")
	if err != nil {
		return Control{}, err
	}
	outside, err := os.ReadFile("/proc/version")
	if err != nil {
		return Control{}, fmt.Errorf("probe: %w", err)
	}
	c := Control{Name: "own_kernel", State: Enforced, Detail: "system calls end in gVisor: " + strings.TrimSpace(inside)}
	if inside == "" || inside == string(outside) {
		c.State, c.Detail = Absent, "programs see the host's kernel: please report this"
	}
	return c, nil
}
