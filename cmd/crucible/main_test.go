package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/cmd/internal/platform"
	"github.com/crucible-eval/crucible/executor"
)

func TestMain(m *testing.M) {
	executor.MaybeInit()
	testscript.Main(m, map[string]func(){"crucible": main})
}

// TestScripts runs the command line as people do, against a real platform in
// this process. UPDATE_SCRIPTS=1 writes what is expected anew.
func TestScripts(t *testing.T) {
	url := start(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("CRUCIBLE_URL", url)
			e.Setenv("XDG_CONFIG_HOME", e.WorkDir+"/config")
			e.Setenv("XDG_DATA_HOME", e.WorkDir+"/data")
			e.Setenv("XDG_CACHE_HOME", cache(t))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// cache is the user's cache folder, so that no script compiles Go's standard
// library again.
func cache(t *testing.T) string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return t.TempDir()
	}
	return dir
}

func start(t *testing.T) string {
	cfg := platform.AllInOneConfig{
		Listen: "127.0.0.1:0", Log: platform.Log{LogLevel: "warn", LogFormat: "text"}, Keep: platform.Keep{DataDir: t.TempDir()},
		Work: platform.Work{Lease: 15 * time.Second, ReconcileEvery: 250 * time.Millisecond}, Stop: platform.Stop{DrainTimeout: 10 * time.Second},
	}
	rt, err := platform.NewRuntime(t.Context(), "crucible", cfg.Log, t.Output())
	require.NoError(t, err)
	p, err := platform.AllInOne(t.Context(), cfg, rt)
	require.NoError(t, err)
	require.NoError(t, p.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		require.NoError(t, p.Stop(ctx))
	})
	return p.URL()
}

// exits runs a command and checks its exit code: exits 42 crucible submit a.py.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code command args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, expected %d", got, want)
	}
}
