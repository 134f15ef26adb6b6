package testkit

import "testing"

// faults are the ways to hurt a server. Each returns when its effect has set in.
type faults struct {
	t      testing.TB
	server *server
	shared bool
}

func (f *faults) must(what string, err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatalf("%s %s: %v", what, f.server.name, err)
	}
}

func (f *faults) mayFail() {
	f.t.Helper()
	if f.shared {
		f.t.Fatalf("this %s is shared by all tests: ask for testkit.Private() to make it fail", f.server.name)
	}
}

// Stop ends the server in good order. The port stays reserved for Start. A stopped server may be stopped again.
func (f *faults) Stop() {
	f.t.Helper()
	f.mayFail()
	f.must("stop", f.server.stop())
}

// Start starts a stopped or killed server on the same port with the data it left, and returns when it answers. A
// server that runs is left alone.
func (f *faults) Start() {
	f.t.Helper()
	f.mayFail()
	f.must("start", f.server.start())
}

// Pause freezes the server with SIGSTOP: connections stay open, or are even accepted by the kernel, and nothing
// is answered.
func (f *faults) Pause() {
	f.t.Helper()
	f.mayFail()
	f.must("pause", f.server.process.pause())
}

// Resume ends a Pause; otherwise it does nothing.
func (f *faults) Resume() {
	f.t.Helper()
	f.mayFail()
	f.server.process.resume()
}

// Kill9 kills the server and all of its processes with SIGKILL.
func (f *faults) Kill9() {
	f.t.Helper()
	f.mayFail()
	f.server.process.kill()
}

// PID is the server's process id.
func (f *faults) PID() int { return f.server.process.pid() }

// Log is the end of what the server has logged.
func (f *faults) Log() string { return tail(f.server.folder.join("log")) }
