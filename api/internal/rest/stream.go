package rest

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
)

// Names of the events on streams. A change of an evaluation that is followed
// has the name of its type: queued, running, completed...
const (
	eventReady      = "ready"      // the subscription holds from here on
	eventStdout     = "stdout"     // output of an evaluation that is followed
	eventStderr     = "stderr"     //
	eventEvaluation = "evaluation" // a change of any evaluation
	eventQueues     = "queues"     // the numbers of the queues, when they change
)

// message is something that a topic has to say. It is sent before its topic
// goes on, so that a slow reader slows its own topics and nobody else's, and
// nothing piles up.
type message struct {
	event string
	data  any
	moved func() // moves the topic's position past it
}

// topic sends its messages until it has nothing more to say or ctx ends.
type topic func(ctx context.Context, out chan<- message)

// openStream takes one of the places for streams; close gives it back.
func (a *API) openStream(kind string) (closeStream func(), err error) {
	if a.stopping() {
		return nil, &eval.Error{Kind: eval.KindStopping, Message: "this server is shutting down; connect again", RetryAfter: time.Second}
	}
	if a.streams.Add(1) > int64(a.MaxStreams) {
		a.streams.Add(-1)
		return nil, &eval.Error{Kind: eval.KindFull, Message: "too many event streams are open; come back, or poll with ?wait=", RetryAfter: 5 * time.Second}
	}
	g := a.Metrics.Streams.WithLabelValues(kind)
	g.Inc()
	return func() { a.streams.Add(-1); g.Dec() }, nil
}

// stream writes the messages of the topics until all have ended, the client
// goes or the server stops. id names the position after each message. first,
// when not nil, comes before all others.
func (a *API) stream(c echo.Context, id func() string, first *message, topics ...topic) error {
	s, err := httpkit.SSE(c)
	if err != nil {
		return nil // the client is gone
	}
	ctx, cancel := context.WithCancel(c.Request().Context())
	out, ended := make(chan message), make(chan struct{})
	var wg sync.WaitGroup
	for _, t := range topics {
		wg.Go(func() { t(ctx, out) })
	}
	go func() { // ends with the topics, for which the deferred wait waits
		wg.Wait()
		close(ended)
	}()
	defer func() { cancel(); <-ended }()

	send := func(m message) error {
		raw, err := json.Marshal(m.data)
		if err != nil {
			return err
		}
		if m.moved != nil {
			m.moved()
		}
		a.Metrics.StreamEvents.WithLabelValues(m.event).Inc()
		return s.Send(id(), m.event, raw)
	}
	if first != nil {
		if err := send(*first); err != nil {
			return nil
		}
	}
	beat := time.NewTicker(httpkit.HeartbeatEvery)
	defer beat.Stop()
	for {
		var err error
		select {
		case m := <-out:
			err = send(m)
		case <-beat.C:
			err = s.Heartbeat()
		case <-ended:
			return nil
		case <-ctx.Done():
			return nil
		case <-a.Draining:
			return nil
		}
		if err != nil {
			return nil // it reads too slowly, or is gone; it resumes by Last-Event-ID
		}
	}
}

// say hands a message to the writer. false: the stream has ended.
func say(ctx context.Context, out chan<- message, m message) bool {
	select {
	case out <- m:
		return true
	case <-ctx.Done():
		return false
	}
}
