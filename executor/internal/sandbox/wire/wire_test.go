//go:build linux

package wire_test

import (
	"bytes"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

func TestMessagesSurvive(t *testing.T) {
	setup := wire.Setup{
		WorkDir: "/w", Workspace: true, TmpBytes: 1 << 40, TmpInodes: -1, ProcMask: []string{"a", "", "\x00\xff"},
		Overlays: []string{"/o"}, UID: 1000, GID: 1000, KeepGroups: true, Filter: "12345678",
	}
	command := wire.Command{
		Path: "p", Argv: []string{"a", "b"}, Env: []string{"A=b"}, Dir: "/w", Rlimits: []wire.Rlimit{{Resource: 1, Value: 2}},
		Sample: true, SampleMemory: 1, SampleCPU: 2, SampleProcesses: 3,
	}
	box := wire.BoxRequest{
		Tree:      wire.Tree{Hostname: "h", WorkDir: "/w", UID: 1, GID: 2, Binds: []wire.Bind{{Host: "/a", Box: "/b", Overlay: true}}},
		Workspace: 7, ReadOnly: true, HostUID: 9, CgroupFD: true,
	}
	confine := wire.Confine{
		UID: 1, GID: 2, Landlock: 6, Fence: true, Paths: []wire.Path{{Name: "/usr"}, {Name: "/w", Access: 1}}, Filter: "12345678", Umask: 0o77,
	}
	launched := wire.Launched{At: 1, Errno: 2, CPU: 3, MaxRSS: 4}
	e := wire.NewEncoder(42)
	confine.Encode(e)
	launched.Encode(e)
	setup.Encode(e)
	command.Encode(e)
	box.Encode(e)
	kind, d := wire.NewDecoder(e.Bytes())
	require.EqualValues(t, 42, kind)
	var confine2 wire.Confine
	var launched2 wire.Launched
	confine2.Decode(d)
	launched2.Decode(d)
	require.Equal(t, confine, confine2)
	require.Equal(t, launched, launched2)
	var setup2 wire.Setup
	var command2 wire.Command
	var box2 wire.BoxRequest
	setup2.Decode(d)
	command2.Decode(d)
	box2.Decode(d)
	require.NoError(t, d.Err())
	require.Equal(t, setup, setup2)
	require.Equal(t, command, command2)
	require.Equal(t, box, box2)
}

// message is what both sides know how to write and read.
type message interface {
	Encode(*wire.Encoder)
	Decode(*wire.Decoder)
}

// FuzzDecode: whatever arrives, decoding ends and takes no more memory than
// the message's own size allows; and what was read can be sent on.
func FuzzDecode(f *testing.F) {
	kinds := []func() message{
		func() message { return &wire.Command{} }, func() message { return &wire.Setup{} }, func() message { return &wire.BoxRequest{} },
		func() message { return &wire.WorkspaceRequest{} }, func() message { return &wire.Guest{} }, func() message { return &wire.Confine{} },
		func() message { return &wire.Launched{} }, func() message { return &wire.Started{} }, func() message { return &wire.Ended{} },
	}
	e := wire.NewEncoder(1)
	(&wire.Command{Argv: []string{"x"}, Rlimits: []wire.Rlimit{{}}}).Encode(e)
	f.Add(e.Bytes())
	e = wire.NewEncoder(1)
	(&wire.BoxRequest{Tree: wire.Tree{Binds: []wire.Bind{{Host: "/usr", Box: "/usr", Overlay: true}}}, HostUID: 1}).Encode(e)
	f.Add(e.Bytes())
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, kind := range kinds {
			m, again := kind(), kind()
			_, d := wire.NewDecoder(b)
			m.Decode(d)
			if d.Err() != nil {
				continue
			}
			e := wire.NewEncoder(1)
			m.Encode(e)
			_, d = wire.NewDecoder(e.Bytes())
			again.Decode(d)
			require.NoError(t, d.Err())
			require.Equal(t, m, again)
		}
	})
}

func TestConn(t *testing.T) {
	a, b, err := wire.Pair()
	require.NoError(t, err)
	polled, err := wire.NewPolled(a, wire.MaxMessage)
	require.NoError(t, err)
	blocking := wire.NewBlocking(b)

	r, w, err := os.Pipe()
	require.NoError(t, err)
	big := bytes.Repeat([]byte("x"), wire.MaxMessage)
	require.NoError(t, polled.Send(big, int(w.Fd())))
	msg, fds, err := blocking.Recv()
	require.NoError(t, err)
	require.Equal(t, big, msg)
	require.Len(t, fds, 1)
	_, err = unix.Write(fds[0], []byte("through"))
	require.NoError(t, err)
	wire.CloseAll(fds)
	require.NoError(t, w.Close())
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "through", string(got))
	require.NoError(t, r.Close())

	require.Error(t, polled.Send(append(big, 'x')), "too large")
	require.NoError(t, blocking.Send([]byte("last")))
	require.NoError(t, blocking.Close())
	msg, _, err = polled.Recv()
	require.NoError(t, err)
	require.Equal(t, "last", string(msg))
	_, _, err = polled.Recv()
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, polled.Close())
}
