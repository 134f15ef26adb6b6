package quota

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/service"
)

const (
	// stale is the age at which counts are taken again, and fresh what they
	// must have before somebody is refused by them.
	stale = 2 * time.Second
	fresh = 100 * time.Millisecond
	// countEvery is how often they are taken while somebody submits.
	countEvery = time.Second
	// countTimeout bounds one count. A submission waits for one at most, and
	// the store has the last word on it anyway.
	countTimeout = 2 * time.Second

	// Who is refused is told to come back when as many as needed have left, by
	// how many have left a second so far: within these bounds.
	soonest = time.Second
	latest  = time.Minute
	// unknown is said before there are two counts to compare.
	unknown = 5 * time.Second
	// memory is how long what was measured counts by more than a third.
	memory = 5 * time.Second
)

// line counts those that wait. A count of the store is a moment old, so what
// this process let in since is added: within one process a limit is exact or
// a little early, never late. What other replicas let in is seen by the next
// count, so together they may let in what the others took in that time.
type line struct {
	source Source

	counting sync.Mutex // held while the store is asked

	mu      sync.Mutex
	at      time.Time // when the last count began
	asked   bool      // somebody submitted since
	counts  map[string]eval.ClientCount
	all     int64
	pending tally // being created now
	before  tally // created before a count that is under way, and not in the last one
	during  tally // created since the last count began: the next one has them for sure
	// How many stopped waiting lately, and in how many seconds: what is older
	// counts less and less.
	left     map[string]float64
	leftAll  float64
	leftTime float64
}

// tally counts evaluations by client.
type tally struct {
	of  map[string]int64
	all int64
}

func (t *tally) add(client string, n int64) {
	if t.of == nil {
		t.of = map[string]int64{}
	}
	t.of[client] += n
	t.all += n
}

func newLine(source Source) *line { return &line{source: source} }

// full says which limit leaves no room, and when it may.
type full struct {
	all         bool // that of all clients
	used, limit int64
	after       time.Duration
}

// reserve takes n places unless a limit is in the way; 0 is no limit.
func (l *line) reserve(client string, n, most, mostOfAll int64) (full, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = true
	used := l.counts[client].Queued + l.before.of[client] + l.during.of[client] + l.pending.of[client]
	if most > 0 && used+n > most {
		return full{used: used, limit: most, after: l.after(used+n-most, l.left[client])}, false
	}
	used = l.all + l.before.all + l.during.all + l.pending.all
	if mostOfAll > 0 && used+n > mostOfAll {
		return full{all: true, used: used, limit: mostOfAll, after: l.after(used+n-mostOfAll, l.leftAll)}, false
	}
	l.pending.add(client, n)
	return full{}, true
}

// after is how long it takes until that many have left, when so many did lately.
func (l *line) after(over int64, left float64) time.Duration {
	if l.leftTime < countEvery.Seconds()/2 {
		return unknown
	}
	seconds := latest.Seconds()
	if left > 0 {
		seconds = min(seconds, float64(over)*l.leftTime/left)
	}
	return max(soonest, time.Duration(seconds*float64(time.Second)))
}

// settle ends a reservation.
func (l *line) settle(client string, n int64, created bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending.add(client, -n)
	if created {
		l.during.add(client, n)
	}
}

// refresh counts again when the last count is older than age. Who does not
// wait goes on with the old one, if there is one, when another is counting.
func (l *line) refresh(ctx context.Context, age time.Duration, wait bool) error {
	if l.younger(age) {
		return nil
	}
	if wait || l.never() {
		l.counting.Lock()
	} else if !l.counting.TryLock() {
		return nil
	}
	defer l.counting.Unlock()
	if l.younger(age) {
		return nil
	}
	return l.count(ctx)
}

func (l *line) younger(age time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.at.IsZero() && time.Since(l.at) < age
}

// never says that there has not been a count.
func (l *line) never() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at.IsZero()
}

// count asks the store. While it cannot be reached the last counts stand.
func (l *line) count(ctx context.Context) error {
	began := time.Now()
	l.mu.Lock()
	last := l.at
	l.asked = false
	for client, n := range l.during.of {
		l.before.add(client, n)
	}
	l.during = tally{}
	l.mu.Unlock()

	// The count is for everybody, so it does not end with whoever asked.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), countTimeout)
	defer cancel()
	found, err := l.source.Clients(ctx, eval.DefaultProject)
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.at = began // a store that is away is not asked by each submission
		return err
	}
	counts, all := map[string]eval.ClientCount{}, int64(0)
	for _, c := range found {
		counts[c.Client] = c
		all += c.Queued
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counts != nil {
		l.measure(counts, all, began.Sub(last).Seconds())
	}
	l.at, l.counts, l.all, l.before = began, counts, all, tally{}
	return nil
}

// measure compares two counts: what was there or came since, and is not there
// now, has left. What other replicas let in meanwhile hides as many, so the
// true speed is higher and nobody is told to come back too early.
func (l *line) measure(counts map[string]eval.ClientCount, all int64, seconds float64) {
	keep := math.Exp(-seconds / memory.Seconds())
	left := map[string]float64{}
	for client, n := range l.left {
		if n *= keep; n > 0.01 {
			left[client] = n
		}
	}
	for client, c := range l.counts {
		left[client] += float64(max(0, c.Queued+l.before.of[client]-counts[client].Queued))
	}
	l.left, l.leftTime = left, l.leftTime*keep+seconds
	l.leftAll = l.leftAll*keep + float64(max(0, l.all+l.before.all-all))
}

// state is what a client has in hand, and all clients have waiting.
func (l *line) state(client string) (eval.ClientCount, int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counts[client]
	c.Client = client
	c.Queued += l.before.of[client] + l.during.of[client]
	return c, l.all + l.before.all + l.during.all
}

func (l *line) run(ctx context.Context) error {
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	for {
		service.Beat(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		l.mu.Lock()
		asked := l.asked
		l.mu.Unlock()
		if asked {
			// A store that is away is told of by those who need more of it.
			_ = l.refresh(ctx, countEvery/2, true)
		}
	}
}
