package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// probes are the programs that are run to see what a box is worth.
const (
	probeMemory    = 32 << 20
	probeProcesses = 16
	probeCPU       = 30 * time.Millisecond
	probeWall      = 30 * time.Millisecond
	probeTimeout   = 10 * time.Second
)

func (r *runtime) Probe(ctx context.Context) (Isolation, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	level := Isolation{Level: r.level}
	abuses, err := r.probeAbuse(ctx)
	if err != nil {
		return Isolation{}, err
	}
	limits, err := r.probeLimits(ctx)
	if err != nil {
		return Isolation{}, err
	}
	level.Controls = append(append(abuses, limits...), r.known()...)
	if r.gvisor != nil {
		kernel, err := r.probeKernel(ctx)
		if err != nil {
			return Isolation{}, err
		}
		level.Controls = append([]Control{kernel}, level.Controls...)
	}
	return level, nil
}

// probe runs one of the probe's parts in a box of its own.
func (r *runtime) probe(ctx context.Context, limits Limits, args ...string) (Report, string, error) {
	b, err := r.Prepare(ctx, BoxSpec{self: true})
	if err != nil {
		return Report{}, "", err
	}
	defer func() { _ = b.Close() }()
	var out bytes.Buffer
	rep, err := b.Run(ctx, Command{
		Argv: append([]string{wire.ProbeArg}, args...), exe: "/proc/self/exe",
		Env: []string{"GOMAXPROCS=1"}, Stdout: &out, Limits: limits,
	})
	if err != nil {
		return rep, "", err
	}
	if rep.StartError != "" {
		return rep, "", platform("probe", fmt.Errorf("%s (is the program's file executable for everyone?)", rep.StartError))
	}
	if rep.Limit == LimitCancelled {
		return rep, "", context.Cause(ctx)
	}
	return rep, out.String(), nil
}

// expected are the tries of package probe, and what their refusal shows.
var expected = []struct{ name, means string }{
	{"host_files", "/etc/shadow, /root, /home, /var and /sys are not there"},
	{"host_processes", "processes of the host and init are not to be seen"},
	{"proc_masked", "kcore, keys, kmsg, kallsyms and timer_list give nothing"},
	{"read_only_root", "only the workspace and /tmp can be written"},
	{"network", "no address outside of the box answers, the host's loopback included"},
	{"mount", "mounting is refused"},
	{"user_namespaces", "new namespaces are refused"},
	{"ptrace", "no process outside can be traced"},
	{"syscall_filter", "seccomp refuses calls on the deny list"},
	{"capabilities", "none, the bounding set is empty"},
	{"no_new_privs", "set-user-id programs gain nothing"},
}

func (r *runtime) probeAbuse(ctx context.Context) ([]Control, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	defer func() { _ = listener.Close() }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	_, out, err := r.probe(ctx, Limits{Wall: 5 * time.Second}, "abuse", port, strconv.Itoa(os.Getpid()))
	if err != nil {
		return nil, err
	}
	got := map[string]string{}
	for line := range strings.Lines(out) {
		name, result, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[name] = result
	}
	var controls []Control
	for _, e := range expected {
		c := Control{Name: e.name, State: Enforced, Detail: e.means}
		if got[e.name] != "denied" {
			c.State, c.Detail = Absent, "the try was not refused: please report this"
		}
		controls = append(controls, c)
	}
	return controls, nil
}

// probeLimits runs into each limit, all at the same time.
func (r *runtime) probeLimits(ctx context.Context) ([]Control, error) {
	exact := Control{State: Enforced}
	approximated := Control{State: Approximated, Detail: "sampled and held by rlimits, without a cgroup"}
	base := exact
	switch {
	case r.groups == nil:
		base = approximated
	case r.gvisor != nil:
		base.Detail = "what gVisor itself uses for the program counts as the program's"
	}
	tries := []struct {
		name   string
		args   []string
		limits Limits
		held   func(Report, string) bool
		state  Control
	}{
		{"memory_limit", []string{"memory"}, Limits{MemoryBytes: probeMemory}, func(rep Report, _ string) bool { return rep.Limit == LimitMemory }, base},
		{"process_limit", []string{"processes"}, Limits{Processes: probeProcesses}, func(rep Report, out string) bool {
			n, err := strconv.Atoi(out)
			return err == nil && n < probeProcesses || rep.Limit == LimitProcesses
		}, base},
		{"cpu_limit", []string{"spin"}, Limits{CPU: probeCPU, Wall: 2 * time.Second}, func(rep Report, _ string) bool { return rep.Limit == LimitCPU }, base},
		{"wall_limit", []string{"spin"}, Limits{Wall: probeWall}, func(rep Report, _ string) bool { return rep.Limit == LimitWall }, exact},
	}
	controls := make([]Control, len(tries))
	errs := make([]error, len(tries))
	done := make(chan struct{})
	for i, t := range tries {
		go func() {
			defer func() { done <- struct{}{} }()
			rep, out, err := r.probe(ctx, t.limits, t.args...)
			errs[i] = err
			controls[i] = Control{Name: t.name, State: t.state.State, Detail: t.state.Detail}
			if !t.held(rep, out) {
				controls[i].State = Absent
				controls[i].Detail = "a program ran through it; " + controls[i].Detail
			}
		}()
	}
	for range tries {
		<-done
	}
	return controls, errors.Join(errs...)
}

// known are controls that no try can show from inside.
func (r *runtime) known() []Control {
	ids := Control{Name: "distinct_ids", State: Enforced, Detail: "each box has host ids of its own, above " + strconv.Itoa(firstHostUID)}
	if r.rootless {
		ids.State = Approximated
		ids.Detail = "boxes are the executor's own user on the host, kept apart by namespaces; run the executor as root for ids of their own"
	}
	return []Control{ids, {
		Name: "bind_paths", State: Approximated,
		Detail: "/proc/self/mountinfo of a box names the host paths of its binds",
	}}
}
