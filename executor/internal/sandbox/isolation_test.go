//go:build linux

package sandbox_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

func TestForbiddenCalls(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		l.only(t, l.confined, "a filter")
		o := l.run(t, nil, sandbox.Limits{}, "/payload", "calls")
		require.Zero(t, o.ExitCode, o.out+o.err)
	})
}

func TestInitSurvives(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		l.only(t, l.confined, "that init is out of reach")
		o := l.run(t, nil, sandbox.Limits{}, "/payload", "init", strconv.FormatBool(l.guest))
		require.Zero(t, o.ExitCode, o.out+o.err)
	})
}

func TestNoNetwork(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		l.only(t, l.confined, "that there is no network")
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { _ = listener.Close() }()
		abstract, err := net.Listen("unix", "@crucible-test-"+strconv.Itoa(os.Getpid()))
		require.NoError(t, err)
		defer func() { _ = abstract.Close() }()
		named, err := net.Listen("unix", filepath.Join(open755(t), "socket"))
		require.NoError(t, err)
		defer func() { _ = named.Close() }()
		require.NoError(t, os.Chmod(named.Addr().String(), 0o777))
		for _, to := range [][2]string{
			{"unix", named.Addr().String()}, {"unixgram", named.Addr().String()},
			{"tcp", listener.Addr().String()}, {"unix", abstract.Addr().String()},
			{"tcp", "169.254.169.254:80"}, {"udp", "192.0.2.1:53"}, {"tcp", "[2001:db8::1]:80"},
		} {
			o := l.run(t, nil, sandbox.Limits{}, "/payload", "dial", to[0], to[1])
			require.Equal(t, 7, o.ExitCode, "%v was reached", to)
		}
	})
}

func TestHostIsNotThere(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		l.only(t, l.confined, "that files are out of reach")
		secret := filepath.Join(open755(t), "secret")
		require.NoError(t, os.WriteFile(secret, []byte("x"), 0o666))
		// One box does something with each path, and says how it went. A path after
		// = is one of the host, which no name of the box stands for.
		each := func(do string, paths ...string) map[string]string {
			o := l.run(t, nil, sandbox.Limits{}, append([]string{"sh", "-c", "for p do p=${p#=}; (" + do + ") 2>&1 | head -c 100 | tr '\\n' ' '; echo; done", "sh"}, paths...)...)
			lines := strings.Split(strings.TrimSuffix(o.out, "\n"), "\n")
			require.Len(t, lines, len(paths), o.out)
			said := map[string]string{}
			for i, path := range paths {
				said[path] = strings.TrimSpace(lines[i])
			}
			return said
		}
		require.Equal(t, map[string]string{"/usr": "there"}, each(`ls "$p" >/dev/null && echo there`, "/usr"))
		require.Equal(t, map[string]string{"/tmp/x": "written"}, each(`echo x >> "$p" && echo written`, "/tmp/x"))
		for path, said := range each(`{ cat "$p" || ls "$p/"; } >/dev/null && echo there || echo`,
			"/etc/shadow", "/root", "/home", "/var", "/sys", "/run", "/opt", "="+secret, "/proc/1", "/dev/tty", "/dev/ptmx",
			"/dev/kmsg", "/dev/mem", "/proc/"+strconv.Itoa(os.Getpid())+"/environ") {
			if l.guest && slices.Contains([]string{"/proc/1", "/dev/tty", "/dev/ptmx"}, path) {
				continue // none of them is the host's
			}
			require.NotContains(t, said, "there", path)
		}
		for path, said := range each(`cat "$p" 2>/dev/null`, "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kallsyms", "/proc/kmsg") {
			require.Empty(t, said, path)
		}
		for path, said := range each(`echo x >> "$p" && echo written`,
			"/x", "/usr/x", "/etc/x", "/dev/x", "/proc/sys/kernel/core_pattern", "/payload", "/w/x", "="+secret, "/proc/sysrq-trigger") {
			if path == "/proc/sysrq-trigger" && said == "written" {
				continue // /dev/null lies over it
			}
			require.NotContains(t, said, "written", path)
		}
		if !l.tree {
			require.Empty(t, l.run(t, nil, sandbox.Limits{}, "sh", "-c", "ls /proc; cat /proc/self/status /proc/$PPID/cmdline").out)
			return
		}
		o := l.run(t, nil, sandbox.Limits{}, "sh", "-c", "for p in /proc/[0-9]*; do read -r name < $p/comm && echo $name; done")
		want := "sh\n"
		if l.guest {
			want = "sandbox-init\nsh\n"
		}
		require.Equal(t, want, o.out, "processes that can be seen")
		o = l.run(t, nil, sandbox.Limits{}, "grep", "-E", "^(Cap|NoNewPrivs|Seccomp:)", "/proc/self/status")
		for line := range strings.Lines(o.out) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			want := map[string]string{"NoNewPrivs": "1", "Seccomp": "2"}[key]
			if want == "" {
				want = "0000000000000000"
			}
			require.Equal(t, want, value, key)
		}
	})
}

