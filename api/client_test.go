package api_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// log collects what is logged.
type log struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

func keys(all ...string) option { return func(c *api.Config, _ *api.Deps) { c.APIKeys = all } }

func as(key string, more ...string) http.Header {
	h := http.Header{"X-Api-Key": {key}}
	for i := 0; i+1 < len(more); i += 2 {
		h.Set(more[i], more[i+1])
	}
	return h
}

func TestAnEvaluationKnowsItsClientAndNobodyLearnsTheKey(t *testing.T) {
	var lines log
	p := start(t, keys("ann:first-s3cret", "ann:second-s3cret", "third-s3cret"), func(_ *api.Config, d *api.Deps) {
		d.Logger = slog.New(slog.NewJSONHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	var anns []eval.ID
	for _, key := range []string{"first-s3cret", "second-s3cret"} {
		e := p.send("POST", "/api/v1/evaluations", hello, as(key)).evaluation()
		require.Equal(t, "ann", e.Client)
		anns = append(anns, e.ID)
	}
	var batch list
	p.send("POST", "/api/v1/evaluations/batch", `{"evaluations":[`+hello+`]}`, as("third-s3cret")).decode(&batch)
	nameless := batch.Evaluations[0]
	require.Regexp(t, `^key-[0-9a-f]{8}$`, nameless.Client)

	got := p.send("GET", "/api/v1/evaluations?client=ann", "", as("third-s3cret"))
	require.Len(t, got.list().Evaluations, 2)
	require.ElementsMatch(t, anns, []eval.ID{got.list().Evaluations[0].ID, got.list().Evaluations[1].ID})
	require.Len(t, p.send("GET", "/api/v1/evaluations?client="+nameless.Client, "", as("third-s3cret")).list().Evaluations, 1)

	require.Contains(t, lines.String(), `"client":"ann"`)
	for _, where := range []string{lines.String(), got.Body, p.send("GET", "/metrics", "", as("third-s3cret")).Body, p.send("GET", "/", "", as("third-s3cret")).Body} {
		require.NotContains(t, where, "s3cret")
	}
}

func TestIdempotencyKeysAreOfTheirClient(t *testing.T) {
	p := start(t, keys("ann:a", "bob:b"))
	const other = `{"language":"python","code":"print('other')"}`
	anns := p.send("POST", "/api/v1/evaluations", hello, as("a", "Idempotency-Key", "k"))
	bobs := p.send("POST", "/api/v1/evaluations", other, as("b", "Idempotency-Key", "k"))
	require.Equal(t, http.StatusAccepted, bobs.Code, "another's key says nothing, not even that it was used: %s", bobs.Body)
	require.Empty(t, bobs.Header.Get("Idempotency-Replayed"))
	require.NotEqual(t, anns.evaluation().ID, bobs.evaluation().ID)
	again := p.send("POST", "/api/v1/evaluations", hello, as("a", "Idempotency-Key", "k"))
	require.Equal(t, anns.evaluation().ID, again.evaluation().ID)
	require.Equal(t, "true", again.Header.Get("Idempotency-Replayed"))
}
