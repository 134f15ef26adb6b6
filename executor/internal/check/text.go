package check

import (
	"bytes"
	"fmt"
)

const space = " \t\r\n\v\f"

func exact(got, want []byte) string {
	if bytes.Equal(got, want) {
		return ""
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	return fmt.Sprintf("from byte %d on it is %s, expected %s", at, quoted(got[at:]), quoted(want[at:]))
}

// lines ignores white space at line ends and empty lines at the end.
func lines(got, want []byte) string {
	got, want = bytes.TrimRight(got, space), bytes.TrimRight(want, space)
	for n := 1; ; n++ {
		a, restA, moreA := bytes.Cut(got, []byte{'\n'})
		b, restB, moreB := bytes.Cut(want, []byte{'\n'})
		a, b = bytes.TrimRight(a, space), bytes.TrimRight(b, space)
		switch {
		case !bytes.Equal(a, b):
			return fmt.Sprintf("line %d is %s, expected %s", n, quoted(a), quoted(b))
		case moreA && !moreB:
			return fmt.Sprintf("it goes on after line %d, which should be the last", n)
		case moreB && !moreA:
			return fmt.Sprintf("it ends after line %d; more was expected", n)
		case !moreA:
			return ""
		}
		got, want = restA, restB
	}
}

// words compares what is between white space.
func words(got, want []byte, same func(got, want []byte) bool) string {
	for n := 1; ; n++ {
		var a, b []byte
		a, got = nextWord(got)
		b, want = nextWord(want)
		switch {
		case a == nil && b == nil:
			return ""
		case a == nil:
			return fmt.Sprintf("word %d is missing, expected %s", n, quoted(b))
		case b == nil:
			return fmt.Sprintf("word %d is %s, and no more was expected", n, quoted(a))
		case !same(a, b):
			return fmt.Sprintf("word %d is %s, expected %s", n, quoted(a), quoted(b))
		}
	}
}

func nextWord(b []byte) (word, rest []byte) {
	b = bytes.TrimLeft(b, space)
	if len(b) == 0 {
		return nil, nil
	}
	if i := bytes.IndexAny(b, space); i >= 0 {
		return b[:i], b[i:]
	}
	return b, nil
}
