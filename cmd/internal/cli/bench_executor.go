package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/bench"
	"github.com/crucible-eval/crucible/cmd/internal/platform"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// executors measures the executor at a URL, or one of each level.
func (c *BenchCmd) executors(s *session) error {
	if c.CPUProfile != "" {
		end, err := profile(c.CPUProfile)
		if err != nil {
			return err
		}
		defer end()
	}
	var rows []bench.Row
	if c.ExecutorURL != "" {
		more, err := c.measure(s, c.ExecutorURL, c.ExecutorToken.Reveal())
		if err != nil {
			return err
		}
		return printRows(s, more)
	}
	levels := c.Isolation
	if len(levels) == 0 {
		levels = []string{""}
	}
	for _, level := range levels {
		more, err := c.measureNew(s, platform.Sandbox{Slots: c.Slots, Isolation: level, AllowUnsafe: level == "none", Warm: string(eval.WarmFork)})
		if err != nil {
			return err
		}
		rows = append(rows, more...)
	}
	return printRows(s, rows)
}

func (c *BenchCmd) measure(s *session, url, token string) ([]bench.Row, error) {
	d := bench.NewDoor(url, token, c.Concurrency)
	defer d.Close()
	p := paintFor(s.stderr)
	var modes []eval.Warm
	for _, mode := range c.Warm {
		modes = append(modes, eval.Warm(mode))
	}
	return bench.Executor(s.ctx, d, bench.ExecutorOptions{
		Programs: c.Programs, Warm: modes, Latency: c.Latency, Count: c.Count, Concurrency: c.Concurrency,
	}, func(what string) { fmt.Fprintln(s.stderr, p.faint(what)) })
}

// measureNew starts an executor for as long as it is measured. Its log has
// warnings only, on the standard error.
func (c *BenchCmd) measureNew(s *session, sandbox platform.Sandbox) (rows []bench.Row, err error) {
	cfg := platform.ExecutorConfig{Listen: "127.0.0.1:0", Sandbox: sandbox}
	cfg.LogLevel, cfg.LogFormat, cfg.DrainTimeout = "warn", "auto", 10*time.Second
	rt, err := platform.NewRuntime(s.ctx, "executor", cfg.Log, s.stderr)
	if err != nil {
		return nil, err
	}
	p, err := platform.Executor(s.ctx, cfg, rt)
	if err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(s.hard, cfg.DrainTimeout)
		defer cancel()
		err = errors.Join(err, p.Stop(ctx))
	}()
	if err := p.Start(s.ctx); err != nil {
		return nil, err
	}
	return c.measure(s, p.URL(), "")
}

func printRows(s *session, rows []bench.Row) error {
	if s.json {
		return writeJSON(s.stdout, map[string]any{"rows": rows})
	}
	var cells [][]string
	for _, r := range rows {
		l := r.Latency
		line := []string{
			r.Program, r.Isolation, starts(r.Starts), fine(l.Bare.P50), fine(l.Crucible.P50), fine(l.Crucible.P90), fine(l.Crucible.P99),
			fmt.Sprintf("%+.2f", r.Over), fmt.Sprintf("%.2f", l.Ratio), "", "", "",
		}
		if t := r.Throughput; t.Bare > 0 {
			line[9], line[10], line[11] = fmt.Sprintf("%.0f/s", t.Bare), fmt.Sprintf("%.0f/s", t.Crucible), fmt.Sprintf("%.2f", t.Ratio)
		}
		cells = append(cells, line)
	}
	return table(s.stdout, "PROGRAM\tISOLATION\tSTART\tBARE MS\tP50\tP90\tP99\tADDS\tRATIO\tBARE RATE\tRATE\tRATIO", cells)
}

// starts lists how runs began, the commonest first.
func starts(counts map[eval.Start]int) string {
	var names []string
	for _, start := range slices.SortedFunc(maps.Keys(counts), func(a, b eval.Start) int { return counts[b] - counts[a] }) {
		names = append(names, string(start))
	}
	return strings.Join(names, ",")
}

// fine is a time in milliseconds, where hundredths count.
func fine(v float64) string { return fmt.Sprintf("%.2f", v) }
