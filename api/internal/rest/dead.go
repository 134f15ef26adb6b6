package rest

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
)

// maxHistory is how many attempts one dead letter shows, the last ones.
const maxHistory = 50

// DeadLetters is a page of dead letters.
type DeadLetters struct {
	DeadLetters []DeadLetter `json:"dead_letters"`
	Next        string       `json:"next,omitempty"`
}

func (a *API) listDeadLetters(c echo.Context) error {
	q := query(c)
	sel := eval.DeadLetterQuery{
		Project: eval.DefaultProject, Kind: words(q, "kind", kinds()), Language: a.language(q.one("language")),
		Tag: q.one("tag"), Batch: q.one("batch"), Client: q.one("client"), Since: q.time("since"), Until: q.time("until"),
		Limit: q.limit(), Cursor: q.one("cursor"),
	}
	if sel.Batch != "" && !validID(sel.Batch) {
		q.wrong("batch", "%q is not the id of a batch", clip(sel.Batch))
	}
	if err := q.err(); err != nil {
		return err
	}
	page, err := a.Store.ListDeadLetters(c.Request().Context(), sel)
	if err != nil {
		return badCursor(err)
	}
	out := DeadLetters{DeadLetters: make([]DeadLetter, len(page.DeadLetters)), Next: page.Next}
	for i, d := range page.DeadLetters {
		out.DeadLetters[i] = viewDeadLetter(d)
	}
	return c.JSON(http.StatusOK, out)
}

// DeadLetterHistory is a dead letter with its attempts: how each of them
// failed.
type DeadLetterHistory struct {
	DeadLetter
	History []Attempt `json:"history"`
}

func (a *API) deadLetter(c echo.Context) error {
	key, err := onlyKey(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	found, err := a.letters(ctx, []eval.ID{key.ID})
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return eval.Errorf(eval.KindNotFound, "there is no dead letter %s: it was retried or deleted, or the evaluation has not failed; see %s", key.ID, pathOf(key.ID))
	}
	e, attempts, err := a.history(ctx, key)
	if err != nil {
		return err
	}
	tried, now := e.Tried(attempts), time.Now()
	out := DeadLetterHistory{viewDeadLetter(found[0]), []Attempt{}}
	for _, t := range tried[max(0, len(tried)-maxHistory):] {
		out.History = append(out.History, viewAttempt(t, now))
	}
	return c.JSON(http.StatusOK, out)
}

// letters returns those of the evaluations that are dead letters.
func (a *API) letters(ctx context.Context, ids []eval.ID) ([]eval.DeadLetter, error) {
	page, err := a.Store.ListDeadLetters(ctx, eval.DeadLetterQuery{Project: eval.DefaultProject, IDs: ids, Limit: eval.MaxPage})
	return page.DeadLetters, err
}

// deadSelection names dead letters by their ids, or selects them.
type deadSelection struct {
	selection
	Kind eval.Kind `json:"kind"`
}

func (r *deadSelection) validate() error {
	bad := r.check(r.Kind != "" || r.filtered(), "kind, language, tag, batch, client, since, until")
	if r.Kind != "" && !slices.Contains(kinds(), r.Kind) {
		bad = append(bad, eval.FieldError{Field: "kind", Message: `"` + clip(string(r.Kind)) + `" is not one of ` + listed(kinds())})
	}
	return eval.Invalid(bad)
}

// selectDead reads a selection and returns the ids that it names, those of
// them that are dead letters, and where the selection goes on.
func (a *API) selectDead(c echo.Context) (ids []eval.ID, found []eval.DeadLetter, next string, err error) {
	if err := noParams(c); err != nil {
		return nil, nil, "", err
	}
	req, err := httpkit.Decode[deadSelection](c)
	if err != nil {
		return nil, nil, "", err
	}
	if err := req.validate(); err != nil {
		return nil, nil, "", err
	}
	ctx := c.Request().Context()
	if len(req.IDs) > 0 {
		found, err := a.letters(ctx, req.IDs)
		return req.IDs, found, "", err
	}
	q := eval.DeadLetterQuery{
		Project: eval.DefaultProject, Language: a.language(req.Language), Tag: req.Tag, Batch: req.Batch, Client: req.Client,
		Since: req.Since, Until: req.Until, Limit: req.Limit, Cursor: req.Cursor,
	}
	if req.Kind != "" {
		q.Kind = []eval.Kind{req.Kind}
	}
	page, err := a.Store.ListDeadLetters(ctx, q)
	if err != nil {
		return nil, nil, "", badCursor(err)
	}
	for _, d := range page.DeadLetters {
		ids = append(ids, d.ID)
	}
	return ids, page.DeadLetters, page.Next, nil
}

