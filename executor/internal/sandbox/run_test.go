//go:build linux

package sandbox_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

func TestOutcomes(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		for _, c := range []struct {
			name         string
			argv         []string
			code, signal int
			out, err     string
		}{
			{"zero", []string{"/payload", "exit", "0"}, 0, 0, "", ""},
			{"exit code", []string{"/payload", "exit", "42"}, 42, 0, "", ""},
			{"largest exit code", []string{"/payload", "exit", "255"}, 255, 0, "", ""},
			{"abort", []string{"sh", "-c", "kill -ABRT $$"}, -1, int(syscall.SIGABRT), "", ""},
			{"killed by itself", []string{"sh", "-c", "kill -KILL $$"}, -1, int(syscall.SIGKILL), "", ""},
			{"stack overflow", []string{"bash", "-c", "f() { f; }; f"}, -1, int(syscall.SIGSEGV), "", ""},
			{"streams", []string{"sh", "-c", "echo out; echo err >&2; echo out2"}, 0, 0, "out\nout2\n", "err\n"},
			{"every byte", []string{"/payload", "bytes"}, 0, 0, string(all), ""},
			{"environment", []string{"env"}, 0, 0, "PATH=/usr/bin:/bin\n", ""},
			{"not found", []string{"no-such-program"}, 127, 0, "", ""},
			{"not found by path", []string{"/no/such/program"}, 127, 0, "", ""},
			{"not executable", []string{"/etc/passwd"}, 126, 0, "", ""},
			{"not root", []string{"sh", "-c", "test $(id -u) -gt 0 && test $(id -g) -gt 0"}, 0, 0, "", ""},
		} {
			t.Run(c.name, func(t *testing.T) {
				o := l.run(t, nil, sandbox.Limits{StackBytes: 1 << 20}, c.argv...)
				require.Equal(t, c.code, o.ExitCode)
				require.Equal(t, c.signal, o.Signal)
				require.Equal(t, c.out, o.out)
				require.Equal(t, c.err, o.err)
				require.Equal(t, sandbox.LimitNone, o.Limit)
				require.False(t, o.OOMKilled)
				require.Equal(t, c.code == 127 || c.code == 126, o.StartError != "")
				require.Equal(t, int64(len(c.out)), o.StdoutBytes)
			})
		}
		if l.tree {
			o := l.run(t, nil, sandbox.Limits{}, "sh", "-c", "id -u; id -g; pwd; hostname; umask")
			require.Equal(t, "1000\n1000\n/w\nsandbox\n0022\n", o.out)
		}
	})
}

func TestStdin(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		input := strings.Repeat("0123456789\x00\xff", 100_000)
		o := run(t, l.box(t, nil), sandbox.Command{
			Argv: []string{"/payload", "copy"}, Stdin: strings.NewReader(input), Limits: sandbox.Limits{OutputBytes: 10 << 20},
		})
		require.Equal(t, input, o.out)

		// A program that does not read is not waited for.
		endless, w := io.Pipe()
		defer func() { _ = w.Close() }()
		o = run(t, l.box(t, nil), sandbox.Command{Argv: []string{"/payload", "exit", "3"}, Stdin: endless})
		require.Equal(t, 3, o.ExitCode)

		o = run(t, l.box(t, nil), sandbox.Command{Argv: []string{"/payload", "copy"}})
		require.Empty(t, o.out)
		require.Zero(t, o.ExitCode)
	})
}

func TestWallLimit(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		for _, program := range []string{"sleep", "stop"} {
			limit := 150 * time.Millisecond
			if l.guest {
				limit = time.Second // the payload takes its time to start there
			}
			exact(t, limit, 0, 20*time.Millisecond, func() time.Duration {
				o := l.run(t, nil, sandbox.Limits{Wall: limit}, "/payload", program)
				require.Equal(t, sandbox.LimitWall, o.Limit)
				require.Equal(t, int(syscall.SIGKILL), o.Signal)
				require.Positive(t, o.CPU)
				require.Positive(t, o.MemoryPeak)
				if program == "sleep" {
					require.Equal(t, "before\n", o.out, "output until then is kept")
				}
				return o.Wall
			})
		}
	})
}

func TestCPULimit(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		const limit = 200 * time.Millisecond
		margin := 10 * time.Millisecond
		if !l.exact {
			margin = 100 * time.Millisecond // ticks of 10 ms on every core, and a sample each 10 ms
		}
		for _, argv := range [][]string{{"/payload", "spin"}, {"/payload", "spin-children", "4"}} {
			exact(t, limit, 10*time.Millisecond, margin+60*time.Millisecond, func() time.Duration { // with other tests on the same cores
				o := l.run(t, nil, sandbox.Limits{Wall: 5 * time.Second, CPU: limit}, argv...)
				require.Equal(t, sandbox.LimitCPU, o.Limit, "%+v", o.Report)
				return o.CPU
			})
		}
		if l.guest {
			return // a program in gVisor cannot tell how much it has used on the host
		}
		// What a child used counts when it is dead, too.
		exact(t, 100*time.Millisecond, margin, 60*time.Millisecond, func() time.Duration {
			o := l.run(t, nil, sandbox.Limits{}, "/payload", "spin-for", "100")
			require.Equal(t, sandbox.LimitNone, o.Limit)
			return o.CPU
		})
	})
}

