package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
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

func TestCancelWhileTheStoreIsAwaySaysWhenToComeBack(t *testing.T) {
	var cut *brokenStore
	p := start(t, func(_ *api.Config, d *api.Deps) {
		cut = &brokenStore{Store: d.Store}
		d.Store = cut
	})
	e := p.post("/api/v1/evaluations", hello).evaluation()
	cut.cut(&eval.Error{Kind: eval.KindUnavailable, Message: "the database is down", RetryAfter: time.Second})
	r := p.post(e.Links.Self+"/cancel", "")
	r.problem(http.StatusServiceUnavailable, eval.KindUnavailable)
	require.Equal(t, "1", r.Header.Get("Retry-After"))
	cut.cut(nil)
	require.Equal(t, eval.Cancelled, p.post(e.Links.Self+"/cancel", "").evaluation().Status)
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
	require.Empty(t, r.Header.Get("Idempotency-Replayed"))

	again := p.post(e.Links.Retry, "")
	require.Equal(t, http.StatusAccepted, again.Code, again.Body)
	require.Equal(t, "true", again.Header.Get("Idempotency-Replayed"))
	require.Equal(t, fresh.ID, again.evaluation().ID, "it is retried once")
	require.Len(t, p.queue.dispatches(), 2)
	p.run(fresh.ID, broken("no again"))
	again = p.post("/api/v1/dead-letters/"+string(failed.ID)+"/retry", "")
	require.Equal(t, http.StatusOK, again.Code, again.Body)
	require.Equal(t, eval.Failed, again.evaluation().Status)

	third := p.post(fresh.Links.Self+"/retry", "").evaluation()
	require.Equal(t, fresh.ID, third.RetryOf)
	p.run(third.ID, accepted("hello\n"))
	require.Equal(t, 3, p.stored())
}

func TestRetryTwiceAtOnceMakesOneEvaluation(t *testing.T) {
	p := start(t)
	failed := p.post("/api/v1/evaluations", hello).evaluation()
	p.run(failed.ID, broken("no"))
	answers := make(chan response, 8)
	var wg sync.WaitGroup
	for range cap(answers) {
		wg.Go(func() { answers <- p.post(failed.Links.Self+"/retry", "") })
	}
	wg.Wait()
	close(answers)
	ids, first := map[eval.ID]bool{}, 0
	for r := range answers {
		require.Equal(t, http.StatusAccepted, r.Code, r.Body)
		ids[r.evaluation().ID] = true
		if r.Header.Get("Idempotency-Replayed") == "" {
			first++
		}
	}
	require.Len(t, ids, 1)
	require.Equal(t, 1, first)
	require.Equal(t, 2, p.stored())
}

func TestRetryWorksWithoutTheQueue(t *testing.T) {
	p := start(t)
	failed := p.post("/api/v1/evaluations", hello).evaluation()
	p.run(failed.ID, broken("no"))
	p.queue.refuse(eval.Errorf(eval.KindUnavailable, "redis is down"))
	fresh := p.post(failed.Links.Self+"/retry", "")
	require.Equal(t, http.StatusAccepted, fresh.Code, fresh.Body)
	require.Empty(t, p.deadLetters("").DeadLetters)
	p.run(fresh.evaluation().ID, accepted("hello\n"))
}

