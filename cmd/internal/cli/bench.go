package cli

import (
	"errors"
	"fmt"
	"os"
	"runtime/pprof"

	"github.com/crucible-eval/crucible/cmd/internal/bench"
	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/cmd/internal/platform"
	"github.com/crucible-eval/crucible/pkg/config"
)

// BenchCmd measures a platform, or an executor by itself.
type BenchCmd struct {
	URL         string        `name:"url" placeholder:"URL" help:"Measure this API. Default: start a platform in a temporary folder."`
	Token       config.Secret `env:"CRUCIBLE_TOKEN" nofile:"" placeholder:"KEY" help:"API key to send."`
	RedisURL    config.URL    `name:"redis-url" placeholder:"URL" help:"The Redis of the platform that is started."`
	DatabaseURL config.URL    `name:"database-url" placeholder:"URL" help:"The PostgreSQL of the platform that is started."`
	Slots       int           `help:"Slots of the platform that is started. 0: one for each CPU."`

	Concurrency int      `default:"4" help:"Clients at once."`
	Count       int      `short:"n" default:"200" help:"Evaluations for the throughput."`
	Latency     int      `default:"50" help:"Evaluations one at a time, each beside a bare python3."`
	Mix         []string `default:"hello" help:"Programs to send in turn: bash, hello, javascript, sum. Bare processes run beside hello alone."`

	Fair       bool          `help:"Measure how long a few evaluations of one client take right behind the burst of another: of the first of --mix."`
	Burst      int           `default:"10000" help:"Evaluations in the burst."`
	Few        int           `default:"10" help:"Evaluations of the other client."`
	OtherToken config.Secret `name:"other-token" env:"CRUCIBLE_OTHER_TOKEN" nofile:"" placeholder:"KEY" help:"API key of the other client, with --fair and --url."`

	Executor      bool          `help:"Measure an executor by itself, through its HTTP door: one is started at each --isolation."`
	ExecutorURL   string        `name:"executor-url" placeholder:"URL" help:"Measure this executor."`
	ExecutorToken config.Secret `name:"executor-token" env:"CRUCIBLE_SERVICE_TOKEN" nofile:"" placeholder:"TOKEN" help:"Token to send it."`
	Programs      []string      `default:"bash,compiled,python,javascript,c" help:"Programs to post to the executor: bash (exit 0), compiled (one more run of a compiled C program), python and javascript (hello), c (compile hello and run it)."`
	Warm          []string      `enum:"off,prestart,fork" help:"How far the executor may go to spare a run its interpreter's start; one row for each. Default: as far as it does."`
	Isolation     []string      `placeholder:"LEVEL" help:"Levels of the executors that are started, one after the other. Default: the one that would be chosen."`

	CPUProfile string `name:"cpu-profile" placeholder:"FILE" type:"path" help:"Write a CPU profile of this process: of the platform too, when it is started here."`
}

// Run implements a kong command.
func (c *BenchCmd) Run(s *session) (err error) {
	if c.Concurrency < 1 || c.Count < 1 || c.Latency < 1 {
		return withCode{errors.New("--concurrency, --count and --latency are 1 or more"), exitUsage}
	}
	if c.Executor || c.ExecutorURL != "" {
		return c.executors(s)
	}
	if c.Fair {
		return c.fair(s)
	}
	api, stop, err := c.platform(s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if c.CPUProfile != "" {
		end, err := profile(c.CPUProfile)
		if err != nil {
			return err
		}
		defer end()
	}
	p := paintFor(s.stderr)
	f, err := bench.Run(s.ctx, api, bench.Options{Latency: c.Latency, Count: c.Count, Concurrency: c.Concurrency, Programs: c.Mix},
		func(what string) { fmt.Fprintln(s.stderr, p.faint(what)) })
	if err != nil {
		return err
	}
	if s.json {
		return writeJSON(s.stdout, f)
	}
	return printFigures(s, f)
}

func (c *BenchCmd) platform(s *session) (*client.Client, func() error, error) {
	if c.URL == "" {
		return embedded(s, platform.AllInOneConfig{
			Queue: platform.Queue{RedisURL: c.RedisURL}, Keep: platform.Keep{DatabaseURL: c.DatabaseURL}, Sandbox: platform.Sandbox{Slots: c.Slots},
		}, c.Concurrency)
	}
	api, err := client.New(c.URL, c.Token.Reveal(), c.Concurrency)
	return api, func() error { return nil }, err
}

func profile(name string) (end func(), err error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close() // a profile that is cut shows when it is read
	}, nil
}

func printFigures(s *session, f bench.Figures) error {
	row := func(name string, d bench.Spread) []string {
		return []string{name, fmt.Sprint(d.Count), ms(d.Min), ms(d.P50), ms(d.P90), ms(d.P99), ms(d.Max)}
	}
	rows := [][]string{
		row("bare python3", f.Latency.Bare),
		row("crucible", f.Latency.Crucible),
		row(fmt.Sprintf("crucible, %d at once", f.Concurrency), f.UnderLoad),
	}
	if err := table(s.stdout, "LATENCY\tCOUNT\tMIN\tP50\tP90\tP99\tMAX", rows); err != nil {
		return err
	}
	fmt.Fprintf(s.stdout, "\nhello through ?wait takes %.2f times bare python3 (medians; %s)\n", f.Latency.Ratio, f.Program)
	if f.Throughput.Bare > 0 {
		fmt.Fprintf(s.stdout, "throughput %.1f a second, bare %.1f: %.0f %%\n", f.Throughput.Crucible, f.Throughput.Bare, 100*f.Throughput.Ratio)
	} else {
		fmt.Fprintf(s.stdout, "throughput %.1f a second\n", f.Throughput.Crucible)
	}
	return nil
}
