//go:build linux

package sandbox_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

// The tests of this file hold figures of reports against a known load. On a
// machine that is busy with other things a figure may be late, so one try of
// several has to be within its margin; but none may ever be too small, and
// no verdict may be wrong in any try.

// tries is how often a figure may be too large.
const tries = 10

// within checks that got, which a try measures, is at least want and in one of
// the tries at most want+above.
func within[N int64 | time.Duration](t *testing.T, above N, try func() (got, want N)) {
	t.Helper()
	var got, want N
	for range tries {
		got, want = try()
		require.GreaterOrEqual(t, got, want)
		if got <= want+above {
			return
		}
	}
	require.LessOrEqual(t, got, want+above, "the last of %d tries", tries)
}

func nanoseconds(t testing.TB, text string) time.Duration {
	t.Helper()
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	require.NoError(t, err, text)
	return time.Duration(n)
}

// cAccount starts three children that burn 100 ms of CPU each, and prints
// what all used.
const cAccount = `
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
static long long used(int who) {
	struct rusage u;
	getrusage(who, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000LL + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000LL;
}
int main(void) {
	for (int i = 0; i < 3; i++)
		if (fork() == 0) {
			while (used(RUSAGE_SELF) < 100000000) ;
			_exit(0);
		}
	while (wait(0) > 0) ;
	printf("%lld\n", used(RUSAGE_SELF) + used(RUSAGE_CHILDREN));
}
`

const pythonAccount = `
import os, resource, time
for i in range(3):
    if os.fork() == 0:
        while time.process_time() < 0.1: pass
        os._exit(0)
for i in range(3): os.wait()
both = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
print(int(sum(u.ru_utime + u.ru_stime for u in both) * 1e9))
`

// Bash tells milliseconds, as 0m0.123s, of itself and of its children.
const bashAccount = `
for i in 1 2 3; do
	(for ((n = 0; n < 30000; n++)); do :; done) &
done
wait
times > /tmp/times
total=0
for t in $(< /tmp/times); do t=${t#*m}; t=${t%s}; total=$((total + 10#${t/./})); done
echo $((total * 1000000))
`

func TestCPUTimeIsTheSumOverAllProcesses(t *testing.T) {
	programs := map[string][]string{
		"Go":   {"/payload", "burn-children", "3", "100"},
		"Bash": {"bash", "-c", bashAccount},
	}
	if _, err := os.Stat("/usr/bin/python3"); err == nil {
		programs["Python"] = []string{"/usr/bin/python3", "-Sc", pythonAccount}
	}
	c := compileC(t, cAccount)
	if c != nil {
		programs["C"] = []string{"/w/a.out"}
	}
	eachLevel(t, func(t *testing.T, l level) {
		l.only(t, l.tree, "figures of the program alone")
		for name, argv := range programs {
			t.Run(name, func(t *testing.T) {
				if l.guest {
					t.Skip("its kernel keeps an account of its own, and works itself")
				}
				var w sandbox.Workspace
				if name == "C" {
					w = l.workspace(t, sandbox.WorkspaceSpec{})
					require.NoError(t, w.WriteFile("a.out", c, 0o755))
				}
				within(t, 10*time.Millisecond, func() (got, want time.Duration) {
					o := l.run(t, w, sandbox.Limits{}, argv...)
					require.Zero(t, o.ExitCode, o.err)
					if name != "Bash" { // how much that is, only Bash knows
						require.Greater(t, o.CPU, 300*time.Millisecond)
					}
					return o.CPU, nanoseconds(t, o.out) - time.Millisecond // Bash rounds
				})
			})
		}
	})
}

// compileC returns a static program, or nil where there is no compiler.
func compileC(t *testing.T, code string) []byte {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.c"), []byte(code), 0o600))
	cmd := exec.Command("cc", "-static", "-O1", "-o", "a.out", "main.c")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("no C here: %v %s", err, out)
		return nil
	}
	program, err := os.ReadFile(filepath.Join(dir, "a.out"))
	require.NoError(t, err)
	return program
}

func TestCPUTimeOfADaemonCounts(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		l.only(t, l.tree, "figures of the program alone")
		if l.guest {
			t.Skip("a program cannot tell how much it uses: gVisor's clock goes on while the host does something else")
		}
		const burnt = 150 * time.Millisecond
		within(t, 100*time.Millisecond, func() (got, want time.Duration) { // with the starts of three Go programs, in race builds
			o := l.run(t, nil, sandbox.Limits{}, "/payload", "burn-orphan", "150")
			require.Zero(t, o.ExitCode)
			return o.CPU, burnt
		})
	})
}

func TestAProgramWithinItsCPULimitIsNotStopped(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		l.only(t, l.tree, "figures of the program alone")
		if l.guest {
			t.Skip("a program cannot tell how much it uses: gVisor's clock goes on while the host does something else")
		}
		o := l.run(t, nil, sandbox.Limits{CPU: 400 * time.Millisecond}, "/payload", "spin-for", "300", "child")
		require.Equal(t, sandbox.LimitNone, o.Limit, "%+v", o.Report)
		require.Zero(t, o.ExitCode)
		require.GreaterOrEqual(t, o.CPU, 300*time.Millisecond)
	})
}

func TestWallTimeIsThatOfTheMainProcess(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		within(t, 20*time.Millisecond, func() (got, want time.Duration) {
			o := l.run(t, nil, sandbox.Limits{}, "sleep", "0.1")
			require.Zero(t, o.ExitCode)
			return o.Wall, 100 * time.Millisecond
		})
	})
}

