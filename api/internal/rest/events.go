package rest

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
)

const (
	eventPage = 100
	// lookEvery is how often a follower looks without being woken.
	lookEvery = time.Second
	// outputWait is how long one read of the output log waits for more.
	outputWait = 5 * time.Second
	// outputAgain is the pause after the output log could not be read.
	outputAgain = time.Second
)

// place is how far a client has read an evaluation: its last event, and its
// position in the output. It travels as "seq/position".
type place struct {
	seq      int64
	position string
}

func (p place) String() string { return strconv.FormatInt(p.seq, 10) + "/" + p.position }

var positionForm = regexp.MustCompile(`^[0-9A-Za-z._:-]{0,64}$`)

func parsePlace(s string) (place, bool) {
	number, position, ok := strings.Cut(s, "/")
	seq, err := strconv.ParseInt(number, 10, 64)
	return place{seq, position}, ok && err == nil && seq >= 0 && positionForm.MatchString(position)
}

const lastEventID = "Last-Event-ID"

func badLastEventID(got, form string) error {
	return eval.Invalid([]eval.FieldError{{Field: lastEventID, Message: fmt.Sprintf("%q is not an id of this stream, which looks like %s", clip(got), form)}})
}

// events streams the life of one evaluation, and its output while it runs.
func (a *API) events(c echo.Context) error {
	key, err := onlyKey(c)
	if err != nil {
		return err
	}
	var at place
	if last := c.Request().Header.Get(lastEventID); last != "" {
		var ok bool
		if at, ok = parsePlace(last); !ok {
			return badLastEventID(last, "4/1700000000000-0")
		}
	}
	e, err := a.Store.Get(c.Request().Context(), key)
	if err != nil {
		return err
	}
	if e.Status.Terminal() && at.seq >= e.EventSeq {
		return c.NoContent(http.StatusNoContent) // the end of the stream has been read: do not connect again
	}
	done, err := a.openStream("evaluation")
	if err != nil {
		return err
	}
	defer done()
	sent := at
	return a.stream(c, func() string { return sent.String() }, nil, a.follow(key, at, &sent))
}

// follow is the topic of one evaluation. sent is moved as messages are
// written. It ends after the terminal event.
func (a *API) follow(key eval.Key, at place, sent *place) topic {
	return func(ctx context.Context, out chan<- message) {
		f := follower{api: a, key: key, at: at, sent: sent, out: out}
		defer f.stopReading()
		f.run(ctx)
	}
}

// follower belongs to one goroutine; sent belongs to the writer of the stream.
type follower struct {
	api  *API
	key  eval.Key
	at   place
	sent *place
	out  chan<- message

	chunks chan eval.OutputChunk
	cancel context.CancelFunc
}

func (f *follower) run(ctx context.Context) {
	w := f.api.Hub.Wait(f.key)
	defer w.Close()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		events, err := f.api.Store.Events(ctx, f.key, f.at.seq, eventPage)
		for _, e := range events {
			if e.Status.Terminal() {
				f.stopReading()
				if f.rest(ctx) {
					f.state(ctx, e)
				}
				return
			}
			if !f.state(ctx, e) {
				return
			}
			if e.Status == eval.Running {
				f.startReading(ctx)
			}
		}
		if err == nil && len(events) == 0 && f.chunks == nil {
			// Resumed after its last event, it may be running already.
			if e, err := f.api.Store.Get(ctx, f.key); err == nil && e.Status == eval.Running {
				f.startReading(ctx)
			}
		}
		if len(events) == eventPage {
			continue
		}
		if !f.wait(ctx, w.Wake, look.C) {
			return
		}
	}
}

// wait passes output on until it is time to look at the events again.
func (f *follower) wait(ctx context.Context, wake <-chan struct{}, look <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-wake:
			return true
		case <-look:
			return true
		case chunk := <-f.chunks:
			if !f.output(ctx, chunk) {
				return false
			}
		}
	}
}

func (f *follower) state(ctx context.Context, e eval.Event) bool {
	f.at.seq = e.Seq
	return say(ctx, f.out, message{string(e.Type), viewEvent(e), f.moved()})
}

func (f *follower) output(ctx context.Context, c eval.OutputChunk) bool {
	f.at.position = c.Position
	name := eventStdout
	if c.Stream == "stderr" {
		name = eventStderr
	}
	return say(ctx, f.out, message{name, Output{f.key.ID, c.Attempt, name, c.Offset, c.Data, c.At}, f.moved()})
}

func (f *follower) moved() func() {
	at := f.at
	return func() { *f.sent = at }
}

// rest passes on what the log still holds, before the terminal event.
func (f *follower) rest(ctx context.Context) bool {
	if f.api.Output == nil {
		return true
	}
	for {
		chunks, err := f.api.Output.Read(ctx, f.key, f.at.position, 0)
		if err != nil || len(chunks) == 0 {
			return ctx.Err() == nil
		}
		for _, c := range chunks {
			if !f.output(ctx, c) {
				return false
			}
		}
	}
}

// startReading reads the output log in a goroutine that stopReading ends. A
// read that waits ends late, which must not delay the last event: the API
// waits for the goroutine when it stops.
func (f *follower) startReading(ctx context.Context) {
	if f.chunks != nil || f.api.Output == nil {
		return
	}
	ctx, f.cancel = context.WithCancel(ctx)
	f.chunks = make(chan eval.OutputChunk)
	after, chunks := f.at.position, f.chunks
	f.api.readers.Go(func() {
		for ctx.Err() == nil {
			read, err := f.api.Output.Read(ctx, f.key, after, outputWait)
			if err != nil {
				pause := time.NewTimer(outputAgain)
				select {
				case <-ctx.Done():
				case <-pause.C:
				}
				pause.Stop()
				continue
			}
			for _, c := range read {
				select {
				case chunks <- c:
					after = c.Position
				case <-ctx.Done():
					return
				}
			}
		}
	})
}

func (f *follower) stopReading() {
	if f.cancel != nil {
		f.cancel()
	}
}
