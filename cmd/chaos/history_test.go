//go:build chaos && linux

package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/remote"
)

// history follows the store's feed, which has every change of every
// evaluation, and remembers all of it.
type history struct {
	store *remote.Store
	done  sync.WaitGroup

	mu     sync.Mutex
	events map[eval.ID][]eval.Event
	after  int64
	news   chan struct{} // closed and replaced with each addition
}

// lookEvery is how often the feed is asked for news.
const lookEvery = 50 * time.Millisecond

func follow(ctx context.Context, store *remote.Store) *history {
	h := &history{store: store, events: map[eval.ID][]eval.Event{}, news: make(chan struct{})}
	h.done.Go(func() {
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			if h.read(ctx) {
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return h
}

const feedPage = 500

// read adds one page, and says whether there is more at once. A store that is away is asked again later.
func (h *history) read(ctx context.Context) (more bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	h.mu.Lock()
	after := h.after
	h.mu.Unlock()
	page, err := h.store.Feed(ctx, eval.DefaultProject, after, feedPage)
	if err != nil || len(page) == 0 {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range page {
		h.events[e.ID] = append(h.events[e.ID], e)
		h.after = e.Cursor
	}
	close(h.news)
	h.news = make(chan struct{})
	return len(page) == feedPage
}

// of returns what happened to an evaluation so far.
func (h *history) of(id eval.ID) []eval.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events[id])
}

// until waits until something is so of the evaluation's history.
func (h *history) until(ctx context.Context, id eval.ID, so func([]eval.Event) bool) error {
	for {
		h.mu.Lock()
		ok, news := so(h.events[id]), h.news
		h.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-news:
		}
	}
}

// progress is when the evaluation was first claimed, or ended, at or after t; ok is false when that is still to come.
// over is true when it had ended before t.
func progress(events []eval.Event, t time.Time) (at time.Time, over, ok bool) {
	for _, e := range events {
		moved := e.Status.Terminal() || e.Type == eval.EventRunning
		switch {
		case !e.At.Before(t) && moved:
			return e.At, false, true
		case e.Status.Terminal():
			return e.At, true, true
		}
	}
	return time.Time{}, false, false
}

func ended(events []eval.Event) bool {
	return len(events) > 0 && events[len(events)-1].Status.Terminal()
}

// broken says which rule a history breaks: events are numbered without gaps, an attempt is one more than the last,
// and the end comes once, last.
func broken(events []eval.Event) error {
	attempt := 0
	for i, e := range events {
		if e.Seq != int64(i+1) {
			return fmt.Errorf("event %d has number %d", i+1, e.Seq)
		}
		if (e.Type == eval.EventQueued) != (i == 0) {
			return fmt.Errorf("event %d is %s", e.Seq, e.Type)
		}
		if e.Type == eval.EventRunning {
			attempt++
		}
		if e.Attempt != attempt {
			return fmt.Errorf("event %d is of attempt %d, want %d", e.Seq, e.Attempt, attempt)
		}
		if last := i == len(events)-1; e.Status.Terminal() != last {
			if last {
				return fmt.Errorf("it has not ended: %s", e.Status)
			}
			return errTwice
		}
	}
	if len(events) == 0 {
		return errors.New("it has no history")
	}
	return nil
}

var errTwice = errors.New("something happened after its end")
