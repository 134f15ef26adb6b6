package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/pkg/egress"
	"github.com/crucible-eval/crucible/pkg/eval"
)

type callback struct {
	ID         eval.ID             `json:"id"`
	Host       string              `json:"host"`
	Status     eval.CallbackStatus `json:"status"`
	Tries      int                 `json:"tries"`
	Reason     eval.CallbackReason `json:"reason"`
	Message    string              `json:"message"`
	HTTPStatus int                 `json:"http_status"`
	NextTryAt  *time.Time          `json:"next_try_at"`
	Links      struct{ Retry string }
}

func withCallbacks(t *testing.T, cfg egress.Config) option {
	guard, err := egress.New(cfg)
	require.NoError(t, err)
	return func(_ *api.Config, d *api.Deps) { d.Callbacks = guard }
}

func calling(url string) string {
	return fmt.Sprintf(`{"language":"python","code":"print(1)","callback_url":%q}`, url)
}

// deliver plays the deliverer: it takes what is due and reports.
func (p *platform) deliver(d eval.Delivery) {
	p.t.Helper()
	taken, err := p.store.TakeCallbacks(p.t.Context(), eval.TakeRequest{Deliverer: "d", Lease: time.Minute, Limit: 10, PerHost: 10})
	require.NoError(p.t, err)
	require.Len(p.t, taken, 1)
	_, err = p.store.ReportCallback(p.t.Context(), eval.CallbackLease{Key: taken[0].Key, Try: taken[0].Tries}, d)
	require.NoError(p.t, err)
}

func TestCallbacksAreOffUnlessConfigured(t *testing.T) {
	p := start(t)
	r := p.post("/api/v1/evaluations", calling("https://example.org/hook"))
	r.invalid("callback_url")
	require.Contains(t, r.Body, "--callbacks")
	p.post("/api/v1/evaluations/batch", `{"evaluations":[`+hello+`,`+calling("https://example.org/")+`]}`).invalid("evaluations[1].callback_url")
}

func TestCallbackURLsAreCheckedWhenTheyAreAccepted(t *testing.T) {
	p := start(t, withCallbacks(t, egress.Config{}))
	for _, url := range []string{
		"http://example.org/", "https://127.0.0.1/", "https://[::1]/", "https://169.254.169.254/", "https://2130706433/", "https://u:p@example.org/", "nonsense",
	} {
		r := p.post("/api/v1/evaluations", calling(url))
		r.invalid("callback_url")
		require.NotContains(t, r.Body, "u:p", "what is refused is not repeated")
	}
	require.Equal(t, http.StatusAccepted, p.post("/api/v1/evaluations", calling("https://example.org/hook?token=1")).Code)
}

func TestACallbackIsShown(t *testing.T) {
	p := start(t, withCallbacks(t, egress.Config{}))
	e := p.post("/api/v1/evaluations", calling("https://Example.org/hook?token=secret")).evaluation()
	shown := func() *callback {
		var v struct {
			URL      string    `json:"callback_url"`
			Callback *callback `json:"callback"`
		}
		p.get(e.Links.Self).decode(&v)
		require.Equal(t, "https://Example.org/hook?token=secret", v.URL)
		return v.Callback
	}
	require.Nil(t, shown(), "it has not ended")
	p.run(e.ID, accepted("1\n"))
	c := shown()
	require.Equal(t, eval.CallbackPending, c.Status)
	require.Equal(t, "example.org", c.Host)
	require.NotNil(t, c.NextTryAt)
	p.deliver(eval.Delivery{Reason: eval.CallbackGone, Message: "the receiver answered 410 Gone", HTTPStatus: 410})
	c = shown()
	require.Equal(t, eval.CallbackDead, c.Status)
	require.Equal(t, 410, c.HTTPStatus)
	require.Equal(t, "the receiver answered 410 Gone", c.Message)
	require.Nil(t, c.NextTryAt)

	var list struct{ Callbacks []callback }
	p.get("/api/v1/callbacks?status=dead").decode(&list)
	require.Len(t, list.Callbacks, 1)
	require.Equal(t, e.ID, list.Callbacks[0].ID)
	require.NotContains(t, p.get("/api/v1/callbacks").Body, "secret", "the URL may hold a token")
	p.get("/api/v1/callbacks?status=delivered").decode(&list)
	require.Empty(t, list.Callbacks)
	require.Contains(t, p.get("/api/v1/stats").Body, `"callbacks":{"pending":0,"dead":1}`)

	r := p.post(c.Links.Retry, "")
	require.Equal(t, http.StatusAccepted, r.Code, r.Body)
	require.Equal(t, eval.CallbackPending, shown().Status)
	p.post("/api/v1/callbacks/"+string(e.ID)+"/retry", "").problem(http.StatusConflict, eval.KindConflict)
	p.deliver(eval.Delivery{HTTPStatus: 204})
	require.Equal(t, eval.CallbackDelivered, shown().Status)
	require.Equal(t, 2, shown().Tries)
}

func TestCallbacksThatAreNotThere(t *testing.T) {
	p := start(t, withCallbacks(t, egress.Config{}))
	e := p.post("/api/v1/evaluations", hello).evaluation()
	p.run(e.ID, accepted(""))
	require.NotContains(t, p.get(e.Links.Self).Body, `"callback"`)
	p.post("/api/v1/callbacks/"+string(e.ID)+"/retry", "").problem(http.StatusNotFound, eval.KindNotFound)
	p.post("/api/v1/callbacks/nonsense/retry", "").invalid("id")
	p.get("/api/v1/callbacks?status=lost").invalid("status")
	p.get("/api/v1/callbacks?status=dead,pending").invalid("status")
	p.get("/api/v1/callbacks?cursor=x").invalid("cursor")
	p.get("/api/v1/callbacks?limit=0&kind=x").invalid("limit", "kind")
}

func TestCallbacksComeInPages(t *testing.T) {
	p := start(t, withCallbacks(t, egress.Config{}))
	for range 3 {
		p.run(p.post("/api/v1/evaluations", calling("https://example.org/")).evaluation().ID, accepted(""))
	}
	seen, path := map[eval.ID]bool{}, "/api/v1/callbacks?limit=2"
	for range 2 {
		var page struct {
			Callbacks []callback
			Next      string
		}
		p.get(path).decode(&page)
		for _, c := range page.Callbacks {
			seen[c.ID] = true
		}
		path = "/api/v1/callbacks?limit=2&cursor=" + page.Next
	}
	require.Len(t, seen, 3)
}

// A receiver reads the same as the client that submits and waits.
func TestThePayloadIsWhatASubmissionIsAnsweredWith(t *testing.T) {
	p := start(t, withCallbacks(t, egress.Config{}))
	e := p.post("/api/v1/evaluations", calling("https://example.org/")).evaluation()
	p.run(e.ID, accepted("1\n"))
	whole, err := p.store.Get(t.Context(), eval.Key{Project: eval.DefaultProject, ID: e.ID})
	require.NoError(t, err)
	body, err := api.Payload(whole)
	require.NoError(t, err)
	var payload, seen map[string]any
	require.NoError(t, json.Unmarshal(body, &payload))
	p.get(e.Links.Self).decode(&seen)
	delete(seen, "code") // what its sender has
	delete(seen, "callback")
	require.Equal(t, seen, payload)
}
