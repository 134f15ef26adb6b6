//go:build linux

package sandbox_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

// payloadEnv names the program that tests run in boxes: this one. It is given
// to the tests that run as another user, who could not read where go test
// puts its binary.
const payloadEnv = "CRUCIBLE_TEST_PAYLOAD"

func TestMain(m *testing.M) {
	sandbox.MaybeInit()
	if filepath.Base(os.Args[0]) == "payload" {
		os.Exit(payload(os.Args[1:]))
	}
	if filepath.Base(os.Args[0]) == "runsc" {
		os.Exit(fakeRunsc(os.Args[1]))
	}
	dir, err := preparePayload()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if dir != "" {
			_ = os.RemoveAll(dir)
		}
		os.Exit(code)
	}))
}

func preparePayload() (string, error) {
	if os.Getenv(payloadEnv) != "" {
		return "", nil
	}
	dir, err := os.MkdirTemp("", "payload")
	if err != nil {
		return "", err
	}
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return dir, err
	}
	defer func() { _ = from.Close() }()
	name := filepath.Join(dir, "payload")
	to, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		return dir, err
	}
	if _, err := io.Copy(to, from); err != nil {
		return dir, err
	}
	if err := to.Close(); err != nil {
		return dir, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return dir, err
	}
	return dir, os.Setenv(payloadEnv, name)
}
