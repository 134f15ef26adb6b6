package rest

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
)

const callbacksPath = "/api/v1/callbacks"

// Callback is the delivery of an evaluation that has ended. Its URL stands in
// the evaluation only: it may hold a token.
type Callback struct {
	ID         eval.ID             `json:"id"` // of the evaluation, and the webhook-id of each try
	Host       string              `json:"host"`
	Status     eval.CallbackStatus `json:"status"`
	Tries      int                 `json:"tries"`
	MaxTries   int                 `json:"max_tries"`
	NextTryAt  *time.Time          `json:"next_try_at,omitempty"` // pending, and not under way
	Reason     eval.CallbackReason `json:"reason,omitempty"`      // why the last try did not succeed
	Message    string              `json:"message,omitempty"`
	HTTPStatus int                 `json:"http_status,omitempty"`
	CreatedAt  time.Time           `json:"created_at"`
	EndedAt    *time.Time          `json:"ended_at,omitempty"`
	Links      Links               `json:"links"`
}

func viewCallback(c eval.Callback) Callback {
	v := Callback{
		ID: c.ID, Host: c.Host, Status: c.Status, Tries: c.Tries, MaxTries: c.MaxTries, Reason: c.Reason, Message: c.Message,
		HTTPStatus: c.HTTPStatus, CreatedAt: c.CreatedAt, EndedAt: c.EndedAt,
		Links: Links{Self: pathOf(c.ID), Events: pathOf(c.ID) + "/events"},
	}
	if c.Deliverer == "" {
		v.NextTryAt = c.NextAt
	}
	if c.Status == eval.CallbackDead {
		v.Links.Retry = callbacksPath + "/" + string(c.ID) + "/retry"
	}
	return v
}

// checkCallback says what is wrong with a callback_url, or "".
func (a *API) checkCallback(url string) string {
	switch {
	case url == "":
		return ""
	case a.CheckCallback == nil:
		return "cannot be called: callbacks are off here; the operator turns them on with --callbacks and --callback-secret"
	default:
		return a.CheckCallback(url)
	}
}

// callbackOf is the callback of an evaluation; nil where there is none, or not yet.
func (a *API) callbackOf(ctx context.Context, e eval.Evaluation) (*Callback, error) {
	if e.Spec.CallbackURL == "" || !e.Status.Terminal() {
		return nil, nil
	}
	c, err := a.Store.Callback(ctx, e.Key)
	switch {
	case eval.IsKind(err, eval.KindNotFound): // it ended before there were callbacks
		return nil, nil
	case err != nil:
		return nil, err
	}
	v := viewCallback(c)
	return &v, nil
}

// Callbacks is a page of callbacks.
type Callbacks struct {
	Callbacks []Callback `json:"callbacks"`
	Next      string     `json:"next,omitempty"`
}

func (a *API) listCallbacks(c echo.Context) error {
	q := query(c)
	sel := eval.CallbackQuery{Project: eval.DefaultProject, Limit: q.limit(), Cursor: q.one("cursor")}
	sel.Status = eval.CallbackStatus(q.one("status"))
	if sel.Status != "" && !slices.Contains(eval.CallbackStatuses(), sel.Status) {
		q.wrong("status", "%q is not one of %s", clip(string(sel.Status)), listed(eval.CallbackStatuses()))
	}
	if err := q.err(); err != nil {
		return err
	}
	page, err := a.Store.ListCallbacks(c.Request().Context(), sel)
	if err != nil {
		return badCursor(err)
	}
	out := Callbacks{Callbacks: make([]Callback, len(page.Callbacks)), Next: page.Next}
	for i, one := range page.Callbacks {
		out.Callbacks[i] = viewCallback(one)
	}
	return c.JSON(http.StatusOK, out)
}

// retryCallback makes a dead callback due again.
func (a *API) retryCallback(c echo.Context) error {
	key, err := onlyKey(c)
	if err != nil {
		return err
	}
	again, err := a.Store.RetryCallback(c.Request().Context(), key)
	if err != nil {
		return err
	}
	a.Log.Info("callback is sent again", "id", key.ID, "host", again.Host)
	return c.JSON(http.StatusAccepted, viewCallback(again))
}

// Payload is what a callback brings: the evaluation as the API answers with it
// to its submission, without the program, which its sender has.
func Payload(e eval.Evaluation) any { return brief(e) }
