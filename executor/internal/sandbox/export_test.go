package sandbox

import (
	"testing"
)

// AwaitReady waits until init has said that all is in place, and leaves the
// message for Run.
func AwaitReady(t testing.TB, b Box) {
	t.Helper()
	if err := b.(*box).control.Await(); err != nil {
		t.Fatal(err)
	}
}
