package api_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

func limited(t *testing.T, each api.Limits, queued int64, others ...string) option {
	q, err := api.NewQuota(each, queued, others)
	require.NoError(t, err)
	return func(c *api.Config, _ *api.Deps) { c.Quota = q }
}

func batchOf(n int) string {
	return `{"evaluations":[` + strings.TrimSuffix(strings.Repeat(hello+",", n), ",") + `]}`
}

// tooMany checks a refusal: which limit, how much is in use, and when to come back.
func (r response) tooMany(limit string, words ...string) {
	r.t.Helper()
	p := r.problem(http.StatusTooManyRequests, eval.KindRateLimited)
	require.Len(r.t, p.Errors, 1)
	require.Equal(r.t, limit, p.Errors[0].Field)
	for _, w := range append(words, "again") {
		require.Contains(r.t, p.Detail, w)
	}
	seconds, err := strconv.Atoi(r.Header.Get("Retry-After"))
	require.NoError(r.t, err)
	require.Positive(r.t, seconds)
	require.Positive(r.t, p.RetryAfterMS)
}

func TestWhatAClientMayHaveWaitingIsBounded(t *testing.T) {
	p := start(t, keys("ann:a", "bob:b", "ci:c"), limited(t, api.Limits{Queued: 3}, 0, "ci:queued=5"))
	first := p.send("POST", "/api/v1/evaluations", hello, as("a", "Idempotency-Key", "k")).evaluation()
	require.Equal(t, http.StatusAccepted, p.send("POST", "/api/v1/evaluations/batch", batchOf(2), as("a")).Code)
	p.send("POST", "/api/v1/evaluations", hello, as("a")).tooMany("client_queued", "ann has 3 evaluations waiting and may have 3", "cancel some")
	p.send("POST", "/api/v1/evaluations/batch", batchOf(2), as("b")).decode(new(any))
	p.send("POST", "/api/v1/evaluations/batch", batchOf(2), as("b")).tooMany("client_queued", "bob has 2")
	require.Equal(t, http.StatusAccepted, p.send("POST", "/api/v1/evaluations", hello, as("b")).Code, "one has room where two have not")
	require.Equal(t, http.StatusAccepted, p.send("POST", "/api/v1/evaluations/batch", batchOf(5), as("c")).Code, "its own limit")

	never := p.send("POST", "/api/v1/evaluations/batch", batchOf(4), as("a"))
	never.invalid("evaluations")
	require.Contains(t, never.Body, "smaller batches")

	again := p.send("POST", "/api/v1/evaluations", hello, as("a", "Idempotency-Key", "k"))
	require.Equal(t, http.StatusAccepted, again.Code, "what was accepted before adds nothing: %s", again.Body)
	require.Equal(t, first.ID, again.evaluation().ID)
	p.send("POST", "/api/v1/evaluations", `{"language":"python","code":"other"}`, as("a", "Idempotency-Key", "k")).problem(422, eval.KindKeyReused)
	p.send("POST", "/api/v1/evaluations", hello, as("a", "Idempotency-Key", "new")).tooMany("client_queued")

	p.run(first.ID, accepted("hello\n"))
	testkit.Eventually(t, func() bool {
		return p.send("POST", "/api/v1/evaluations", hello, as("a", "Idempotency-Key", "new")).Code == http.StatusAccepted
	}, "there is room when one has started")

	metrics := p.send("GET", "/metrics", "", as("a")).Body
	require.Contains(t, metrics, `crucible_api_evaluations_refused_total{client="bob",limit="client_queued"} 2`)

	var limits struct {
		Client struct {
			Name      string
			MaxQueued int `json:"max_queued"`
			Queued    int
		}
		Queue struct{ Queued int }
	}
	p.send("GET", "/api/v1/limits", "", as("c")).decode(&limits)
	require.Equal(t, "ci", limits.Client.Name)
	require.Equal(t, 5, limits.Client.MaxQueued)
	require.Equal(t, 5, limits.Client.Queued)
	require.Equal(t, 11, limits.Queue.Queued)
}

