//go:build linux

package executor_test

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/eval/evaltest"
	"github.com/crucible-eval/crucible/pkg/remote"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// open makes an executor that is closed when the test ends. It has the
// sandbox-init that is shipped; tests that open one themselves start this
// binary again in its place.
func open(t testing.TB, cfg executor.Config) *executor.Local {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	cfg.InitPath = testkit.Program("sandbox-init")
	l, err := executor.Open(t.Context(), cfg, logger, nil)
	if err != nil {
		if os.Getenv("REQUIRE_SERVICES") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// serve puts an executor behind HTTP, and returns it with its client.
func serve(t testing.TB, l *executor.Local, tokens ...string) (*executor.Service, *http.Client) {
	t.Helper()
	s, err := executor.New(executor.ServiceConfig{Listen: "127.0.0.1:0", Tokens: tokens}, l, nil, nil)
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context()))
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		require.NoError(t, s.Stop(ctx))
	})
	return s, client
}

func TestLocalRunner(t *testing.T) {
	evaltest.TestRunner(t, func(t *testing.T) eval.Executor { return open(t, executor.Config{}) })
}

func TestGVisorRunner(t *testing.T) {
	cfg := executor.Config{Isolation: "gvisor"}
	if _, err := exec.LookPath("runsc"); err != nil {
		cfg.RunscPath = "../bin/tools/runsc" // of make runsc
	}
	evaltest.TestRunner(t, func(t *testing.T) eval.Executor { return open(t, cfg) })
}

func TestRemoteRunner(t *testing.T) {
	evaltest.TestRunner(t, func(t *testing.T) eval.Executor {
		s, client := serve(t, open(t, executor.Config{}), "secret")
		return remote.NewExecutor(s.URL()+"/", "secret", client)
	})
}