func TestCancelMany(t *testing.T) {
	p := start(t)
	var batch struct {
		BatchID     string       `json:"batch_id"`
		Evaluations []evaluation `json:"evaluations"`
	}
	p.post("/api/v1/evaluations/batch", `{"evaluations":[`+hello+`,`+hello+`,`+hello+`,`+hello+`]}`).decode(&batch)
	other := p.post("/api/v1/evaluations", `{"language":"python","code":"1","tags":["night"]}`).evaluation()
	p.run(batch.Evaluations[0].ID, accepted(""))
	lease := p.claim(batch.Evaluations[1].ID)

	type out struct {
		Cancelled []struct {
			ID     eval.ID
			Status eval.Status
		}
		Failed []struct {
			ID     eval.ID
			Status eval.Status
			Detail string
		}
		Next string
	}
	many := func(body string) (o out) {
		t.Helper()
		r := p.post("/api/v1/evaluations/cancel", body)
		require.Equal(t, http.StatusOK, r.Code, r.Body)
		r.decode(&o)
		return o
	}
	o := many(`{"batch":"` + batch.BatchID + `","limit":2,"reason":"not needed"}`)
	require.Len(t, o.Cancelled, 2)
	require.NotEmpty(t, o.Next)
	o = many(`{"batch":"` + batch.BatchID + `","limit":2,"cursor":"` + o.Next + `"}`)
	require.Len(t, o.Cancelled, 1)
	require.Equal(t, eval.Running, o.Cancelled[0].Status)
	require.Equal(t, lease.ID, o.Cancelled[0].ID)
	require.Empty(t, o.Failed)
	require.Empty(t, o.Next)
	beat, err := p.store.Beat(t.Context(), lease, 1e9)
	require.NoError(t, err)
	require.True(t, beat.CancelRequested)
	require.Equal(t, "not needed", p.get(batch.Evaluations[3].Links.Self).evaluation().Reason)
	require.Equal(t, eval.Queued, p.get(other.Links.Self).evaluation().Status)

	unknown := "01890a5d-ac96-774b-bcce-b302099a8057"
	o = many(`{"ids":["` + string(other.ID) + `","` + string(batch.Evaluations[0].ID) + `","` + unknown + `","` + unknown + `"]}`)
	require.Len(t, o.Cancelled, 1)
	require.Equal(t, eval.Cancelled, o.Cancelled[0].Status)
	require.Len(t, o.Failed, 2)
	require.Equal(t, eval.Completed, o.Failed[0].Status)
	require.Contains(t, o.Failed[1].Detail, "there is no evaluation")

	p.post("/api/v1/evaluations", hello)
	require.Empty(t, many(`{"tag":"nobody"}`).Cancelled)
	require.Empty(t, many(`{"all":true,"status":["running"],"language":"cobol"}`).Cancelled)
	require.Len(t, many(`{"status":["queued"],"language":"py"}`).Cancelled, 1)

	p.post("/api/v1/evaluations/cancel", `{}`).invalid("ids")
	p.post("/api/v1/evaluations/cancel", `{"ids":["x"],"tag":"a"}`).invalid("ids", "ids[0]")
	p.post("/api/v1/evaluations/cancel", `{"status":["completed"]}`).invalid("status[0]")
	p.post("/api/v1/evaluations/cancel", `{"all":true,"cursor":"x"}`).invalid("cursor")
	p.post("/api/v1/evaluations/cancel", `{"batch":"x","limit":501}`).invalid("batch", "limit")
	p.post("/api/v1/evaluations/cancel", `{"all":true,"reason":"`+strings.Repeat("x", 501)+`"}`).invalid("reason")
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
	require.Len(t, p.deadLetters("?kind=invalid,poison&language=py").DeadLetters, 4)
	require.Empty(t, p.deadLetters("?kind=poison").DeadLetters)
	require.Empty(t, p.deadLetters("?tag=nobody").DeadLetters)
	require.Len(t, p.deadLetters("?since=2020-01-01T00:00:00Z").DeadLetters, 4)
	require.Empty(t, p.deadLetters("?until=2020-01-01T00:00:00Z").DeadLetters)
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
		Next string
	}
	unknown := "01890a5d-ac96-774b-bcce-b302099a8057"
	p.post("/api/v1/dead-letters/retry", `{"ids":["`+string(ids[2])+`","`+unknown+`"]}`).decode(&out)
	require.Len(t, out.Retried, 1)
	require.Len(t, out.Failed, 1)
	require.NotEmpty(t, out.Failed[0].Detail)
	p.post("/api/v1/dead-letters/retry", `{"kind":"invalid","limit":10}`).decode(&out)
	require.Len(t, out.Retried, 1)
	require.Empty(t, out.Next)
	require.Empty(t, p.deadLetters("").DeadLetters)

	p.post("/api/v1/dead-letters/retry", `{}`).invalid("ids")
	p.post("/api/v1/dead-letters/retry", `{"ids":["x"]}`).invalid("ids[0]")
	p.post("/api/v1/dead-letters/retry", `{"all":true,"limit":-1}`).invalid("limit")
	p.post("/api/v1/dead-letters/retry", `{"kind":"sad"}`).invalid("kind")
	p.post("/api/v1/dead-letters/retry", `{"all":true,"cursor":"x"}`).invalid("cursor")
	p.post("/api/v1/dead-letters/delete", `{"ids":["x"],"kind":"poison"}`).invalid("ids", "ids[0]")
	p.get("/api/v1/dead-letters?batch=x").invalid("batch")
	p.get("/api/v1/dead-letters?kind=sad").invalid("kind")
	p.get("/api/v1/dead-letters?cursor=x").invalid("cursor")
}