func TestNoDescriptorLeaks(t *testing.T) {
	f, err := os.Open("/etc/passwd")
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	eachLevel(t, func(t *testing.T, l level) {
		// stdin, stdout, stderr, the folder being read; and Go's epoll and eventfd at most.
		n, err := strconv.Atoi(l.run(t, nil, sandbox.Limits{}, "/payload", "fds").out)
		require.NoError(t, err)
		require.LessOrEqual(t, n, 6)
		if !l.tree {
			return
		}
		o := l.run(t, nil, sandbox.Limits{}, "sh", "-c", "ls /proc/self/fd | wc -l")
		require.Equal(t, "4", strings.TrimSpace(o.out))
	})
}

func TestSetuidGivesNothing(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		o := l.run(t, nil, sandbox.Limits{}, "sh", "-c", "su -c id root < /dev/null || echo refused")
		require.NotContains(t, o.out, "uid=0")
		w := l.workspace(t, sandbox.WorkspaceSpec{})
		o = l.run(t, w, sandbox.Limits{}, "sh", "-c", "cp /usr/bin/id . && { chmod 6755 id; ./id -u; id -u; }")
		before, after, _ := strings.Cut(strings.TrimSpace(o.out), "\n")
		require.Equal(t, before, after, o.err)
		require.NotEqual(t, "0", before)
	})
}

func TestBoxesDoNotSeeEachOther(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		l.only(t, l.confined, "that others are out of reach")
		first := l.box(t, nil)
		done := make(chan outcome, 1)
		out := &signalWriter{seen: make(chan struct{})}
		go func() {
			rep, err := first.Run(t.Context(), sandbox.Command{
				Argv: []string{"sh", "-c", "touch $0/mine; echo x; sleep 0.5", "/tmp"}, Env: []string{"PATH=/bin"}, Stdout: out,
			})
			if err != nil {
				rep.ExitCode = 1000
			}
			done <- outcome{Report: rep}
		}()
		<-out.seen
		o := l.run(t, nil, sandbox.Limits{}, "sh", "-c", "ls $0; ps ax | grep sleep | grep -v grep; kill -9 -1; ls", "/tmp")
		require.Empty(t, o.out)
		require.Zero(t, (<-done).ExitCode, "the other box lived on")
	})
}

func TestOverlay(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		dir := t.TempDir()
		require.NoError(t, os.Chmod(dir, 0o755))
		require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "cached"), []byte("from the host"), 0o644))
		for range 2 {
			b, err := l.Prepare(t.Context(), sandbox.BoxSpec{Binds: []sandbox.Bind{{Host: dir, Box: "/opt/cache", Overlay: true}}})
			if !l.tree {
				require.ErrorIs(t, err, sandbox.ErrCommand)
				return
			}
			require.NoError(t, err)
			o := run(t, b, sandbox.Command{Argv: []string{"sh", "-c", "cat /opt/cache/cached; ls /opt/cache; echo y > /opt/cache/new && cat /opt/cache/new"}})
			require.Equal(t, "from the hostcached\ny\n", o.out, o.err)
		}
		_, err := os.Stat(filepath.Join(dir, "new"))
		require.ErrorIs(t, err, os.ErrNotExist)
	})
}

func TestMissingBind(t *testing.T) {
	r := open(t, sandbox.Config{})
	for range 2 {
		_, err := r.Prepare(t.Context(), sandbox.BoxSpec{Binds: []sandbox.Bind{{Host: "/no/such/place", Box: "/opt/x"}}})
		require.ErrorIs(t, err, sandbox.ErrPlatform)
		require.ErrorContains(t, err, "/no/such/place")
	}
	for _, b := range []sandbox.Bind{{Host: "relative", Box: "/x"}, {Host: "/usr", Box: "/w/x"}, {Host: "/usr", Box: "/proc"}, {Host: "/usr", Box: "/a/../b"}} {
		_, err := r.Prepare(t.Context(), sandbox.BoxSpec{Binds: []sandbox.Bind{b}})
		require.ErrorIs(t, err, sandbox.ErrCommand)
	}
}

func TestManyAtOnce(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		done := make(chan outcome, 12)
		for i := range 12 {
			go func() {
				b, err := l.Prepare(t.Context(), sandbox.BoxSpec{})
				var rep sandbox.Report
				if err == nil {
					rep, err = b.Run(t.Context(), sandbox.Command{
						Argv: []string{"sh", "-c", "exit " + strconv.Itoa(i)}, Env: []string{"PATH=/bin"}, Limits: sandbox.Limits{Wall: 20 * time.Second},
					})
					_ = b.Close()
				}
				if err != nil {
					rep.StartError = err.Error()
				}
				done <- outcome{Report: rep}
			}()
		}
		sum := 0
		for range 12 {
			o := <-done
			require.Empty(t, o.StartError)
			sum += o.ExitCode
		}
		require.Equal(t, 66, sum)
	})
}
