package sandbox_test

import (
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

func TestValidatePath(t *testing.T) {
	for _, good := range []string{"a", "a/b.txt", "..a", "a..", "...", "ünï/cödé", "a b", "a\nb", strings.Repeat("x", 255), "-rf"} {
		require.NoError(t, sandbox.ValidatePath(good), good)
	}
	for _, bad := range []string{
		"", "/", "/abs", ".", "..", "../x", "a/../b", "a/..", "./a", "a/./b", "a//b", "a/", "a\x00b",
		strings.Repeat("x", 256), strings.Repeat("x/", 600) + "x", strings.Repeat("x/", 32) + "x", strings.Repeat("x", 4096),
	} {
		require.ErrorIs(t, sandbox.ValidatePath(bad), sandbox.ErrPath, bad)
	}
}

// FuzzValidatePath: what is accepted stays below the folder it is joined to.
func FuzzValidatePath(f *testing.F) {
	for _, seed := range []string{"a/b", "../x", "a/../../b", "/abs", "a\x00b", "a//b", strings.Repeat("x/", 40)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if sandbox.ValidatePath(name) != nil {
			return
		}
		require.Equal(t, "/w/"+name, path.Join("/w", name), "not clean")
		require.LessOrEqual(t, len(name), sandbox.MaxPathBytes)
		require.NotContains(t, name, "\x00")
	})
}

// FuzzPathsAgree: what the API lets through, the executor can make of it what
// it is, or says that it is too deep or a name too long; what the executor
// refuses for its form, the API refuses too.
func FuzzPathsAgree(f *testing.F) {
	for _, seed := range []string{"a/b", "../x", "a/../../b", "/abs", "a\x00b", "a//b", ".", "", "a/", "./a", "a\\b", "a\nb", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if eval.CheckPath(name) != "" {
			return
		}
		require.True(t, filepath.IsLocal(name), name)
		if err := sandbox.ValidatePath(name); err != nil {
			deep := strings.Count(name, "/") >= sandbox.MaxPathDepth
			require.True(t, deep, "%q: %v", name, err)
		}
	})
}
