package run

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func FuzzCheckers(f *testing.F) {
	for _, pair := range [][2]string{{"a \nb\n\n", "a\nb"}, {"", "\n"}, {"a\r\n", "a"}, {" a b", "a  b"}, {"\xff", "\xfe"}} {
		f.Add([]byte(pair[0]), []byte(pair[1]))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		for _, c := range eval.Checkers() {
			if !matches(c, a, a) {
				t.Fatalf("%s: %q is not like itself", c, a)
			}
			if matches(c, a, b) != matches(c, b, a) {
				t.Fatalf("%s: %q and %q compare differently the other way round", c, a, b)
			}
		}
		if matches(eval.CheckExact, a, b) && !matches(eval.CheckLines, a, b) || matches(eval.CheckLines, a, b) && !matches(eval.CheckTokens, a, b) {
			t.Fatalf("%q and %q: a stricter checker accepts what a looser one refuses", a, b)
		}
		if want := equalFields(a, b); matches(eval.CheckTokens, a, b) != want {
			t.Fatalf("tokens of %q and %q: want %v", a, b, want)
		}
	})
}

// equalFields is the tokens checker as one would explain it.
func equalFields(a, b []byte) bool {
	split := func(r rune) bool { return strings.ContainsRune(" \t\r\n\v\f", r) }
	return bytes.Equal(bytes.Join(bytes.FieldsFunc(a, split), []byte{0, ' '}), bytes.Join(bytes.FieldsFunc(b, split), []byte{0, ' '})) &&
		len(bytes.FieldsFunc(a, split)) == len(bytes.FieldsFunc(b, split))
}

func TestExplanationsAreSentences(t *testing.T) {
	for code := 1; code < 256; code++ {
		s := explainExit(code)
		require.Regexp(t, `\.$`, s)
		require.Contains(t, s, strings.TrimSpace(grouped(int64(code))))
	}
	require.Contains(t, explainExit(139), "SIGSEGV")
	require.Contains(t, explainExit(143), "SIGTERM")
	require.Contains(t, explainSignal("SIGFPE"), "division")
	require.Equal(t, "12,345,678", grouped(12_345_678))
	require.Equal(t, "123", grouped(123))
	require.Equal(t, "1,536 bytes", size(1536))
	require.Equal(t, "64 MiB", size(64<<20))
}
