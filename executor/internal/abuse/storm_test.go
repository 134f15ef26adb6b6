//go:build linux

package abuse_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/abuse"
)

// storm is how many hostile runs there are in a row, several at once, and the
// time after which a short test has seen enough.
const (
	storm      = 1000
	shortStorm = 3 * time.Second
)

// whole tells whether everything is asked for, however long it takes.
func whole() bool { return os.Getenv("CRUCIBLE_ABUSE") == "whole" }

// storm does many hostile runs beside ordinary ones, and then holds the host
// and the memory of executor and launcher to what they were.
func (r *rig) storm(t *testing.T, before state) {
	var attacks []abuse.Case
	for _, c := range abuse.Cases() {
		if c.Program.Language == abuse.Hostile && c.Promised(r.level).Not == "" {
			attacks = append(attacks, c)
		}
	}
	// The same each time, so that what goes wrong can be seen again.
	rng := rand.New(rand.NewPCG(3, 1000))
	order := make([]abuse.Case, storm)
	for i := range order {
		order[i] = attacks[rng.IntN(len(attacks))]
	}
	heap := heapInUse()
	rss := launcherMemory(t)
	deadline := time.Now().Add(shortStorm)
	stop := r.neighbour(t.Context())
	var next, done atomic.Int64
	var working sync.WaitGroup
	for range slots - 1 {
		working.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= storm || !whole() && time.Now().After(deadline) {
					return
				}
				p := order[i].Program
				p.Limits.WallMS, p.Limits.CPUMS, p.Limits.MemoryBytes = 150, 100, 48<<20
				// Whatever comes out: the platform must not fail.
				if _, err := r.do(context.WithoutCancel(t.Context()), p); err != nil {
					t.Errorf("%s: %v", order[i].Name, err)
				}
				done.Add(1)
			}
		})
	}
	working.Wait()
	runs, err := stop()
	require.NoError(t, err)
	require.Positive(t, done.Load())
	took, diff := settle(t, before, r.folders...)
	if diff != "" {
		t.Errorf("the host is not as it was after %v: %s", took, diff)
	}
	if grown := int64(heapInUse()) - int64(heap); grown > 32<<20 {
		t.Errorf("the executor's heap has grown by %d bytes", grown)
	}
	if grown := launcherMemory(t) - rss; grown > 64<<20 {
		t.Errorf("the launcher has grown by %d bytes", grown)
	}
	t.Logf("%d hostile runs beside %d ordinary ones; the host as before after %v", done.Load(), runs, took.Round(time.Millisecond))
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// launcherMemory is what this process's children hold, in bytes.
func launcherMemory(t testing.TB) int64 {
	t.Helper()
	var bytes int64
	tree := processTree(t)
	for pid, p := range tree {
		if p.parent != os.Getpid() {
			continue
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			var kib int64
			if n, _ := fmt.Sscanf(line, "RssAnon: %d kB", &kib); n == 1 {
				bytes += kib << 10
			}
		}
	}
	return bytes
}
