// Package rest serves a store and its blobs over HTTP. Package remote is the
// other end and has the types of the wire.
package rest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
	"github.com/crucible-eval/crucible/pkg/remote"
)

// What a request may bring: a batch of large programs, or the longest output.
const (
	maxBody = 256 << 20
	maxBlob = 1 << 30
)

// Info answers GET /v1/info of a project.
type Info func(ctx context.Context, project string) (any, error)

// Routes adds the storage service's paths to the router.
func Routes(e *echo.Echo, s eval.Store, b eval.Blobs, info Info) {
	g := e.Group(remote.StorePath, httpkit.BodyLimit(maxBody))
	method(g, "create", func(ctx context.Context, r eval.Submission) (remote.CreateAnswer, error) {
		created, replayed, err := s.Create(ctx, r)
		return remote.CreateAnswer{Evaluations: created, Replayed: replayed}, err
	})
	method(g, "cancel", func(ctx context.Context, r remote.CancelRequest) (eval.Evaluation, error) {
		return s.Cancel(ctx, r.Key, r.Reason)
	})
	method(g, "get", func(ctx context.Context, k eval.Key) (a remote.GetAnswer, err error) {
		if keeper, ok := s.(eval.Keeper); ok {
			a.Evaluation, a.Kept, err = keeper.GetKept(ctx, k)
		} else {
			a.Evaluation, err = s.Get(ctx, k)
		}
		return a, err
	})
	method(g, "list", s.List)
	method(g, "events", func(ctx context.Context, r remote.EventsRequest) ([]eval.Event, error) {
		return s.Events(ctx, r.Key, r.After, r.Limit)
	})
	method(g, "feed", func(ctx context.Context, r remote.FeedRequest) ([]eval.Event, error) {
		return s.Feed(ctx, r.Project, r.After, r.Limit)
	})
	method(g, "attempts", s.Attempts)
	method(g, "stats", func(ctx context.Context, r remote.ProjectRequest) (eval.Stats, error) {
		return s.Stats(ctx, r.Project)
	})
	method(g, "clients", func(ctx context.Context, r remote.ProjectRequest) ([]eval.ClientCount, error) {
		return s.Clients(ctx, r.Project)
	})
	method(g, "claim", s.Claim)
	method(g, "beat", func(ctx context.Context, r remote.BeatRequest) (eval.Beat, error) {
		return s.Beat(ctx, r.Lease, r.Duration)
	})
	method(g, "finish", func(ctx context.Context, r remote.FinishRequest) (eval.Evaluation, error) {
		return s.Finish(ctx, r.Lease, r.Outcome)
	})
	method(g, "due", s.Due)
	method(g, "reap", func(ctx context.Context, r remote.LimitRequest) ([]eval.Evaluation, error) {
		return s.Reap(ctx, r.Limit)
	})
	method(g, "expire", func(ctx context.Context, r remote.LimitRequest) ([]eval.Evaluation, error) {
		return s.Expire(ctx, r.Limit)
	})
	method(g, "backlog", func(ctx context.Context, _ remote.Nothing) (eval.Backlog, error) { return s.Backlog(ctx) })
	method(g, "rewind", func(ctx context.Context, _ remote.Nothing) (remote.Number, error) {
		n, err := s.Rewind(ctx)
		return remote.Number{Number: n}, err
	})
	method(g, "list_dead_letters", s.ListDeadLetters)
	method(g, "retry", func(ctx context.Context, r remote.RetryRequest) (eval.Evaluation, error) {
		return s.Retry(ctx, r.Key, r.NewID)
	})
	method(g, "delete_dead_letter", func(ctx context.Context, k eval.Key) (remote.Nothing, error) {
		return remote.Nothing{}, s.DeleteDeadLetter(ctx, k)
	})
	method(g, "take_callbacks", s.TakeCallbacks)
	method(g, "report_callback", func(ctx context.Context, r remote.ReportCallbackRequest) (eval.Callback, error) {
		return s.ReportCallback(ctx, r.Lease, r.Delivery)
	})
	method(g, "callback", s.Callback)
	method(g, "list_callbacks", s.ListCallbacks)
	method(g, "retry_callback", s.RetryCallback)
	method(g, "count_callbacks", func(ctx context.Context, r remote.ProjectRequest) (eval.CallbackStats, error) {
		return s.CountCallbacks(ctx, r.Project)
	})
	blobRoutes(e, b)
	e.GET(remote.InfoPath, func(c echo.Context) error {
		project := c.QueryParam("project")
		if project == "" {
			project = eval.DefaultProject
		}
		answer, err := info(c.Request().Context(), project)
		if err != nil {
			return err
		}
		return c.JSON(http.StatusOK, answer)
	})
}

// method serves one method of the store.
func method[Request, Answer any](g *echo.Group, name string, call func(context.Context, Request) (Answer, error)) {
	g.POST(name, func(c echo.Context) error {
		request, err := httpkit.Decode[Request](c)
		if err != nil {
			return err
		}
		answer, err := call(c.Request().Context(), request)
		if err != nil {
			return err
		}
		return c.JSON(http.StatusOK, answer)
	})
}

func blobRoutes(e *echo.Echo, b eval.Blobs) {
	e.POST(remote.BlobsPath, func(c echo.Context) error {
		body := http.MaxBytesReader(c.Response(), c.Request().Body, maxBlob)
		digest, size, err := b.Put(c.Request().Context(), body)
		if tooLong, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return eval.Errorf(eval.KindTooLarge, "the blob is larger than %d bytes, the most that is accepted", tooLong.Limit)
		}
		if err != nil {
			return err
		}
		return c.JSON(http.StatusCreated, remote.BlobAnswer{Digest: digest, Size: size})
	})
	e.GET(remote.BlobsPath+"/:digest", func(c echo.Context) error { return sendBlob(c, b) })
	e.DELETE(remote.BlobsPath+"/:digest", func(c echo.Context) error {
		if err := b.Delete(c.Request().Context(), c.Param("digest")); err != nil {
			return err
		}
		return c.NoContent(http.StatusNoContent)
	})
}

func sendBlob(c echo.Context, b eval.Blobs) error {
	offset, err := number(c, "offset", 0)
	if err != nil {
		return err
	}
	length, err := number(c, "length", -1)
	if err != nil {
		return err
	}
	content, size, err := b.Open(c.Request().Context(), c.Param("digest"), offset, length)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	sent := max(size-offset, 0)
	if length >= 0 {
		sent = min(sent, length)
	}
	h := c.Response().Header()
	h.Set(echo.HeaderContentType, "application/octet-stream")
	h.Set(echo.HeaderContentLength, strconv.FormatInt(sent, 10))
	h.Set(remote.BlobSizeHeader, strconv.FormatInt(size, 10))
	c.Response().WriteHeader(http.StatusOK)
	if _, err := io.CopyN(c.Response(), content, sent); err != nil {
		// The header has promised more: only a cut connection says that it is not coming.
		panic(http.ErrAbortHandler)
	}
	return nil
}

func number(c echo.Context, name string, otherwise int64) (int64, error) {
	raw := c.QueryParam(name)
	if raw == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(raw, 10, 64)
	if err != nil {
		return 0, eval.Invalid([]eval.FieldError{{Field: name, Message: "must be a whole number"}})
	}
	return n, nil
}
