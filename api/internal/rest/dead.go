package rest

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
	"github.com/crucible-eval/crucible/pkg/problem"
)

// maxRetries is the most dead letters that one request retries.
const maxRetries = 500

// DeadLetters is a page of dead letters.
type DeadLetters struct {
	DeadLetters []DeadLetter `json:"dead_letters"`
	Next        string       `json:"next,omitempty"`
}

func (a *API) listDeadLetters(c echo.Context) error {
	q := query(c)
	sel := eval.DeadLetterQuery{Project: eval.DefaultProject, Language: q.one("language"), Limit: q.limit(), Cursor: q.one("cursor")}
	if kind := q.one("kind"); kind != "" {
		sel.Kind = eval.Kind(kind)
		if !validKind(sel.Kind) {
			q.wrong("kind", "%q is not one of %s", clip(kind), listed(kinds()))
		}
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

// retryRequest names dead letters by their ids, or selects them.
type retryRequest struct {
	IDs      []eval.ID `json:"ids"`
	Kind     eval.Kind `json:"kind"`
	Language string    `json:"language"`
	Limit    int       `json:"limit"` // of those selected; 0 is 500
	All      bool      `json:"all"`   // select without a filter
}

// Retried says what became of each dead letter.
type Retried struct {
	Retried []RetriedOne `json:"retried"`
	Failed  []NotRetried `json:"failed"`
	More    bool         `json:"more"` // the selection had more than the limit
}

// RetriedOne is a dead letter and the evaluation in its place.
type RetriedOne struct {
	ID    eval.ID `json:"id"`
	NewID eval.ID `json:"new_id"`
}

// NotRetried is a dead letter that could not be retried.
type NotRetried struct {
	ID     eval.ID `json:"id"`
	Detail string  `json:"detail"`
}

// retryDeadLetters retries many. One that fails does not stop the others.
func (a *API) retryDeadLetters(c echo.Context) error {
	if err := noParams(c); err != nil {
		return err
	}
	req, err := httpkit.Decode[retryRequest](c)
	if err != nil {
		return err
	}
	if err := req.validate(); err != nil {
		return err
	}
	ctx, out := c.Request().Context(), Retried{Retried: []RetriedOne{}, Failed: []NotRetried{}}
	ids := req.IDs
	if len(ids) == 0 {
		page, err := a.Store.ListDeadLetters(ctx, eval.DeadLetterQuery{Project: eval.DefaultProject, Kind: req.Kind, Language: req.Language, Limit: req.Limit})
		if err != nil {
			return err
		}
		for _, d := range page.DeadLetters {
			ids = append(ids, d.ID)
		}
		out.More = page.Next != ""
	}
	for _, id := range ids {
		e, err := a.retryOne(ctx, keyOf(id))
		if err != nil {
			out.Failed = append(out.Failed, NotRetried{id, problem.From(err).Detail})
			continue
		}
		out.Retried = append(out.Retried, RetriedOne{id, e.ID})
	}
	return c.JSON(http.StatusOK, out)
}

func (r *retryRequest) validate() error {
	var bad []eval.FieldError
	wrong := func(field, format string, args ...any) {
		bad = append(bad, eval.FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	selects := r.Kind != "" || r.Language != "" || r.All
	switch {
	case len(r.IDs) == 0 && !selects:
		wrong("ids", `is empty; give ids, or select by kind or language, or all with {"all":true}`)
	case len(r.IDs) > 0 && selects:
		wrong("ids", "cannot be given together with kind, language or all")
	case len(r.IDs) > maxRetries:
		wrong("ids", "has %d entries; at most %d are accepted", len(r.IDs), maxRetries)
	}
	for i, id := range r.IDs[:min(len(r.IDs), maxRetries)] {
		if !validID(string(id)) && len(bad) < mostFound {
			wrong(fmt.Sprintf("ids[%d]", i), "%q is not the id of an evaluation", clip(string(id)))
		}
	}
	if r.Kind != "" && !validKind(r.Kind) {
		wrong("kind", "%q is not one of %s", clip(string(r.Kind)), listed(kinds()))
	}
	if r.Limit == 0 {
		r.Limit = maxRetries
	}
	if r.Limit < 1 || r.Limit > maxRetries {
		wrong("limit", "is %d; it must be from 1 to %d", r.Limit, maxRetries)
	}
	return eval.Invalid(bad)
}

func (a *API) deleteDeadLetter(c echo.Context) error {
	key, err := keyParam(c)
	if err != nil {
		return err
	}
	if err := noParams(c); err != nil {
		return err
	}
	if err := a.Store.DeleteDeadLetter(c.Request().Context(), key); err != nil {
		return err
	}
	a.Log.Info("dead letter deleted", "id", key.ID)
	return c.NoContent(http.StatusNoContent)
}

func kinds() []eval.Kind {
	var all []eval.Kind
	for _, k := range eval.Kinds() {
		all = append(all, k.Kind)
	}
	return all
}

func validKind(k eval.Kind) bool { return slices.Contains(kinds(), k) }
