package api_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func TestGetWaitsForTheEnd(t *testing.T) {
	p := start(t)
	e := p.post("/api/v1/evaluations", hello).evaluation()
	require.Equal(t, eval.Queued, p.get(e.Links.Self+"?wait=10ms").evaluation().Status, "the time is up: as it is now")
	answers := make(chan response, 1)
	go func() { answers <- p.get(e.Links.Self + "?wait=30") }()
	p.waiters(1)
	p.run(e.ID, accepted("hello\n"))
	require.Equal(t, eval.Completed, (<-answers).evaluation().Status)
}

func TestListFiltersBeforePaging(t *testing.T) {
	p := start(t)
	done := p.post("/api/v1/evaluations", `{"language":"python","code":"1","tags":["blue"]}`).evaluation()
	p.run(done.ID, accepted(""))
	var queued []eval.ID
	for range 5 {
		queued = append(queued, p.post("/api/v1/evaluations", hello).evaluation().ID)
	}
	only := func(query string) []eval.ID {
		var ids []eval.ID
		for _, e := range p.get("/api/v1/evaluations?" + query).list().Evaluations {
			ids = append(ids, e.ID)
			require.Empty(t, e.Code, "lists have no programs")
		}
		return ids
	}
	require.Equal(t, []eval.ID{done.ID}, only("status=completed&limit=1"))
	require.Equal(t, []eval.ID{done.ID}, only("verdict=accepted,wrong_answer"))
	require.Equal(t, []eval.ID{done.ID}, only("tag=blue"))
	require.Len(t, only("language=py"), 6, "an alias is the language")
	require.Empty(t, only("language=cobol"))
	require.Empty(t, only("since="+url.QueryEscape(time.Now().Add(time.Hour).Format(time.RFC3339))))
	require.Empty(t, only("until=2020-01-01T00:00:00Z"))
	require.Len(t, only("status=queued,completed"), 6)
	require.Len(t, only("status=queued&status=completed"), 6)

	var paged []eval.ID
	next := ""
	for {
		page := p.get("/api/v1/evaluations?status=queued&limit=2" + next).list()
		for _, e := range page.Evaluations {
			paged = append(paged, e.ID)
		}
		if page.Next == "" {
			break
		}
		next = "&cursor=" + url.QueryEscape(page.Next)
	}
	require.Len(t, paged, 5)
	require.Equal(t, queued[4], paged[0], "newest first")
	require.Equal(t, queued[0], paged[4])
}

func TestBadQueriesAreNamed(t *testing.T) {
	p := start(t)
	for query, field := range map[string]string{
		"status=done":          "status",
		"verdict=ok":           "verdict",
		"limit=0":              "limit",
		"limit=501":            "limit",
		"limit=x":              "limit",
		"since=yesterday":      "since",
		"until=1":              "until",
		"batch=7":              "batch",
		"colour=red":           "colour",
		"limit=1&limit=2":      "limit",
		"tag=":                 "tag",
		"cursor=AAAA":          "cursor",
		"cursor=not-base64!!!": "cursor",
		"%zz=1":                "query",
	} {
		t.Run(query, func(t *testing.T) { p.get("/api/v1/evaluations?" + query).invalid(field) })
	}
}

