package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

const hello = `{"language":"python","code":"print('hello')"}`

func TestSubmitAcceptsAndEnqueues(t *testing.T) {
	p := start(t)
	r := p.post("/api/v1/evaluations", hello)
	require.Equal(t, http.StatusAccepted, r.Code, r.Body)
	e := r.evaluation()
	require.Equal(t, "/api/v1/evaluations/"+string(e.ID), r.Header.Get("Location"))
	require.Equal(t, eval.Queued, e.Status)
	require.EqualValues(t, 10_000, e.Limits.WallMS, "defaults are filled in")
	require.Equal(t, eval.PriorityDefault, e.Priority)

	stored, err := p.store.Get(t.Context(), e.key())
	require.NoError(t, err)
	require.Equal(t, "print('hello')", stored.Spec.Code.String())
	require.Len(t, p.queue.dispatches(), 1)
	require.Equal(t, e.ID, p.queue.dispatches()[0].ID)
}

func TestSubmitTakesAliasesFilesAndBytes(t *testing.T) {
	p := start(t)
	r := p.post("/api/v1/evaluations", `{"language":"PY","files":{"a.py":"import b","b.py":{"data":"AP8=","encoding":"base64"}},"entrypoint":"a.py",
		"stdin":{"data":"AP8=","encoding":"base64"},"args":["x"],"env":{"A":"1"},"tags":["t"],"priority":"high","retry_policy":"aggressive",
		"limits":{"wall_ms":1000},"tests":[{"name":"one","stdin":"1","expected_stdout":"1","checker":"exact"}]}`)
	require.Equal(t, http.StatusAccepted, r.Code, r.Body)
	e := r.evaluation()
	require.Equal(t, "python", e.Language)
	full := p.get(e.Links.Self).evaluation()
	require.Equal(t, []byte{0, 255}, []byte(full.Stdin))
	require.Equal(t, []byte{0, 255}, []byte(full.Files["b.py"]))
	require.Equal(t, "1", full.Env["A"])
	require.Len(t, full.Tests, 1)
	require.NotContains(t, p.get(e.Links.Self).Body, "dispatch_seq", "what only the platform needs stays inside")
}

func TestSubmitWaitsForTheEnd(t *testing.T) {
	p := start(t)
	answers := make(chan response, 1)
	go func() { answers <- p.post("/api/v1/evaluations?wait=30s", hello) }()
	id := p.nextQueued()
	p.run(id, accepted("hello\n"))
	r := <-answers
	require.Equal(t, http.StatusOK, r.Code, r.Body)
	e := r.evaluation()
	require.Equal(t, eval.Accepted, e.Verdict)
	require.Equal(t, "hello\n", e.Result.Stdout.Data)
	require.NotNil(t, e.QueueMS)
	require.NotNil(t, e.FinishedAt)
}

func TestSubmitWaitEndsInTimeWith202(t *testing.T) {
	p := start(t)
	r := p.post("/api/v1/evaluations?wait=20ms", hello)
	require.Equal(t, http.StatusAccepted, r.Code, r.Body)
}

func TestSubmitForLaterIsNotEnqueued(t *testing.T) {
	p := start(t)
	at := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	r := p.post("/api/v1/evaluations", `{"language":"python","code":"1","run_at":"`+at+`"}`)
	require.Equal(t, http.StatusAccepted, r.Code, r.Body)
	require.Empty(t, p.queue.dispatches())
}

