// Package rest is the executor's door: what a worker calls over HTTP. The
// client is remote.NewExecutor.
package rest

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
)

// Executor is what stands behind the door.
type Executor interface {
	eval.Executor
	eval.Loaded
	// RunAdmitted is Run, and calls admitted when the run is taken on.
	RunAdmitted(ctx context.Context, req eval.Request, admitted func(), sink func(eval.RunEvent)) (eval.Result, error)
	// StopAttempt kills the run with this id if it is of this attempt, or of
	// any when it is 0. KindNotFound when there is none.
	StopAttempt(ctx context.Context, id eval.ID, attempt int) error
	// Heard notes a sign of life of whoever waits for an attempt. KindNotFound.
	Heard(ctx context.Context, id eval.ID, attempt int) error
}

// answerTimeout is how long a client may take to read a result.
const answerTimeout = 2 * time.Minute

type handler struct {
	executor Executor
}

// Routes adds the executor's routes.
func Routes(to *echo.Echo, executor Executor) {
	h := &handler{executor}
	v1 := to.Group("/v1", h.load)
	v1.POST("/runs", h.run)
	v1.DELETE("/runs/:id", h.stop)
	v1.POST("/runs/:id/heard", h.heard)
	v1.GET("/languages", h.languages)
	v1.GET("/isolation", h.isolation)
	v1.GET("/status", h.status)
}

// load puts the load, as it is when the answer begins, into its header:
// into that of refusals and errors, too.
func (h *handler) load(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		c.Response().Before(func() {
			if l, ok := h.executor.Load(); ok {
				c.Response().Header().Set(eval.LoadHeader, l.Header())
			}
		})
		return next(c)
	}
}

// run answers with the result, or streams events. The run ends with the
// connection.
func (h *handler) run(c echo.Context) error {
	req, err := httpkit.Decode[eval.Request](c)
	if err != nil {
		return err
	}
	if strings.Contains(c.Request().Header.Get(echo.HeaderAccept), "text/event-stream") {
		return h.stream(c, req)
	}
	res, err := h.executor.Run(c.Request().Context(), req, nil)
	if err != nil {
		return err
	}
	// The slot is free already; what is left is memory.
	_ = http.NewResponseController(c.Response()).SetWriteDeadline(time.Now().Add(answerTimeout))
	return c.JSON(http.StatusOK, res)
}

func (h *handler) stop(c echo.Context) error {
	attempt, err := attempt(c)
	if err != nil {
		return err
	}
	if err := h.executor.StopAttempt(c.Request().Context(), eval.ID(c.Param("id")), attempt); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func (h *handler) heard(c echo.Context) error {
	attempt, err := attempt(c)
	if err != nil {
		return err
	}
	if err := h.executor.Heard(c.Request().Context(), eval.ID(c.Param("id")), attempt); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// attempt is the query's; 0 when it names none.
func attempt(c echo.Context) (int, error) {
	s := c.QueryParam("attempt")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, eval.Invalid([]eval.FieldError{{Field: "attempt", Message: "must be a whole number from 1"}})
	}
	return n, nil
}

func (h *handler) status(c echo.Context) error {
	s, err := h.executor.Status(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, s)
}

// languageList has the languages, and why changed files were not taken over.
type languageList struct {
	Languages []eval.Language `json:"languages"`
	Problem   string          `json:"problem,omitempty"`
}

func (h *handler) languages(c echo.Context) error {
	s, err := h.executor.Status(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, languageList{s.Languages, s.LanguagesProblem})
}

func (h *handler) isolation(c echo.Context) error {
	s, err := h.executor.Status(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, s.Isolation)
}
