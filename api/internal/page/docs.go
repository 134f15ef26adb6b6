package page

import (
	"bytes"
	"html/template"
	"strings"

	"github.com/labstack/echo/v4"
)

// docsHelpers are for the reference.
var docsHelpers = template.FuncMap{
	"prose":  prose,
	"inline": func(s string) template.HTML { return template.HTML(inlineHTML(s)) },
	"lower":  strings.ToLower,
	"anchor": func(s string) string { return strings.ReplaceAll(s, " ", "-") },
}

// renderDocs makes the reference of the contract, once.
func (p *Pages) renderDocs() ([]byte, error) {
	c, err := parseContract(p.openapi)
	if err != nil {
		return nil, err
	}
	t, err := template.New("docs.html").Funcs(docsHelpers).ParseFS(files, "docs.html")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, struct {
		Style template.CSS
		contract
	}{p.style, c})
	return b.Bytes(), err
}

func (p *Pages) showDocs(c echo.Context) error { return p.html(c, p.docs) }
