package rest

import (
	"context"
	"encoding/json"
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
	if len(req.Reason) > maxReason || !utf8.ValidString(req.Reason) {
		return eval.Invalid([]eval.FieldError{{Field: "reason", Message: "must be at most 500 bytes of text"}})
	}
	if req.Reason == "" {
		req.Reason = "cancelled by a client"
	}
	ctx := c.Request().Context()
	e, err := a.Store.Cancel(ctx, key, req.Reason)
	if err != nil {
		return err
	}
	a.Log.Info("cancel accepted", "id", e.ID, "status", e.Status, "reason", req.Reason)
	// The worker learns it by its next beat in any case.
	if err := a.Queue.Cancel(context.WithoutCancel(ctx), key); err != nil {
		a.Log.Warn("the queue does not answer; the worker learns of the cancel by its next beat", "id", e.ID, "err", err)
	}
	if wait > 0 && !e.Status.Terminal() {
		if now, err := a.await(ctx, key, wait); err == nil {
			e = now
		}
	}
	return answer(c, e)
}

// retry accepts a new evaluation in place of a failed one.
func (a *API) retry(c echo.Context) error {
	key, err := keyParam(c)
	if err != nil {
		return err
	}
	if err := noParams(c); err != nil {
		return err
	}
	e, err := a.retryOne(c.Request().Context(), key)
	if err != nil {
		return err
	}
	c.Response().Header().Set(echo.HeaderLocation, pathOf(e.ID))
	return answer(c, e)
}

func (a *API) retryOne(ctx context.Context, key eval.Key) (eval.Evaluation, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return eval.Evaluation{}, err
	}
	e, err := a.Store.Retry(ctx, key, eval.ID(id.String()))
	if err != nil {
		return eval.Evaluation{}, err
	}
	a.Metrics.Accepted.WithLabelValues(e.Spec.Language, string(e.Spec.Priority)).Inc()
	a.Log.Info("evaluation accepted", "id", e.ID, "language", e.Spec.Language, "retry_of", key.ID)
	a.enqueue(ctx, []eval.Evaluation{e})
	return e, nil
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