func TestWhatMayWaitInAllIsBounded(t *testing.T) {
	p := start(t, keys("ann:a", "bob:b"), limited(t, api.Limits{}, 4))
	require.Equal(t, http.StatusAccepted, p.send("POST", "/api/v1/evaluations/batch", batchOf(3), as("a")).Code)
	p.send("POST", "/api/v1/evaluations/batch", batchOf(2), as("b")).tooMany("queue_depth", "the queue is full: 3 evaluations wait and 4 may")
	p.send("POST", "/api/v1/evaluations/batch", batchOf(5), as("b")).invalid("evaluations")
	require.Equal(t, http.StatusAccepted, p.send("POST", "/api/v1/evaluations", hello, as("b")).Code)
	p.send("POST", "/api/v1/evaluations", hello, as("a")).tooMany("queue_depth")
}

func TestALimitHoldsWhenManySubmitAtOnce(t *testing.T) {
	p := start(t, limited(t, api.Limits{Queued: 20}, 0))
	var in atomic.Int64
	var clients sync.WaitGroup
	for i := range 60 {
		clients.Go(func() {
			r := p.send("POST", "/api/v1/evaluations", fmt.Sprintf(`{"language":"python","code":"print(%d)"}`, i), nil)
			switch r.Code {
			case http.StatusAccepted:
				in.Add(1)
			case http.StatusTooManyRequests:
			default:
				t.Error(r.Body)
			}
		})
	}
	clients.Wait()
	require.EqualValues(t, 20, in.Load())
	require.Equal(t, 20, p.stored())
}

func TestTheRateOfAClientIsBounded(t *testing.T) {
	p := start(t, keys("ann:a", "bob:b"), limited(t, api.Limits{}, 0, "ann:rate=0.1,burst=3"))
	require.Equal(t, http.StatusAccepted, p.send("POST", "/api/v1/evaluations/batch", batchOf(2), as("a")).Code)
	p.send("POST", "/api/v1/evaluations/batch", batchOf(2), as("a")).tooMany("client_rate", "ann may submit 0.1 evaluations a second, 3 at once")
	require.Equal(t, http.StatusAccepted, p.send("POST", "/api/v1/evaluations", hello, as("a")).Code, "nothing was taken by the refusal")
	r := p.send("POST", "/api/v1/evaluations", hello, as("a"))
	r.tooMany("client_rate")
	seconds, err := strconv.Atoi(r.Header.Get("Retry-After"))
	require.NoError(t, err)
	require.InDelta(t, 10, seconds, 2, "one comes every ten seconds")
	p.send("POST", "/api/v1/evaluations/batch", batchOf(4), as("a")).invalid("evaluations")
	for range 20 {
		require.Equal(t, http.StatusAccepted, p.send("POST", "/api/v1/evaluations", hello, as("b")).Code)
	}
}

func TestARetryIsASubmission(t *testing.T) {
	p := start(t, limited(t, api.Limits{Queued: 1}, 0))
	failed := p.post("/api/v1/evaluations", hello).evaluation()
	p.run(failed.ID, eval.Outcome{Failure: &eval.Failure{Kind: eval.KindInvalid, Message: "no"}})
	p.post("/api/v1/evaluations", hello)
	p.post("/api/v1/evaluations/"+string(failed.ID)+"/retry", "").tooMany("client_queued")
}

func TestLimitsThatCannotBeRead(t *testing.T) {
	for text, says := range map[string]string{
		"ann":                       "NAME:rate",
		"ann:":                      "want rate=NUMBER",
		"ann:rate=x":                "want rate=NUMBER",
		"ann:rate=-1":               "want rate=NUMBER",
		"ann:rate=NaN":              "want rate=NUMBER",
		"ann:speed=1":               "there are rate, burst and queued",
		"ann:queued=1.5":            "whole numbers",
		"two words:rate=1":          "NAME:rate",
		"ann:rate=1,burst=2,queued": "want queued=NUMBER",
	} {
		_, err := api.NewQuota(api.Limits{}, 0, []string{text})
		require.ErrorContains(t, err, says, text)
	}
	_, err := api.NewQuota(api.Limits{Rate: -1}, 0, nil)
	require.ErrorContains(t, err, "negative")
	q, err := api.NewQuota(api.Limits{Rate: 1, Queued: 7}, 9, []string{"ann:burst=4,queued=0", " ci : rate=2.5 "})
	require.NoError(t, err)
	require.Equal(t, api.Limits{Rate: 1, Burst: 4}, q.Of("ann"))
	require.Equal(t, api.Limits{Rate: 2.5, Queued: 7}, q.Of("ci"))
	require.Equal(t, api.Limits{Rate: 1, Queued: 7}, q.Of("bob"))
}
