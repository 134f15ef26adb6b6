package eval_test

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func TestTheDomainImportsTheStandardLibraryOnly(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		require.NoError(t, err)
		for _, imp := range f.Imports {
			first, _, _ := strings.Cut(strings.Trim(imp.Path.Value, `"`), "/")
			require.NotContains(t, first, ".", "%s imports %s", name, imp.Path.Value)
		}
	}
}

func FuzzBytesSurviveJSON(f *testing.F) {
	f.Add([]byte("plain"))
	f.Add([]byte{0, 0xff, 0xfe, '"', '\\', '<', 0xe2, 0x80, 0xa8})
	f.Fuzz(func(t *testing.T, in []byte) {
		raw, err := json.Marshal(eval.Bytes(in))
		require.NoError(t, err)
		var out eval.Bytes
		require.NoError(t, json.Unmarshal(raw, &out))
		require.Equal(t, string(in), string(out))

		s := eval.Stream{Data: in, Bytes: int64(len(in))}
		raw, err = json.Marshal(s)
		require.NoError(t, err)
		var back eval.Stream
		require.NoError(t, json.Unmarshal(raw, &back))
		require.Equal(t, string(s.Data), string(back.Data))
	})
}

func TestBytesRefuseWhatTheyCannotRead(t *testing.T) {
	for name, raw := range map[string]string{
		"a number":         `7`,
		"unknown encoding": `{"data":"x","encoding":"rot13"}`,
		"unknown field":    `{"data":"x","encodings":"utf-8"}`,
		"bad base64":       `{"data":"***","encoding":"base64"}`,
	} {
		t.Run(name, func(t *testing.T) {
			var b eval.Bytes
			require.Error(t, json.Unmarshal([]byte(raw), &b))
		})
	}
}

func TestAStreamThatIsNotWholeSaysSo(t *testing.T) {
	raw, err := json.Marshal(eval.Stream{Data: []byte("ab"), Bytes: 5, Blob: "x"})
	require.NoError(t, err)
	require.Contains(t, string(raw), `"preview":true`)
}

func valid() eval.Spec {
	return eval.Spec{Program: eval.Program{Language: "py", Code: eval.Bytes("print(1)")}}
}

func python(name string) (eval.Language, bool) {
	return eval.Language{ID: "python", Available: true}, name == "py" || name == "python"
}

func TestValidateGrantsWhatWasAsked(t *testing.T) {
	policy := eval.DefaultPolicy()
	s := valid()
	s.Limits.WallMS = 60_000
	got, bad := policy.Validate(s, start, python)
	require.Empty(t, bad)
	require.Equal(t, "python", got.Language)
	require.Equal(t, eval.PriorityDefault, got.Priority)
	require.Equal(t, "default", got.RetryPolicy)
	require.Equal(t, int64(60_000), got.Limits.WallMS)
	require.Equal(t, int64(60_000), got.Limits.CPUMS, "cpu follows wall when it is left out")
	require.Equal(t, policy.Default.MemoryBytes, got.Limits.MemoryBytes)
}

func TestValidateNamesEachWrongField(t *testing.T) {
	for field, change := range map[string]func(*eval.Spec){
		"language":            func(s *eval.Spec) { s.Language = "cobol" },
		"code":                func(s *eval.Spec) { s.Code = nil },
		"files":               func(s *eval.Spec) { s.Files = map[string]eval.Bytes{"a": nil} },
		"limits.wall_ms":      func(s *eval.Spec) { s.Limits.WallMS = -1 },
		"limits.memory_bytes": func(s *eval.Spec) { s.Limits.MemoryBytes = 1 << 60 },
		"priority":            func(s *eval.Spec) { s.Priority = "urgent" },
		"retry_policy":        func(s *eval.Spec) { s.RetryPolicy = "forever" },
		"tags[0]":             func(s *eval.Spec) { s.Tags = []string{""} },
		"args[0]":             func(s *eval.Spec) { s.Args = []string{"a\x00"} },
		`env["A=B"]`:          func(s *eval.Spec) { s.Env = map[string]string{"A=B": "c"} },
		"tests[0].checker":    func(s *eval.Spec) { s.Tests = []eval.Test{{Checker: eval.Checker{Type: "hope"}}} },
		"min_isolation":       func(s *eval.Spec) { s.MinIsolation = "prayer" },
		"warm":                func(s *eval.Spec) { s.Warm = "hot" },
		"run_at":              func(s *eval.Spec) { at := start.AddDate(5, 0, 0); s.RunAt = &at },
		`files["../x"]`: func(s *eval.Spec) {
			s.Code, s.Files = nil, map[string]eval.Bytes{"../x": eval.Bytes("1")}
		},
		"entrypoint": func(s *eval.Spec) {
			s.Code, s.Files = nil, map[string]eval.Bytes{"a": eval.Bytes("1"), "b": eval.Bytes("2")}
		},
	} {
		t.Run(field, func(t *testing.T) {
			s := valid()
			change(&s)
			_, bad := eval.DefaultPolicy().Validate(s, start, python)
			require.Len(t, bad, 1)
			require.Equal(t, field, bad[0].Field)
			require.NotEmpty(t, bad[0].Message)
		})
	}
}

