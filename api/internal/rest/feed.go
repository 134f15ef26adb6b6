package rest

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
)

const (
	topicEvaluations = "evaluations"
	topicQueues      = "queues"
	topicEvaluation  = "eval:" // and an id
	// maxFollowed is the most evaluations that one stream follows.
	maxFollowed = 8
	feedPage    = 200
	queuesEvery = time.Second
)

// positions are how far a client has read each topic of a stream. They travel
// as "evaluations=17,eval:ID=4/1700000000000-0".
type positions struct {
	cursor int64 // of evaluations; -1: not said
	places map[eval.ID]*place
}

func (p positions) String() string {
	var parts []string
	if p.cursor >= 0 {
		parts = append(parts, topicEvaluations+"="+strconv.FormatInt(p.cursor, 10))
	}
	for _, id := range slices.Sorted(maps.Keys(p.places)) {
		parts = append(parts, topicEvaluation+string(id)+"="+p.places[id].String())
	}
	return strings.Join(parts, ",")
}

func parsePositions(s string) (positions, bool) {
	p := positions{cursor: -1, places: map[eval.ID]*place{}}
	if s == "" {
		return p, true
	}
	if len(s) > 4096 {
		return p, false
	}
	for part := range strings.SplitSeq(s, ",") {
		name, value, ok := strings.Cut(part, "=")
		id, followed := strings.CutPrefix(name, topicEvaluation)
		switch {
		case !ok:
			return p, false
		case name == topicEvaluations:
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 0 {
				return p, false
			}
			p.cursor = n
		case followed && validID(id):
			at, ok := parsePlace(value)
			if !ok {
				return p, false
			}
			p.places[eval.ID(id)] = &at
		default:
			return p, false
		}
	}
	return p, true
}

// Ready is the first event of a feed.
type Ready struct {
	Topics []string `json:"topics"`
}

// feed streams several topics over one connection.
func (a *API) feed(c echo.Context) error {
	q := query(c)
	names := q.many("topics")
	if len(names) == 0 {
		names = []string{topicEvaluations}
	}
	var followed []eval.ID
	for _, name := range names {
		id, ok := strings.CutPrefix(name, topicEvaluation)
		switch {
		case ok && validID(id):
			followed = append(followed, eval.ID(id))
		case name != topicEvaluations && name != topicQueues:
			q.wrong("topics", "%q is not one of evaluations, queues, eval:ID", clip(name))
		}
	}
	if len(followed) > maxFollowed {
		q.wrong("topics", "follows %d evaluations; at most %d on one stream", len(followed), maxFollowed)
	}
	if err := q.err(); err != nil {
		return err
	}
	last := c.Request().Header.Get(lastEventID)
	sent, ok := parsePositions(last)
	if !ok {
		return badLastEventID(last, "evaluations=17,eval:ID=4/1700000000000-0")
	}

	done, err := a.openStream("feed")
	if err != nil {
		return err
	}
	defer done()
	topics, err := a.topics(c.Request().Context(), names, followed, &sent)
	if err != nil {
		return err
	}
	slices.Sort(names)
	// The positions are changed by this goroutine only, as it writes.
	return a.stream(c, func() string { return sent.String() }, &message{event: eventReady, data: Ready{slices.Compact(names)}}, topics...)
}

func (a *API) topics(ctx context.Context, names []string, followed []eval.ID, sent *positions) ([]topic, error) {
	var topics []topic
	slices.Sort(followed)
	followed = slices.Compact(followed)
	maps.DeleteFunc(sent.places, func(id eval.ID, _ *place) bool { return !slices.Contains(followed, id) })
	for _, id := range followed {
		if _, err := a.Store.Get(ctx, keyOf(id)); err != nil {
			return nil, err
		}
		if sent.places[id] == nil {
			sent.places[id] = &place{}
		}
		topics = append(topics, a.follow(keyOf(id), *sent.places[id], sent.places[id]))
	}
	if slices.Contains(names, topicQueues) {
		if a.Queues == nil {
			return nil, noQueues()
		}
		topics = append(topics, a.followQueues)
	}
	if !slices.Contains(names, topicEvaluations) {
		sent.cursor = -1
		return topics, nil
	}
	if sent.cursor < 0 {
		newest, err := a.Store.Feed(ctx, eval.DefaultProject, -1, 1)
		if err != nil {
			return nil, err
		}
		sent.cursor = 0
		if len(newest) > 0 {
			sent.cursor = newest[len(newest)-1].Cursor
		}
	}
	return append(topics, a.followAll(sent.cursor, &sent.cursor)), nil
}

// followAll is the topic of every change of every evaluation.
func (a *API) followAll(after int64, sent *int64) topic {
	return func(ctx context.Context, out chan<- message) {
		w := a.Hub.WaitAll()
		defer w.Close()
		look := time.NewTicker(lookEvery)
		defer look.Stop()
		for {
			events, err := a.Hub.After(ctx, after, feedPage)
			for _, e := range events {
				after = e.Cursor
				if !say(ctx, out, message{eventEvaluation, viewEvent(e), func() { *sent = e.Cursor }}) {
					return
				}
			}
			if err == nil && len(events) == feedPage {
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-w.Wake:
			case <-look.C:
			}
		}
	}
}

// followQueues is the topic of the queues' numbers. It says them when they
// change.
func (a *API) followQueues(ctx context.Context, out chan<- message) {
	var said []Queue
	tick := time.NewTicker(queuesEvery)
	defer tick.Stop()
	for {
		if now, err := a.numbers.get(ctx, a.readQueues); err == nil && !reflect.DeepEqual(now, said) {
			said = now
			if !say(ctx, out, message{event: eventQueues, data: QueueList{now}}) {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// numbers are the queues' numbers of a moment ago, shared by all streams.
type numbers struct {
	mu     sync.Mutex
	at     time.Time
	queues []Queue
	err    error
}

func (n *numbers) get(ctx context.Context, read func(context.Context) ([]Queue, error)) ([]Queue, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.at) >= queuesEvery/2 {
		n.queues, n.err = read(context.WithoutCancel(ctx))
		n.at = time.Now()
	}
	return n.queues, n.err
}
