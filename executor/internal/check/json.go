package check

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// values compares two values of JSON. An output of more than
// eval.MaxJSONBytes is not read as one.
func values(c eval.Checker, got, want []byte) string {
	if len(got) > eval.MaxJSONBytes {
		return fmt.Sprintf("it has %d bytes; at most %d are read as JSON", len(got), eval.MaxJSONBytes)
	}
	a, ok := parse(got)
	if !ok {
		return "it is not one value of JSON"
	}
	b, ok := parse(want)
	if !ok {
		return "the expected output is not one value of JSON"
	}
	d := differ(a, b, c.Absolute, c.Relative)
	if d == nil {
		return ""
	}
	slices.Reverse(d.path)
	return fmt.Sprintf("at %s it %s", shortened("$"+strings.Join(d.path, "")), d.what)
}

// parse reads one value. Of a key that comes twice, the last counts.
func parse(b []byte) (v any, ok bool) {
	if !utf8.Valid(b) || !json.Valid(b) {
		return nil, false
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	return v, dec.Decode(&v) == nil
}

// difference is where two values differ; its path is written from the inside out.
type difference struct {
	path []string
	what string
}

func (d *difference) in(step string) *difference {
	d.path = append(d.path, step)
	return d
}

func differ(got, want any, absolute, relative float64) *difference {
	switch w := want.(type) {
	case json.Number:
		if g, ok := got.(json.Number); ok && sameNumber(string(g), string(w), absolute, relative) {
			return nil
		}
	case []any:
		g, ok := got.([]any)
		if !ok {
			break
		}
		for i := range min(len(g), len(w)) {
			if d := differ(g[i], w[i], absolute, relative); d != nil {
				return d.in(fmt.Sprintf("[%d]", i))
			}
		}
		if len(g) == len(w) {
			return nil
		}
		return &difference{what: fmt.Sprintf("has %d elements, expected %d", len(g), len(w))}
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			break
		}
		for _, key := range slices.Sorted(maps.Keys(w)) {
			v, ok := g[key]
			if !ok {
				return &difference{what: "has no " + quoted([]byte(key))}
			}
			if d := differ(v, w[key], absolute, relative); d != nil {
				return d.in("[" + quoted([]byte(key)) + "]")
			}
		}
		for _, key := range slices.Sorted(maps.Keys(g)) {
			if _, ok := w[key]; !ok {
				return &difference{what: "has " + quoted([]byte(key)) + ", which was not expected"}
			}
		}
		return nil
	default: // string, bool, nil
		if got == want {
			return nil
		}
	}
	return &difference{what: fmt.Sprintf("is %s, expected %s", show(got), show(want))}
}

func show(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case json.Number:
		return shortened(string(v))
	case string:
		return quoted([]byte(v))
	case []any:
		return "an array"
	case map[string]any:
		return "an object"
	}
	return fmt.Sprint(v)
}

func shortened(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
