package eval_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func TestACheckerIsANameOrAnObject(t *testing.T) {
	for text, want := range map[string]eval.Checker{
		`"exact"`: {Type: eval.CheckExact}, `null`: {}, `""`: {},
		`{"type":"floats","absolute":0.5}`:                                       {Type: eval.CheckFloats, Absolute: 0.5},
		` {"type":"program","language":"c","code":"<&>","limits":{"wall_ms":5}}`: {Type: eval.CheckProgram, Language: "c", Code: eval.Bytes("<&>"), Limits: eval.Limits{WallMS: 5}},
	} {
		var got eval.Checker
		require.NoError(t, json.Unmarshal([]byte(text), &got), text)
		require.Equal(t, want, got)
	}
	for _, text := range []string{`{"type":"json"}`, `{"type":"json","absolute":0}`} {
		var got eval.Checker
		require.NoError(t, json.Unmarshal([]byte(text), &got))
		raw, err := json.Marshal(got)
		require.NoError(t, err)
		require.Equal(t, `"json"`, string(raw), "as short as it can be")
	}
	for _, text := range []string{`7`, `[]`, `{"type":"json","tolerance":1}`, `{"type":7}`, `{"absolute":1e999}`} {
		require.Error(t, json.Unmarshal([]byte(text), new(eval.Checker)), text)
	}
	raw, err := json.Marshal(eval.Test{Name: "a"})
	require.NoError(t, err)
	require.JSONEq(t, `{"name":"a"}`, string(raw))
}

func FuzzCheckerJSON(f *testing.F) {
	for _, seed := range []string{`"lines"`, `{"type":"floats","relative":1e-9}`, `{"type":"program","language":"c","files":{"a":{"data":"AP8=","encoding":"base64"}}}`, `null`, `{"tYpe":"","files":{}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var c, again eval.Checker
		if json.Unmarshal(raw, &c) != nil {
			return
		}
		written, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(written, &again); err != nil {
			t.Fatal(err)
		}
		if c.Key() != again.Key() {
			t.Fatalf("%s became %s", c.Key(), again.Key())
		}
		p := eval.Program{Language: "python", Code: eval.Bytes("1"), Tests: []eval.Test{{Checker: c, ExpectedStdout: new(eval.Bytes)}}}
		for _, bad := range eval.ValidateProgram(p) {
			if !strings.HasPrefix(bad.Field, "tests[0].") {
				t.Fatalf("%s: %v", raw, bad)
			}
		}
	})
}

func TestNotEveryOneOfVeryManyWrongFieldsIsNamed(t *testing.T) {
	spec := eval.Spec{Program: eval.Program{Language: "python", Code: eval.Bytes("1"), Tests: make([]eval.Test, 50_000)}}
	for i := range spec.Tests {
		spec.Tests[i].Checker.Type, spec.Tests[i].Limits.WallMS = "psychic", -1
	}
	_, bad := eval.DefaultPolicy().Validate(spec, time.Now(), nil)
	require.Len(t, bad, 100)
}

func TestLongestIsTheSumOfAll(t *testing.T) {
	second := eval.Limits{WallMS: 1000}
	p := eval.Program{Limits: second}
	require.Equal(t, time.Second, p.Longest())
	p.Tests = []eval.Test{{}, {Limits: eval.Limits{WallMS: 500}}, {Checker: eval.Checker{Type: eval.CheckProgram, Limits: second}}}
	require.Equal(t, 3500*time.Millisecond, p.Longest())
}

func TestExpressionsAreBounded(t *testing.T) {
	for _, good := range []string{"", "a|b", `(?s).*`, "(a{10}){100}", strings.Repeat("x", eval.MaxRegexBytes)} {
		require.Empty(t, eval.CheckExpression([]byte(good)), "%.20s", good)
	}
	for _, bad := range []string{"a(", `\Qa`, ")(", "(?=a)", `\1`, "\xff", "((a{1000}){1000}){1000}", "(" + strings.Repeat("x", 100) + "){200}", strings.Repeat("x", eval.MaxRegexBytes+1)} {
		require.NotEmpty(t, eval.CheckExpression([]byte(bad)), "%.20s", bad)
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern eval.Pattern
		matches []string
		not     []string
	}{
		{"a.txt", []string{"a.txt"}, []string{"b/a.txt", "a.txt/b", "a_txt"}},
		{"*.png", []string{"a.png", ".png"}, []string{"a/b.png", "a.png.gz"}},
		{"out/**/*.png", []string{"out/a.png", "out/a/b/c.png"}, []string{"a.png", "out.png", "other/out/a.png"}},
		{"**", []string{"a", "a/b/c"}, nil},
		{"**/a", []string{"a", "x/a", "x/y/a"}, []string{"a/x", "xa"}},
		{"a/**", []string{"a/b", "a/b/c", "a"}, []string{"b/a"}},
		{"**/x/**/y", []string{"x/y", "a/x/b/c/y"}, []string{"x", "y/x"}},
		{"[a-c]?", []string{"ab", "cü"}, []string{"d1", "a", "a/"}},
		{"ü*", []string{"ü\xff\n"}, []string{"u"}},
	} {
		for _, name := range c.matches {
			require.True(t, c.pattern.Match(name), "%s of %q", c.pattern, name)
		}
		for _, name := range c.not {
			require.False(t, c.pattern.Match(name), "%s of %q", c.pattern, name)
		}
	}
	require.True(t, eval.Pattern("a/b").Literal())
	require.False(t, eval.Pattern("a[b]").Literal())
}

// FuzzPatterns: matching is what one would explain, and takes a bounded time.
func FuzzPatterns(f *testing.F) {
	f.Add("out/**/*.png", "out/a/b.png")
	f.Add("**/**/**/a", "a/a/a/a")
	f.Add("[^a]\\*", "b*")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 40 || len(name) > 40 {
			t.Skip()
		}
		p := eval.Program{Language: "python", Code: eval.Bytes("1"), Artifacts: []eval.Pattern{eval.Pattern(pattern)}}
		if len(eval.ValidateProgram(p)) > 0 {
			return
		}
		if got, want := eval.Pattern(pattern).Match(name), explained(strings.Split(pattern, "/"), strings.Split(name, "/")); got != want {
			t.Fatalf("%q of %q is %v", pattern, name, got)
		}
		if eval.Pattern(pattern).Literal() && !eval.Pattern(pattern).Match(pattern) {
			t.Fatalf("%q does not match itself", pattern)
		}
	})
}

func explained(pattern, name []string) bool {
	if len(pattern) == 0 {
		return len(name) == 0
	}
	if pattern[0] == "**" {
		return explained(pattern[1:], name) || len(name) > 0 && explained(pattern, name[1:])
	}
	return len(name) > 0 && eval.Pattern(pattern[0]).Match(name[0]) && explained(pattern[1:], name[1:])
}

func FuzzArtifactJSON(f *testing.F) {
	f.Add("out/a.png", []byte("\x00\xff"), "")
	f.Add("link", []byte{}, "is not a regular file")
	f.Fuzz(func(t *testing.T, path string, content []byte, problem string) {
		a := eval.Artifact{Path: strings.ToValidUTF8(path, "?"), Error: strings.ToValidUTF8(problem, "?"), Content: eval.Stream{Bytes: int64(len(content))}}
		if problem == "" {
			a.Content.Data = content
		}
		raw, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		var got eval.Artifact
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		if got.Content.Data == nil {
			got.Content.Data = a.Content.Data
		}
		if d := cmp.Diff(a, got); d != "" {
			t.Fatal(d)
		}
	})
}
