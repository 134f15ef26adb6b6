//go:build chaos && linux

package chaos_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// fault is a way to hurt the cluster.
type fault struct {
	name string
	what string // for the report
	// weight is how often it occurs, beside the others.
	weight int
	// lasts is the time from its begin to its end.
	lasts time.Duration
	// healed has the recovery measured from the end of the fault, of what is in flight then: nothing can go on before.
	healed bool
	// alone keeps it from being one of two at once.
	alone bool
	// calm has it wait until no poison is hunted any more.
	calm bool
	// load are naps that are submitted just before, and how long each is: so that there is something to lose.
	load int
	nap  time.Duration
	// begin does the harm, and returns what ends it, or nil. Both are called by the test's goroutine.
	begin func(ctx context.Context, r *rand.Rand) (end func())
}

// strike is one injection: a fault, or two at once, with the randomness that chooses the victims.
type strike struct {
	faults []fault
	random *rand.Rand
}

func (s strike) name() string {
	var names []string
	for _, f := range s.faults {
		names = append(names, f.name)
	}
	return strings.Join(names, " + ")
}

// mixed is what two at once are called in the report.
const mixed = "two at once"

// control is a strike without harm. It is not counted.
const control = "nothing"

// plan chooses n faults, in an order that the seed decides: first each kind once, then as often as their weights say,
// and now and then two at once, which count as two.
func plan(kinds []fault, n int, seed uint64) []strike {
	r := rand.New(rand.NewPCG(seed, 2))
	var all []strike
	add := func(faults ...fault) {
		all = append(all, strike{slices.Clone(faults), rand.New(rand.NewPCG(seed, uint64(len(all))))})
		if faults[0].name != control {
			n -= len(faults)
		}
	}
	shuffled := func(faults []fault) []fault {
		r.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
		return faults
	}
	var weighted []fault
	for _, f := range kinds {
		weighted = append(weighted, slices.Repeat([]fault{f}, f.weight)...)
	}
	together := slices.DeleteFunc(slices.Clone(kinds), func(f fault) bool { return f.alone })
	for round := shuffled(slices.Clone(kinds)); n > 0; round = shuffled(slices.Clone(weighted)) {
		for i, f := range round {
			if n > 0 {
				add(f)
			}
			if n > 1 && len(together) > 1 && i%8 == 7 {
				add(shuffled(together)[:2]...)
			}
		}
	}
	return all
}

// inject does the harm, ends it, and waits until everything that was in flight has gone on.
func (c *cluster) inject(ctx context.Context, s strike, report *report) {
	var hold []*item
	for _, f := range s.faults {
		if f.calm {
			c.hunters.Wait()
		}
		hold = append(hold, c.load.burst(ctx, f.load, nap(f.nap))...)
	}
	if len(hold) > 0 { // one of them runs, or has run, when the fault comes
		limited, cancel := context.WithTimeout(ctx, 5*time.Second)
		_ = c.history.until(limited, hold[0].id, func(events []eval.Event) bool { return len(events) > 1 })
		cancel()
	}

	since, ids := time.Now(), c.load.open()
	var lasts time.Duration
	var healed bool
	var ends []func()
	for _, f := range s.faults {
		if end := f.begin(ctx, s.random); end != nil {
			ends = append(ends, end)
		}
		lasts, healed = max(lasts, f.lasts), healed || f.healed
	}
	select {
	case <-ctx.Done():
	case <-time.After(lasts - min(lasts, time.Since(since))): // the fault's own time
	}
	for _, end := range ends {
		end()
	}
	if healed {
		since, ids = time.Now(), c.load.open()
	}
	samples, slowest, stuck := c.recovery(ctx, since, ids)
	report.add(s, samples)
	longest := time.Duration(0)
	if len(samples) > 0 {
		longest = slices.Max(samples)
	}
	c.say("%3d/%d  %-40s %3d in flight, %6.2f s until all went on; %d accepted", report.Strikes, options.faults, s.name(), len(samples), longest.Seconds(), c.load.count())
	c.note("at %s; the slowest, %s: %s", since.UTC().Format("15:04:05.000"), slowest, told(c.history.of(slowest)))
	if len(stuck) > 0 {
		c.load.problem("%v after %s these do not go on: %v", patience, s.name(), stuck)
	}
	c.awaitReady()
}

// recovery waits until all of these evaluations, except those that had ended before since, were claimed or have ended
// after it, and returns how long each took, which took longest, and which did not get there.
func (c *cluster) recovery(ctx context.Context, since time.Time, ids []eval.ID) (samples []time.Duration, slowest eval.ID, stuck []eval.ID) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, id := range ids {
		var at time.Time
		var over bool
		err := c.history.until(ctx, id, func(events []eval.Event) (ok bool) {
			at, over, ok = progress(events, since)
			return ok
		})
		switch {
		case err != nil:
			stuck = append(stuck, id)
			samples = append(samples, patience)
		case !over:
			samples = append(samples, at.Sub(since))
		default:
			continue
		}
		if samples[len(samples)-1] == slices.Max(samples) {
			slowest = id
		}
	}
	return samples, slowest, stuck
}

// chosen are the kinds that the flags ask for.
func chosen(kinds []fault) []fault {
	if options.only == "" {
		return kinds
	}
	names := strings.Split(options.only, ",")
	for _, name := range names {
		if !slices.ContainsFunc(kinds, func(f fault) bool { return f.name == name }) {
			panic(fmt.Sprintf("-only: there is no fault %q here", name))
		}
	}
	return slices.DeleteFunc(kinds, func(f fault) bool { return !slices.Contains(names, f.name) })
}
