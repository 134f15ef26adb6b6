package lang_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/lang"
	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// machine is a PATH with programs in it.
type machine struct {
	t    *testing.T
	root string
}

func newMachine(t *testing.T) machine {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	m := machine{t, root}
	t.Setenv("PATH", m.path("shims")+":"+m.path("bin")+":/usr/bin:/bin")
	return m
}

func (m machine) path(name string) string { return filepath.Join(m.root, name) }

func (m machine) write(name, text string) string {
	m.t.Helper()
	require.NoError(m.t, os.MkdirAll(filepath.Dir(m.path(name)), 0o755))
	require.NoError(m.t, os.WriteFile(m.path(name), []byte(text), 0o755))
	return m.path(name)
}

// changed is the file of the toy language with changes in pairs.
func changed(replace ...string) string { return strings.NewReplacer(replace...).Replace(toy) }

// start opens a registry of the toy language with this file.
func start(t *testing.T, file string, opt lang.Options) *lang.Registry {
	t.Helper()
	if opt.Dir == "" {
		opt.Dir = t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(opt.Dir, "toy.yaml"), []byte(file), 0o600))
	}
	opt.Only, opt.Sandbox, opt.Logger = []string{"toy"}, "test", quiet
	r, err := lang.Start(opt)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	return r
}

// settled proves one language and returns it.
func settled(t *testing.T, file, cache string, prove lang.Prove) (*lang.Toolchain, eval.Language) {
	t.Helper()
	r := start(t, file, lang.Options{CacheDir: cache, Remember: cache != "", Prove: prove, Poll: -1})
	require.NoError(t, r.AllSettled(t.Context()))
	found, err := r.Find(t.Context(), "toy", "")
	listed := only(t, r)
	require.Equal(t, err == nil, listed.Available)
	if err != nil {
		require.Equal(t, eval.KindInvalid, eval.KindOf(err))
		require.NotEmpty(t, listed.Problem)
	}
	return found, listed
}

// only returns the one language of a registry.
func only(t *testing.T, r *lang.Registry) eval.Language {
	t.Helper()
	all, problem := r.List()
	require.Empty(t, problem)
	require.Len(t, all, 1)
	return all[0]
}

var quiet = slog.New(slog.DiscardHandler)

func works(context.Context, *lang.Toolchain) (lang.Proof, error) {
	return lang.Proof{Version: "7"}, nil
}

func TestAShimThatCanBeAskedLeadsToTheRealProgram(t *testing.T) {
	m := newMachine(t)
	real := m.write("versions/7/bin/toy7", "\x7fELF real")
	require.NoError(t, os.Symlink("toy7", m.path("versions/7/bin/toy")))
	m.write("shims/toy", "#!/bin/sh\n[ \"$1\" = where ] && echo '"+m.path("versions/7/bin/toy")+"' && echo '"+m.path("versions/7")+"'\n")
	found, listed := settled(t, changed("commands: [toy]", "commands: [toy], ask: [where]"), "", works)
	require.True(t, listed.Available, listed.Problem)
	require.Equal(t, "7", listed.Version)
	require.Equal(t, []string{real, "/w/main.toy"}, found.Command(lang.Source{Entrypoint: "main.toy"}, nil))
	require.Equal(t, []sandbox.Bind{{Host: m.path("versions/7"), Box: m.path("versions/7")}}, found.Binds)
	require.Contains(t, found.Environ(nil), "PATH="+m.path("versions/7/bin")+":/usr/local/bin:/usr/bin:/bin")
}

func TestAScriptOrManagerThatCannotBeAskedIsPassedOver(t *testing.T) {
	m := newMachine(t)
	m.write("shims/toy", "#!/bin/sh\nexit 1\n")
	_, listed := settled(t, toy, "", works)
	require.Contains(t, listed.Problem, "script")

	require.NoError(t, os.Remove(m.path("shims/toy")))
	m.write("home/rustup", "\x7fELF manager")
	require.NoError(t, os.Symlink(m.path("home/rustup"), m.path("shims/toy")))
	_, listed = settled(t, toy, "", works)
	require.Contains(t, listed.Problem, "disguise")

	real := m.write("bin/toy", "\x7fELF real")
	found, listed := settled(t, toy, "", works)
	require.True(t, listed.Available, listed.Problem)
	require.Equal(t, real, found.VersionCommand()[0])
}

func TestAMissingToolSaysWhatToInstall(t *testing.T) {
	newMachine(t)
	_, listed := settled(t, toy, "", works)
	require.Contains(t, listed.Problem, "toy is in PATH")
}

func TestALanguageIsOfferedOnlyWhenProven(t *testing.T) {
	m := newMachine(t)
	m.write("bin/toy", "\x7fELF real")
	_, listed := settled(t, toy, "", func(context.Context, *lang.Toolchain) (lang.Proof, error) {
		return lang.Proof{}, errors.New("it printed nonsense")
	})
	require.Equal(t, "it printed nonsense", listed.Problem)
}

func TestAProofIsRememberedUntilTheToolChanges(t *testing.T) {
	m := newMachine(t)
	m.write("bin/toy", "\x7fELF real")
	cache := t.TempDir()
	proofs := 0
	prove := func(context.Context, *lang.Toolchain) (lang.Proof, error) {
		proofs++
		return lang.Proof{Version: "7"}, nil
	}
	for range 2 {
		_, listed := settled(t, toy, cache, prove)
		require.Equal(t, "7", listed.Version)
	}
	require.Equal(t, 1, proofs)
	m.write("bin/toy", "\x7fELF another")
	settled(t, toy, cache, prove)
	require.Equal(t, 2, proofs)
	settled(t, changed("example: hello", "example: bye"), cache, prove)
	require.Equal(t, 3, proofs, "the definition changed")
}