func TestADeadlineIsShown(t *testing.T) {
	p := start(t)
	r := p.post("/api/v1/evaluations", `{"language":"python","code":"1","expires_in":"1h30m"}`)
	require.Equal(t, http.StatusAccepted, r.Code, r.Body)
	var e struct {
		ExpiresIn string    `json:"expires_in"`
		CreatedAt time.Time `json:"created_at"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	require.NoError(t, json.Unmarshal([]byte(r.Body), &e))
	require.Equal(t, "1h30m0s", e.ExpiresIn)
	require.Equal(t, 90*time.Minute, e.ExpiresAt.Sub(e.CreatedAt))
	require.NotContains(t, p.post("/api/v1/evaluations", hello).Body, "expires")
}

func TestSubmitIsAcceptedWithoutTheQueue(t *testing.T) {
	p := start(t)
	p.queue.refuse(eval.Errorf(eval.KindUnavailable, "redis is down"))
	require.Equal(t, http.StatusAccepted, p.post("/api/v1/evaluations", hello).Code)
	require.Equal(t, http.StatusAccepted, p.post("/api/v1/evaluations/batch", `{"evaluations":[`+hello+`,`+hello+`]}`).Code)
	require.Contains(t, p.get("/metrics").Body, "crucible_api_enqueue_failures_total 3")
}

func TestIdempotencyKey(t *testing.T) {
	p := start(t)
	key := http.Header{"Idempotency-Key": {"order 66"}}
	first := p.send("POST", "/api/v1/evaluations", hello, key)
	require.Equal(t, http.StatusAccepted, first.Code, first.Body)
	again := p.send("POST", "/api/v1/evaluations", `{"code": "print('hello')", "language":"python"}`, key)
	require.Equal(t, http.StatusAccepted, again.Code, again.Body)
	require.Equal(t, "true", again.Header.Get("Idempotency-Replayed"))
	require.Equal(t, first.evaluation().ID, again.evaluation().ID)
	require.Len(t, p.queue.dispatches(), 1, "nothing runs twice")

	other := p.send("POST", "/api/v1/evaluations", `{"language":"python","code":"2"}`, key)
	other.problem(http.StatusUnprocessableEntity, eval.KindKeyReused)
	batch := p.send("POST", "/api/v1/evaluations/batch", `{"evaluations":[`+hello+`]}`, key)
	batch.problem(http.StatusUnprocessableEntity, eval.KindKeyReused)
	require.Equal(t, 1, p.stored())

	for _, bad := range []string{"", strings.Repeat("k", 256), "köy"} {
		p.send("POST", "/api/v1/evaluations", hello, http.Header{"Idempotency-Key": {bad}}).invalid("Idempotency-Key")
	}
}

func TestIdempotencyUnderARace(t *testing.T) {
	p := start(t)
	ids := make([]eval.ID, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			ids[i] = p.send("POST", "/api/v1/evaluations", hello, http.Header{"Idempotency-Key": {"race"}}).evaluation().ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		require.Equal(t, ids[0], id)
	}
	require.Equal(t, 1, p.stored())
}

func TestBatch(t *testing.T) {
	p := start(t)
	var items []string
	for i := range 100 {
		items = append(items, fmt.Sprintf(`{"language":"python","code":"print(%d)"}`, i))
	}
	r := p.post("/api/v1/evaluations/batch", `{"evaluations":[`+strings.Join(items, ",")+`]}`)
	require.Equal(t, http.StatusAccepted, r.Code, r.Body)
	var b struct {
		BatchID     string       `json:"batch_id"`
		Evaluations []evaluation `json:"evaluations"`
	}
	r.decode(&b)
	require.Len(t, b.Evaluations, 100)
	require.Len(t, p.queue.dispatches(), eval.DefaultRules().Window, "the rest waits in the store for its turn")
	for i, e := range b.Evaluations {
		require.Equal(t, b.BatchID, e.BatchID)
		stored, err := p.store.Get(t.Context(), e.key())
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("print(%d)", i), stored.Spec.Code.String(), "in order")
	}
	page := p.get(r.Header.Get("Location") + "&limit=500").list()
	require.Len(t, page.Evaluations, 100)
}

func TestBatchIsAllOrNothing(t *testing.T) {
	p := start(t)
	r := p.post("/api/v1/evaluations/batch", `{"evaluations":[`+hello+`,{"language":"klingon","code":"x"},{"language":"python","code":"1","limits":{"wal_ms":1}},{"language":"python"}]}`)
	r.invalid("evaluations[1].language", "evaluations[2].limits.wal_ms", "evaluations[3].code")
	require.Zero(t, p.stored())
	require.Empty(t, p.queue.dispatches())

	p.post("/api/v1/evaluations/batch", `{"evaluations":[]}`).invalid("evaluations")
	p.post("/api/v1/evaluations/batch", `{}`).invalid("evaluations")
	p.post("/api/v1/evaluations/batch", `{"evaluations":[`+strings.Repeat(hello+",", 1000)+hello+`]}`).invalid("evaluations")
	require.Zero(t, p.stored())
}

func TestStoreDownIs503(t *testing.T) {
	broken := &brokenStore{}
	p := start(t, func(_ *api.Config, d *api.Deps) { broken.Store = d.Store; d.Store = broken })
	id := p.post("/api/v1/evaluations", hello).evaluation().ID
	broken.cut(eval.Errorf(eval.KindUnavailable, "the database cannot be reached"))
	for _, r := range []response{
		p.post("/api/v1/evaluations", hello),
		p.post("/api/v1/evaluations/batch", `{"evaluations":[`+hello+`]}`),
		p.get("/api/v1/evaluations"),
		p.get("/api/v1/evaluations/" + string(id)),
		p.get("/api/v1/evaluations/" + string(id) + "?wait=20ms"),
		p.get("/api/v1/evaluations/" + string(id) + "/events"),
		p.get("/api/v1/events"),
		p.get("/api/v1/stats"),
	} {
		r.problem(http.StatusServiceUnavailable, eval.KindUnavailable)
		require.NotEmpty(t, r.Header.Get("Retry-After"))
	}
	require.Equal(t, http.StatusServiceUnavailable, p.get("/readyz").Code)
	home := p.get("/")
	require.Equal(t, http.StatusOK, home.Code)
	require.Contains(t, home.Body, "The store cannot be reached")
	broken.cut(nil)
	testkit.Eventually(t, func() bool { return p.get("/readyz").Code == http.StatusOK }, "it is ready again")
	require.Equal(t, http.StatusAccepted, p.post("/api/v1/evaluations", hello).Code)
}
