package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// decodeSpec reads one evaluation strictly. at is the path in front of its
// fields, such as "evaluations[3].", or "". raw is valid JSON.
func decodeSpec(raw json.RawMessage, at string) (eval.Spec, []eval.FieldError) {
	return decodeAt[eval.Spec](raw, at)
}

// decodeInto reads a JSON object strictly, or tells what is wrong with it.
func decodeInto[T any](raw json.RawMessage) (T, error) {
	v, bad := decodeAt[T](raw, "")
	return v, eval.Invalid(bad)
}

func decodeAt[T any](raw json.RawMessage, at string) (T, []eval.FieldError) {
	var s, none T
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	err := dec.Decode(&s)
	if err == nil && !bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
		return s, nil
	}
	bad := locate(raw, reflect.TypeFor[T](), strings.TrimSuffix(at, "."))
	if len(bad) == 0 { // what the decoder refuses and the search does not find
		message := "must be an object"
		if err != nil {
			message = strings.TrimPrefix(err.Error(), "json: ")
		}
		bad = []eval.FieldError{{Field: orBody(strings.TrimSuffix(at, ".")), Message: message}}
	}
	return none, bad
}

// mostFound bounds how many wrong fields one answer names.
const mostFound = 100

// locate finds every value in raw that does not fit t, and names where it
// is: encoding/json tells only the first, and not its place.
func locate(raw json.RawMessage, t reflect.Type, at string) (bad []eval.FieldError) {
	add := func(found ...eval.FieldError) {
		bad = append(bad, found[:min(len(found), mostFound-len(bad))]...)
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	_, own := reflect.New(t).Interface().(json.Unmarshaler)
	if t.Kind() == reflect.Struct && len(jsonFields(t)) > 0 && bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) {
		own = false // an object, field by field
	}
	switch {
	case own:
		if err := json.Unmarshal(raw, reflect.New(t).Interface()); err != nil {
			add(eval.FieldError{Field: orBody(at), Message: strings.TrimPrefix(err.Error(), "json: ")})
		}
	case t.Kind() == reflect.Struct:
		var values map[string]json.RawMessage
		if json.Unmarshal(raw, &values) != nil || values == nil {
			return []eval.FieldError{{Field: orBody(at), Message: "must be an object"}}
		}
		fields := jsonFields(t)
		for _, name := range slices.Sorted(maps.Keys(values)) {
			f, ok := fields[strings.ToLower(name)]
			if !ok {
				add(eval.FieldError{Field: join(at, clip(name)), Message: "is not a field here; there are " + strings.Join(slices.Sorted(maps.Keys(fields)), ", ")})
				continue
			}
			add(locate(values[name], f, join(at, name))...)
		}
	case t.Kind() == reflect.Map:
		var values map[string]json.RawMessage
		if json.Unmarshal(raw, &values) != nil {
			return []eval.FieldError{{Field: orBody(at), Message: "must be an object"}}
		}
		for _, name := range slices.Sorted(maps.Keys(values)) {
			add(locate(values[name], t.Elem(), fmt.Sprintf("%s[%q]", at, clip(name)))...)
		}
	case t.Kind() == reflect.Slice:
		var values []json.RawMessage
		if json.Unmarshal(raw, &values) != nil {
			return []eval.FieldError{{Field: orBody(at), Message: "must be a list"}}
		}
		for i, v := range values {
			add(locate(v, t.Elem(), fmt.Sprintf("%s[%d]", at, i))...)
		}
	default:
		if err := json.Unmarshal(raw, reflect.New(t).Interface()); err != nil {
			add(eval.FieldError{Field: orBody(at), Message: wrongType(t, err)})
		}
	}
	return bad
}

func wrongType(t reflect.Type, err error) string {
	e, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return strings.TrimPrefix(err.Error(), "json: ")
	}
	want := map[reflect.Kind]string{reflect.Int64: "a whole number of at most 63 bits", reflect.Int: "a whole number", reflect.Float64: "a number", reflect.String: "a string", reflect.Bool: "true or false"}[t.Kind()]
	if want == "" {
		want = t.Kind().String()
	}
	return "must be " + want + ", not " + clip(e.Value)
}

// jsonFields are the fields of a struct by their lower-case name in JSON,
// those of embedded structs included.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			maps.Copy(fields, jsonFields(f.Type))
		} else if name != "" && name != "-" {
			fields[strings.ToLower(name)] = f.Type
		}
	}
	return fields
}

func join(at, name string) string {
	if at == "" {
		return name
	}
	return at + "." + name
}

func orBody(at string) string {
	if at == "" {
		return "body"
	}
	return at
}

// clip keeps what a client sent from filling an answer.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "..."
	}
	return s
}
