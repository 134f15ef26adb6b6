// Package live wakes those who wait for an evaluation to change. One [Hub]
// follows the store's feed for all of them, so that a thousand waiters cost
// the store no more than one.
package live

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/service"
)

const (
	// followEvery is how often the feed is read without a notice, while
	// somebody waits.
	followEvery = 500 * time.Millisecond
	// pageSize is how many events one read of the feed asks for.
	pageSize = 500
	// remembered is how many of the last events are kept, for readers of
	// the feed that are almost up to date.
	remembered = 2048
	// readTimeout bounds one read of the feed.
	readTimeout = 5 * time.Second
	// rewatchAfter is the pause before a broken watch is made again.
	rewatchAfter = time.Second
)

// Source is what the hub needs of a store.
type Source interface {
	Get(ctx context.Context, key eval.Key) (eval.Evaluation, error)
	Feed(ctx context.Context, project string, after int64, limit int) ([]eval.Event, error)
}

// Hub wakes waiters when evaluations of one project change: at once by a
// notice, else within half a second by the feed.
type Hub struct {
	store   Source
	notices eval.Notices // may be nil
	project string
	log     *slog.Logger

	mu      sync.Mutex
	byKey   map[eval.Key]map[*Waiter]struct{}
	all     map[*Waiter]struct{}
	last    []eval.Event // the newest, in the order of their cursors
	cursor  int64        // of the newest event seen; -1 before the first look
	behind  bool         // nobody waited, so the feed was not followed
	look    chan struct{}
	stopped chan struct{}
	once    sync.Once
}

// NewHub returns a hub; Run makes it work. notices may be nil.
func NewHub(store Source, notices eval.Notices, project string, log *slog.Logger) *Hub {
	return &Hub{
		store: store, notices: notices, project: project, log: cmp.Or(log, slog.New(slog.DiscardHandler)),
		byKey: map[eval.Key]map[*Waiter]struct{}{}, all: map[*Waiter]struct{}{},
		cursor: -1, behind: true, look: make(chan struct{}, 1), stopped: make(chan struct{}),
	}
}

// Waiter is woken by changes. Wake holds at most one signal: look at the
// store after each.
type Waiter struct {
	Wake chan struct{}
	hub  *Hub
	key  eval.Key // zero: all evaluations
}

// Wait returns a waiter for one evaluation. Close it.
func (h *Hub) Wait(key eval.Key) *Waiter { return h.add(&Waiter{key: key}) }

// WaitAll returns a waiter for every evaluation. Close it.
func (h *Hub) WaitAll() *Waiter { return h.add(&Waiter{}) }

func (h *Hub) add(w *Waiter) *Waiter {
	w.hub, w.Wake = h, make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.key == (eval.Key{}) {
		h.all[w] = struct{}{}
	} else {
		if h.byKey[w.key] == nil {
			h.byKey[w.key] = map[*Waiter]struct{}{}
		}
		h.byKey[w.key][w] = struct{}{}
	}
	if h.behind {
		signal(h.look)
	}
	return w
}

// Close forgets the waiter.
func (w *Waiter) Close() {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, w)
	if set := h.byKey[w.key]; set != nil {
		delete(set, w)
		if len(set) == 0 {
			delete(h.byKey, w.key)
		}
	}
}

// Waiters says how many wait.
func (h *Hub) Waiters() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.all)
	for _, set := range h.byKey {
		n += len(set)
	}
	return n
}

// Stopped is closed when Run has ended: nobody is woken any more.
func (h *Hub) Stopped() <-chan struct{} { return h.stopped }

// Run follows the notices and the feed until ctx ends. It is called once.
func (h *Hub) Run(ctx context.Context) error {
	defer h.once.Do(func() { close(h.stopped) })
	var watch sync.WaitGroup
	if h.notices != nil {
		watch.Go(func() { h.watch(ctx) })
	}
	defer watch.Wait()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		service.Beat(ctx)
		h.follow(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-h.look:
		case <-tick.C:
		}
	}
}

// watch passes notices on, and watches again when the channel ends.
func (h *Hub) watch(ctx context.Context) {
	for ctx.Err() == nil {
		notices, err := h.notices.Watch(ctx)
		if err == nil {
			for n := range notices {
				h.wake(n.Key)
				signal(h.look)
			}
		} else if ctx.Err() == nil {
			h.log.Debug("notices cannot be watched; the store is polled instead", "err", err)
		}
		pause := time.NewTimer(rewatchAfter)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// follow reads the feed from where it was left, and wakes whom it concerns.
// While nobody waits it does nothing; the next reader starts at the newest.
func (h *Hub) follow(ctx context.Context) {
	h.mu.Lock()
	idle := len(h.all) == 0 && len(h.byKey) == 0
	if idle {
		h.behind = true
		h.mu.Unlock()
		return
	}
	after, resumed := h.cursor, h.behind
	if resumed { // what happened meanwhile concerns nobody who waits now
		after = -1
	}
	h.mu.Unlock()

	for ctx.Err() == nil {
		service.Beat(ctx)
		limited, cancel := context.WithTimeout(ctx, readTimeout)
		events, err := h.store.Feed(limited, h.project, after, pageSize)
		cancel()
		if err != nil {
			return // the next tick tries again; waiters also look themselves
		}
		h.remember(events, resumed)
		if resumed {
			h.wakeAll() // they may have looked before the feed was at its end
			return
		}
		if len(events) < pageSize {
			return
		}
		after = events[len(events)-1].Cursor
	}
}

func (h *Hub) remember(events []eval.Event, resumed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if resumed {
		h.last, h.behind, h.cursor = nil, false, 0
	}
	for _, e := range events {
		h.cursor = e.Cursor
		h.last = append(h.last, e)
		h.wakeLocked(e.Key)
	}
	if extra := len(h.last) - remembered; extra > 0 {
		h.last = slices.Delete(h.last, 0, extra)
	}
}

// After returns the project's events after a cursor, from memory when it has
// all of them, else from the store. after < 0 asks for the newest only.
func (h *Hub) After(ctx context.Context, after int64, limit int) ([]eval.Event, error) {
	if after >= 0 {
		h.mu.Lock()
		if !h.behind && len(h.last) > 0 && after >= h.last[0].Cursor {
			i, _ := slices.BinarySearchFunc(h.last, after+1, func(e eval.Event, c int64) int { return cmp.Compare(e.Cursor, c) })
			events := slices.Clone(h.last[i:min(len(h.last), i+limit)])
			h.mu.Unlock()
			return events, nil
		}
		h.mu.Unlock()
	}
	return h.store.Feed(ctx, h.project, after, limit)
}

func (h *Hub) wake(key eval.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.byKey[key] {
		signal(w.Wake)
	}
}

func (h *Hub) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key := range h.byKey {
		h.wakeLocked(key)
	}
	for w := range h.all {
		signal(w.Wake)
	}
}

func (h *Hub) wakeLocked(key eval.Key) {
	for w := range h.byKey[key] {
		signal(w.Wake)
	}
	for w := range h.all {
		signal(w.Wake)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
