package rest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
)

// maxReason bounds why somebody cancels, in bytes.
const maxReason = 500

type cancelRequest struct {
	Reason string `json:"reason"`
}

// cancel ends a queued evaluation and asks for the end of a running one.
func (a *API) cancel(c echo.Context) error {
	key, err := keyParam(c)
	if err != nil {
		return err
	}
	q := query(c)
	wait := q.wait(a.MaxWait)
	if err := q.err(); err != nil {
		return err
	}
	req, err := optional[cancelRequest](c)
	if err != nil {
		return err
	}
	if bad := badReason(req.Reason); len(bad) > 0 {
		return eval.Invalid(bad)
	}
	ctx := c.Request().Context()
	e, err := a.cancelOne(ctx, key, req.Reason)
	if err != nil {
		return err
	}
	if wait > 0 && !e.Status.Terminal() {
		if now, err := a.await(ctx, key, wait); err == nil {
			e = now
		}
	}
	return answer(c, e)
}

func badReason(reason string) []eval.FieldError {
	if len(reason) <= maxReason && utf8.ValidString(reason) {
		return nil
	}
	return []eval.FieldError{{Field: "reason", Message: "must be at most 500 bytes of text"}}
}

func (a *API) cancelOne(ctx context.Context, key eval.Key, reason string) (eval.Evaluation, error) {
	e, err := a.Store.Cancel(ctx, key, cmp.Or(reason, "cancelled by a client"))
	if err != nil {
		return e, err
	}
	a.Log.Info("cancel accepted", "id", e.ID, "status", e.Status, "reason", e.Reason)
	// The worker learns it by its next beat in any case.
	if err := a.Queue.Cancel(context.WithoutCancel(ctx), e.Dispatch()); err != nil {
		a.Log.Warn("the queue does not answer; the worker learns of the cancel by its next beat", "id", e.ID, "err", err)
	}
	return e, nil
}

// cancelSelection names evaluations by their ids, or selects those that have
// not ended.
type cancelSelection struct {
	selection
	Status []eval.Status `json:"status"`
	Reason string        `json:"reason"`
}

// Cancelling says what became of each evaluation.
type Cancelling struct {
	Cancelled []Cancelled `json:"cancelled"`
	Failed    []NotDone   `json:"failed"`
	Next      string      `json:"next,omitempty"` // where the selection goes on
}

// Cancelled is an evaluation that has ended, or is running and was told to.
type Cancelled struct {
	ID     eval.ID     `json:"id"`
	Status eval.Status `json:"status"`
}

// cancelMany cancels several evaluations.
func (a *API) cancelMany(c echo.Context) error {
	if err := noParams(c); err != nil {
		return err
	}
	req, err := httpkit.Decode[cancelSelection](c)
	if err != nil {
		return err
	}
	bad := append(req.check(len(req.Status) > 0 || req.filtered(), "batch, tag, language, client, status, since, until"), badReason(req.Reason)...)
	for i, s := range req.Status {
		if s != eval.Queued && s != eval.Running {
			bad = append(bad, eval.FieldError{Field: fmt.Sprintf("status[%d]", i), Message: fmt.Sprintf("%q is not queued or running: only those can be cancelled", clip(string(s)))})
		}
	}
	if len(bad) > 0 {
		return eval.Invalid(bad[:min(len(bad), mostFound)])
	}
	ctx, out, ids := c.Request().Context(), Cancelling{Cancelled: []Cancelled{}}, req.IDs
	if len(ids) == 0 {
		if len(req.Status) == 0 {
			req.Status = []eval.Status{eval.Queued, eval.Running}
		}
		page, err := a.Store.List(ctx, eval.Query{
			Project: eval.DefaultProject, Status: req.Status, Language: a.language(req.Language), Tag: req.Tag, Batch: req.Batch, Client: req.Client,
			Since: req.Since, Until: req.Until, Limit: req.Limit, Cursor: req.Cursor,
		})
		if err != nil {
			return badCursor(err)
		}
		for _, e := range page.Evaluations {
			ids = append(ids, e.ID)
		}
		out.Next = page.Next
	}
	out.Failed = each(ctx, ids, func(id eval.ID) error {
		e, err := a.cancelOne(ctx, keyOf(id), req.Reason)
		if err == nil {
			out.Cancelled = append(out.Cancelled, Cancelled{id, e.Status})
		}
		return err
	})
	return c.JSON(http.StatusOK, out)
}

// retry accepts a new evaluation in place of a failed one.
func (a *API) retry(c echo.Context) error {
	key, err := onlyKey(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	found, err := a.letters(ctx, []eval.ID{key.ID})
	if err != nil {
		return err
	}
	e, again, err := a.retryOne(ctx, httpkit.Client(c), key)
	if err != nil {
		return err
	}
	a.forget(ctx, found, map[eval.ID]bool{key.ID: true})
	markReplay(c, again)
	c.Response().Header().Set(echo.HeaderLocation, pathOf(e.ID))
	return answer(c, e)
}

// retryOne returns the evaluation in place of a failed one; again means that
// it was there before.
func (a *API) retryOne(ctx context.Context, client string, key eval.Key) (e eval.Evaluation, again bool, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return e, false, err
	}
	settle, err := a.Quota.Admit(ctx, client, 1)
	if err != nil {
		return e, false, err
	}
	e, err = a.Store.Retry(ctx, key, eval.ID(id.String()))
	settle(err == nil && e.ID == eval.ID(id.String()))
	if err != nil || e.ID != eval.ID(id.String()) {
		return e, true, err
	}
	a.Metrics.Accepted.WithLabelValues(e.Spec.Language, string(e.Spec.Priority)).Inc()
	a.Log.Info("evaluation accepted", "id", e.ID, "language", e.Spec.Language, "retry_of", key.ID)
	a.enqueue(ctx, []eval.Evaluation{e})
	return e, false, nil
}

// optional decodes a body that may be left out.
func optional[T any](c echo.Context) (T, error) {
	var none T
	r := c.Request()
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return none, nil
	}
	raw, err := httpkit.Decode[json.RawMessage](c)
	if err != nil {
		return none, err
	}
	return decodeInto[T](raw)
}
