package api_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// sse is an open event stream.
type sse struct {
	t     testing.TB
	resp  *http.Response
	lines *bufio.Scanner
}

type sent struct {
	id, event string
	data      struct {
		ID      eval.ID     `json:"id"`
		Seq     int64       `json:"seq"`
		Status  eval.Status `json:"status"`
		Offset  int64       `json:"offset"`
		Data    eval.Bytes  `json:"data"`
		Topics  []string    `json:"topics"`
		Queues  []struct{ Name string }
		Attempt int `json:"attempt"`
	}
}

func (p *platform) stream(path, last string) *sse {
	p.t.Helper()
	header := http.Header{"Accept": {"text/event-stream"}}
	if last != "" {
		header.Set("Last-Event-ID", last)
	}
	resp, err := checked.Do(p.request("GET", path, nil, header))
	require.NoError(p.t, err)
	p.t.Cleanup(func() { _ = resp.Body.Close() })
	require.Equal(p.t, http.StatusOK, resp.StatusCode)
	require.Equal(p.t, "text/event-stream", resp.Header.Get("Content-Type"))
	return &sse{p.t, resp, bufio.NewScanner(resp.Body)}
}

// next waits for the next event; ok is false at the end of the stream.
func (s *sse) next() (e sent, ok bool) {
	s.t.Helper()
	for s.lines.Scan() {
		name, value, _ := strings.Cut(s.lines.Text(), ": ")
		switch name {
		case "id":
			e.id = value
		case "event":
			e.event = value
		case "data":
			require.NoError(s.t, json.Unmarshal([]byte(value), &e.data), value)
			switch e.event {
			case "stdout", "stderr":
				fits(s.t, "Output", value)
			case "ready", "queues":
			default:
				fits(s.t, "Event", value)
			}
		case "":
			if e.event != "" {
				return e, true
			}
		}
	}
	return e, false
}

func (s *sse) want(event string) sent {
	s.t.Helper()
	e, ok := s.next()
	require.True(s.t, ok, "the stream ended before %s", event)
	require.Equal(s.t, event, e.event)
	return e
}

func (s *sse) end() { s.t.Helper(); _, more := s.next(); require.False(s.t, more) }

func TestEventsTellALifeWithItsOutput(t *testing.T) {
	p := start(t)
	id := p.post("/api/v1/evaluations", hello).evaluation().ID
	s := p.stream("/api/v1/evaluations/"+string(id)+"/events", "")
	require.EqualValues(t, 1, s.want("queued").data.Seq)
	lease := p.claim(id)
	s.want("running")
	p.print(lease, "stdout", 0, "hel")
	require.Equal(t, "hel", s.want("stdout").data.Data.String(), "output is seen before the program ends")
	p.print(lease, "stdout", 3, "lo\n")
	p.print(lease, "stderr", 0, "oops\xff")
	e := s.want("stdout")
	require.EqualValues(t, 3, e.data.Offset)
	require.Equal(t, "oops\xff", s.want("stderr").data.Data.String())
	p.finish(lease, accepted("hello\n"))
	require.Equal(t, eval.Completed, s.want("completed").data.Status)
	s.end()
}

func TestEventsResumeWhereTheyWereLeft(t *testing.T) {
	p := start(t)
	id := p.post("/api/v1/evaluations", hello).evaluation().ID
	path := "/api/v1/evaluations/" + string(id) + "/events"
	lease := p.claim(id)
	first := p.stream(path, "")
	first.want("queued")
	first.want("running")
	p.print(lease, "stdout", 0, "a")
	left := first.want("stdout").id
	require.NoError(t, first.resp.Body.Close())

	p.print(lease, "stdout", 1, "b")
	again := p.stream(path, left)
	require.Equal(t, "b", again.want("stdout").data.Data.String(), "neither twice nor lost")
	p.print(lease, "stdout", 2, "c")
	p.finish(lease, accepted("abc"))
	require.Equal(t, "c", again.want("stdout").data.Data.String(), "output comes before the end")
	end := again.want("completed").id
	again.end()

	late := p.stream(path, left) // after the end
	require.Equal(t, "b", late.want("stdout").data.Data.String())
	late.want("stdout")
	late.want("completed")
	late.end()

	require.Equal(t, http.StatusNoContent, p.send("GET", path, "", http.Header{"Last-Event-Id": {end}}).Code, "nothing is left: do not connect again")
	p.send("GET", path, "", http.Header{"Last-Event-Id": {"nonsense"}}).invalid("Last-Event-ID")
}

func TestEventsOfARetriedAttempt(t *testing.T) {
	p := start(t)
	id := p.post("/api/v1/evaluations", hello).evaluation().ID
	s := p.stream("/api/v1/evaluations/"+string(id)+"/events", "")
	s.want("queued")
	lease := p.claim(id)
	s.want("running")
	p.finish(lease, eval.Outcome{Failure: &eval.Failure{Kind: eval.KindStopping, Message: "the worker stops"}})
	s.want("requeued")
	second := p.claim(id)
	require.Equal(t, 2, s.want("running").data.Attempt)
	p.print(second, "stdout", 0, "x")
	require.Equal(t, 2, s.want("stdout").data.Attempt)
	p.finish(second, accepted("x"))
	s.want("completed")
	s.end()
}

