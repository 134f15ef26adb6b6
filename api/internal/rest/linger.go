package rest

import (
	"io"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
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
		c.Response().Header().Set(echo.HeaderConnection, "close")
		c.Error(err)
		rc := http.NewResponseController(c.Response())
		if rc.Flush() == nil && rc.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
			_, _ = io.CopyN(io.Discard, c.Request().Body, lingerBytes)
		}
		return nil
	}
}
