//go:build linux

package sandbox_test

import (
	"bytes"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/cgroup"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// open makes a runtime, and holds the host to what it was when the test ends.
func open(t testing.TB, cfg sandbox.Config) sandbox.Runtime {
	t.Helper()
	before := hostState(t)
	r, err := sandbox.Open(t.Context(), cfg)
	if err != nil {
		skip(t, "no boxes here: "+err.Error())
	}
	t.Cleanup(func() {
		require.NoError(t, r.Close())
		require.Equal(t, before, hostState(t), "something is left over")
	})
	return r
}

// skip says why a test does not run, and fails it where everything must.
func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("REQUIRE_SERVICES") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// host is what must not change.
type host struct {
	descriptors, mounts int
	children, groups    []string
}

func hostState(t testing.TB) host {
	// The runtime's poller opens descriptors of its own, once.
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer func() { _, _ = r.Close(), w.Close() }()
	var h host
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	h.descriptors = len(fds)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	h.mounts = bytes.Count(mounts, []byte("\n"))
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])); f[1] == strconv.Itoa(os.Getpid()) {
			h.children = append(h.children, string(b))
		}
	}
	h.groups, err = filepath.Glob("/sys/fs/cgroup/*/crucible-" + strconv.Itoa(os.Getpid()) + "-*")
	require.NoError(t, err)
	return h
}

// level is one kind of runtime that this machine offers, and what it promises.
type level struct {
	sandbox.Runtime
	name string
	// exact: limits are kept by cgroups. Else they are sampled.
	exact bool
	// tree: the program has a file tree of its own, with quotas, ids and
	// processes of its own in it. Else it is one of the machine's processes, in
	// folders of the machine.
	tree bool
	// confined: what a level promises beside limits. Not so at none.
	confined bool
	// guest: gVisor; /proc and /dev are those of its kernel.
	guest bool
}

// shared tells that programs are the executor's own user, and see it.
func (l level) shared() bool { return !l.tree && os.Geteuid() != 0 }

// only skips what a level does not promise.
func (l level) only(t *testing.T, promised bool, what string) {
	t.Helper()
	if !promised {
		t.Skipf("level %s does not promise %s", l.name, what)
	}
}

// eachLevel runs a test at every level, with the sandbox-init that is shipped.
// Tests with a runtime of their own start this binary again in its place.
func eachLevel(t *testing.T, test func(t *testing.T, l level)) {
	t.Helper()
	groups := haveGroups()
	for _, l := range []level{
		{name: sandbox.LevelGVisor, exact: true, tree: true, confined: true, guest: true},
		{name: sandbox.LevelNamespaces, exact: true, tree: true, confined: true},
		{name: sandbox.LevelNamespacesRlimit, tree: true, confined: true},
		{name: sandbox.LevelLandlock, exact: groups, confined: true},
		{name: sandbox.LevelNone, exact: groups},
	} {
		t.Run(l.name, func(t *testing.T) {
			if l.exact && !groups {
				if os.Getenv(rootlessEnv) != "" {
					t.Skip("an ordinary user has no cgroup here")
				}
				skip(t, "no cgroup here")
			}
			cfg := sandbox.Config{Level: l.name, AllowUnsafe: l.name == sandbox.LevelNone}
			if l.guest {
				cfg = gvisor(t)
			}
			cfg.Logger, cfg.InitPath = quiet(t), testkit.Program("sandbox-init")
			l.Runtime = open(t, cfg)
			test(t, l)
		})
	}
}

// haveGroups tells whether this machine has cgroups to be used.
func haveGroups() bool {
	tree, err := cgroup.Open()
	if err == nil {
		_ = tree.Close()
	}
	return err == nil
}

// gvisor is a configuration with the runsc of PATH, or of make.
func gvisor(t testing.TB) sandbox.Config {
	t.Helper()
	if os.Getenv(rootlessEnv) != "" {
		t.Skip("gVisor needs the executor to be root")
	}
	cfg := sandbox.Config{Level: sandbox.LevelGVisor}
	if _, err := exec.LookPath("runsc"); err != nil {
		cfg.RunscPath = "../../../bin/tools/runsc"
		if _, err := os.Stat(cfg.RunscPath); err != nil {
			skip(t, "no runsc here: make runsc")
		}
	}
	return cfg
}

// quiet logs what goes wrong into the test's own output.
func quiet(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
}

// outcome is a report with the output.
type outcome struct {
	sandbox.Report
	out, err string
}

// box prepares a box with the payload bound at /payload.
func (l level) box(t testing.TB, w sandbox.Workspace) sandbox.Box {
	t.Helper()
	b, err := l.Prepare(t.Context(), sandbox.BoxSpec{Workspace: w, TmpBytes: 4 << 20, TmpInodes: 100, Binds: payloadBind()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func payloadBind() []sandbox.Bind {
	return []sandbox.Bind{{Host: testkit.Program("payload"), Box: "/payload"}}
}

func (l level) workspace(t testing.TB, spec sandbox.WorkspaceSpec) sandbox.Workspace {
	t.Helper()
	w, err := l.NewWorkspace(t.Context(), spec)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return w
}

// run does one command in a box of its own.
func (l level) run(t testing.TB, w sandbox.Workspace, limits sandbox.Limits, argv ...string) outcome {
	t.Helper()
	return run(t, l.box(t, w), sandbox.Command{Argv: argv, Limits: limits})
}

func run(t testing.TB, b sandbox.Box, cmd sandbox.Command) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if cmd.Env == nil {
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
	}
	rep, err := b.Run(t.Context(), cmd)
	require.NoError(t, err)
	require.NoError(t, b.Close())
	return outcome{rep, out.String(), errs.String()}
}

// exact checks that a measured duration is the wanted one, with a margin below
// and above. It is never less; a machine that is busy with other tests may be
// late, so of ten tries one has to be in time.
func exact(t testing.TB, want, below, above time.Duration, measure func() time.Duration) {
	t.Helper()
	var got time.Duration
	for range 10 {
		got = measure()
		require.GreaterOrEqual(t, got, want-below)
		if got <= want+above {
			return
		}
	}
	require.LessOrEqual(t, got, want+above, "the last of ten")
}

// rootlessEnv marks the tests that run again as an ordinary user.
const rootlessEnv = "CRUCIBLE_TEST_ROOTLESS"

// open755 is a folder of the host that everyone may enter.
func open755(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "host")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}
