//go:build linux

package executor_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// own is a language whose toolchain is a copy of Bash in a folder outside the
// system's, with a file beside it that tells its version.
type own struct {
	t           *testing.T
	dir, prefix string
}

func newOwn(t *testing.T) own {
	t.Helper()
	// Not in /tmp, which boxes have of their own.
	root, err := os.MkdirTemp("/var/tmp", "crucible-own-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	require.NoError(t, os.Chmod(root, 0o755))
	o := own{t, filepath.Join(root, "languages"), filepath.Join(root, "own")}
	require.NoError(t, os.Mkdir(o.dir, 0o755))
	return o
}

// install puts a version of the toolchain at a name.
func (o own) install(name, version string) {
	o.t.Helper()
	bash, err := exec.LookPath("bash")
	require.NoError(o.t, err)
	program, err := os.ReadFile(bash)
	require.NoError(o.t, err)
	bin := filepath.Join(o.prefix, name, "bin")
	require.NoError(o.t, os.RemoveAll(filepath.Dir(bin)))
	require.NoError(o.t, os.MkdirAll(bin, 0o755))
	require.NoError(o.t, os.WriteFile(filepath.Join(bin, "own"), program, 0o755))
	require.NoError(o.t, os.WriteFile(filepath.Join(bin, "version"), []byte(version+"\n"), 0o644))
}

func (o own) write(id, more string) {
	o.t.Helper()
	require.NoError(o.t, os.WriteFile(filepath.Join(o.dir, id+".yaml"), []byte(`
id: `+id+`
name: Own
extensions: [.`+id+`]
source: main.own
toolchain:
  - {name: own, commands: [`+o.prefix+`/default/bin/own], prefix: 2}
run: ["${own}", "${entrypoint}", "${own_prefix}/bin/version"]
version: {argv: ["${own}", -c, 'cat "$0"', "${own_prefix}/bin/version"]}
example: echo hello
smoke: {code: 'echo smoke', stdout: "smoke\n"}
`+more), 0o644))
}

func (o own) open(ids ...string) *executor.Local {
	return open(o.t, executor.Config{LanguagesDir: o.dir, Languages: ids, Slots: 1})
}

// list returns a language as it is listed, or nil.
func list(t *testing.T, l *executor.Local, id string) *eval.Language {
	t.Helper()
	s, err := l.Status(t.Context())
	require.NoError(t, err)
	for _, have := range s.Languages {
		if have.ID == id {
			return &have
		}
	}
	return nil
}

// says runs a program that prints which version it runs on.
func says(t *testing.T, l *executor.Local, id, version string) string {
	t.Helper()
	res, err := l.Run(t.Context(), eval.Request{ID: "own", Attempt: 1, Program: eval.Program{
		Language: id, Version: version, Code: eval.Bytes(`cat "$1"`),
	}}, nil)
	require.NoError(t, err)
	require.Equal(t, eval.Accepted, res.Verdict, "%s", res.Stderr.Data)
	require.Equal(t, strings.TrimSpace(string(res.Stdout.Data)), res.Language.Version)
	return res.Language.Version
}

func TestTheWorkedExampleOfTheDocumentation(t *testing.T) {
	raw, err := os.ReadFile("../docs/languages.md")
	require.NoError(t, err)
	_, example, ok := strings.Cut(string(raw), "```yaml\n")
	require.True(t, ok)
	example, _, _ = strings.Cut(example, "```")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bc.yaml"), []byte(strings.ReplaceAll(example, "\n   ", "\n")[3:]), 0o600))
	if _, err := exec.LookPath("bc"); err != nil {
		t.Skip("no bc here")
	}
	l := open(t, executor.Config{LanguagesDir: dir, Languages: []string{"bc"}})
	bc := list(t, l, "bc")
	require.True(t, bc.Available, bc.Problem)
}

func TestAHintExplainsAndTheVerdictStays(t *testing.T) {
	l := open(t, executor.Config{Languages: []string{"python"}})
	res, err := l.Run(t.Context(), eval.Request{ID: "hint", Attempt: 1, Program: eval.Program{
		Language: "python", Code: eval.Bytes("raise MemoryError"),
	}}, nil)
	require.NoError(t, err)
	require.Equal(t, eval.RuntimeError, res.Verdict)
	require.Equal(t, eval.CauseExitCode, res.Cause)
	require.Contains(t, res.Explanation, "ran out of memory by itself")
}

func TestARequestMayNameItsVersion(t *testing.T) {
	o := newOwn(t)
	o.install("default", "3.11.7")
	o.install("old", "3.1.4")
	o.write("own", "versions: {of: [old, none], tools: {own: ['"+o.prefix+"/${version}/bin/own']}}")
	l := o.open("own")
	require.Equal(t, []string{"3.11.7", "3.1.4"}, list(t, l, "own").Versions)
	for range 3 { // some of them in boxes that were ready
		require.Equal(t, "3.11.7", says(t, l, "own", ""))
		require.Equal(t, "3.1.4", says(t, l, "own", "3.1"))
		require.Equal(t, "3.11.7", says(t, l, "own", "3.11"))
	}
	_, err := l.Run(t.Context(), eval.Request{ID: "own", Attempt: 1, Program: eval.Program{Language: "own", Version: "2", Code: eval.Bytes("x")}}, nil)
	require.Equal(t, eval.KindInvalid, eval.KindOf(err))
	require.ErrorContains(t, err, "3.11.7, 3.1.4")
}

func TestLanguagesFollowTheirFilesAndToolchains(t *testing.T) {
	o := newOwn(t)
	o.install("default", "1")
	o.write("own", "")
	l := o.open()
	require.Equal(t, "1", says(t, l, "own", ""))
	soon := func(what string, ok func() bool) {
		t.Helper()
		l.Reload()
		require.Eventually(t, ok, time.Minute, 10*time.Millisecond, what)
	}

	require.Nil(t, list(t, l, "second"))
	o.write("second", "")
	soon("a file more", func() bool { have := list(t, l, "second"); return have != nil && have.Available })
	require.Equal(t, "1", says(t, l, "second", ""))

	// Replaced at the same place, while boxes with the old one are ready.
	o.install("default", "2")
	soon("a new toolchain", func() bool { return list(t, l, "own").Version == "2" && list(t, l, "second").Version == "2" })
	for range 3 {
		require.Equal(t, "2", says(t, l, "own", ""))
	}

	require.NoError(t, os.Remove(filepath.Join(o.dir, "second.yaml")))
	soon("a file less", func() bool { return list(t, l, "second") == nil })

	require.NoError(t, os.RemoveAll(filepath.Join(o.prefix, "default")))
	soon("no toolchain", func() bool { have := list(t, l, "own"); return !have.Available && have.Problem != "" })

	require.NoError(t, os.WriteFile(filepath.Join(o.dir, "own.yaml"), []byte("id: [\n"), 0o644))
	soon("a broken file", func() bool {
		s, err := l.Status(t.Context())
		require.NoError(t, err)
		return strings.Contains(s.LanguagesProblem, "own.yaml")
	})
	require.NotNil(t, list(t, l, "own"))
}

func TestTheSameProgramIsCompiledOnceForEachClient(t *testing.T) {
	l := open(t, executor.Config{Languages: []string{"c"}})
	require.NoError(t, l.Checked(t.Context()))
	if c := list(t, l, "c"); !c.Available {
		t.Skip(c.Problem)
	}
	program := eval.Program{Language: "c", Files: map[string]eval.Bytes{
		"main.c": eval.Bytes("#include <stdio.h>\n#include \"n.h\"\n#warning seen\nint main(int c, char **v) { int k; printf(\"%d %d\\n\", N, scanf(\"%d\", &k)); return c - 1; }"),
		"n.h":    eval.Bytes("#define N 1\n"),
	}, Entrypoint: "main.c", Stdin: eval.Bytes("5")}
	run := func(client string, change func(*eval.Program)) eval.Result {
		t.Helper()
		p := program
		if change != nil {
			change(&p)
		}
		res, err := l.Run(t.Context(), eval.Request{ID: "build", Attempt: 1, Client: client, Program: p}, nil)
		require.NoError(t, err)
		require.NotNil(t, res.Compile)
		require.Equal(t, 0, *res.Compile.ExitCode)
		require.Contains(t, string(res.Compile.Stderr.Data), "seen", "its log is there either way")
		require.Equal(t, res.Compile.Cached, res.Compile.WallMS == 0)
		return res
	}
	first := run("a", nil)
	require.False(t, first.Compile.Cached)
	again := run("a", nil)
	require.True(t, again.Compile.Cached)
	require.Equal(t, first.Stdout.Data, again.Stdout.Data)
	require.False(t, run("b", nil).Compile.Cached, "another client learns nothing")

	other := run("a", func(p *eval.Program) {
		p.Files = map[string]eval.Bytes{"main.c": p.Files["main.c"], "n.h": eval.Bytes("#define N 2\n")}
	})
	require.False(t, other.Compile.Cached)
	require.Equal(t, "2 1\n", string(other.Stdout.Data))

	// What is no part of the compilation may differ.
	args := run("a", func(p *eval.Program) { p.Args, p.Stdin = []string{"x"}, eval.Bytes("y") })
	require.True(t, args.Compile.Cached)
	require.Equal(t, 1, *args.ExitCode)
	require.Equal(t, "1 0\n", string(args.Stdout.Data))
	want := eval.Bytes("1 1\n")
	tests := run("a", func(p *eval.Program) {
		p.Stdin, p.Tests = nil, []eval.Test{{Stdin: eval.Bytes("1"), ExpectedStdout: &want}, {Stdin: eval.Bytes("2"), ExpectedStdout: &want}}
	})
	require.True(t, tests.Compile.Cached)
	require.Equal(t, eval.Accepted, tests.Verdict)
}

func TestTheStandardHeaderOfCPPIsPrecompiled(t *testing.T) {
	l := open(t, executor.Config{Languages: []string{"cpp"}})
	require.NoError(t, l.Checked(t.Context()))
	if cpp := list(t, l, "cpp"); !cpp.Available {
		t.Skip(cpp.Problem)
	}
	compile := func(code string) float64 {
		res, err := l.Run(t.Context(), eval.Request{ID: "header", Attempt: 1, Program: eval.Program{Language: "cpp", Code: eval.Bytes(code)}}, nil)
		require.NoError(t, err)
		require.Equal(t, eval.Accepted, res.Verdict, "%s", res.Compile.Stderr.Data)
		require.Equal(t, "42\n", string(res.Stdout.Data))
		return res.Compile.CPUMS
	}
	body := "#include <bits/stdc++.h>\nint main() { std::map<int, int> m{{1, 42}}; std::cout << m[1] << \"\\n\"; }\n"
	with, without := compile(body), compile("int before;\n"+body)
	t.Logf("%.0f ms of CPU time with it, %.0f without", with, without)
	if compiler, err := exec.Command("g++", "--version").Output(); err == nil && strings.Contains(string(compiler), "Free Software") {
		require.Less(t, with, without)
	}
}
