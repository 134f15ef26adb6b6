package page

import (
	"cmp"
	"encoding/json"
	"fmt"
	"html/template"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"
)

// contract is what the reference shows of an OpenAPI document.
type contract struct {
	Title       string
	Description string
	Sections    []section
	Schemas     []schema
}

type section struct {
	Name        string
	Description string
	Operations  []operation
}

type operation struct {
	ID, Method, Path     string
	Summary, Description string
	Parameters           []parameter
	Examples             []example
	Responses            []answer
}

type parameter struct{ Name, In, Type, Description string }

type example struct{ Summary, Arguments string } // of curl, without the URL

type answer struct{ Status, Description, Type string }

type schema struct {
	Name, Description, Type string
	Fields                  []field
}

type field struct {
	Name, Type, Description string
	Required                bool
}

// parser finds its way through a document, references resolved. What is not
// there is an empty node, so that no step needs a check.
type parser struct{ root *yaml.Node }

func parseContract(raw []byte) (contract, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return contract{}, fmt.Errorf("openapi.yaml: %w", err)
	}
	if len(doc.Content) == 0 {
		return contract{}, fmt.Errorf("openapi.yaml is empty")
	}
	p := parser{doc.Content[0]}
	info := p.at(p.root, "info")
	c := contract{Title: p.text(info, "title"), Description: p.text(info, "description")}
	byTag := map[string]int{}
	for _, tag := range p.at(p.root, "tags").Content {
		byTag[p.text(tag, "name")] = len(c.Sections)
		c.Sections = append(c.Sections, section{Name: p.text(tag, "name"), Description: p.text(tag, "description")})
	}
	p.each(p.at(p.root, "paths"), func(path string, item *yaml.Node) {
		shared := p.at(item, "parameters").Content
		p.each(item, func(method string, op *yaml.Node) {
			if method == "parameters" {
				return
			}
			o := p.operation(path, strings.ToUpper(method), op, shared)
			if tags := p.at(op, "tags").Content; len(tags) > 0 {
				s := &c.Sections[byTag[tags[0].Value]]
				s.Operations = append(s.Operations, o)
			}
		})
	})
	p.each(p.at(p.root, "components", "schemas"), func(name string, s *yaml.Node) { c.Schemas = append(c.Schemas, p.schema(name, s)) })
	return c, nil
}

func (p parser) operation(path, method string, op *yaml.Node, shared []*yaml.Node) operation {
	o := operation{ID: p.text(op, "operationId"), Method: method, Path: path, Summary: p.text(op, "summary"), Description: p.text(op, "description")}
	url := path
	for _, n := range append(shared[:len(shared):len(shared)], p.at(op, "parameters").Content...) {
		n = p.resolve(n)
		o.Parameters = append(o.Parameters, parameter{p.text(n, "name"), p.text(n, "in"), p.typeOf(p.at(n, "schema")), p.text(n, "description")})
		if ex := p.text(n, "example"); ex != "" && p.text(n, "in") == "path" {
			url = strings.ReplaceAll(url, "{"+p.text(n, "name")+"}", ex)
		}
	}
	verb := ""
	if method != "GET" {
		verb = "-X " + method + " "
	}
	if method == "HEAD" {
		verb = "-I "
	}
	p.each(p.at(op, "requestBody", "content"), func(kind string, media *yaml.Node) {
		p.each(p.at(media, "examples"), func(_ string, ex *yaml.Node) {
			ex = p.resolve(ex)
			body := strings.ReplaceAll(toJSON(p.at(ex, "value")), "'", `'\''`)
			o.Examples = append(o.Examples, example{p.text(ex, "summary"), fmt.Sprintf("%s -H 'Content-Type: %s' \\\n  -d '%s'", url, kind, body)})
		})
	})
	if len(o.Examples) == 0 {
		o.Examples = []example{{Arguments: url}}
	} else {
		verb = ""
	}
	for i := range o.Examples {
		o.Examples[i].Arguments = verb + "$CRUCIBLE" + o.Examples[i].Arguments
	}
	p.each(p.at(op, "responses"), func(status string, r *yaml.Node) {
		a := answer{Status: status, Description: p.text(r, "description")}
		p.each(p.at(r, "content"), func(kind string, media *yaml.Node) {
			a.Type = p.typeOf(p.at(media, "schema"))
			if a.Type == "string" || a.Type == "" {
				a.Type = kind
			}
		})
		o.Responses = append(o.Responses, a)
	})
	return o
}

