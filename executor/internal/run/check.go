package run

import (
	"bytes"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// matches compares a test's output with the expected one, outside of any box.
func matches(c eval.Checker, got, want []byte) bool {
	switch c {
	case eval.CheckExact:
		return bytes.Equal(got, want)
	case eval.CheckTokens:
		return sameTokens(got, want)
	default:
		return sameLines(got, want)
	}
}

// sameLines ignores white space at line ends and empty lines at the end.
func sameLines(a, b []byte) bool {
	const space = " \t\r\n\v\f"
	a, b = bytes.TrimRight(a, space), bytes.TrimRight(b, space)
	for {
		lineA, restA, moreA := bytes.Cut(a, []byte{'\n'})
		lineB, restB, moreB := bytes.Cut(b, []byte{'\n'})
		if moreA != moreB || !bytes.Equal(bytes.TrimRight(lineA, space), bytes.TrimRight(lineB, space)) {
			return false
		}
		if !moreA {
			return true
		}
		a, b = restA, restB
	}
}

// sameTokens compares the words between white space.
func sameTokens(a, b []byte) bool {
	for {
		var wordA, wordB []byte
		wordA, a = nextToken(a)
		wordB, b = nextToken(b)
		if !bytes.Equal(wordA, wordB) {
			return false
		}
		if wordA == nil {
			return wordB == nil
		}
	}
}

func nextToken(b []byte) (word, rest []byte) {
	b = bytes.TrimLeft(b, " \t\r\n\v\f")
	if len(b) == 0 {
		return nil, nil
	}
	if i := bytes.IndexAny(b, " \t\r\n\v\f"); i >= 0 {
		return b[:i], b[i:]
	}
	return b, nil
}