func TestACacheIsMadeOnceAndShownToBoxes(t *testing.T) {
	m := newMachine(t)
	m.write("bin/toy", "\x7fELF real")
	d := changed("example: hello", `example: hello
cache:
  argv: [/bin/sh, -c, 'echo made >> "$WHERE/log"; echo "at $WHERE/log"']
  env: {WHERE: "${cache}"}
  stdout: index`)
	cache := t.TempDir()
	for range 2 {
		found, listed := settled(t, d, cache, works)
		require.True(t, listed.Available, listed.Problem)
		require.Len(t, found.Binds, 2)
		shown := found.Binds[1]
		require.Equal(t, "/opt/crucible/toy", shown.Box)
		log, err := os.ReadFile(filepath.Join(shown.Host, "log"))
		require.NoError(t, err)
		require.Equal(t, "made\n", string(log))
		index, err := os.ReadFile(filepath.Join(shown.Host, "index"))
		require.NoError(t, err)
		require.Equal(t, "at /opt/crucible/toy/log\n", string(index))
	}
	left, err := filepath.Glob(filepath.Join(cache, "*making*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestARunWaitsForItsLanguage(t *testing.T) {
	m := newMachine(t)
	m.write("bin/toy", "\x7fELF real")
	proceed := make(chan struct{})
	r := start(t, changed("example: hello", "example: hello\ncompile: {steps: [[\"${toy}\"]]}"), lang.Options{
		Prove: func(ctx context.Context, _ *lang.Toolchain) (lang.Proof, error) {
			select {
			case <-proceed:
				return lang.Proof{Version: "7"}, nil
			case <-ctx.Done():
				return lang.Proof{}, ctx.Err()
			}
		},
	})
	require.NoError(t, r.Settled(t.Context()), "a compiled language is not waited for")
	require.Equal(t, "being checked", only(t, r).Problem)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.Find(ctx, "toy", "")
	require.Equal(t, eval.KindUnavailable, eval.KindOf(err))
	close(proceed)
	_, err = r.Find(t.Context(), "plaything", "")
	require.NoError(t, err)
}

func TestCommandLines(t *testing.T) {
	m := newMachine(t)
	m.write("bin/toy", "\x7fELF real")
	d := changed("example: hello", `example: hello
compile: {steps: [["${toy}", "${sources}", "${heap_mib}", "${class}", "${unknown}"]]}`)
	found, listed := settled(t, d, "", works)
	require.True(t, listed.Available, listed.Problem)
	s, err := found.Layout(&eval.Program{
		Files: map[string]eval.Bytes{"b.toy": nil, "-a.toy": nil, "@list.toy": nil, "data.txt": nil, "pkg/Main.toy": nil}, Entrypoint: "pkg/Main.toy",
	})
	require.NoError(t, err)
	s.MemoryBytes = 256 << 20
	require.Equal(t, [][]string{{m.path("bin/toy"), "pkg/Main.toy", "./-a.toy", "./@list.toy", "b.toy", "128", "pkg.Main", "${unknown}"}}, found.Steps(s))
	require.Equal(t, []string{m.path("bin/toy"), "/w/pkg/Main.toy", "${toy}", "--x"}, found.Command(s, []string{"${toy}", "--x"}), "arguments are left alone")

	_, err = found.Layout(&eval.Program{Files: map[string]eval.Bytes{"a.toy": nil, "a.toy/b": nil}, Entrypoint: "a.toy"})
	require.Equal(t, eval.KindInvalid, eval.KindOf(err))
	_, err = found.Layout(&eval.Program{Files: map[string]eval.Bytes{"a.c": nil}})
	require.ErrorContains(t, err, "entrypoint")
}

func TestAHintIsWhatTheLanguageHasToSay(t *testing.T) {
	m := newMachine(t)
	m.write("bin/toy", "\x7fELF real")
	found, _ := settled(t, changed("example: hello", "example: hello\nhints: [{stderr: 'no (more )?toys', says: 'Out of ${heap_mib} toys.'}]"), "", works)
	s := lang.Source{Entrypoint: "main.toy", MemoryBytes: 256 << 20}
	require.Equal(t, "Out of 128 toys.", found.Hint(s, []byte("error: no toys\n")))
	require.Empty(t, found.Hint(s, []byte("error: no girls\n")))
	require.Empty(t, found.Hint(s, append([]byte("no toys"), make([]byte, 1<<20)...)), "only the end is looked at")
}

func TestAScriptMayBeTheRealProgram(t *testing.T) {
	m := newMachine(t)
	m.write("shims/toy", "#!/bin/sh\n")
	_, listed := settled(t, changed("commands: [toy]", "commands: [toy], script: true"), "", works)
	require.Contains(t, listed.Problem, "script")
	real := m.write("bin/toy", "#!/bin/sh\n")
	found, listed := settled(t, changed("commands: [toy]", "commands: [toy], script: true"), "", works)
	require.True(t, listed.Available, listed.Problem)
	require.Equal(t, real, found.Path())
}

func TestTheProgramsEnvironmentWins(t *testing.T) {
	m := newMachine(t)
	m.write("bin/toy", "\x7fELF real")
	found, _ := settled(t, changed("example: hello", "example: hello\nenv: {A: language, B: language}"), "", works)
	env := found.Environ(map[string]string{"B": "program", "HOME": "/elsewhere"})
	require.Contains(t, env, "A=language")
	require.Contains(t, env, "B=program")
	require.Contains(t, env, "HOME=/elsewhere")
	require.NotContains(t, env, "B=language")
}
