package check

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func same(t testing.TB, c eval.Checker, got, want string) bool {
	t.Helper()
	difference, err := Compare(t.Context(), c, []byte(got), []byte(want))
	require.NoError(t, err)
	require.NotContains(t, difference, "\n")
	require.Less(t, len(difference), 1000)
	return difference == ""
}

func TestFloats(t *testing.T) {
	loose := eval.Checker{Type: eval.CheckFloats, Absolute: 0.5}
	relative := eval.Checker{Type: eval.CheckFloats, Relative: 0.01}
	for _, c := range []struct {
		checker   eval.Checker
		got, want string
		same      bool
	}{
		{eval.Checker{Type: eval.CheckFloats}, "1.0000001 x\n", "1 x", true},
		{eval.Checker{Type: eval.CheckFloats}, "1.00001", "1", false},
		{eval.Checker{Type: eval.CheckFloats}, "1e6", "1000000.5", true},
		{loose, "3.5", "3", true}, {loose, "3.51", "3", false}, {loose, "-0", "0.5", true}, {loose, "+3", "3", true}, {loose, ".5", "1", true},
		{relative, "101", "100", true}, {relative, "100", "101.1", false}, {relative, "0.001", "0", false}, {relative, "-101", "-100", true},
		{loose, "nan", "NaN", true}, {loose, "-nan", "nan", true}, {loose, "--nan", "nan", false}, {loose, "nan", "0", false}, {loose, "0", "nan", false},
		{loose, "inf", "Infinity", true}, {loose, "-inf", "inf", false}, {loose, "inf", "1e308", false}, {loose, "1e999", "inf", false}, {loose, "1e999", "1e999", true},
		{loose, "0x10", "16", false}, {loose, "1_0", "10", false}, {loose, "ten", "ten", true}, {loose, "ten", "eleven", false}, {loose, "1e", "1", false},
		{loose, "1 2", "1", false}, {loose, "1", "1 2", false}, {loose, "", "", true}, {loose, strings.Repeat("1", 500), strings.Repeat("1", 500) + ".0", false},
	} {
		require.Equal(t, c.same, same(t, c.checker, c.got, c.want), "%+v", c)
	}
}

func TestExpressions(t *testing.T) {
	for _, c := range []struct {
		got, want string
		same      bool
	}{
		{"abc\n", "abc", true}, {"abc\r\n", "abc", true}, {"abc\n", "abc\n", true}, {"abc\n\n", "abc", false}, {"xabc", "abc", false}, {"abcx", "abc", false},
		{"a", "a|b", true}, {"ab", "a|b", false}, {"ABC", "(?i)abc", true}, {"a\nb", "a.b", false}, {"a\nb", "(?s)a.b", true},
		{"total: 42 items\n", `total: \d+ items`, true}, {"", "", true}, {"\xff", ".", true}, {"ü", ".", true}, {"a)", `\Qa)\E`, true},
	} {
		require.Empty(t, eval.CheckExpression([]byte(c.want)))
		require.Equal(t, c.same, same(t, eval.Checker{Type: eval.CheckRegex}, c.got, c.want), "%+v", c)
	}
}

func TestASlowExpressionEnds(t *testing.T) {
	want := strings.Repeat("(x*)*y?", 500)
	require.Empty(t, eval.CheckExpression([]byte(want)))
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, ErrSlow)
	defer cancel()
	began := time.Now()
	_, err := Compare(ctx, eval.Checker{Type: eval.CheckRegex}, bytes.Repeat([]byte("x"), 64<<20), []byte(want))
	require.ErrorIs(t, err, ErrSlow)
	require.Less(t, time.Since(began), 20*time.Second)
}

