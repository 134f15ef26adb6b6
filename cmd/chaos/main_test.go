//go:build chaos && linux

package chaos_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/pkg/testkit"
)

// options are the flags of a run.
var options struct {
	evaluations, faults int
	seed                uint64
	rate                float64
	fast                bool
	only                string
	output              string
	markdown            string
	keep                string
	program             string
}

func init() {
	flag.IntVar(&options.evaluations, "evaluations", 10_000, "how many evaluations to submit at least")
	flag.IntVar(&options.faults, "faults", 100, "how many faults to inject")
	flag.Uint64Var(&options.seed, "seed", 1, "decides the order of faults, their victims, and the programs")
	flag.Float64Var(&options.rate, "rate", 12, "evaluations a second while faults are injected")
	flag.BoolVar(&options.fast, "fast", false, "short leases and short outages, instead of the defaults that users have")
	flag.StringVar(&options.only, "only", "", "only these kinds of fault, by comma; the report's first column has the names")
	flag.StringVar(&options.output, "o", "text", "how to print the report: text or json")
	flag.StringVar(&options.markdown, "markdown", "", "write the report between the marks of this page")
	flag.StringVar(&options.program, "program", "", "the built crucible; without it, one is built")
	flag.StringVar(&options.keep, "keep", "", "keep the logs of all processes in this folder; otherwise those of a failed run stay where its end says")
}

// timings are how long things take in a run.
type timings struct {
	Lease     time.Duration `json:"lease"`     // of workers; beats are a third of it
	Reconcile time.Duration `json:"reconcile"` // between two looks of the reconciler
	Again     time.Duration `json:"again"`     // how long the queue is trusted to have what was put into it
	Worker    time.Duration `json:"worker"`    // how long a worker is frozen or cut off
	Redis     time.Duration `json:"redis"`     // how long Redis is frozen
	Outage    time.Duration `json:"outage"`    // how long other things last: a full disk, a slow or frozen database
	Restart   time.Duration `json:"restart"`   // until what died is started again, as a supervisor would
	Nap       time.Duration `json:"nap"`       // how long the programs take that are there to be lost
}

// usual are the timings of crucible's defaults; quick are those of -fast.
var (
	usual = timings{Lease: 15 * time.Second, Reconcile: 250 * time.Millisecond, Again: 15 * time.Second, Worker: 20 * time.Second, Redis: 45 * time.Second, Outage: 5 * time.Second, Restart: 500 * time.Millisecond, Nap: time.Second}
	quick = timings{Lease: 3 * time.Second, Reconcile: 100 * time.Millisecond, Again: 2 * time.Second, Worker: 4 * time.Second, Redis: 4 * time.Second, Outage: time.Second, Restart: 200 * time.Millisecond, Nap: 500 * time.Millisecond}
)

// program is the built crucible.
var program string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(build(m))
}

func build(m *testing.M) int {
	// What loses its parent comes to us instead of to init, so that it is found at the end.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if program = options.program; program == "" {
		dir, err := os.MkdirTemp("", "crucible-chaos-build-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		program = filepath.Join(dir, "crucible")
		if err := compile(program); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return testkit.Services(m).Run()
}

// compile builds crucible as it is shipped, but for what more says.
func compile(to string, more ...string) error {
	args := append(append([]string{"build"}, more...), "-o", to, "github.com/crucible-eval/crucible/cmd/crucible")
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func TestNothingIsLost(t *testing.T) {
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := newCluster(t, ctx)
	kinds := c.kinds()
	report := newReport(c, kinds)

	c.say("%d evaluations and %d faults of %d kinds, seed %d", options.evaluations, options.faults, len(kinds), options.seed)
	c.load.start(ctx)
	for _, s := range plan(kinds, options.faults, options.seed) {
		if ctx.Err() != nil || c.unwell() {
			break
		}
		c.inject(ctx, s, report)
	}
	c.load.finish(ctx, options.evaluations)
	c.hunters.Wait()
	require.NoError(t, context.Cause(ctx), "interrupted")
	c.check(ctx, report)
	c.stop()
	c.checkLeftovers(report)
	report.finish(c)

	require.NoError(t, report.print(os.Stdout))
	require.Empty(t, report.Problems, "what must hold does not")
	if options.markdown != "" {
		require.NoError(t, report.writeMarkdown(options.markdown))
	}
}