func TestMemoryLimit(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		limits := sandbox.Limits{MemoryBytes: 128 << 20}
		for name, argv := range map[string][]string{
			"main":     {"/payload", "memory", "400"},
			"child":    {"/payload", "memory-child", "400"},
			"children": {"/payload", "memory-children", "5", "50"},
		} {
			t.Run(name, func(t *testing.T) {
				o := l.run(t, nil, limits, argv...)
				require.Equal(t, sandbox.LimitMemory, o.Limit, "%+v", o.Report)
				require.Equal(t, l.exact, o.OOMKilled)
				if l.exact {
					require.LessOrEqual(t, o.MemoryPeak, limits.MemoryBytes+1<<20) // the kernel itself may overdraw a little
				}
				require.Greater(t, o.MemoryPeak, limits.MemoryBytes/2)
			})
		}
		o := l.run(t, nil, limits, "/payload", "memory", "40")
		require.Equal(t, sandbox.LimitNone, o.Limit)
		require.Zero(t, o.ExitCode)
		require.Greater(t, o.MemoryPeak, int64(40<<20))
		require.Less(t, o.MemoryPeak, int64(90<<20))
	})
}

func TestProcessLimit(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		o := l.run(t, nil, sandbox.Limits{Processes: 40, Wall: 300 * time.Millisecond, MemoryBytes: 4 << 30}, "/payload", "forkbomb")
		if l.shared() && !l.exact { // nothing refuses: the program is ended
			o = l.run(t, nil, sandbox.Limits{Processes: 40, MemoryBytes: 4 << 30}, "/payload", "forkbomb")
			require.Equal(t, sandbox.LimitProcesses, o.Limit)
			require.Equal(t, sandbox.LimitProcesses, l.run(t, nil, sandbox.Limits{Processes: 40, MemoryBytes: 4 << 30}, "/payload", "threads", "200").Limit)
			return
		}
		require.Equal(t, sandbox.LimitWall, o.Limit)
		if l.exact && !l.guest { // the host cannot count gVisor's processes
			require.LessOrEqual(t, o.ProcessesPeak, 41)
			require.GreaterOrEqual(t, o.ProcessesPeak, 39)
		}
		o = l.run(t, nil, sandbox.Limits{Processes: 40, MemoryBytes: 4 << 30}, "/payload", "threads", "200")
		require.Zero(t, o.ExitCode, o.out)
		require.True(t, strings.HasSuffix(o.out, " true\n"), o.out)
	})
}

func TestOutputLimit(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		const limit = 100_000
		for _, c := range []struct {
			name      string
			bytes, fd string
			cut       bool
			limit     sandbox.Limit
			kept      int
			truncated bool
		}{
			{"exactly", "100000", "1", false, sandbox.LimitNone, limit, false},
			{"one more", "100001", "1", false, sandbox.LimitStdout, limit, true},
			{"flood", "100000000000", "1", false, sandbox.LimitStdout, limit, true},
			{"flood on stderr", "100000000000", "2", false, sandbox.LimitStderr, limit, true},
			{"cut", "20000000", "1", true, sandbox.LimitNone, limit, true},
		} {
			t.Run(c.name, func(t *testing.T) {
				o := l.run(t, nil, sandbox.Limits{OutputBytes: limit, CutOutput: c.cut}, "/payload", "flood", c.bytes, c.fd)
				require.Equal(t, c.limit, o.Limit)
				text, total, truncated := o.out, o.StdoutBytes, o.StdoutTruncated
				if c.fd == "2" {
					text, total, truncated = o.err, o.StderrBytes, o.StderrTruncated
				}
				require.Len(t, text, c.kept)
				require.Equal(t, c.truncated, truncated)
				if c.limit == sandbox.LimitNone {
					require.Zero(t, o.ExitCode)
				}
				if c.cut {
					require.EqualValues(t, 20_000_000, total)
				}
			})
		}
	})
}

func TestDaemonIsDead(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		o := l.run(t, nil, sandbox.Limits{}, "/payload", "daemon")
		require.Equal(t, "daemon started\n", strings.Replace(o.out, "before\n", "", 1))
		require.Zero(t, o.ExitCode)
		// The daemon sleeps for an hour.
		require.Less(t, o.Wall, 5*time.Second, "the result does not wait for the daemon")
	})
}

