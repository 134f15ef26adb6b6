package lang_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
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

// page is the documentation of languages.
func page(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("../../../docs/languages.md")
	require.NoError(t, err)
	return string(raw)
}

// The page lists every built-in language, as its file has it, and no other.
func TestTheDocumentationListsTheLanguages(t *testing.T) {
	all, err := lang.Load("", nil)
	require.NoError(t, err)
	code := func(words []string) string { return "`" + strings.Join(words, "` `") + "`" }
	var want []string
	for _, d := range all {
		how := "interpreted"
		if d.Compile != nil {
			how = "compiled"
		}
		want = append(want, fmt.Sprintf("| `%s` | %s | %s | %s | `%s` | %s |", d.ID, d.Name, code(d.Aliases), code(d.Extensions), d.Source, how))
	}
	var have []string
	_, table, ok := strings.Cut(page(t), "## Built in")
	require.True(t, ok)
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "| `") {
			i := strings.LastIndex(strings.TrimSuffix(line, " |\n"), "|") // the last column is free
			have = append(have, line[:i+1])
		}
	}
	require.Equal(t, want, have)
}

func TestTheDocumentationExplainsEveryKey(t *testing.T) {
	text := page(t)
	var visit func(of reflect.Type)
	visit = func(of reflect.Type) {
		switch of.Kind() {
		case reflect.Pointer, reflect.Slice:
			visit(of.Elem())
		case reflect.Struct:
			for field := range of.Fields() {
				if key := field.Tag.Get("yaml"); key != "" {
					require.Regexp(t, "[`.]"+key+"`", text, "docs/languages.md does not name the key %s of %s", key, of.Name())
					visit(field.Type)
				}
			}
		}
	}
	visit(reflect.TypeFor[lang.Definition]())
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
		{"run:", "versions: {of: [], tools: {toy: [toy2]}}\nrun:", "versions"},
		{"run:", "versions: {of: [2], tools: {joy: [toy2]}}\nrun:", "joy"},
		{"example: hello", "example: hello\nhints: [{stderr: '(', says: x}]", "hints[0]"},
		{"example: hello", "example: hello\nhints: [{stderr: x}]", "hints[0]"},
		{"{name: toy, commands: [toy]}", "{name: toy, commands: [toy], answers: prefix}", "answers"},
	} {
		require.Contains(t, toy, c.old)
		_, err := lang.Parse([]byte(strings.Replace(toy, c.old, c.new, 1)))
		require.ErrorContains(t, err, c.says)
	}
}
