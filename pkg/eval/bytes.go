package eval

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// Encodings of a byte string in JSON.
const (
	EncodingUTF8   = "utf-8"
	EncodingBase64 = "base64"
)

// Bytes is a byte string that survives JSON exactly. Valid UTF-8 travels as a
// JSON string; anything else as {"data": "...", "encoding": "base64"}. Both
// forms are accepted for any content.
type Bytes []byte

type encodedBytes struct {
	Data     string `json:"data"`
	Encoding string `json:"encoding"`
}

// MarshalJSON writes the shorter of the two forms that keeps every byte.
func (b Bytes) MarshalJSON() ([]byte, error) {
	data, encoding := encode(b)
	if encoding == EncodingUTF8 {
		return marshal(data)
	}
	return marshal(encodedBytes{data, encoding})
}

// UnmarshalJSON reads either form. An unknown encoding, an unknown field or
// bad base64 is an error that says so.
func (b *Bytes) UnmarshalJSON(raw []byte) error {
	raw = bytes.TrimSpace(raw)
	if bytes.Equal(raw, []byte("null")) {
		return nil
	}
	if len(raw) == 0 || raw[0] != '{' {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return fmt.Errorf(`must be a string or {"data","encoding"}`)
		}
		*b = Bytes(s)
		return nil
	}
	var e encodedBytes
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		return fmt.Errorf(`must be a string or {"data","encoding"}: %w`, err)
	}
	data, err := decode(e.Data, e.Encoding)
	if err != nil {
		return err
	}
	*b = data
	return nil
}

// String returns the bytes as they are.
func (b Bytes) String() string { return string(b) }

func encode(b []byte) (data, encoding string) {
	if utf8.Valid(b) {
		return string(b), EncodingUTF8
	}
	return base64.StdEncoding.EncodeToString(b), EncodingBase64
}

func decode(data, encoding string) ([]byte, error) {
	switch encoding {
	case "", EncodingUTF8:
		return []byte(data), nil
	case EncodingBase64:
		raw, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			return nil, fmt.Errorf("data is not standard base64: %w", err)
		}
		return raw, nil
	default:
		return nil, fmt.Errorf("encoding %q is not known: use %q or %q", encoding, EncodingUTF8, EncodingBase64)
	}
}

// marshal is json.Marshal without the escapes for HTML, which make programs
// and their output unreadable. Whoever encodes for a page escapes anew.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