func TestQuotas(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		l.only(t, l.tree, "that a quota refuses")
		w := l.workspace(t, sandbox.WorkspaceSpec{Bytes: 1 << 20, Inodes: 50})
		require.Equal(t, "1048576 true false\n", l.run(t, w, sandbox.Limits{}, "/payload", "fill", "/w/big").out)
		usage, err := w.Usage()
		require.NoError(t, err)
		require.True(t, usage.Full(), "%+v", usage)
		require.Equal(t, "4194304 true false\n", l.run(t, nil, sandbox.Limits{}, "/payload", "fill", "/tmp/big").out)
		require.Equal(t, "4194304 true false\n", l.run(t, nil, sandbox.Limits{}, "/payload", "fill", "/dev/shm/big").out)

		w = l.workspace(t, sandbox.WorkspaceSpec{Bytes: 1 << 20, Inodes: 50})
		o := l.run(t, w, sandbox.Limits{}, "/payload", "inodes", "/w")
		require.True(t, strings.HasSuffix(o.out, " true\n"), o.out)

		o = l.run(t, nil, sandbox.Limits{FileBytes: 1 << 20}, "/payload", "fill", "/tmp/big")
		require.Equal(t, "1048576 false true\n", o.out, "Go ignores SIGXFSZ")
		o = l.run(t, nil, sandbox.Limits{FileBytes: 1 << 20}, "sh", "-c", "exec head -c 2000000 /dev/zero > /tmp/big")
		require.Equal(t, sandbox.LimitFileSize, o.Limit)

		o = l.run(t, nil, sandbox.Limits{OpenFiles: 20}, "/payload", "descriptors")
		require.True(t, strings.HasSuffix(o.out, " true\n"), o.out)
	})
}

// TestQuotasAreWatched: where no file system refuses what is too much, the
// program is ended, and what it left is removed however deep it lies.
func TestQuotasAreWatched(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		l.only(t, !l.tree, "that a quota is watched")
		for _, script := range []string{
			"while :; do head -c 65536 /dev/zero > f$((i=i+1)); done",
			"while :; do : > f$((i=i+1)); done",
			"while mkdir d && cd -P d; do :; done; sleep 10",
			"cd $0; while :; do head -c 65536 /dev/zero >> f$((i=i+1)); done",
		} {
			w := l.workspace(t, sandbox.WorkspaceSpec{Bytes: 1 << 20, Inodes: 2000})
			o := l.run(t, w, sandbox.Limits{Wall: 20 * time.Second}, "sh", "-c", script, "/tmp")
			require.Equal(t, sandbox.LimitDisk, o.Limit, script)
			require.Equal(t, int(syscall.SIGKILL), o.Signal)
			usage, err := w.Usage()
			require.NoError(t, err)
			require.Equal(t, !strings.Contains(script, "$0"), usage.Full(), "%s: %+v", script, usage)
		}
		w := l.workspace(t, sandbox.WorkspaceSpec{Bytes: 1 << 20})
		require.ErrorIs(t, w.WriteFile("big", make([]byte, 2<<20), 0o644), syscall.ENOSPC)
		o := l.run(t, w, sandbox.Limits{}, "/payload", "fill", "/w/big")
		if o.Limit != sandbox.LimitDisk { // it was faster than who watches
			require.Equal(t, "4194304 false true\n", o.out, "one file is held by a resource limit")
		}
	})
}

func TestCancel(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		ctx, cancel := context.WithCancel(t.Context())
		out := &signalWriter{seen: make(chan struct{})}
		go func() {
			<-out.seen
			cancel()
		}()
		b := l.box(t, nil)
		rep, err := b.Run(ctx, sandbox.Command{Argv: []string{"/payload", "sleep"}, Stdout: out})
		require.NoError(t, err)
		require.Equal(t, sandbox.LimitCancelled, rep.Limit)
		require.Less(t, rep.Wall, 10*time.Second)
		require.Equal(t, "before\n", out.String())

		_, err = b.Run(t.Context(), sandbox.Command{Argv: []string{"true"}})
		require.ErrorIs(t, err, sandbox.ErrUsed)
	})
}

// signalWriter closes seen at the first write.
type signalWriter struct {
	bytes.Buffer
	once sync.Once
	seen chan struct{}
}

func (w *signalWriter) Write(b []byte) (int, error) {
	w.once.Do(func() { close(w.seen) })
	return w.Buffer.Write(b)
}

func TestCommandsThatCannotRun(t *testing.T) {
	l := level{Runtime: open(t, sandbox.Config{})}
	for name, cmd := range map[string]sandbox.Command{
		"no program":     {},
		"NUL":            {Argv: []string{"a\x00b"}},
		"too long":       {Argv: []string{"echo", strings.Repeat("x", 200_000)}},
		"negative limit": {Argv: []string{"true"}, Limits: sandbox.Limits{Wall: -1}},
		"no memory":      {Argv: []string{"true"}, Limits: sandbox.Limits{MemoryBytes: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := l.box(t, nil).Run(t.Context(), cmd)
			require.ErrorIs(t, err, sandbox.ErrCommand)
		})
	}
	o := l.run(t, nil, sandbox.Limits{}, "sh", "-c", "echo ${#0}", strings.Repeat("x", 120_000))
	require.Equal(t, "120000\n", o.out)
}
