// Package page shows the platform to people: what runs here at /, and the
// contract at /docs. Both are rendered here and load nothing from elsewhere.
package page

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"html/template"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/api/internal/rest"
)

//go:embed *.html *.css
var files embed.FS

// Pages has the handlers.
type Pages struct {
	api     *rest.API
	openapi []byte
	monitor bool
	style   template.CSS
	policy  string
	home    *template.Template
	docs    []byte
}

// New renders what does not change. monitor says whether /monitor is there.
func New(api *rest.API, openapi []byte, monitor bool) (*Pages, error) {
	css, err := files.ReadFile("style.css")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(css)
	p := &Pages{api: api, openapi: openapi, monitor: monitor, style: template.CSS(css),
		policy: "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"}
	if p.home, err = template.New("home.html").Funcs(helpers).ParseFS(files, "home.html"); err != nil {
		return nil, err
	}
	if p.docs, err = p.renderDocs(); err != nil {
		return nil, err
	}
	return p, nil
}

// Routes adds the pages.
func (p *Pages) Routes(e *echo.Echo) {
	e.GET("/", p.showHome)
	e.GET("/docs", p.showDocs)
	e.GET("/openapi.yaml", func(c echo.Context) error {
		return c.Blob(http.StatusOK, "application/yaml", p.openapi)
	})
}

func (p *Pages) html(c echo.Context, page []byte) error {
	h := c.Response().Header()
	h.Set("Content-Security-Policy", p.policy)
	h.Set("Cache-Control", "no-cache")
	return c.HTMLBlob(http.StatusOK, page)
}
