package rest

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
)

const (
	// lingerBytes and lingerTime bound what is thrown away of a body that is
	// too large.
	lingerBytes = 64 << 20
	lingerTime  = 2 * time.Second
)

// linger answers a body that is too large at once, and then throws away what
// still comes of it: a connection that is closed while the client sends is
// reset, and the client would never see why.
func linger(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		err := next(c)
		if !eval.IsKind(err, eval.KindTooLarge) {
			return err
		}
		// With its length said, the answer is whole before the handler ends.
		whole := &buffered{ResponseWriter: c.Response()}
		if err := problem.Write(whole, c.Request(), err); err != nil {
			return err
		}
		h := c.Response().Header()
		h.Set(echo.HeaderConnection, "close")
		h.Set(echo.HeaderContentLength, strconv.Itoa(whole.Len()))
		c.Response().WriteHeader(whole.status)
		if _, err := c.Response().Write(whole.Bytes()); err != nil {
			return nil // the client is gone
		}
		rc := http.NewResponseController(c.Response())
		if rc.Flush() == nil && rc.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
			_, _ = io.CopyN(io.Discard, c.Request().Body, lingerBytes)
		}
		return nil
	}
}

// buffered keeps a body until its length is known.
type buffered struct {
	http.ResponseWriter
	bytes.Buffer
	status int
}

func (b *buffered) WriteHeader(status int) { b.status = status }

func (b *buffered) Write(p []byte) (int, error) { return b.Buffer.Write(p) }
