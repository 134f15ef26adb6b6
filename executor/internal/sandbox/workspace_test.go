//go:build linux

package sandbox_test

import (
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

func TestWorkspaceKeepsFiles(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		w := l.workspace(t, sandbox.WorkspaceSpec{})
		require.NoError(t, w.WriteFile("src/deep/in.txt", []byte("one\n"), 0o640))
		require.NoError(t, w.WriteFile("run.sh", []byte("#!/bin/sh\ncat src/deep/in.txt; echo two > src/out.txt; echo three >> src/deep/in.txt\n"), 0o755))
		o := l.run(t, w, sandbox.Limits{}, "./run.sh")
		require.Equal(t, "one\n", o.out, o.err)
		// Another box finds what the first one left, and the host too.
		require.Equal(t, "two\n", l.run(t, w, sandbox.Limits{}, "cat", "src/out.txt").out)
		b, err := w.ReadFile("src/deep/in.txt", 1<<20)
		require.NoError(t, err)
		require.Equal(t, "one\nthree\n", string(b))
		b, err = w.ReadFile("src/out.txt", 2)
		require.NoError(t, err)
		require.Equal(t, "tw", string(b))

		require.NoError(t, w.WriteFile("src/out.txt", []byte("2"), 0o644), "replaced, not appended")
		require.Equal(t, "2", l.run(t, w, sandbox.Limits{}, "cat", "src/out.txt").out)

		other := l.workspace(t, sandbox.WorkspaceSpec{})
		require.Empty(t, l.run(t, other, sandbox.Limits{}, "ls", "-A").out, "a new workspace is empty")

		_, err = w.Open("missing")
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.NoError(t, w.Close())
		require.ErrorIs(t, w.WriteFile("x", nil, 0o644), sandbox.ErrClosed)
	})
}

func TestWorkspaceReadOnly(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		l.only(t, l.confined, "that a folder is read-only")
		w := l.workspace(t, sandbox.WorkspaceSpec{})
		require.NoError(t, w.WriteFile("f", []byte("x"), 0o644))
		b, err := l.Prepare(t.Context(), sandbox.BoxSpec{Workspace: w, WorkspaceReadOnly: true})
		require.NoError(t, err)
		o := run(t, b, sandbox.Command{Argv: []string{"sh", "-c", "cat f; echo y > f || echo refused"}})
		require.Equal(t, "xrefused\n", o.out)
	})
}

func TestPlantedFiles(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		secret := t.TempDir() + "/secret"
		require.NoError(t, os.WriteFile(secret, []byte("secret"), 0o666))
		w := l.workspace(t, sandbox.WorkspaceSpec{})
		o := l.run(t, w, sandbox.Limits{}, "sh", "-c", strings.Join([]string{
			"ln -s " + secret + " link", "ln -s / root", "ln -s ../../../../../../.. up", "mkfifo fifo", "mkdir dir",
			"ln -s /proc/self/root magic", "echo x > file", "ln -s file relative",
		}, " && "))
		require.Zero(t, o.ExitCode, o.err)
		for _, name := range []string{"link", "root" + secret, "up" + secret, "fifo", "dir", "magic/etc/passwd", "relative", "file/x"} {
			_, err := w.Open(name)
			if l.guest && name == "fifo" {
				require.ErrorIs(t, err, fs.ErrNotExist, "a pipe is in gVisor's kernel only")
				continue
			}
			require.ErrorIs(t, err, sandbox.ErrNotRegular, name)
			err = w.WriteFile(name, []byte("overwritten"), 0o644)
			require.ErrorIs(t, err, sandbox.ErrNotRegular, name)
		}
		require.ErrorIs(t, w.WriteFile("root/etc/x", nil, 0o644), sandbox.ErrNotRegular)
		b, err := os.ReadFile(secret)
		require.NoError(t, err)
		require.Equal(t, "secret", string(b))
	})
}

