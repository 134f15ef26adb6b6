package rest

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// get answers with one evaluation, with ?wait= once it has ended.
func (a *API) get(c echo.Context) error {
	key, err := keyParam(c)
	if err != nil {
		return err
	}
	q := query(c)
	wait := q.wait(a.MaxWait)
	if err := q.err(); err != nil {
		return err
	}
	ctx := c.Request().Context()
	var e eval.Evaluation
	if wait > 0 {
		e, err = a.await(ctx, key, wait)
	} else {
		e, err = a.Store.Get(ctx, key)
	}
	if err != nil {
		return err
	}
	v := view(e)
	if v.Callback, err = a.callbackOf(ctx, e); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, v)
}

// List is a page of evaluations.
type List struct {
	Evaluations []Evaluation `json:"evaluations"`
	Next        string       `json:"next,omitempty"` // the cursor of the next page
}

// list answers with the newest evaluations that the filters select.
func (a *API) list(c echo.Context) error {
	q := query(c)
	sel := eval.Query{
		Project:  eval.DefaultProject,
		Status:   words(q, "status", eval.Statuses()),
		Verdict:  words(q, "verdict", eval.Verdicts()),
		Language: a.language(q.one("language")),
		Tag:      q.one("tag"), Batch: q.one("batch"), Client: q.one("client"),
		Since: q.time("since"), Until: q.time("until"),
		Limit: q.limit(), Cursor: q.one("cursor"),
	}
	if sel.Batch != "" && !validID(sel.Batch) {
		q.wrong("batch", "%q is not the id of a batch", clip(sel.Batch))
	}
	if err := q.err(); err != nil {
		return err
	}
	page, err := a.Store.List(c.Request().Context(), sel)
	if err != nil {
		return badCursor(err)
	}
	out := List{Evaluations: make([]Evaluation, len(page.Evaluations)), Next: page.Next}
	for i, e := range page.Evaluations {
		out.Evaluations[i] = brief(e)
	}
	return c.JSON(http.StatusOK, out)
}

// badCursor names the field of an invalid query, which can only be the
// cursor: the rest has been checked.
func badCursor(err error) error {
	if e, ok := errors.AsType[*eval.Error](err); ok && e.Kind == eval.KindInvalid && len(e.Fields) == 0 {
		return &eval.Error{Kind: eval.KindInvalid, Message: "the request is not valid", Err: err,
			Fields: []eval.FieldError{{Field: "cursor", Message: "is not one that this server made; use next of the page before, with the same filters"}}}
	}
	return err
}