func TestFeedCarriesSeveralTopics(t *testing.T) {
	p := start(t)
	followed := p.post("/api/v1/evaluations", hello).evaluation().ID
	s := p.stream("/api/v1/events?topics=evaluations,eval:"+string(followed), "")
	require.Equal(t, []string{"eval:" + string(followed), "evaluations"}, s.want("ready").data.Topics)
	s.want("queued") // of the one that is followed, from its beginning
	other := p.post("/api/v1/evaluations", hello).evaluation().ID
	require.Equal(t, other, s.want("evaluation").data.ID)
	p.run(other, accepted(""))
	s.want("evaluation")
	last := s.want("evaluation")
	require.Equal(t, eval.Completed, last.data.Status)
	require.NoError(t, s.resp.Body.Close())

	third := p.post("/api/v1/evaluations", hello).evaluation().ID
	again := p.stream("/api/v1/events?topics=evaluations", last.id)
	again.want("ready")
	require.Equal(t, third, again.want("evaluation").data.ID, "resumed without a gap")
}

func TestFeedOfQueues(t *testing.T) {
	p := start(t)
	s := p.stream("/api/v1/events?topics=queues", "")
	s.want("ready")
	require.Len(t, s.want("queues").data.Queues, 4)
	require.Equal(t, http.StatusOK, p.post("/api/v1/queues/low/pause", "").Code)
	s.want("queues")
}

func TestFeedRefusesWhatItDoesNotKnow(t *testing.T) {
	p := start(t)
	p.get("/api/v1/events?topics=weather").invalid("topics")
	p.get("/api/v1/events?topics=eval:1").invalid("topics")
	p.get("/api/v1/events?since=now").invalid("since")
	p.get("/api/v1/events?topics=eval:01890a5d-ac96-774b-bcce-b302099a8057").problem(http.StatusNotFound, eval.KindNotFound)
	for _, last := range []string{"x", "evaluations=-1", "evaluations=1,eval:7=1/", "eval:01890a5d-ac96-774b-bcce-b302099a8057=a/b"} {
		p.send("GET", "/api/v1/events", "", http.Header{"Last-Event-Id": {last}}).invalid("Last-Event-ID")
	}
}

func TestStreamsAreBounded(t *testing.T) {
	p := start(t, func(c *api.Config, _ *api.Deps) { c.MaxStreams, c.MaxWaiters = 1, 1 })
	id := p.post("/api/v1/evaluations", hello).evaluation().ID
	s := p.stream("/api/v1/events", "")
	s.want("ready")
	r := p.get("/api/v1/evaluations/" + string(id) + "/events")
	r.problem(http.StatusServiceUnavailable, eval.KindFull)
	require.NotEmpty(t, r.Header.Get("Retry-After"))
}

func TestDrainEndsStreamsAndWaits(t *testing.T) {
	p := start(t)
	id := p.post("/api/v1/evaluations", hello).evaluation().ID
	s := p.stream("/api/v1/evaluations/"+string(id)+"/events", "")
	s.want("queued")
	waiting := make(chan response, 1)
	go func() { waiting <- p.get("/api/v1/evaluations/" + string(id) + "?wait=60s") }()
	p.waiters(1)
	p.api.Drain()
	_, err := io.Copy(io.Discard, s.resp.Body)
	require.NoError(t, err, "the stream ends in good order")
	require.Equal(t, eval.Queued, (<-waiting).evaluation().Status)
	require.Equal(t, http.StatusServiceUnavailable, p.get("/readyz").Code)
}

func TestADrainingAPITakesNothingNewAndAnswersTheRest(t *testing.T) {
	p := start(t)
	id := p.post("/api/v1/evaluations", hello).evaluation().ID
	p.api.Drain()
	for _, r := range []response{
		p.post("/api/v1/evaluations", hello),
		p.post("/api/v1/evaluations?wait=10s", hello),
		p.post("/api/v1/evaluations/batch", `{"evaluations":[`+hello+`]}`),
		p.post("/api/v1/evaluations/"+string(id)+"/retry", ""),
		p.post("/api/v1/dead-letters/"+string(id)+"/retry", ""),
		p.post("/api/v1/dead-letters/retry", `{}`),
	} {
		r.problem(http.StatusServiceUnavailable, eval.KindStopping)
		require.Equal(t, "1", r.Header.Get("Retry-After"))
	}
	require.Equal(t, eval.Queued, p.get("/api/v1/evaluations/"+string(id)).evaluation().Status)
	require.Equal(t, eval.Cancelled, p.post("/api/v1/evaluations/"+string(id)+"/cancel", "").evaluation().Status, "an end is nothing new")
}

func TestManyWaitersAreWokenAtOnce(t *testing.T) {
	p := start(t)
	id := p.post("/api/v1/evaluations", hello).evaluation().ID
	const n = 200
	answers := make(chan response, n)
	for range n {
		go func() { answers <- p.get("/api/v1/evaluations/" + string(id) + "?wait=60s") }()
	}
	p.waiters(n)
	p.run(id, accepted("hello\n"))
	for range n {
		require.Equal(t, eval.Completed, (<-answers).evaluation().Status)
	}
}

func TestWithoutNoticesPollingStillWakes(t *testing.T) {
	p := start(t, func(_ *api.Config, d *api.Deps) { d.Notices = nil })
	id := p.post("/api/v1/evaluations", hello).evaluation().ID
	s := p.stream("/api/v1/evaluations/"+string(id)+"/events", "")
	s.want("queued")
	p.run(id, accepted(""))
	s.want("running")
	s.want("completed")
	s.end()
	require.Equal(t, eval.Completed, p.get("/api/v1/evaluations/"+string(id)+"?wait=10s").evaluation().Status)
}
