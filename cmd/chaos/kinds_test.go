//go:build chaos && linux

package chaos_test

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// kinds lists the faults that this machine and these flags allow.
func (c *cluster) kinds() []fault {
	all := slices.Concat(c.kills(), c.freezes(), c.cuts(), c.disksFull(), c.queueFaults(), c.poisons(), c.others())
	return chosen(all)
}

// kill9 kills one of the services; its supervisor starts it again.
func (c *cluster) kill9(name string, victims ...*daemon) fault {
	return fault{
		name: "kill " + name, what: "kill -9, started again after " + c.timings.Restart.String(), weight: 2, load: 6, nap: c.timings.Nap,
		begin: func(_ context.Context, r *rand.Rand) func() {
			victims[r.IntN(len(victims))].kill()
			return nil
		},
	}
}

func (c *cluster) kills() []fault {
	return []fault{
		c.kill9("api", c.api), c.kill9("worker", c.workers...), c.kill9("executor", c.runners...), c.kill9("storage", c.storage),
		{
			name: "kill redis", what: "kill -9, started again empty", weight: 2, load: 6, nap: napTick,
			begin: func(context.Context, *rand.Rand) func() {
				c.redis.Kill9()
				c.redis.Start()
				return nil
			},
		},
		{
			name: "kill postgres", what: "kill -9 of all its processes, started again on its data", weight: 2, load: 6, nap: c.timings.Nap,
			begin: func(context.Context, *rand.Rand) func() {
				c.storage.excuse() // one that starts just now cannot
				c.postgres.Kill9()
				c.postgres.Start()
				return nil
			},
		},
	}
}

func (c *cluster) freezes() []fault {
	return []fault{
		{
			name: "freeze worker", what: "SIGSTOP for longer than its lease", weight: 1, load: 6, nap: c.timings.Nap, lasts: c.timings.Worker,
			begin: func(_ context.Context, r *rand.Rand) func() {
				victim := c.workers[r.IntN(len(c.workers))]
				victim.signal(syscall.SIGSTOP)
				return func() { victim.signal(syscall.SIGCONT) }
			},
		},
		{
			name: "freeze executor", what: "SIGSTOP of the executor, whose programs run on", weight: 1, load: 6, nap: c.timings.Nap, lasts: c.timings.Outage,
			begin: func(_ context.Context, r *rand.Rand) func() {
				victim := c.runners[r.IntN(len(c.runners))]
				victim.signal(syscall.SIGSTOP)
				return func() { victim.signal(syscall.SIGCONT) }
			},
		},
		{
			name: "freeze redis", what: "SIGSTOP", weight: 1, load: 6, nap: napTick, lasts: c.timings.Redis, healed: true,
			begin: func(context.Context, *rand.Rand) func() { c.redis.Pause(); return c.redis.Resume },
		},
		{
			name: "freeze postgres", what: "SIGSTOP of all its processes", weight: 1, load: 6, nap: napTick, lasts: c.timings.Outage, healed: true,
			begin: func(context.Context, *rand.Rand) func() { c.postgres.Pause(); return c.postgres.Resume },
		},
	}
}

func (c *cluster) cuts() []fault {
	return []fault{
		{
			name: "cut runs", what: "reset of all connections to an executor in mid-run", weight: 2, load: 6, nap: c.timings.Nap,
			begin: func(_ context.Context, r *rand.Rand) func() {
				c.toRunner[r.IntN(len(c.toRunner))].cut()
				return nil
			},
		},
		{
			name: "cut off worker", what: "nothing passes between a worker and storage, for longer than its lease", weight: 1, load: 6, nap: c.timings.Nap, lasts: c.timings.Worker,
			begin: func(_ context.Context, r *rand.Rand) func() {
				victim := c.toStore[r.IntN(len(c.toStore))]
				victim.hold()
				return victim.release
			},
		},
		{
			name: "cut database", what: "reset of all connections between storage and PostgreSQL", weight: 1, load: 6, nap: napTick,
			begin: func(context.Context, *rand.Rand) func() { c.database.cut(); return nil },
		},
		{
			name: "slow database", what: "100 ms more each way between storage and PostgreSQL", weight: 1, load: 6, nap: napTick, lasts: c.timings.Outage, healed: true,
			begin: func(context.Context, *rand.Rand) func() {
				c.database.slow(100 * time.Millisecond)
				return func() { c.database.slow(0) }
			},
		},
	}
}

// disksFull are there where we may mount small file systems.
func (c *cluster) disksFull() []fault {
	var all []fault
	for _, what := range []string{"blobs", "database"} {
		disk, ok := c.disks[what]
		if !ok {
			c.say("left out: a full disk for %s, which takes root", what)
			continue
		}
		all = append(all, fault{
			name: "disk full: " + what, what: "no byte left on its file system", weight: 1, load: 6, nap: napTick, lasts: c.timings.Outage, healed: true,
			begin: func(ctx context.Context, r *rand.Rand) func() {
				filler := filepath.Join(disk, "filler")
				c.fill(filler)
				if what == "blobs" {
					for range 3 { // what cannot be kept now, and was not before
						c.load.submit(ctx, largeJob(1_000_000+r.IntN(1_000_000_000), r))
					}
				}
				return func() {
					require.NoError(c.t, os.Remove(filler))
					c.postgres.Start() // it may have given up
				}
			},
		})
	}
	return all
}

// fill takes all space that is left where the file is.
func (c *cluster) fill(name string) {
	f, err := os.Create(name)
	require.NoError(c.t, err)
	defer func() { _ = f.Close() }()
	size := int64(0)
	for step := int64(64 << 20); step >= 4096; {
		if unix.Fallocate(int(f.Fd()), 0, size, step) == nil {
			size += step
		} else {
			step /= 2
		}
	}
}

const wrongClock = "wrong clock"

func (c *cluster) others() []fault {
	all := []fault{
		{
			name: control, what: "no fault: what the measure says of a healthy cluster", weight: 1, load: 6, nap: c.timings.Nap, alone: true,
			begin: func(context.Context, *rand.Rand) func() { return nil }, calm: true,
		},
		{
			name: "rolling restart", what: "SIGTERM of each service, one after the other", weight: 1, load: 6, nap: c.timings.Nap, alone: true,
			begin: func(context.Context, *rand.Rand) func() {
				for _, d := range c.daemons() {
					require.NoError(c.t, d.renew(time.Minute))
				}
				return nil
			},
		},
	}
	if options.fast {
		return all // the build would take longer than the run
	}
	skewed := ""
	if options.only == "" || strings.Contains(options.only, wrongClock) {
		c.say("building a crucible with a wrong clock")
		skewed = compileSkewed(c.t, c.dir)
	}
	return append(all, fault{
		name: wrongClock, what: "a service runs with a wall clock that is an hour or a day off, ahead or behind", weight: 2, load: 6, nap: c.timings.Nap, lasts: c.timings.Outage, alone: true,
		begin: func(_ context.Context, r *rand.Rand) func() {
			all := c.daemons()
			victim := all[r.IntN(len(all))]
			by := []time.Duration{time.Hour, -time.Hour, 24 * time.Hour, -24 * time.Hour}[r.IntN(4)]
			victim.disguise(skewed, by)
			require.NoError(c.t, victim.renew(time.Minute))
			return func() {
				victim.disguise(program, 0)
				require.NoError(c.t, victim.renew(time.Minute))
			}
		},
	})
}
