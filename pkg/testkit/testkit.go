// Package testkit gives tests real services and a bounded way to wait for them.
//
//   - [Redis] and [Postgres] start private servers from their binaries, on a free loopback port, and stop them.
//   - [MiniRedis] is the in-process Redis, for tests that need no real one.
//   - [Eventually] waits for a condition. It is the only place that polls: everything else waits for a signal.
//
// A server that is not installed makes the test skip and say what to install; with REQUIRE_SERVICES=1 in the
// environment, as in CI, it fails instead. Servers never outlive the test binary, even when it is killed.
//
// Only tests may import this package.
package testkit

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// patience is how long anything here may take: long enough for a loaded machine with two cores, short enough
// for a test run to end.
const patience = 30 * time.Second

// Skip skips the test because program is not on this machine, naming the operating system's package that has
// it. With REQUIRE_SERVICES=1 the test fails instead.
func Skip(t testing.TB, program, osPackage string) {
	t.Helper()
	message := fmt.Sprintf("%s is not installed: run `make deps`, or install the package %s", program, osPackage)
	if os.Getenv("REQUIRE_SERVICES") == "1" {
		t.Fatalf("%s (REQUIRE_SERVICES=1 makes this a failure)", message)
	}
	t.Skip(message)
}

// MiniRedis starts an in-process Redis that ends with the test. Its clock stands still: move it with FastForward.
func MiniRedis(t testing.TB) *miniredis.Miniredis {
	t.Helper()
	return miniredis.RunT(t)
}

// Eventually waits until cond is true, for at most 30 seconds; then the test fails, naming what it waited for.
// cond runs in the caller's goroutine, again and again with growing pauses of at most 50 ms.
func Eventually(t testing.TB, cond func() bool, what string) {
	t.Helper()
	EventuallyWithin(t, patience, cond, what)
}

// EventuallyWithin is Eventually with a deadline of its own.
func EventuallyWithin(t testing.TB, limit time.Duration, cond func() bool, what string) {
	t.Helper()
	if !poll(limit, nil, cond) {
		t.Fatalf("after %v this is still not so: %s", limit, what)
	}
}

// poll calls cond until it is true, and tells whether that came before the limit and before gone was closed.
func poll(limit time.Duration, gone <-chan struct{}, cond func() bool) bool {
	deadline := time.Now().Add(limit)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if cond() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		select {
		case <-gone:
			return false
		case <-time.After(pause):
		}
	}
}

// FreePort names a loopback TCP port that nothing listens on. It lies below the range that the system hands out
// for outgoing connections, so a server that is stopped and started again finds its port still free; and it is
// given once only per test binary.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

var given sync.Map // port -> struct{}: what freePort has handed out

func freePort() (int, error) {
	const lowest, beyond = 10240, 32768
	var err error
	for range 100 {
		port := lowest + rand.IntN(beyond-lowest)
		var listener net.Listener
		if listener, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port)); err != nil {
			continue
		}
		_ = listener.Close()
		if _, taken := given.LoadOrStore(port, struct{}{}); !taken {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port on 127.0.0.1: %w", err)
}
