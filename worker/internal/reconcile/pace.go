package reconcile

import (
	"context"
	"math"
	"sync/atomic"
	"time"
)

const (
	// countEvery is how often the workers are counted.
	countEvery = 2 * time.Second
	// calmFor is the least time between two looks at the line when the first brought little.
	calmFor = 20 * time.Millisecond
)

// pace is how much and how often the queue is fed. What waits in the queue is in the order in which it came, fair or
// not; so as little as possible waits there, and yet so much that no worker finds it empty.
type pace struct {
	claims atomic.Int64  // since the last measurement
	moved  chan struct{} // a worker has taken from the queue or has a free slot

	// Of the reconciler's own goroutine.
	since   time.Time // the last measurement
	taken   float64   // evaluations that this worker takes between two rounds
	slots   int       // of all workers
	counted time.Time
	calm    time.Time // until when nothing more is expected in the line
}

func newPace(slots int) pace { return pace{moved: make(chan struct{}, 1), slots: slots} }

// Claimed tells that the worker has taken an evaluation from the queue. It never waits.
func (r *Reconciler) Claimed() {
	r.pace.claims.Add(1)
	r.Moved()
}

// Moved tells that somebody may be next who was not before. It never waits.
func (r *Reconciler) Moved() {
	select {
	case r.pace.moved <- struct{}{}:
	default:
	}
}

// measure looks at how much is taken. A pace that falls is followed slowly, so that a pause empties nothing.
func (p *pace) measure(ctx context.Context, roster Roster, cfg Config, now time.Time) {
	n := float64(p.claims.Swap(0))
	if !p.since.IsZero() {
		p.taken = max(n*cfg.Every.Seconds()/max(now.Sub(p.since), time.Millisecond).Seconds(), p.taken/2)
	}
	p.since = now
	if now.Sub(p.counted) < countEvery {
		return
	}
	p.counted = now
	call, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	workers, err := roster.Workers(call)
	if err != nil {
		return // the last count holds
	}
	p.slots = cfg.Slots
	for _, w := range workers {
		if w.ID != cfg.Worker && !w.Draining && !w.Lost {
			p.slots += w.Slots
		}
	}
}

// window is how many of one priority may wait in the queue: two for each slot, or what all workers take between two
// rounds, the others as quickly as this one.
func (p *pace) window(cfg Config) int {
	taken := p.taken * float64(p.slots) / float64(max(cfg.Slots, 1))
	return max(cfg.Window, 2*p.slots, int(math.Ceil(taken)))
}

// fed notes what the line brought. As long as it fills a good part of the window, it is looked at whenever a worker
// takes something.
func (p *pace) fed(n, window int) {
	if n < max(window/4, 1) {
		p.calm = time.Now().Add(calmFor)
	}
}
