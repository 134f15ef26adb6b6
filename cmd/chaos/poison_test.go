//go:build chaos && linux

package chaos_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// poisons are programs that take down whoever runs them. No program can do that to the built crucible, as far as we
// know, so the harness does it: whichever process has the program in hand is killed, each time, until the platform
// gives it up. That takes several leases; other faults go on meanwhile.
func (c *cluster) poisons() []fault {
	poison := func(name, what string, hunt func(ctx context.Context, it *item)) fault {
		return fault{
			name: name, what: what, weight: 1, load: 4, nap: c.timings.Nap, alone: true,
			begin: func(ctx context.Context, _ *rand.Rand) func() {
				for _, it := range c.load.burst(ctx, 1, poisonJob(name, c.load.count())) {
					c.hunters.Go(func() { hunt(ctx, it) })
				}
				return nil
			},
		}
	}
	return []fault{
		poison("poison for workers", "each worker that runs a certain program is killed, until the program is given up", c.huntWorkers),
		poison("poison for executors", "the same with executors", c.huntExecutors),
	}
}

// poisonKind is the job's kind; those are expected to become dead letters.
const poisonKind = "poison"

func poisonJob(name string, n int) job {
	mark := fmt.Sprintf("%s-%d", strings.ReplaceAll(name, " ", "-"), n)
	spec := source("bash", "echo \"$1\"\nsleep 55\n", mark)
	spec.Limits.WallMS = 60_000
	spec.RetryPolicy = eval.PolicyAggressive
	return job{kind: poisonKind, spec: spec, check: func(e client.Evaluation) error {
		if e.Status != eval.Failed || e.Failure == nil {
			return fmt.Errorf("want failed, got %s %s", e.Status, e.Verdict)
		}
		return nil
	}}
}

// huntWorkers kills the worker that has claimed the evaluation, each time.
func (c *cluster) huntWorkers(ctx context.Context, it *item) {
	for attempt := 1; ; attempt++ {
		worker := ""
		err := c.history.until(ctx, it.id, func(events []eval.Event) bool {
			for _, e := range events {
				if e.Type == eval.EventRunning && e.Attempt == attempt {
					worker = e.Worker
				}
			}
			return worker != "" || ended(events)
		})
		if err != nil || worker == "" {
			return
		}
		// A worker's name is its host, its process and a random part.
		parts := strings.Split(worker, "-")
		pid, _ := strconv.Atoi(parts[max(len(parts)-2, 0)])
		for _, d := range c.workers {
			if d.is(pid) {
				d.kill()
			}
		}
	}
}

// huntExecutors kills the executor below which the program runs, each time.
func (c *cluster) huntExecutors(ctx context.Context, it *item) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ended(c.history.of(it.id)) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, pid := range processesWith(it.spec.Args[0]) {
			for up := pid; up > 1; up = parentOf(up) {
				if i := slices.IndexFunc(c.runners, func(d *daemon) bool { return d.is(up) }); i >= 0 {
					c.runners[i].kill()
					break
				}
			}
		}
	}
}

// processesWith finds the processes that have an argument.
func processesWith(arg string) []int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var pids []int
	for _, f := range files {
		line, err := os.ReadFile(f)
		if err != nil || !slices.ContainsFunc(bytes.Split(line, []byte{0}), func(b []byte) bool { return string(b) == arg }) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// stat reads the state and the parent of a process; "" when there is none.
func stat(pid int) (state string, parent int) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	fields := strings.Fields(string(line[bytes.LastIndexByte(line, ')')+1:]))
	parent, _ = strconv.Atoi(fields[1])
	return fields[0], parent
}

func parentOf(pid int) int { _, parent := stat(pid); return parent }