func (p parser) schema(name string, n *yaml.Node) schema {
	s := schema{Name: name, Description: p.text(n, "description"), Type: p.typeOf(n)}
	required := map[string]bool{}
	for _, r := range p.at(n, "required").Content {
		required[r.Value] = true
	}
	if props := p.at(n, "properties"); len(props.Content) > 0 {
		s.Type = ""
		for i := 0; i+1 < len(props.Content); i += 2 {
			at := props.Content[i+1]
			s.Fields = append(s.Fields, field{props.Content[i].Value, p.typeOf(at), p.text(p.resolve(at), "description"), required[props.Content[i].Value]})
		}
	}
	return s
}

// typeOf says in words what a schema admits. Named schemas keep their names.
func (p parser) typeOf(n *yaml.Node) string {
	if ref := p.raw(n, "$ref"); ref != nil {
		return ref.Value[strings.LastIndex(ref.Value, "/")+1:]
	}
	if all := p.at(n, "allOf").Content; len(all) > 0 {
		return p.typeOf(all[0])
	}
	if some := p.at(n, "oneOf").Content; len(some) > 0 {
		words := make([]string, len(some))
		for i, s := range some {
			words[i] = p.typeOf(s)
		}
		return strings.Join(words, " or ")
	}
	if enum := p.at(n, "enum").Content; len(enum) > 0 {
		words := make([]string, len(enum))
		for i, e := range enum {
			words[i] = e.Value
		}
		return strings.Join(words, " | ")
	}
	switch t := p.text(n, "type"); t {
	case "array":
		return "list of " + p.typeOf(p.raw(n, "items"))
	case "object":
		if of := p.raw(n, "additionalProperties"); of != nil && of.Kind == yaml.MappingNode {
			return "object of " + p.typeOf(of)
		}
		return t
	default:
		return cmp.Or(p.text(n, "format"), t)
	}
}

var none = &yaml.Node{}

// raw is the value of a key as it stands, or nil.
func (p parser) raw(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func (p parser) at(n *yaml.Node, keys ...string) *yaml.Node {
	for _, key := range keys {
		if n = p.resolve(p.raw(n, key)); n == nil {
			return none
		}
	}
	return n
}

func (p parser) text(n *yaml.Node, key string) string { return strings.TrimSpace(p.at(n, key).Value) }

func (p parser) resolve(n *yaml.Node) *yaml.Node {
	if ref := p.raw(n, "$ref"); ref != nil {
		return p.at(p.root, strings.Split(strings.TrimPrefix(ref.Value, "#/"), "/")...)
	}
	return n
}

func (p parser) each(n *yaml.Node, do func(key string, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		do(n.Content[i].Value, p.resolve(n.Content[i+1]))
	}
}

// toJSON writes a YAML value as JSON, its keys in their order.
func toJSON(n *yaml.Node) string {
	var parts []string
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, _ := json.Marshal(n.Content[i].Value)
			parts = append(parts, string(key)+": "+toJSON(n.Content[i+1]))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case yaml.SequenceNode:
		for _, c := range n.Content {
			parts = append(parts, toJSON(c))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	default:
		var v any
		if n.Decode(&v) != nil {
			v = n.Value
		}
		raw, _ := json.Marshal(v)
		return string(raw)
	}
}

var codeWords = regexp.MustCompile("`([^`]+)`")

// prose turns the few marks in our descriptions into HTML: paragraphs, code
// and strong words.
func prose(s string) template.HTML {
	var b strings.Builder
	for paragraph := range strings.SplitSeq(strings.TrimSpace(s), "\n\n") {
		b.WriteString("<p>" + inlineHTML(paragraph) + "</p>")
	}
	return template.HTML(b.String())
}

var strongWords = regexp.MustCompile(`\*\*([^*]+)\*\*`)

func inlineHTML(s string) string {
	s = codeWords.ReplaceAllString(template.HTMLEscapeString(s), "<code>$1</code>")
	return strongWords.ReplaceAllString(s, "<b>$1</b>")
}
