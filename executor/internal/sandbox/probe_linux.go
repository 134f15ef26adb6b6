package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
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
	if seen := r.fresh.Swap(nil); seen != nil {
		return *seen, nil
	}
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
	tried := slices.Concat(abuses, limits)
	if r.gvisor != nil {
		kernel, err := r.probeKernel(ctx)
		if err != nil {
			return Isolation{}, err
		}
		tried = slices.Insert(tried, 0, kernel)
	}
	level.Controls = slices.Concat(tried, r.known())
	return level, r.holds(tried)
}

// holds is the error of a level of which something is missing that it is
// made of: what was tried has to have been refused. Level none is made of
// nothing but the end of its programs.
func (r *runtime) holds(tried []Control) error {
	var missing []string
	for _, c := range tried {
		if c.State == Absent && (r.level != LevelNone || c.Name == "wall_limit") {
			missing = append(missing, c.Name+" ("+c.Detail+")")
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%w: level %s does not hold here: %s", ErrUnsupported, r.level, strings.Join(missing, ", "))
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

// expected are the tries of package probe, and what their refusal shows where
// boxes have a file tree of their own, and, if different, where they have not.
var expected = []struct{ name, means, oneTree string }{
	{"host_files", "/etc/shadow, /root, /home, /var, /sys and files of the executor are not there",
		"nothing but system folders can be opened; whether a path is there, and how large it is, can be asked"},
	{"host_processes", "processes of the host and init are not to be seen", "/proc tells of the machine, and of no process"},
	{"proc_masked", "kcore, keys, kmsg, kallsyms and timer_list give nothing", ""},
	{"read_only_root", "only the workspace and /tmp can be written", "only the workspace and a folder for temporary files can be written"},
	{"network", "no address outside of the box answers, the host's loopback included", "there are no sockets of any network, loopback included"},
	{"unix_sockets", "sockets of the host do not answer, with or without a path", "there are no sockets but pairs"},
	{"mount", "mounting is refused", ""},
	{"user_namespaces", "new namespaces are refused", ""},
	{"ptrace", "no process outside can be traced", ""},
	{"signals", "no signal ends init", "no signal and no change of limits gets to a process outside"},
	{"syscall_filter", "seccomp refuses calls on the deny list", ""},
	{"capabilities", "none, and none can be gained", ""},
	{"no_new_privs", "set-user-id programs gain nothing", ""},
	{"file_attributes", "modes, times and attributes of host files cannot be changed", ""},
}

func (r *runtime) probeAbuse(ctx context.Context) ([]Control, error) {
	bait, err := newBait()
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	defer bait.close()
	_, out, err := r.probe(ctx, Limits{Wall: 5 * time.Second},
		"abuse", bait.port, strconv.Itoa(os.Getpid()), bait.abstract, "="+bait.dir)
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
		if r.confined != nil && e.oneTree != "" {
			c.Detail = e.oneTree
		}
		switch got[e.name] {
		case "denied":
		case "partly":
			c.State, c.Detail, c.Remedy = Approximated, partly[e.name], asRoot
		default:
			c.State, c.Detail, c.Remedy = Absent, "what was tried was not refused", "please report this"
			if r.level == LevelNone {
				c.Detail, c.Remedy = "nothing is refused at this level", "choose another level"
			}
		}
		controls = append(controls, c)
	}
	return controls, nil
}

// partly is what is left of a control that holds in part.
var partly = map[string]string{
	"file_attributes": "of a file of the executor's user whose path is known, mode 0700 and times can be set, and nothing else",
}

const asRoot = "run the executor as root: each box then has a user of its own"

// bait is what a program in a box must not get at.
type bait struct {
	dir, port, abstract string
	listeners           []net.Listener
}

func newBait() (_ *bait, err error) {
	b := &bait{abstract: "crucible-probe-" + rand.Text()}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.dir, err = os.MkdirTemp("", "crucible-probe-"); err != nil {
		return nil, err
	}
	if err := os.Chmod(b.dir, 0o777); err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, "file")
	if err := errors.Join(os.WriteFile(file, []byte("bait"), 0o666), os.Chmod(file, 0o666)); err != nil {
		return nil, err
	}
	socket := filepath.Join(b.dir, "socket")
	for _, at := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", "@" + b.abstract}, {"unix", socket}} {
		l, err := net.Listen(at[0], at[1])
		if err != nil {
			return nil, err
		}
		b.listeners = append(b.listeners, l)
	}
	if err := os.Chmod(socket, 0o777); err != nil {
		return nil, err
	}
	_, b.port, err = net.SplitHostPort(b.listeners[0].Addr().String())
	return b, err
}