func TestWorkspaceList(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		l.only(t, l.tree, "sockets with names, and every mode of a file")
		w := l.workspace(t, sandbox.WorkspaceSpec{})
		require.NoError(t, w.WriteFile("b/in.txt", []byte("one\n"), 0o644))
		deep := strings.TrimSuffix(strings.Repeat("d/", sandbox.MaxPathDepth), "/")
		o := l.run(t, w, sandbox.Limits{}, "bash", "-c", strings.Join([]string{
			"ln -s / a", "mkfifo b/fifo", "ln -s b loop", "ln -s .. b/up", "echo x > $'z\\xff\\n'", "chmod 6777 $'z\\xff\\n'",
			"python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'", "mkdir -p " + deep + "/too-deep",
			"ln b/in.txt hard", "mkdir closed", "chmod 0 closed",
		}, " && "))
		require.Zero(t, o.ExitCode, o.err)
		all, whole, err := w.List(1000)
		require.NoError(t, err)
		require.False(t, whole, "something lies deeper than a path may")
		want := []sandbox.Entry{
			{Path: "a", Type: fs.ModeSymlink}, {Path: "b", Type: fs.ModeDir}, {Path: "closed", Type: fs.ModeDir}, {Path: "d", Type: fs.ModeDir},
			{Path: "hard", Bytes: 4}, {Path: "loop", Type: fs.ModeSymlink}, {Path: "sock", Type: fs.ModeSocket},
			{Path: "z\xff\n", Bytes: 2},
			{Path: "b/fifo", Type: fs.ModeNamedPipe}, {Path: "b/in.txt", Bytes: 4}, {Path: "b/up", Type: fs.ModeSymlink}, {Path: "d/d", Type: fs.ModeDir},
		}
		if l.guest { // pipes and sockets are in gVisor's kernel only
			want = slices.DeleteFunc(want, func(e sandbox.Entry) bool { return e.Type&(fs.ModeNamedPipe|fs.ModeSocket) != 0 })
		}
		require.Equal(t, want, all[:len(want)])
		require.Equal(t, deep, all[len(all)-1].Path)

		some, whole, err := w.List(10)
		require.NoError(t, err)
		require.False(t, whole)
		require.Equal(t, all[:10], some, "what lies less deep comes first")
		_, whole, err = w.List(len(want) - 4)
		require.NoError(t, err)
		require.False(t, whole, "the folders were not looked into")

		flat := l.workspace(t, sandbox.WorkspaceSpec{})
		require.NoError(t, flat.WriteFile("f", nil, 0o644))
		some, whole, err = flat.List(1)
		require.NoError(t, err)
		require.True(t, whole)
		require.Equal(t, []sandbox.Entry{{Path: "f"}}, some)
	})
}

func TestWorkspaceIsBusy(t *testing.T) {
	l := level{Runtime: open(t, sandbox.Config{})}
	w := l.workspace(t, sandbox.WorkspaceSpec{})
	b := l.box(t, w)
	require.NoError(t, w.WriteFile("f", []byte("in time"), 0o644), "a box that waits does not matter")
	out := &signalWriter{seen: make(chan struct{})}
	done := make(chan error)
	go func() {
		_, err := b.Run(t.Context(), sandbox.Command{Argv: []string{"sh", "-c", "cat f; sleep 100"}, Env: []string{"PATH=/bin"}, Stdout: out})
		done <- err
	}()
	<-out.seen
	_, err := w.Open("f")
	require.ErrorIs(t, err, sandbox.ErrBusy)
	_, _, err = w.List(1)
	require.ErrorIs(t, err, sandbox.ErrBusy)
	require.ErrorIs(t, w.WriteFile("f", nil, 0o644), sandbox.ErrBusy)
	require.NoError(t, b.Close())
	require.ErrorIs(t, <-done, sandbox.ErrPlatform, "closed while it ran")
	content, err := w.ReadFile("f", 100)
	require.NoError(t, err)
	require.Equal(t, "in time", string(content))
}

func TestWorkspaceQuotaHoldsForTheHost(t *testing.T) {
	l := level{Runtime: open(t, sandbox.Config{})}
	w := l.workspace(t, sandbox.WorkspaceSpec{Bytes: 1 << 20})
	require.Error(t, w.WriteFile("big", make([]byte, 2<<20), 0o644))
	_, err := l.NewWorkspace(t.Context(), sandbox.WorkspaceSpec{Bytes: -1})
	require.ErrorIs(t, err, sandbox.ErrCommand)
}
