package api_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func TestCancelInEveryState(t *testing.T) {
	p := start(t)
	queued := p.post("/api/v1/evaluations", hello).evaluation()
	r := p.post(queued.Links.Self+"/cancel", `{"reason":"changed my mind"}`)
	require.Equal(t, http.StatusOK, r.Code, r.Body)
	require.Equal(t, eval.Cancelled, r.evaluation().Status)
	require.Equal(t, "changed my mind", r.evaluation().Reason)
	again := p.post(queued.Links.Self+"/cancel", "").problem(http.StatusConflict, eval.KindConflict)
	require.Equal(t, eval.Cancelled, again.State)

	running := p.post("/api/v1/evaluations", hello).evaluation()
	lease := p.claim(running.ID)
	for range 2 {
		r = p.post(running.Links.Self+"/cancel", "")
		require.Equal(t, http.StatusAccepted, r.Code, r.Body)
		require.Equal(t, eval.Running, r.evaluation().Status)
		require.NotNil(t, r.evaluation().CancelRequestedAt)
	}
	beat, err := p.store.Beat(t.Context(), lease, 1e9)
	require.NoError(t, err)
	require.True(t, beat.CancelRequested)
	partial := accepted("half").Result
	partial.Verdict = ""
	p.finish(lease, eval.Outcome{Cancelled: true, Result: partial})
	e := p.get(running.Links.Self).evaluation()
	require.Equal(t, eval.Cancelled, e.Status)
	require.Equal(t, "half", e.Result.Stdout.Data, "what it had printed is kept")

	completed := p.post("/api/v1/evaluations", hello).evaluation()
	p.run(completed.ID, accepted(""))
	require.Equal(t, eval.Completed, p.post(completed.Links.Self+"/cancel", "").problem(http.StatusConflict, eval.KindConflict).State)
}

func TestCancelWorksWithoutTheQueue(t *testing.T) {
	p := start(t)
	e := p.post("/api/v1/evaluations", hello).evaluation()
	p.queue.refuse(eval.Errorf(eval.KindUnavailable, "redis is down"))
	require.Equal(t, http.StatusOK, p.post(e.Links.Self+"/cancel", "").Code)
}

func TestCancelRefusesWhatItDoesNotKnow(t *testing.T) {
	p := start(t)
	e := p.post("/api/v1/evaluations", hello).evaluation()
	p.post(e.Links.Self+"/cancel", `{"why":"x"}`).invalid("why")
	p.post(e.Links.Self+"/cancel", `{"reason":5}`).invalid("reason")
	require.Equal(t, eval.Queued, p.get(e.Links.Self).evaluation().Status)
}

func TestRetryMakesANewEvaluation(t *testing.T) {
	p := start(t)
	failed := p.post("/api/v1/evaluations", hello).evaluation()
	require.Equal(t, eval.Queued, p.post(failed.Links.Self+"/retry", "").problem(http.StatusConflict, eval.KindConflict).State)
	p.run(failed.ID, broken("the executor refuses it"))
	e := p.get(failed.Links.Self).evaluation()
	require.Equal(t, eval.Failed, e.Status)
	require.Equal(t, "the executor refuses it", e.Failure.Message)

	r := p.post(e.Links.Retry, "")
	require.Equal(t, http.StatusAccepted, r.Code, r.Body)
	fresh := r.evaluation()
	require.NotEqual(t, failed.ID, fresh.ID)
	require.Equal(t, failed.ID, fresh.RetryOf)
	require.Equal(t, "/api/v1/evaluations/"+string(fresh.ID), r.Header.Get("Location"))
	require.Equal(t, eval.Failed, p.get(failed.Links.Self).evaluation().Status, "what has ended stays as it is")
	require.Len(t, p.queue.dispatches(), 2)
	p.run(fresh.ID, accepted("hello\n"))
}

type deadLetters struct {
	DeadLetters []struct {
		ID      eval.ID
		Failure eval.Failure
	} `json:"dead_letters"`
	Next string
}

func (p *platform) deadLetters(query string) (d deadLetters) {
	p.t.Helper()
	r := p.get("/api/v1/dead-letters" + query)
	require.Equal(p.t, http.StatusOK, r.Code, r.Body)
	r.decode(&d)
	return d
}

func TestDeadLetters(t *testing.T) {
	p := start(t)
	var ids []eval.ID
	for range 4 {
		id := p.post("/api/v1/evaluations", hello).evaluation().ID
		p.run(id, broken("no"))
		ids = append(ids, id)
	}
	all := p.deadLetters("")
	require.Len(t, all.DeadLetters, 4)
	require.Equal(t, "no", all.DeadLetters[0].Failure.Message)
	require.Len(t, p.deadLetters("?kind=invalid&language=python").DeadLetters, 4)
	require.Empty(t, p.deadLetters("?kind=poison").DeadLetters)
	page := p.deadLetters("?limit=3")
	require.Len(t, page.DeadLetters, 3)
	require.Len(t, p.deadLetters("?limit=3&cursor="+page.Next).DeadLetters, 1)

	require.Equal(t, http.StatusAccepted, p.post("/api/v1/dead-letters/"+string(ids[0])+"/retry", "").Code)
	require.Equal(t, http.StatusNoContent, p.send("DELETE", "/api/v1/dead-letters/"+string(ids[1]), "", nil).Code)
	p.send("DELETE", "/api/v1/dead-letters/"+string(ids[1]), "", nil).problem(http.StatusNotFound, eval.KindNotFound)
	require.Equal(t, http.StatusOK, p.get("/api/v1/evaluations/"+string(ids[1])).Code, "the evaluation stays")

	var out struct {
		Retried []struct {
			ID    eval.ID
			NewID eval.ID `json:"new_id"`
		}
		Failed []struct {
			ID     eval.ID
			Detail string
		}
		More bool
	}
	unknown := "01890a5d-ac96-774b-bcce-b302099a8057"
	p.post("/api/v1/dead-letters/retry", `{"ids":["`+string(ids[2])+`","`+unknown+`"]}`).decode(&out)
	require.Len(t, out.Retried, 1)
	require.Len(t, out.Failed, 1)
	require.NotEmpty(t, out.Failed[0].Detail)
	p.post("/api/v1/dead-letters/retry", `{"kind":"invalid","limit":10}`).decode(&out)
	require.Len(t, out.Retried, 1)
	require.False(t, out.More)
	require.Empty(t, p.deadLetters("").DeadLetters)

	p.post("/api/v1/dead-letters/retry", `{}`).invalid("ids")
	p.post("/api/v1/dead-letters/retry", `{"ids":["x"]}`).invalid("ids[0]")
	p.post("/api/v1/dead-letters/retry", `{"all":true,"limit":-1}`).invalid("limit")
	p.post("/api/v1/dead-letters/retry", `{"kind":"sad"}`).invalid("kind")
	p.get("/api/v1/dead-letters?kind=sad").invalid("kind")
	p.get("/api/v1/dead-letters?cursor=x").invalid("cursor")
}
