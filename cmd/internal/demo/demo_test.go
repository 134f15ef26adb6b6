package demo_test

import (
	"os"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/cmd/internal/demo"
)

func TestTheDemonstrationsCanBeRead(t *testing.T) {
	dir, err := demo.Find("../../../demos")
	require.NoError(t, err)
	all, err := demo.Load(os.DirFS(dir))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(all), 12)
}

func TestMistakesInADemonstrationAreNamed(t *testing.T) {
	for _, tt := range []struct{ name, yaml, want string }{
		{"unknown expectation", "title: a\nstory: b\ncases: [{file: main.py, expect: {status: completed, verdikt: accepted}}]", "verdikt"},
		{"unknown field of the request", "title: a\nstory: b\ncases: [{file: main.py, request: {langauge: python}, expect: {status: completed}}]", "langauge"},
		{"no program", "title: a\nstory: b\ncases: [{file: none.py, expect: {status: completed}}]", "none.py"},
		{"nothing expected", "title: a\nstory: b\ncases: [{file: main.py}]", "expects no status"},
		{"no cases", "title: a\nstory: b", "needs a title, a story and cases"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := demo.Load(fstest.MapFS{
				"01-x/demo.yaml": {Data: []byte(tt.yaml)},
				"01-x/main.py":   {Data: []byte("print(1)")},
			})
			require.ErrorContains(t, err, tt.want)
			require.ErrorContains(t, err, "01-x/demo.yaml")
		})
	}
	_, err := demo.Find(t.TempDir())
	require.ErrorContains(t, err, "--demos")
}
