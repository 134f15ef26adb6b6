// Package check compares a test's output with the expected one, outside of
// any box. Whatever the program has written, it takes little memory and a
// bounded time.
package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Patience is how long a comparison may take.
const Patience = 5 * time.Second

// ErrSlow says that a comparison did not end in time.
var ErrSlow = errors.New("the comparison took too long")

// Compare returns "" when got is what the checker wants, and otherwise the
// first difference, in words. The checker is a valid one, and no program. The
// error is ErrSlow, or ctx's cause.
func Compare(ctx context.Context, c eval.Checker, got, want []byte) (difference string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, Patience, ErrSlow)
	defer cancel()
	switch c.Type {
	case eval.CheckExact:
		return exact(got, want), nil
	case eval.CheckTokens:
		return words(got, want, bytes.Equal), nil
	case eval.CheckFloats:
		absolute, relative := c.Tolerance()
		return words(got, want, func(a, b []byte) bool { return sameFloat(a, b, absolute, relative) }), nil
	case eval.CheckRegex:
		return expression(ctx, got, string(want))
	case eval.CheckJSON:
		return values(c, got, want), nil
	default:
		return lines(got, want), nil
	}
}

// expression matches the whole output, with or without the line break at its end.
func expression(ctx context.Context, got []byte, want string) (string, error) {
	re, err := regexp.Compile(`\A(?:` + want + `)\z`)
	if err != nil {
		return "", fmt.Errorf("the expected output is no regular expression: %w", err)
	}
	matched := re.MatchReader(&runes{ctx: ctx, left: got})
	if line, broken := bytes.CutSuffix(got, []byte("\n")); !matched && broken {
		matched = re.MatchReader(&runes{ctx: ctx, left: bytes.TrimSuffix(line, []byte("\r"))})
	}
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case !matched:
		return "it does not match the regular expression as a whole", nil
	}
	return "", nil
}

// runes reads until its context ends: a match can take many steps for each.
type runes struct {
	ctx  context.Context
	left []byte
	read int
}

func (r *runes) ReadRune() (rune, int, error) {
	if r.read++; len(r.left) == 0 || r.read%64 == 0 && r.ctx.Err() != nil {
		return 0, 0, io.EOF
	}
	c, n := utf8.DecodeRune(r.left)
	r.left = r.left[n:]
	return c, n, nil
}

// quoted shows a piece of an output, not too much of it.
func quoted(b []byte) string {
	const most = 60
	if len(b) > most {
		return fmt.Sprintf("%q...", strings.ToValidUTF8(string(b[:most]), "?"))
	}
	return fmt.Sprintf("%q", b)
}
