package worker

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/pkg/egress"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/live"
	"github.com/crucible-eval/crucible/pkg/task"
)

// Config are the settings of a worker. A zero field takes its default.
type Config struct {
	// Name is what leases are held under: no two processes may have the same. Default: host, process and a random part.
	Name    string
	Version string // of the program, for the list of workers
	// Concurrency is how many evaluations run at once. Default: the sum of the executors' slots.
	Concurrency int
	// Lease is how long a worker that vanished keeps its evaluations. Default: 15 s.
	Lease time.Duration
	// Beat is the time between two renewals of a lease: at most a third of it. Default: a third of it.
	Beat time.Duration
	// Reconcile is the time between two looks for evaluations that the queue has lost. Default: 250 ms.
	Reconcile time.Duration
	// Again is how long an evaluation that waits in the queue is trusted to be there. Default: 15 s.
	Again time.Duration
	// Window is how many evaluations of one priority wait in the queue at least, while more wait in the store for their
	// turn. More do where there are many slots, or where they are taken quickly. Default: 8.
	Window int
	// Mirror is the time between two comparisons of the dead letters with the queue's archive. Default: 5 s.
	Mirror time.Duration
	// CheckInterval is how often an idle worker looks into the queue: most of the delay of a submission. Each look is
	// one command per queue. Default: 10 ms; 5 ms where Redis is in the same process.
	CheckInterval time.Duration
	// Drain is how long a stop lets evaluations end by themselves before it gives them back. Default: 30 s.
	Drain time.Duration
	// Callbacks is how ended evaluations reach the URLs that their clients gave. Default: not at all.
	Callbacks *Callbacks
}

// Callbacks are the settings of their delivery. A zero field takes its default.
type Callbacks struct {
	Guard *egress.Guard // what may be reached; required
	// Secrets sign the requests: each is whsec_ and the base64 of 24 to 64 bytes. One is required; more are for the
	// time in which receivers change from one to the next.
	Secrets []string
	// Payload makes the body of a request; required.
	Payload func(eval.Evaluation) ([]byte, error)
	Timeout time.Duration // of one request. Default: 10 s
	Every   time.Duration // between two looks for what is due. Default: 1 s
	AtOnce  int           // requests at once. Default: 32
	PerHost int           // of those, to one host. Default: 4
}

// NamedExecutor is an executor and the name that people know it by: its URL, or "local".
type NamedExecutor struct {
	Name     string
	Executor eval.Executor
}

// Deps is what a worker works with. It closes none of it.
type Deps struct {
	// Store holds the evaluations. Give one that announces its changes (live.Announcing): those who wait for a result
	// are woken by that.
	Store     eval.Store
	Blobs     eval.Blobs
	Executors []NamedExecutor
	Redis     *task.Redis
	Live      *live.Live // default: a new one over Redis
	Logger    *slog.Logger
	Registry  *prometheus.Registry
}

// resolve fills in the defaults, or says what is wrong.
func (c Config) resolve(embedded bool) (Config, error) {
	look := 10 * time.Millisecond
	if embedded {
		look = 5 * time.Millisecond
	}
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "worker"
		}
		c.Name = fmt.Sprintf("%s-%d-%s", host, os.Getpid(), strings.ToLower(rand.Text()[:6]))
	}
	for _, d := range []struct {
		name         string
		value        *time.Duration
		usual, least time.Duration
	}{
		// Below these, stores and queues would do nothing but answer.
		{"lease", &c.Lease, 15 * time.Second, 300 * time.Millisecond},
		{"reconcile", &c.Reconcile, 250 * time.Millisecond, 10 * time.Millisecond},
		{"again", &c.Again, 15 * time.Second, time.Second},
		{"check interval", &c.CheckInterval, look, time.Millisecond},
		{"drain", &c.Drain, 30 * time.Second, 0},
	} {
		if *d.value == 0 {
			*d.value = d.usual
		}
		if *d.value < d.least {
			return c, fmt.Errorf("worker: %s is %v: it must be at least %v", d.name, *d.value, d.least)
		}
	}
	if c.Window == 0 {
		c.Window = 8
	}
	if c.Beat == 0 {
		c.Beat = c.Lease / 3
	}
	switch {
	case c.Beat < 0:
		return c, fmt.Errorf("worker: beat is %v: it must be positive", c.Beat)
	case c.Window < 0:
		return c, fmt.Errorf("worker: window is %d: use 1 or more", c.Window)
	case c.Concurrency < 0:
		return c, fmt.Errorf("worker: concurrency is %d: use 1 or more, or 0 for the sum of the executors' slots", c.Concurrency)
	case c.Beat > c.Lease/3:
		return c, fmt.Errorf("worker: beat is %v and lease %v: a beat must be at most a third of the lease, so that one may be lost", c.Beat, c.Lease)
	}
	return c, nil
}