// Retried says what became of each dead letter.
type Retried struct {
	Retried []RetriedOne `json:"retried"`
	Failed  []NotDone    `json:"failed"`
	Next    string       `json:"next,omitempty"` // where the selection goes on
}

// RetriedOne is a dead letter and the evaluation in its place.
type RetriedOne struct {
	ID    eval.ID `json:"id"`
	NewID eval.ID `json:"new_id"`
}

// retryDeadLetters retries many.
func (a *API) retryDeadLetters(c echo.Context) error {
	ids, found, next, err := a.selectDead(c)
	if err != nil {
		return err
	}
	ctx, out := c.Request().Context(), Retried{Retried: []RetriedOne{}, Next: next}
	gone := map[eval.ID]bool{}
	out.Failed = each(ctx, ids, func(id eval.ID) error {
		e, _, err := a.retryOne(ctx, httpkit.Client(c), keyOf(id))
		if err == nil {
			out.Retried = append(out.Retried, RetriedOne{id, e.ID})
			gone[id] = true
		}
		return err
	})
	a.forget(ctx, found, gone)
	return c.JSON(http.StatusOK, out)
}

// Deleted says what became of each dead letter.
type Deleted struct {
	Deleted []eval.ID `json:"deleted"`
	Failed  []NotDone `json:"failed"`
	Next    string    `json:"next,omitempty"` // where the selection goes on
}

// deleteDeadLetters takes many from the list.
func (a *API) deleteDeadLetters(c echo.Context) error {
	ids, found, next, err := a.selectDead(c)
	if err != nil {
		return err
	}
	ctx, out := c.Request().Context(), Deleted{Deleted: []eval.ID{}, Next: next}
	gone := map[eval.ID]bool{}
	out.Failed = each(ctx, ids, func(id eval.ID) error {
		err := a.Store.DeleteDeadLetter(ctx, keyOf(id))
		if err == nil {
			out.Deleted = append(out.Deleted, id)
			gone[id] = true
		}
		return err
	})
	a.Log.Info("dead letters deleted", "count", len(out.Deleted))
	a.forget(ctx, found, gone)
	return c.JSON(http.StatusOK, out)
}

func (a *API) deleteDeadLetter(c echo.Context) error {
	key, err := onlyKey(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	found, err := a.letters(ctx, []eval.ID{key.ID})
	if err != nil {
		return err
	}
	if err := a.Store.DeleteDeadLetter(ctx, key); err != nil {
		return err
	}
	a.Log.Info("dead letter deleted", "id", key.ID)
	a.forget(ctx, found, map[eval.ID]bool{key.ID: true})
	return c.NoContent(http.StatusNoContent)
}

// forget takes dead letters that are gone from the queue's list of what it
// gave up on. While the queue is away that is left to the workers, which
// compare the two lists.
func (a *API) forget(ctx context.Context, found []eval.DeadLetter, gone map[eval.ID]bool) {
	var all []eval.Dispatch
	for _, d := range found {
		if gone[d.ID] {
			all = append(all, d.Dispatch())
		}
	}
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), enqueueTime)
	defer cancel()
	if err := a.Queue.Forget(ctx, all); err != nil {
		a.Log.Warn("the queue does not answer; its archive shows dead letters that are gone until it does", "dead_letters", len(all), "err", err)
	}
}

// language is the id of a language that is given by its id or another name.
func (a *API) language(name string) string {
	if l, ok := a.Catalog.Known(name); ok && name != "" {
		return l.ID
	}
	return name
}

func kinds() []eval.Kind {
	var all []eval.Kind
	for _, k := range eval.Kinds() {
		all = append(all, k.Kind)
	}
	return all
}
