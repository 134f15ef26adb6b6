// Package cache remembers evaluations that have ended, so that reading one
// again costs no way to the storage. It is a decorator of an [eval.Store].
//
// Only what cannot change is remembered, and only for as long as the store
// promises that it stays: an answer comes with a time for which it holds at
// least ([eval.Keeper]), which is never longer than what is left of the
// evaluation's retention. So nothing has to be told to the caches of other
// processes, and none of them ever shows what is not there any more. A store
// that makes no promise is passed through.
package cache

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/memory"
)

// Defaults of Options.
const (
	DefaultMaxEvaluations = 1000
	DefaultMaxBytes       = 32 << 20
)

// Options configures a cache. The zero value is ready for use.
type Options struct {
	MaxEvaluations int
	MaxBytes       int64 // about; what is larger than an eighth of it is not remembered
	Registry       prometheus.Registerer
}

// Store is an [eval.Store] that remembers.
type Store struct {
	eval.Store
	keeper   eval.Keeper
	maxBytes int64
	metrics  *metrics

	mu      sync.Mutex
	entries *simplelru.LRU[eval.Key, *entry]
	bytes   int64
}

var _ eval.Store = (*Store)(nil)

// entry is what is remembered of an evaluation. It is never changed, only
// replaced, but for attempts and events, which are set once.
type entry struct {
	eval     eval.Evaluation
	until    time.Time // by the monotonic clock
	attempts []eval.Attempt
	events   []eval.Event
	bytes    int64
}

// New returns the store with a cache, or the store itself when it makes no
// promises.
func New(store eval.Store, o Options) (eval.Store, error) {
	keeper, ok := store.(eval.Keeper)
	if !ok {
		return store, nil
	}
	s := &Store{Store: store, keeper: keeper, maxBytes: cmp.Or(o.MaxBytes, DefaultMaxBytes)}
	var err error
	s.entries, err = simplelru.NewLRU(cmp.Or(o.MaxEvaluations, DefaultMaxEvaluations), func(_ eval.Key, e *entry) { s.bytes -= e.bytes })
	if err != nil {
		return nil, err
	}
	s.metrics, err = newMetrics(o.Registry, s)
	return s, err
}

// look returns what is remembered of an evaluation and still holds.
func (s *Store) look(key eval.Key) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, found := s.entries.Get(key)
	if !found {
		return nil
	}
	if !time.Now().Before(e.until) {
		s.entries.Remove(key)
		return nil
	}
	return e
}

// Get implements [eval.Reader].
func (s *Store) Get(ctx context.Context, key eval.Key) (eval.Evaluation, error) {
	if e := s.look(key); e != nil {
		s.metrics.hits.Inc()
		return memory.Clone(e.eval), nil
	}
	began := time.Now()
	e, kept, err := s.keeper.GetKept(ctx, key)
	if err != nil || kept <= 0 || !e.Status.Terminal() {
		return e, err
	}
	s.metrics.misses.Inc()
	s.remember(&entry{eval: e, until: began.Add(kept)})
	return memory.Clone(e), nil
}

func (s *Store) remember(e *entry) {
	e.bytes = weight(e)
	if e.bytes > s.maxBytes/8 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries.Remove(e.eval.Key)
	s.bytes += e.bytes
	s.entries.Add(e.eval.Key, e)
	for s.bytes > s.maxBytes {
		s.entries.RemoveOldest()
	}
}

// Attempts implements [eval.Reader].
func (s *Store) Attempts(ctx context.Context, key eval.Key) ([]eval.Attempt, error) {
	e := s.look(key)
	if e == nil {
		return s.Store.Attempts(ctx, key)
	}
	if e.attempts != nil {
		s.metrics.hits.Inc()
		return slices.Clone(e.attempts), nil
	}
	attempts, err := s.Store.Attempts(ctx, key)
	if now := time.Now(); err == nil && now.Before(e.until) { // read while it was sure to be there
		next := *e
		next.attempts = slices.Clone(append([]eval.Attempt{}, attempts...))
		s.remember(&next)
	}
	return attempts, err
}

// Events implements [eval.Reader].
func (s *Store) Events(ctx context.Context, key eval.Key, after int64, limit int) ([]eval.Event, error) {
	e := s.look(key)
	if e == nil {
		return s.Store.Events(ctx, key, after, limit)
	}
	if e.events != nil {
		s.metrics.hits.Inc()
		from := min(max(after, 0), int64(len(e.events))) // event n stands at n-1
		return slices.Clone(e.events[from:min(int(from)+max(limit, 0), len(e.events))]), nil
	}
	events, err := s.Store.Events(ctx, key, after, limit)
	if now := time.Now(); err == nil && int64(len(events)) == e.eval.EventSeq && now.Before(e.until) { // all of them
		next := *e
		next.events = slices.Clone(events)
		s.remember(&next)
	}
	return events, err
}

// weight is about how many bytes an entry takes.
func weight(e *entry) int64 {
	const fixed, each = 2 << 10, 256
	n := int64(fixed + each*(len(e.attempts)+len(e.events)))
	program := func(code eval.Bytes, files map[string]eval.Bytes) {
		n += int64(len(code))
		for name, content := range files {
			n += int64(len(name)+len(content)) + each
		}
	}
	p := e.eval.Spec.Program
	program(p.Code, p.Files)
	program(p.Checker.Code, p.Checker.Files)
	n += int64(len(p.Stdin))
	for _, arg := range p.Args {
		n += int64(len(arg))
	}
	for name, value := range p.Env {
		n += int64(len(name)+len(value)) + each
	}
	for _, t := range p.Tests {
		n += int64(len(t.Stdin)) + each
		if t.ExpectedStdout != nil {
			n += int64(len(*t.ExpectedStdout))
		}
		program(t.Checker.Code, t.Checker.Files)
	}
	if r := e.eval.Result; r != nil {
		n += int64(each * (len(r.Tests) + len(r.Artifacts) + len(r.Isolation.Controls)))
		for _, stream := range r.Streams() {
			n += int64(len(stream.Data))
		}
	}
	return n
}

type metrics struct{ hits, misses prometheus.Counter }

func newMetrics(reg prometheus.Registerer, s *Store) (*metrics, error) {
	m := &metrics{
		hits: prometheus.NewCounter(prometheus.CounterOpts{Name: "crucible_cache_hits_total",
			Help: "Questions about evaluations that have ended which were answered without the storage."}),
		misses: prometheus.NewCounter(prometheus.CounterOpts{Name: "crucible_cache_misses_total",
			Help: "Evaluations that have ended and had to be read from the storage."}),
	}
	if reg == nil {
		return m, nil
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return value()
		})
	}
	return m, errors.Join(reg.Register(m.hits), reg.Register(m.misses),
		reg.Register(gauge("crucible_cache_evaluations", "Evaluations in the cache.", func() float64 { return float64(s.entries.Len()) })),
		reg.Register(gauge("crucible_cache_bytes", "About how many bytes the cache takes.", func() float64 { return float64(s.bytes) })))
}
