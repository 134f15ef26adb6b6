package httpkit

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Decode reads the body as one JSON value of type T. An unknown field, a
// wrong type, malformed JSON or anything after the value is KindInvalid and
// names where; a body above the limit is KindTooLarge; another content type
// is KindMediaType.
func Decode[T any](c echo.Context) (T, error) {
	var v T
	r := c.Request()
	if ct := r.Header.Get(echo.HeaderContentType); ct != "" {
		if mt, _, err := mime.ParseMediaType(ct); err != nil || mt != echo.MIMEApplicationJSON {
			return v, eval.Errorf(eval.KindMediaType, "send application/json instead of %.80q", ct)
		}
	}
	limit := ReadLimit(c)
	if r.ContentLength > limit {
		return v, tooLarge(limit)
	}
	// Whoever sends a body byte by byte does not hold the connection for ever.
	rc := http.NewResponseController(c.Response())
	size := r.ContentLength
	if size < 0 {
		size = limit
	}
	patience, _ := c.Get(patienceKey).(time.Duration)
	_ = rc.SetReadDeadline(time.Now().Add(patience + time.Duration(size/slowestBody)*time.Second)) // a test's recorder knows no deadlines
	dec := json.NewDecoder(http.MaxBytesReader(c.Response(), r.Body, limit))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return v, decodeError(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return v, decodeError(err)
		}
		return v, eval.Errorf(eval.KindInvalid, "there is something after the JSON value; send exactly one")
	}
	// Not after an error: the rest of the body is still waited for.
	_ = rc.SetReadDeadline(time.Time{})
	return v, nil
}

func decodeError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return eval.Errorf(eval.KindInvalid, "the body came too slowly, and was not waited for; send it again")
	}
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge(e.Limit)
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return &eval.Error{Kind: eval.KindInvalid, Message: "the request is not valid",
			Fields: []eval.FieldError{{Field: field(e.Field), Message: "must be " + typeName(e) + ", not " + e.Value}}}
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return eval.Errorf(eval.KindInvalid, "the body is not valid JSON at byte %d: %s", e.Offset, e.Error())
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return eval.Errorf(eval.KindInvalid, "the body ends before the JSON value does")
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return &eval.Error{Kind: eval.KindInvalid, Message: "the request is not valid",
			Fields: []eval.FieldError{{Field: strings.Trim(name, `"`), Message: "is not a field of this request; see /docs"}}}
	}
	return eval.Errorf(eval.KindInvalid, "the body cannot be read: %s", strings.TrimPrefix(err.Error(), "json: "))
}

func field(name string) string {
	if name == "" {
		return "body"
	}
	return name
}

func typeName(e *json.UnmarshalTypeError) string {
	switch e.Type.Kind().String() {
	case "int", "int64", "uint64":
		return "a whole number"
	case "float64":
		return "a number"
	case "string":
		return "a string"
	case "bool":
		return "true or false"
	case "slice", "array":
		return "a list"
	case "struct", "map":
		return "an object"
	}
	return "a " + e.Type.String()
}

// serializer writes JSON as Echo does, without the escapes for HTML: an
// answer is no page, and says so in its content type.
type serializer struct{ echo.DefaultJSONSerializer }

// Serialize implements echo.JSONSerializer.
func (serializer) Serialize(c echo.Context, v any, indent string) error {
	enc := json.NewEncoder(c.Response())
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	return enc.Encode(v)
}
