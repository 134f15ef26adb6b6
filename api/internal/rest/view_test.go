package rest

import (
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// TestAResultIsShownWhole: what the domain's results hold, the API shows
// under the same names.
func TestAResultIsShownWhole(t *testing.T) {
	require.ElementsMatch(t, fields(reflect.TypeFor[eval.Result]()), fields(reflect.TypeFor[Result]()))
	require.ElementsMatch(t, fields(reflect.TypeFor[eval.TestResult]()), fields(reflect.TypeFor[Test]()))
	require.ElementsMatch(t, fields(reflect.TypeFor[eval.Phase]()), fields(reflect.TypeFor[Phase]()))
}

// fields are the names that a struct has in JSON.
func fields(of reflect.Type) []string {
	var names []string
	for f := range of.Fields() {
		if f.Anonymous {
			names = append(names, fields(f.Type)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}
