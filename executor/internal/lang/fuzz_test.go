package lang_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/lang"
	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// FuzzParse: a language file is refused or makes a language whose programs
// have a place in the work folder.
func FuzzParse(f *testing.F) {
	f.Add([]byte(toy))
	names, err := filepath.Glob("languages/*.yaml")
	require.NoError(f, err)
	for _, name := range names {
		raw, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(raw)
	}
	f.Add([]byte("id: &a [*a]\n"))
	f.Add([]byte("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := lang.Parse(raw)
		if err != nil {
			return
		}
		d.FindVersion("version 1.2.3\n")
		toolchain := &lang.Toolchain{Definition: d}
		source, err := toolchain.Layout(&eval.Program{Language: d.ID, Code: eval.Bytes("x")})
		if err != nil {
			return
		}
		for name := range source.Files {
			require.NoError(t, sandbox.ValidatePath(name))
		}
	})
}
