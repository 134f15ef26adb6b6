// Package rest is the executor's door: what a worker calls over HTTP. The
// client is remote.NewExecutor.
package rest

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
)

// Executor is what stands behind the door.
type Executor interface {
	eval.Executor
	// StopAttempt kills the run with this id if it is of this attempt, or of
	// any when it is 0. KindNotFound when there is none.
	StopAttempt(ctx context.Context, id eval.ID, attempt int) error
}

type handler struct {
	executor Executor
}

// Routes adds the executor's routes.
func Routes(to *echo.Echo, executor Executor) {
	h := &handler{executor}
	to.POST("/v1/runs", h.run)
	to.DELETE("/v1/runs/:id", h.stop)
	to.GET("/v1/languages", h.languages)
	to.GET("/v1/isolation", h.isolation)
	to.GET("/v1/status", h.status)
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
	return c.JSON(http.StatusOK, res)
}

func (h *handler) stop(c echo.Context) error {
	attempt := 0
	if s := c.QueryParam("attempt"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return eval.Invalid([]eval.FieldError{{Field: "attempt", Message: "must be a whole number from 1"}})
		}
		attempt = n
	}
	if err := h.executor.StopAttempt(c.Request().Context(), eval.ID(c.Param("id")), attempt); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func (h *handler) status(c echo.Context) error {
	s, err := h.executor.Status(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, s)
}

func (h *handler) languages(c echo.Context) error {
	s, err := h.executor.Status(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, map[string][]eval.Language{"languages": s.Languages})
}

func (h *handler) isolation(c echo.Context) error {
	s, err := h.executor.Status(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, s.Isolation)
}
