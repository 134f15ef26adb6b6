package lang_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/executor/internal/lang"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const toy = `
id: toy
name: Toy
aliases: [plaything]
extensions: [.toy]
source: main.toy
toolchain:
  - {name: toy, commands: [toy]}
run: ["${toy}", "${entrypoint}"]
version: {argv: ["${toy}", --version], pattern: 'toy (\d+)'}
example: hello
smoke: {code: x, stdout: y}
`

func TestBuiltInLanguages(t *testing.T) {
	all, err := lang.Load("", nil)
	require.NoError(t, err)
	var ids []string
	for _, d := range all {
		ids = append(ids, d.ID)
	}
	require.Equal(t, []string{"bash", "c", "cpp", "go", "java", "javascript", "perl", "python", "ruby", "rust"}, ids)
}

func TestAFolderAddsAndReplacesLanguages(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write("toy.yaml", toy)
	write("bash.yaml", strings.NewReplacer("id: toy", "id: bash", "[plaything]", "[]").Replace(toy))
	all, err := lang.Load(dir, []string{"toy", "bash"})
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "main.toy", all[0].Source)

	write("second.yaml", strings.Replace(toy, "id: toy", "id: other", 1))
	_, err = lang.Load(dir, nil)
	require.ErrorContains(t, err, "plaything")
	_, err = lang.Load("", []string{"klingon"})
	require.ErrorContains(t, err, "klingon")
}

func TestBadDefinitionsAreRefused(t *testing.T) {
	_, err := lang.Parse([]byte(toy))
	require.NoError(t, err)
	for _, c := range []struct{ old, new, says string }{
		{"id: toy", "id: Toy!", "name"},
		{"source: main.toy", "source: ../main.toy", "source"},
		{"example: hello", "exmaple: hello", "exmaple"},
		{"extensions: [.toy]", "extensions: [toy]", "extension"},
		{`run: ["${toy}", "${entrypoint}"]`, "run: []", "run"},
		{"example: hello", "example: hello\ncompile: {steps: []}", "compile"},
		{`'toy (\d+)'`, `'toy ('`, "pattern"},
		{"{name: toy, commands: [toy]}", "{name: toy, commands: [toy], answers: prefix}", "answers"},
	} {
		require.Contains(t, toy, c.old)
		_, err := lang.Parse([]byte(strings.Replace(toy, c.old, c.new, 1)))
		require.ErrorContains(t, err, c.says)
	}
}
