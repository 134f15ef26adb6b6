// Package bench measures a platform through its API, beside bare processes
// that do the same in the same run: the machine's mood is then the same for
// both, and their ratio means something.
package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// Options say what to measure.
type Options struct {
	Latency     int      // samples, one at a time
	Count       int      // evaluations for the throughput
	Concurrency int      // clients at once
	Programs    []string // names of Programs, taken in turn
}

// Figures are what was measured. Times are in milliseconds.
type Figures struct {
	Program     string   `json:"program"` // what ran bare
	Latency     Pair     `json:"latency"`
	Throughput  Rates    `json:"throughput"`
	UnderLoad   Spread   `json:"under_load"` // latency at full concurrency
	Concurrency int      `json:"concurrency"`
	Mix         []string `json:"mix"`
}

// Pair is the latency of an evaluation beside that of a bare process.
type Pair struct {
	Crucible Spread  `json:"crucible"`
	Bare     Spread  `json:"bare"`
	Ratio    float64 `json:"ratio"` // of the medians
}

// Rates are per second.
type Rates struct {
	Crucible float64 `json:"crucible"`
	Bare     float64 `json:"bare,omitempty"`
	Ratio    float64 `json:"ratio,omitempty"`
}

// Spread is a distribution.
type Spread struct {
	Count int     `json:"count"`
	Min   float64 `json:"min"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// rounds is how often the throughput changes between bare and crucible.
const rounds = 4

// Run measures. progress is told what is going on.
func Run(ctx context.Context, api *client.Client, o Options, progress func(string)) (Figures, error) {
	f := Figures{Concurrency: o.Concurrency, Mix: o.Programs}
	bare, err := barePython(ctx)
	if err != nil {
		return f, err
	}
	defer bare.close()
	f.Program = bare.commands[0][0]

	progress("warming up")
	for _, name := range o.Programs {
		if _, err := evaluate(ctx, api, name); err != nil {
			return f, err
		}
	}
	progress("latency: one at a time, in turn with bare processes")
	ours, theirs := make([]time.Duration, 0, o.Latency), make([]time.Duration, 0, o.Latency)
	for range o.Latency {
		d, err := bare.run(ctx)
		if err != nil {
			return f, err
		}
		theirs = append(theirs, d)
		if d, err = evaluate(ctx, api, hello); err != nil {
			return f, err
		}
		ours = append(ours, d)
	}
	f.Latency = Pair{Crucible: spread(ours), Bare: spread(theirs)}
	f.Latency.Ratio = f.Latency.Crucible.P50 / f.Latency.Bare.P50

	bareRun := func(int) (time.Duration, error) { return bare.run(ctx) }
	if len(o.Programs) != 1 || o.Programs[0] != hello {
		bareRun = nil
	}
	progress(fmt.Sprintf("throughput: %d at once", o.Concurrency))
	f.Throughput, f.UnderLoad, err = rates(o.Concurrency, o.Count, bareRun, func(i int) (time.Duration, error) {
		return evaluate(ctx, api, o.Programs[i%len(o.Programs)])
	})
	return f, err
}

// rates measures the throughput of both in turn, and the latency of ours
// meanwhile. bare may be nil.
func rates(concurrency, count int, bare, ours func(i int) (time.Duration, error)) (Rates, Spread, error) {
	var r Rates
	var all []time.Duration
	var took, bareTook time.Duration
	each := max(count/rounds, 1)
	for range rounds {
		if bare != nil {
			_, d, err := load(concurrency, each, bare)
			if err != nil {
				return r, Spread{}, err
			}
			bareTook += d
		}
		times, d, err := load(concurrency, each, ours)
		if err != nil {
			return r, Spread{}, err
		}
		took += d
		all = append(all, times...)
		time.Sleep(roundPause)
	}
	r.Crucible = float64(len(all)) / took.Seconds()
	if bare != nil {
		r.Bare = float64(each*rounds) / bareTook.Seconds()
		r.Ratio = r.Crucible / r.Bare
	}
	return r, spread(all), nil
}

// roundPause lets what a round leaves behind be tidied up before the next one.
const roundPause = 200 * time.Millisecond

// load does something n times by several at once, and returns how long each
// took and how long all of them took.
func load(concurrency, n int, do func(i int) (time.Duration, error)) ([]time.Duration, time.Duration, error) {
	times, errs := make([]time.Duration, n), make([]error, n)
	next := make(chan int)
	var all sync.WaitGroup
	began := time.Now()
	for range concurrency {
		all.Go(func() {
			for i := range next {
				times[i], errs[i] = do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
	return times, time.Since(began), errors.Join(errs...)
}

// evaluate runs one program through the API and checks its answer.
func evaluate(ctx context.Context, api *client.Client, name string) (time.Duration, error) {
	p, ok := programs[name]
	if !ok {
		return 0, fmt.Errorf("there is no program %q to measure: use %v", name, Programs())
	}
	began := time.Now()
	e, err := api.Submit(ctx, eval.Spec{Program: p.program}, client.MaxWait, "")
	if err == nil && !e.Status.Terminal() {
		e, err = api.Await(ctx, e.ID)
	}
	took := time.Since(began)
	switch {
	case err != nil:
		return took, err
	case e.Failure != nil:
		return took, fmt.Errorf("evaluation %s is %s: %s", e.ID, e.Status, e.Failure.Message)
	case e.Result == nil || e.Verdict != eval.Accepted || string(e.Result.Stdout.Data) != p.stdout:
		return took, fmt.Errorf("evaluation %s of program %s has the wrong outcome: %s %s", e.ID, name, e.Status, e.Verdict)
	}
	return took, nil
}

func spread(times []time.Duration) Spread {
	if len(times) == 0 {
		return Spread{}
	}
	sorted := slices.Sorted(slices.Values(times))
	at := func(part float64) float64 {
		return float64(sorted[min(int(part*float64(len(sorted))), len(sorted)-1)].Microseconds()) / 1000
	}
	return Spread{Count: len(sorted), Min: at(0), P50: at(0.5), P90: at(0.9), P99: at(0.99), Max: at(1)}
}
