package config

import (
	"fmt"
	"log/slog"
	"net/url"
	"reflect"

	"github.com/alecthomas/kong"
)

// Redacted stands where a secret would be.
const Redacted = "REDACTED"

// redacting is what settings have that hide what they hold.
type redacting interface {
	fmt.Stringer
	Reveal() string
}

// Secret is a setting that never shows itself in a log, in JSON or in YAML.
type Secret string

// Reveal returns the secret.
func (s Secret) Reveal() string { return string(s) }

// String returns a placeholder.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return Redacted
}

// GoString returns a placeholder, for %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText returns a placeholder, for JSON.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML returns a placeholder.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// LogValue returns a placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// URL is an address that may hold a password, which never shows itself.
type URL string

// Reveal returns the address with its password.
func (u URL) Reveal() string { return string(u) }

// String returns the address without its password.
func (u URL) String() string {
	parsed, err := url.Parse(string(u))
	if err != nil {
		if u == "" {
			return ""
		}
		return Redacted // who knows what is in it
	}
	hidden := false
	if _, has := parsed.User.Password(); has {
		parsed.User = url.UserPassword(parsed.User.Username(), Redacted)
		hidden = true
	}
	if query := parsed.Query(); query.Has("password") {
		query.Set("password", Redacted)
		parsed.RawQuery = query.Encode()
		hidden = true
	}
	if !hidden {
		return string(u)
	}
	return parsed.String()
}

// GoString returns the address without its password, for %#v.
func (u URL) GoString() string { return u.String() }

// MarshalText returns the address without its password, for JSON.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// MarshalYAML returns the address without its password.
func (u URL) MarshalYAML() (any, error) { return u.String(), nil }

// LogValue returns the address without its password.
func (u URL) LogValue() slog.Value { return slog.StringValue(u.String()) }

// revealed is v with its secrets in plain text.
func revealed(v any) any {
	if s, ok := v.(redacting); ok {
		return s.Reveal()
	}
	if r := reflect.ValueOf(v); r.Kind() == reflect.Slice {
		out := make([]any, r.Len())
		for i := range out {
			out[i] = revealed(r.Index(i).Interface())
		}
		return out
	}
	return v
}

// kongElem is a zero element of a flag that is a list.
func kongElem(flag *kong.Flag) any { return reflect.Zero(flag.Target.Type().Elem()).Interface() }
