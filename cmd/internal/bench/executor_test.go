//go:build linux

package bench_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/cmd/internal/bench"
	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
)

func TestMain(m *testing.M) {
	executor.MaybeInit()
	os.Exit(m.Run())
}

func TestAnExecutorIsMeasuredBesideBareProcesses(t *testing.T) {
	local, err := executor.Open(t.Context(), executor.Config{Languages: []string{"bash"}, CacheDir: t.TempDir(), Slots: 1}, nil, nil)
	if err != nil {
		if os.Getenv("REQUIRE_SERVICES") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	defer func() { require.NoError(t, local.Close()) }()
	s, err := executor.New(executor.ServiceConfig{Listen: "127.0.0.1:0"}, local, nil, nil)
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context()))
	defer func() { require.NoError(t, s.Stop(t.Context())) }()

	d := bench.NewDoor(s.URL(), "", 4)
	defer d.Close()
	// More clients than the executor takes on at once: those that are refused
	// ask again, and every run is counted once.
	rows, err := bench.Executor(t.Context(), d, bench.ExecutorOptions{
		Programs: []string{"bash"}, Latency: 3, Count: 16, Concurrency: 4,
	}, func(string) {})
	require.NoError(t, err)
	require.Len(t, rows, 1)
	r := rows[0]
	require.Equal(t, "bash", r.Program)
	require.NotEmpty(t, r.Isolation)
	require.Equal(t, 3, r.Latency.Crucible.Count)
	require.Equal(t, 3, r.Starts[eval.StartBox]+r.Starts[eval.StartCold])
	require.Equal(t, 3, r.Latency.Bare.Count)
	require.Positive(t, r.Latency.Bare.Min)
	require.Equal(t, 16, r.UnderLoad.Count)
	require.Positive(t, r.Throughput.Ratio)

	_, err = bench.Executor(t.Context(), d, bench.ExecutorOptions{Programs: []string{"cobol"}}, func(string) {})
	require.ErrorContains(t, err, "cobol")
}