func TestALanguageThatIsBeingCheckedIsAccepted(t *testing.T) {
	for _, l := range []eval.Language{{ID: "go", Checking: true}, {ID: "go", Problem: "no compiler"}} {
		_, bad := eval.DefaultPolicy().Validate(valid(), start, func(string) (eval.Language, bool) { return l, true })
		require.Equal(t, l.Checking, len(bad) == 0, bad)
	}
}

func TestPathsStayInside(t *testing.T) {
	for _, good := range []string{"main.py", "a/b/c.txt", "...", "ünï.py", ".hidden"} {
		require.Empty(t, eval.CheckPath(good), good)
	}
	for _, bad := range []string{"", ".", "..", "../x", "a/../../b", "a/../b", "/abs", "a//b", "a/", "./a", "a\x00b", "a\nb", `a\b`, "\xff", strings.Repeat("a", 4096)} {
		require.NotEmpty(t, eval.CheckPath(bad), "%q", bad)
	}
}

func TestErrorsKeepTheirCauseToThemselves(t *testing.T) {
	cause := eval.Errorf(eval.KindSandbox, "inner")
	err := eval.Errorf(eval.KindUnavailable, "cannot reach the database: %w", cause)
	require.Equal(t, "cannot reach the database", err.Message)
	require.ErrorIs(t, err, cause)
	require.Equal(t, eval.KindUnavailable, eval.KindOf(err))
	require.Equal(t, eval.Kind(""), eval.KindOf(nil))
}

func TestSummaryLeavesTheOriginalAlone(t *testing.T) {
	e := eval.Evaluation{Spec: valid(), Result: &eval.Result{Stdout: eval.Stream{Data: []byte("x"), Bytes: 1}}, CreatedAt: time.Now()}
	s := e.Summary()
	require.Nil(t, s.Spec.Code)
	require.Nil(t, s.Result.Stdout.Data)
	require.Equal(t, int64(1), s.Result.Stdout.Bytes)
	require.NotNil(t, e.Spec.Code)
	require.NotNil(t, e.Result.Stdout.Data)
}

func TestProgramsStayReadableInJSON(t *testing.T) {
	raw, err := eval.Bytes("if a < b && c > d").MarshalJSON()
	require.NoError(t, err)
	require.Equal(t, `"if a < b && c > d"`, string(raw))
}

func TestAVersionIsMatchedUpToTheEndOfANumber(t *testing.T) {
	versions := []string{"3.11.7", "3.1.4", "12.2.0-rc1"}
	for want, index := range map[string]int{"3": 0, "3.11": 0, "3.11.7": 0, "3.1": 1, "3.1.4": 1, "12.2.0": 2, "12": 2} {
		i, ok := eval.MatchVersion(versions, want)
		require.True(t, ok, want)
		require.Equal(t, index, i, want)
	}
	for _, want := range []string{"", "1", "3.11.70", "3.12", "x"} {
		_, ok := eval.MatchVersion(versions, want)
		require.False(t, ok, want)
	}
}

func TestAVersionThatNobodyHasIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		has        []string
		ok         bool
	}{
		{"there", "3.11", []string{"3.11.7"}, true},
		{"not there", "3.9", []string{"3.12.1", "3.11.7"}, false},
		{"nothing is known yet", "3.9", nil, true},
		{"too long", strings.Repeat("3", 65), nil, false},
		{"not a version", "3\n", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := valid()
			s.Version = tt.want
			got, bad := eval.DefaultPolicy().Validate(s, start, func(string) (eval.Language, bool) {
				return eval.Language{ID: "python", Available: true, Versions: tt.has}, true
			})
			require.Equal(t, tt.ok, len(bad) == 0, bad)
			if tt.ok {
				require.Equal(t, tt.want, got.Version)
				return
			}
			require.Equal(t, "version", bad[0].Field)
			for _, v := range tt.has {
				require.Contains(t, bad[0].Message, v)
			}
		})
	}
}