func (b *bait) close() {
	for _, l := range b.listeners {
		_ = l.Close()
	}
	if b.dir != "" {
		_ = os.RemoveAll(b.dir) // no process of a box is alive
	}
}

// probeLimits runs into each limit, all at the same time.
func (r *runtime) probeLimits(ctx context.Context) ([]Control, error) {
	exact := Control{State: Enforced, Detail: "by the counters of a cgroup"}
	approximated := Control{State: Approximated, Detail: "sampled every 10 ms, and held by resource limits", Remedy: giveCgroup}
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
		{"wall_limit", []string{"spin"}, Limits{Wall: probeWall}, func(rep Report, _ string) bool { return rep.Limit == LimitWall }, Control{State: Enforced, Detail: "by a timer of the executor"}},
	}
	controls := make([]Control, len(tries))
	errs := make([]error, len(tries))
	done := make(chan struct{})
	for i, t := range tries {
		go func() {
			defer func() { done <- struct{}{} }()
			rep, out, err := r.probe(ctx, t.limits, t.args...)
			errs[i] = err
			controls[i] = t.state
			controls[i].Name = t.name
			if !t.held(rep, out) {
				controls[i].State, controls[i].Detail = Absent, "a program ran through it"
			}
		}()
	}
	for range tries {
		<-done
	}
	return controls, errors.Join(errs...)
}

// giveCgroup is what to do where limits are approximated.
const giveCgroup = "let the executor make cgroups: a systemd service with Delegate=yes, as root, or a container with a writable " +
	"/sys/fs/cgroup, in a group of its own with the controllers memory, pids and cpu"

// known are controls that no try can show from inside.
func (r *runtime) known() []Control {
	ids := Control{Name: "distinct_ids", State: Enforced, Detail: "each box has host ids of its own, above " + strconv.FormatInt(r.slots.base, 10)}
	if r.rootless {
		ids.State, ids.Detail, ids.Remedy = Approximated, "boxes are the executor's own user on the host, kept apart by namespaces", asRoot
	}
	if r.confined == nil {
		binds := Control{
			Name: "bind_paths", State: Approximated,
			Detail: "/proc/self/mountinfo of a box names the host paths of its binds",
		}
		if r.gvisor != nil {
			binds.State, binds.Detail = Enforced, "the mounts that a program sees name no host path"
		}
		return []Control{ids, binds}
	}
	if r.rootless {
		ids.State, ids.Detail = Absent, "boxes are the executor's own user"
	}
	return []Control{ids,
		{Name: "disk_quota", State: Approximated, Detail: "folders are measured every 25 ms; files deleted while open are not seen, but the last of the disk (5 %, at most 1 GiB) stays free"},
		r.processIDs(),
	}
}

func (r *runtime) processIDs() Control {
	c := Control{Name: "process_ids", State: Approximated, Detail: "programs are among the machine's processes: they can tell which numbers are in use; all of a box is ended at once"}
	if !r.confined.fence {
		c.Detail = "programs are among the machine's processes, which are ended one after the other as they are found"
		c.Remedy = "Linux 6.12 or later, whose Landlock keeps signals in"
	}
	return c
}