func TestMemoryPeakIsWhatWasTouched(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		l.only(t, l.tree, "figures of the program alone")
		if l.guest {
			t.Skip("its kernel takes memory in larger pieces")
		}
		base := l.run(t, nil, sandbox.Limits{}, "/payload", "memory-hold", "0", "30").MemoryPeak
		for _, mib := range []int64{8, 64, 200} {
			within(t, 4<<20, func() (got, want int64) {
				o := l.run(t, nil, sandbox.Limits{}, "/payload", "memory-hold", strconv.FormatInt(mib, 10), "30")
				require.Zero(t, o.ExitCode)
				return o.MemoryPeak, base + mib<<20 - 2<<20 // the Go runtime's own share varies
			})
		}
	})
}

func TestMemoryPeakIsOfAllProcessesAtOnce(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		l.only(t, l.tree, "figures of the program alone")
		o := l.run(t, nil, sandbox.Limits{}, "/payload", "memory-children", "3", "40", "300")
		require.Zero(t, o.ExitCode)
		require.Greater(t, o.MemoryPeak, int64(120<<20))
		require.Less(t, o.MemoryPeak, int64(240<<20))
	})
}

func TestEveryExitCodeIsReported(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		step := 1
		if !l.exact || l.guest {
			step = 17 // the same code, and slower boxes
		}
		for code := 0; code < 256; code += step {
			o := l.run(t, nil, sandbox.Limits{}, "sh", "-c", "exit "+strconv.Itoa(code))
			require.Equal(t, []int{code, 0}, []int{o.ExitCode, o.Signal})
			require.Equal(t, sandbox.LimitNone, o.Limit)
		}
	})
}

func TestEverySignalIsReported(t *testing.T) {
	ignored := []syscall.Signal{syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGURG, syscall.SIGWINCH}
	stops := []syscall.Signal{syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU}
	eachLevel(t, func(t *testing.T, l level) {
		if l.guest {
			t.Skip("a few, in TestOutcomes: its boxes are slow to make")
		}
		for sig := syscall.Signal(1); sig <= 64; sig++ {
			limits := sandbox.Limits{}
			code, signal, limit := -1, int(sig), sandbox.LimitNone
			for _, s := range ignored {
				if s == sig {
					code, signal = 0, 0
				}
			}
			for _, s := range stops {
				if s == sig { // a stopped program is one that takes its time
					limits.Wall = 60 * time.Millisecond
					signal, limit = int(syscall.SIGKILL), sandbox.LimitWall
				}
			}
			if sig == syscall.SIGXFSZ {
				limit = sandbox.LimitFileSize
			}
			o := l.run(t, nil, limits, "sh", "-c", fmt.Sprintf("kill -%d $$", sig))
			if sig == syscall.SIGTSTP || sig == syscall.SIGTTIN || sig == syscall.SIGTTOU {
				// The kernel does not stop what nobody could continue: an orphaned group.
				code, signal, limit = o.ExitCode, o.Signal, o.Limit
				require.Zero(t, o.ExitCode, unix.SignalName(sig))
			}
			require.Equal(t, []any{code, signal, limit}, []any{o.ExitCode, o.Signal, o.Limit}, "%d %s: %s", sig, unix.SignalName(sig), o.err)
		}
	})
}

// pattern is what the payload of this name writes.
func pattern(n int, seed uint64) string {
	b := make([]byte, n)
	for i := range b {
		seed = seed*6364136223846793005 + 1442695040888963407
		b[i] = byte(seed >> 56)
	}
	return string(b)
}

func TestBothStreamsAreKeptByteForByteEachWithItsOwnLimit(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		const n = 300_000
		want := []string{pattern(n, 1), pattern(n, 2)}
		for _, c := range []struct {
			name      string
			limit     int64
			truncated bool
		}{
			{"as much as allowed", n, false},
			{"one byte less allowed", n - 1, true},
			{"one byte allowed", 1, true},
		} {
			t.Run(c.name, func(t *testing.T) {
				o := l.run(t, nil, sandbox.Limits{OutputBytes: c.limit, CutOutput: true}, "/payload", "pattern", strconv.Itoa(n))
				require.Zero(t, o.ExitCode)
				require.True(t, o.out == want[0][:c.limit], "stdout")
				require.True(t, o.err == want[1][:c.limit], "stderr")
				require.Equal(t, []bool{c.truncated, c.truncated}, []bool{o.StdoutTruncated, o.StderrTruncated})
				require.Equal(t, []int64{n, n}, []int64{o.StdoutBytes, o.StderrBytes})
			})
		}
	})
}

func TestProcessesAreCounted(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		if !l.exact || l.guest {
			t.Skip("no kernel counts there")
		}
		// The thread of init that starts the program is counted for the moment that
		// it lives on; a busy machine may make that a long one.
		const moment = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; "
		for _, c := range []struct {
			name, script string
			want         int64
		}{
			{"one", "exit 0", 1},
			{"one, killed", "kill -KILL $$", 1},
			{"two", moment + "sleep 0.02 & wait", 2},
			{"one after the other", moment + "sleep 0; sleep 0; sleep 0", 2},
			{"six at once", moment + "for i in 1 2 3 4 5; do sleep 0.1 & done; wait", 6},
		} {
			t.Run(c.name, func(t *testing.T) {
				within(t, 0, func() (got, want int64) {
					return int64(l.run(t, nil, sandbox.Limits{}, "sh", "-c", c.script).ProcessesPeak), c.want
				})
			})
		}
		o := l.run(t, nil, sandbox.Limits{Wall: 50 * time.Millisecond}, "sleep", "10")
		require.Equal(t, sandbox.LimitWall, o.Limit)
		require.Equal(t, 1, o.ProcessesPeak, "ended by its limit")
	})
}