func TestBadIDsAndWaits(t *testing.T) {
	p := start(t)
	for _, path := range []string{"/api/v1/evaluations/7", "/api/v1/evaluations/01890A5D-AC96-774B-BCCE-B302099A8057", "/api/v1/evaluations/a%20b"} {
		p.get(path).invalid("id")
		p.get(path + "/events").invalid("id")
		p.get(path + "/attempts").invalid("id")
		p.get(path + "/timeline").invalid("id")
		p.get(path + "/output/stdout").invalid("id")
		p.post(path+"/cancel", "").invalid("id")
		p.post(path+"/retry", "").invalid("id")
	}
	unknown := "/api/v1/evaluations/01890a5d-ac96-774b-bcce-b302099a8057"
	for _, r := range []response{
		p.get(unknown), p.get(unknown + "?wait=5s"), p.get(unknown + "/events"), p.get(unknown + "/attempts"), p.get(unknown + "/timeline"), p.get(unknown + "/output/stdout"),
		p.post(unknown+"/cancel", ""), p.post(unknown+"/retry", ""),
		p.post("/api/v1/dead-letters/01890a5d-ac96-774b-bcce-b302099a8057/retry", ""),
		p.send("DELETE", "/api/v1/dead-letters/01890a5d-ac96-774b-bcce-b302099a8057", "", nil),
	} {
		r.problem(http.StatusNotFound, eval.KindNotFound)
	}
	e := p.post("/api/v1/evaluations", hello).evaluation()
	for _, wait := range []string{"-1s", "61s", "1h", "soon", "1e300", "NaN", ""} {
		p.get(e.Links.Self + "?wait=" + wait).invalid("wait")
		p.post("/api/v1/evaluations?wait="+wait, hello).invalid("wait")
	}
	require.Equal(t, 1, p.stored())
	p.get("/api/v1/nothing").problem(http.StatusNotFound, eval.KindNotFound)
	p.send("PUT", e.Links.Self, "", nil).problem(http.StatusMethodNotAllowed, eval.KindMethod)
}

func TestAttemptsAndTimelineSayWhatWasDecided(t *testing.T) {
	p := start(t)
	e := p.post("/api/v1/evaluations", hello).evaluation()
	type attempt struct {
		Number  int
		Outcome eval.AttemptOutcome
		Worker  string
		TookMS  float64 `json:"took_ms"`
		WallMS  float64 `json:"wall_ms"`
		Retry   eval.Retry
		Counted bool
		Failure *eval.Failure
	}
	var got struct {
		RetryPolicy struct{ Name string } `json:"retry_policy"`
		Tries       int
		Attempts    []attempt
	}
	p.get(e.Links.Self + "/attempts").decode(&got)
	require.Empty(t, got.Attempts)
	require.Equal(t, eval.PolicyDefault, got.RetryPolicy.Name)
	p.run(e.ID, eval.Outcome{Failure: &eval.Failure{Kind: eval.KindStopping, Message: "the worker stops"}})
	p.run(e.ID, accepted(""))
	p.get(e.Links.Self + "/attempts").decode(&got)
	require.Len(t, got.Attempts, 2)
	require.Equal(t, eval.AttemptRetried, got.Attempts[0].Outcome)
	require.Equal(t, eval.RetryAtOnce, got.Attempts[0].Retry)
	require.False(t, got.Attempts[0].Counted)
	require.Contains(t, got.Attempts[0].Failure.Message, "does not count as a try")
	require.Equal(t, eval.AttemptCompleted, got.Attempts[1].Outcome)
	require.InDelta(t, 12.5, got.Attempts[1].WallMS, 0)
	require.Positive(t, got.Attempts[1].TookMS)
	require.Zero(t, got.Tries)

	type entry struct {
		Type        string
		AfterMS     float64 `json:"after_ms"`
		Explanation string
		Number      int
		Attempt     *attempt
	}
	var story struct {
		ID       eval.ID
		Status   eval.Status
		TotalMS  float64 `json:"total_ms"`
		Running  float64 `json:"running_ms"`
		Attempts int
		Entries  []entry
	}
	p.get(e.Links.Self + "/timeline").decode(&story)
	require.Equal(t, e.ID, story.ID)
	require.Equal(t, eval.Completed, story.Status)
	require.Equal(t, 2, story.Attempts)
	require.GreaterOrEqual(t, story.TotalMS, story.Running)
	var types []string
	for i, m := range story.Entries {
		types = append(types, m.Type)
		require.NotEmpty(t, m.Explanation)
		require.Equal(t, i == 2 || i == 4, m.Attempt != nil, "what ends an attempt tells all of it")
		if i > 0 {
			require.GreaterOrEqual(t, m.AfterMS, story.Entries[i-1].AfterMS)
		}
	}
	require.Equal(t, []string{"queued", "running", "requeued", "running", "completed"}, types)
	require.Contains(t, story.Entries[2].Explanation, "the worker stops")
	require.Equal(t, 2, story.Entries[4].Attempt.Number)
}
