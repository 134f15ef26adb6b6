// Package memory keeps evaluations and blobs in the process: a real backend
// for a platform that may forget, and everyone's test double. What it promises
// is exactly what [eval.Store] and [eval.Blobs] promise, until the process ends.
package memory

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// DefaultMaxEvaluations bounds a store that is not told otherwise.
const DefaultMaxEvaluations = 10_000

// Options configures a store. The zero value is ready for use.
type Options struct {
	// MaxEvaluations is how many are kept. Beyond it the oldest that have
	// ended are forgotten, with their history; when none has ended, Create
	// and Retry are refused with KindFull.
	MaxEvaluations int
	Rules          eval.Rules       // default: eval.DefaultRules
	Now            func() time.Time // default: time.Now
	// Journal, when not nil, makes the store durable.
	Journal Journal
}

// Store is an [eval.Store] in memory. The zero value is not usable: see [NewStore].
type Store struct {
	options Options

	mu       sync.RWMutex
	records  map[eval.Key]*record
	projects map[string]*project
	queued   map[eval.Key]*record
	running  map[eval.Key]*record
	pending  map[eval.Key]*record  // with a callback that is
	retries  map[eval.Key]eval.Key // of a failed evaluation: the one in its place
	blobs    map[string]*blob      // by digest
	lines    lines
	window   int   // how many of one priority wait in the queue, as Due was told last
	cursor   int64 // of the last event
}

// record is an evaluation and its history. What it points at is never
// changed, only replaced, so that readers may copy it out under the lock.
type record struct {
	eval     eval.Evaluation
	events   []eval.Event
	attempts []eval.Attempt
	dead     *eval.DeadLetter
	callback *eval.Callback
}

type project struct {
	order []*record // by created_at, then id
	feed  []eval.Event
	stale int // events in feed whose evaluation is forgotten
	keys  map[clientKey]idempotencyKey
}

// clientKey is an idempotency key: each client has its own.
type clientKey struct{ client, key string }

type idempotencyKey struct {
	fingerprint string
	ids         []eval.ID
	at          time.Time
}

var _ eval.Store = (*Store)(nil)