func TestJSON(t *testing.T) {
	exactly, about := eval.Checker{Type: eval.CheckJSON}, eval.Checker{Type: eval.CheckJSON, Absolute: 0.01}
	for _, c := range []struct {
		checker   eval.Checker
		got, want string
		same      bool
	}{
		{exactly, ` {"b": [1, 2], "a": null} `, `{"a":null,"b":[1,2]}`, true},
		{exactly, `[1,2]`, `[2,1]`, false}, {exactly, `[1]`, `[1,2]`, false}, {exactly, `{"a":1}`, `{}`, false}, {exactly, `{}`, `{"a":1}`, false},
		{exactly, `1.0`, `1`, true}, {exactly, `1e2`, `100`, true}, {exactly, `-0.0`, `0`, true}, {exactly, `100e-2`, `1`, true}, {exactly, `0.1`, `0.10000000000000001`, false},
		{exactly, `12345678901234567890`, `12345678901234567891`, false}, {exactly, `1e999999999999`, `1e999999999999`, true}, {exactly, `1e99999999`, `1e99999998`, false},
		{exactly, `"a\u0062"`, `"ab"`, true}, {exactly, `"1"`, `1`, false}, {exactly, `true`, `true`, true}, {exactly, `null`, `false`, false},
		{exactly, `1 2`, `1`, false}, {exactly, ``, `1`, false}, {exactly, "\"\xff\"", "\"\ufffd\"", false}, {exactly, `{"a":1,"a":2}`, `{"a":2}`, true},
		{about, `{"x":[1.009]}`, `{"x":[1]}`, true}, {about, `{"x":[1.02]}`, `{"x":[1]}`, false},
	} {
		require.Equal(t, c.same, same(t, c.checker, c.got, c.want), "%+v", c)
	}
	difference, err := Compare(t.Context(), exactly, []byte(`{"a":[1,{"b":2}]}`), []byte(`{"a":[1,{"b":3}]}`))
	require.NoError(t, err)
	require.Equal(t, `at $["a"][1]["b"] it is 2, expected 3`, difference)
	require.False(t, same(t, exactly, strings.Repeat(" ", eval.MaxJSONBytes)+"1", "1"), "too long")
	deep := strings.Repeat("[", 9000) + strings.Repeat("]", 9000)
	require.True(t, same(t, exactly, deep, deep))
}

func TestDifferencesAreInWords(t *testing.T) {
	for _, c := range []struct {
		checker         eval.CheckerType
		got, want, says string
	}{
		{eval.CheckLines, "a\nb", "a\nc", `line 2 is "b", expected "c"`},
		{eval.CheckLines, "a\nb", "a", `it goes on after line 1, which should be the last`},
		{eval.CheckLines, "a", "a\nb", `it ends after line 1; more was expected`},
		{eval.CheckTokens, "a b", "a", `word 2 is "b", and no more was expected`},
		{eval.CheckTokens, "a", "a b", `word 2 is missing, expected "b"`},
		{eval.CheckExact, "abc", "abd", `from byte 2 on it is "c", expected "d"`},
	} {
		difference, err := Compare(t.Context(), eval.Checker{Type: c.checker}, []byte(c.got), []byte(c.want))
		require.NoError(t, err)
		require.Equal(t, c.says, difference)
	}
}

func FuzzCheckers(f *testing.F) {
	for _, pair := range [][2]string{{"a \nb\n\n", "a\nb"}, {"", "\n"}, {"a\r\n", "a"}, {" a b", "a  b"}, {"\xff", "\xfe"}, {"1e3 nan", "1000 NaN"}} {
		f.Add([]byte(pair[0]), []byte(pair[1]))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		matches := func(c eval.CheckerType, got, want []byte) bool {
			return same(t, eval.Checker{Type: c}, string(got), string(want))
		}
		for _, c := range []eval.CheckerType{eval.CheckExact, eval.CheckLines, eval.CheckTokens, eval.CheckFloats} {
			if !matches(c, a, a) {
				t.Fatalf("%s: %q is not like itself", c, a)
			}
			if c != eval.CheckFloats && matches(c, a, b) != matches(c, b, a) {
				t.Fatalf("%s: %q and %q compare differently the other way round", c, a, b)
			}
		}
		if matches(eval.CheckExact, a, b) && !matches(eval.CheckLines, a, b) || matches(eval.CheckLines, a, b) && !matches(eval.CheckTokens, a, b) ||
			matches(eval.CheckTokens, a, b) && !matches(eval.CheckFloats, a, b) {
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

// FuzzJSON: values that Go finds equal are equal, and of others only numbers
// that float64 cannot tell apart.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,2.50,"x"]}`, `-0`, `1e-400`, `[[],{}]`, "\"\xff\""} {
		f.Add([]byte(seed), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var x, y any
		if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
			_ = same(t, eval.Checker{Type: eval.CheckJSON}, string(a), string(b))
			return
		}
		got := same(t, eval.Checker{Type: eval.CheckJSON}, string(a), string(b))
		if got && !reflect.DeepEqual(x, y) && fmt.Sprint(x) != fmt.Sprint(y) {
			t.Fatalf("%q and %q are not the same", a, b)
		}
	})
}

// FuzzExpression: what is accepted can be compiled, and compared in bounds.
func FuzzExpression(f *testing.F) {
	for _, seed := range []string{"a|b", `\Qa`, "(a{1000}){1000}", ")(", "(?i)x", "[[:alpha:]]{2,}", "a{0,1000}{0,1000}"} {
		f.Add(seed, "aaaa")
	}
	f.Fuzz(func(t *testing.T, expr, got string) {
		if eval.CheckExpression([]byte(expr)) == "" {
			_ = same(t, eval.Checker{Type: eval.CheckRegex}, got, expr)
		}
	})
}
