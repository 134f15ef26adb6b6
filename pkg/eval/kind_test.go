package eval_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// TestEveryKindSaysWhatHappenedAndWhatToDo: the table has every kind that the
// source declares, with words for people, and the page about errors has it.
func TestEveryKindSaysWhatHappenedAndWhatToDo(t *testing.T) {
	page, err := os.ReadFile("../../docs/errors.md")
	require.NoError(t, err)
	source, err := parser.ParseFile(token.NewFileSet(), "kind.go", nil, 0)
	require.NoError(t, err)
	declared := 0
	ast.Inspect(source, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if name, ok := spec.Type.(*ast.Ident); !ok || name.Name != "Kind" {
			return true
		}
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		require.NoError(t, err)
		kind := eval.Kind(value)
		require.Equal(t, kind, kind.Info().Kind, "it is in the table")
		require.NotEmpty(t, kind.Info().Title, kind)
		require.Regexp(t, `^[A-Z].*\.$`, kind.Info().What, kind)
		require.Regexp(t, `^[A-Z].*\.$`, kind.Info().Do, kind)
		require.Contains(t, string(page), "## `"+value+"`\n")
		require.Contains(t, string(page), kind.Info().Do)
		declared++
		return true
	})
	require.Len(t, eval.Kinds(), declared)
	require.Greater(t, declared, 15)
}