// NewStore makes an empty store.
func NewStore(o Options) *Store {
	if o.MaxEvaluations <= 0 {
		o.MaxEvaluations = DefaultMaxEvaluations
	}
	if o.Rules == (eval.Rules{}) {
		o.Rules = eval.DefaultRules()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Store{
		options:  o,
		records:  map[eval.Key]*record{},
		projects: map[string]*project{},
		queued:   map[eval.Key]*record{},
		running:  map[eval.Key]*record{},
		pending:  map[eval.Key]*record{},
		retries:  map[eval.Key]eval.Key{},
		blobs:    map[string]*blob{},
		lines:    newLines(),
	}
}

func (s *Store) now() time.Time { return eval.StoreTime(s.options.Now()) }

// project returns the project's lists, made when missing.
func (s *Store) project(name string) *project {
	p := s.projects[name]
	if p == nil {
		p = &project{keys: map[clientKey]idempotencyKey{}}
		s.projects[name] = p
	}
	return p
}

// write applies changes that belong together: all or none. Each change is of
// one evaluation. undead are those taken from the list of dead letters.
func (s *Store) write(ctx context.Context, changes []eval.Change, key *Idempotency, undead ...eval.Key) error {
	next := make([]*record, 0, len(changes)+len(undead))
	cursor := s.cursor
	for _, c := range changes {
		r := &record{}
		if old := s.records[c.Evaluation.Key]; old != nil {
			*r = *old
		}
		r.eval = c.Evaluation
		if c.Event != nil {
			cursor++
			event := *c.Event
			event.Cursor = cursor
			r.events = append(slices.Clip(r.events), event)
		}
		if c.Attempt != nil {
			r.attempts = slices.Clone(r.attempts)
			r.attempts = append(r.attempts[:min(c.Attempt.Number-1, len(r.attempts))], *c.Attempt)
		}
		if c.DeadLetter != nil {
			r.dead = c.DeadLetter
		}
		if c.Callback != nil {
			r.callback = c.Callback
		}
		next = append(next, r)
	}
	for _, k := range undead {
		r := *s.records[k]
		r.dead = nil
		next = append(next, &r)
	}
	evicted, err := s.room(next)
	if err != nil {
		return err
	}
	if s.options.Journal != nil {
		if err := s.options.Journal.Commit(ctx, transaction(next, evicted, key)); err != nil {
			return err
		}
	}
	for _, r := range evicted {
		s.forget(r)
	}
	for _, r := range next {
		s.put(r)
	}
	s.cursor = cursor
	if key != nil {
		s.project(key.Project).keys[clientKey{key.Client, key.Key}] = idempotencyKey{key.Fingerprint, key.IDs, key.At}
	}
	return nil
}

// put makes r the record of its evaluation, in every index.
func (s *Store) put(r *record) {
	key, p := r.eval.Key, s.project(r.eval.Project)
	at, found := slices.BinarySearchFunc(p.order, r, byAge)
	var known int
	if found {
		known = len(p.order[at].events)
		s.refer(p.order[at].eval, -1)
		p.order[at] = r
	} else {
		p.order = slices.Insert(p.order, at, r)
	}
	p.feed = append(p.feed, r.events[known:]...)
	if old := s.records[key]; old != nil {
		s.lines.remove(old)
	}
	s.lines.add(r)
	s.records[key] = r
	if of := r.eval.RetryOf; of != "" {
		s.retries[eval.Key{Project: key.Project, ID: of}] = key
	}
	s.refer(r.eval, 1)
	delete(s.queued, key)
	delete(s.running, key)
	switch r.eval.Status {
	case eval.Queued:
		s.queued[key] = r
	case eval.Running:
		s.running[key] = r
	}
	delete(s.pending, key)
	if r.callback != nil && r.callback.Status == eval.CallbackPending {
		s.pending[key] = r
	}
}

func byAge(a, b *record) int {
	return cmp.Or(a.eval.CreatedAt.Compare(b.eval.CreatedAt), cmp.Compare(a.eval.ID, b.eval.ID))
}

// room returns which records have to go before next can be written.
func (s *Store) room(next []*record) ([]*record, error) {
	more := -s.options.MaxEvaluations + len(s.records)
	for _, r := range next {
		if s.records[r.eval.Key] == nil {
			more++
		}
	}
	if more <= 0 {
		return nil, nil
	}
	var ended []*record
	for _, p := range s.projects {
		n := 0
		for _, r := range p.order {
			// A dead letter that is being retried must not go in the same breath.
			replaced := slices.ContainsFunc(next, func(n *record) bool { return n.eval.Key == r.eval.Key })
			if r.eval.Status.Terminal() && !replaced {
				ended = append(ended, r)
				if n++; n == more {
					break
				}
			}
		}
	}
	if len(ended) < more {
		return nil, &eval.Error{Kind: eval.KindFull, RetryAfter: 5 * time.Second, Message: fmt.Sprintf(
			"the store keeps at most %d evaluations and too few of them have ended; wait, raise the limit, or use a database", s.options.MaxEvaluations)}
	}
	slices.SortFunc(ended, byAge)
	return ended[:more], nil
}

// forget drops a record and its history.
func (s *Store) forget(r *record) {
	p := s.projects[r.eval.Project]
	if at, found := slices.BinarySearchFunc(p.order, r, byAge); found {
		p.order = slices.Delete(p.order, at, at+1)
	}
	delete(s.records, r.eval.Key)
	delete(s.pending, r.eval.Key)
	delete(s.retries, eval.Key{Project: r.eval.Project, ID: r.eval.RetryOf})
	s.refer(r.eval, -1)
	if p.stale += len(r.events); p.stale > len(p.feed)/2 {
		p.feed = slices.DeleteFunc(p.feed, func(e eval.Event) bool { return s.records[e.Key] == nil })
		p.stale = 0
	}
}

// change applies fn to one evaluation under the lock and returns it whole.
func (s *Store) change(ctx context.Context, key eval.Key, missing error, fn func(r *record, now time.Time) (eval.Change, error)) (eval.Evaluation, error) {
	if err := ended(ctx); err != nil {
		return eval.Evaluation{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[key]
	if r == nil {
		return eval.Evaluation{}, missing
	}
	c, err := fn(r, s.now())
	if err != nil {
		return eval.Evaluation{}, err
	}
	if err := s.write(ctx, []eval.Change{c}, nil); err != nil {
		return eval.Evaluation{}, err
	}
	return Clone(c.Evaluation), nil
}

// ended is the error of a caller who has gone.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return eval.Errorf(eval.KindUnavailable, "the request has ended: %w", context.Cause(ctx))
}

func jitter() float64 { return rand.Float64() }