func TestADeadLetterShowsHowEachAttemptFailed(t *testing.T) {
	p := start(t)
	id := p.post("/api/v1/evaluations", `{"language":"python","code":"1","tags":["t"]}`).evaluation().ID
	path := "/api/v1/dead-letters/" + string(id)
	p.get(path).problem(http.StatusNotFound, eval.KindNotFound)
	p.finish(p.claim(id), eval.Outcome{Failure: &eval.Failure{Kind: eval.KindStopping, Message: "the worker stops"}})
	p.run(id, broken("no"))
	var d struct {
		ID       eval.ID
		Tags     []string
		Attempts int
		Failure  eval.Failure
		History  []struct {
			Number  int
			Outcome eval.AttemptOutcome
			Failure eval.Failure
		}
	}
	p.get(path).decode(&d)
	require.Equal(t, id, d.ID)
	require.Equal(t, []string{"t"}, d.Tags)
	require.Equal(t, 2, d.Attempts)
	require.Equal(t, "no", d.Failure.Message)
	require.Len(t, d.History, 2)
	require.Equal(t, eval.AttemptRetried, d.History[0].Outcome)
	require.Contains(t, d.History[0].Failure.Message, "the worker stops")
	require.Equal(t, eval.AttemptFailed, d.History[1].Outcome)
	p.post(path+"/retry", "")
	p.get(path).problem(http.StatusNotFound, eval.KindNotFound)
}

func TestDeadLettersAreDeletedAndRetriedPageByPage(t *testing.T) {
	p := start(t)
	for i := range 5 {
		id := p.post("/api/v1/evaluations", fmt.Sprintf(`{"language":"python","code":"1","tags":["n%d"]}`, i%2)).evaluation().ID
		p.run(id, broken("no"))
	}
	var deleted struct {
		Deleted []eval.ID
		Failed  []struct{ ID eval.ID }
		Next    string
	}
	p.post("/api/v1/dead-letters/delete", `{"tag":"n0","limit":2}`).decode(&deleted)
	require.Len(t, deleted.Deleted, 2)
	p.post("/api/v1/dead-letters/delete", `{"tag":"n0","limit":2,"cursor":"`+deleted.Next+`"}`).decode(&deleted)
	require.Len(t, deleted.Deleted, 1)
	id := deleted.Deleted[0]
	p.post("/api/v1/dead-letters/delete", `{"ids":["`+string(id)+`"]}`).decode(&deleted)
	require.Empty(t, deleted.Deleted)
	require.Equal(t, id, deleted.Failed[0].ID)
	require.Len(t, p.deadLetters("").DeadLetters, 2)
	require.Equal(t, 5, p.stored(), "the evaluations stay")
	var stats eval.Stats
	p.get("/api/v1/stats").decode(&stats)
	require.Equal(t, map[eval.Kind]int64{eval.KindInvalid: 2}, stats.DeadLettersByKind)
}

// While the store is away nobody is asked again and again.
func TestRetryOfManyIsHonestWhenTheStoreGoesAway(t *testing.T) {
	var cut *brokenStore
	p := start(t, func(_ *api.Config, d *api.Deps) {
		cut = &brokenStore{Store: d.Store}
		d.Store = cut
	})
	var ids []string
	for range 3 {
		id := p.post("/api/v1/evaluations", hello).evaluation().ID
		p.run(id, broken("no"))
		ids = append(ids, `"`+string(id)+`"`)
	}
	cut.cut(eval.Errorf(eval.KindUnavailable, "the database is down"))
	var out struct {
		Retried []struct{ ID eval.ID }
		Failed  []struct{ Detail string }
	}
	p.post("/api/v1/dead-letters/retry", `{"ids":[`+strings.Join(ids, ",")+`]}`).decode(&out)
	require.Empty(t, out.Retried)
	require.Len(t, out.Failed, 3)
	require.Equal(t, "the database is down", out.Failed[2].Detail)
	require.EqualValues(t, 1, cut.retries.Load())
}
