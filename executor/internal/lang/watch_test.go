package lang_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/lang"
	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

const often = 2 * time.Millisecond

// becomes waits until the one language is as ok says.
func becomes(t *testing.T, r *lang.Registry, what string, ok func(l eval.Language, problem string) bool) {
	t.Helper()
	require.Eventually(t, func() bool {
		all, problem := r.List()
		return len(all) == 1 && ok(all[0], problem)
	}, 20*time.Second, often, what)
}

// numbered proves with a new version each time.
func numbered() (lang.Prove, *atomic.Int32) {
	var n atomic.Int32
	return func(context.Context, *lang.Toolchain) (lang.Proof, error) {
		return lang.Proof{Version: string('0' + rune(n.Add(1)))}, nil
	}, &n
}

func TestAChangedFileIsProvenAndTakenOver(t *testing.T) {
	m := newMachine(t)
	m.write("bin/toy", "\x7fELF real")
	dir := t.TempDir()
	file := filepath.Join(dir, "toy.yaml")
	require.NoError(t, os.WriteFile(file, []byte(toy), 0o600))
	prove, _ := numbered()
	retired := make(chan *lang.Toolchain, 8)
	r := start(t, "", lang.Options{Dir: dir, Prove: prove, Poll: often, Retire: func(t *lang.Toolchain) { retired <- t }})
	old, err := r.Find(t.Context(), "toy", "")
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(file, []byte(changed("name: Toy", "name: Better toy", "[plaything]", "[gadget]")), 0o600))
	becomes(t, r, "the new file", func(l eval.Language, _ string) bool { return l.Name == "Better toy" && l.Version == "2" })
	require.Same(t, old, <-retired)
	require.Equal(t, "1", old.Version, "who runs keeps what it has")
	_, err = r.Find(t.Context(), "plaything", "")
	require.Equal(t, eval.KindInvalid, eval.KindOf(err))
	_, err = r.Find(t.Context(), "gadget", "")
	require.NoError(t, err)

	for _, broken := range []string{"id: toy\nsurprise: 1\n", changed("id: toy", "id: other"), "a: [", strings.Repeat("x", 2<<20)} {
		require.NoError(t, os.WriteFile(file, []byte(broken), 0o600))
		becomes(t, r, broken[:4], func(l eval.Language, problem string) bool { return l.Available && problem != "" })
		require.NoError(t, os.WriteFile(file, []byte(toy), 0o600))
		becomes(t, r, "good again", func(l eval.Language, problem string) bool { return l.Available && problem == "" && l.Name == "Toy" })
	}
}

func TestALanguageComesAndGoesWithItsFile(t *testing.T) {
	m := newMachine(t)
	m.write("bin/toy", "\x7fELF real")
	dir := t.TempDir()
	write := func(id string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, id+".yaml"), []byte(changed("id: toy", "id: "+id, "[plaything]", "[]")), 0o600))
	}
	write("toy")
	retired := make(chan *lang.Toolchain, 8)
	r, err := lang.Start(lang.Options{Dir: dir, Prove: works, Poll: often, Retire: func(t *lang.Toolchain) { retired <- t }, Logger: quiet})
	require.NoError(t, err)
	defer r.Close()
	require.NoError(t, r.AllSettled(t.Context()))
	has := func(id string) func() bool {
		return func() bool { _, err := r.Find(t.Context(), id, ""); return err == nil }
	}
	require.False(t, has("other")())
	write("other")
	require.Eventually(t, has("other"), 20*time.Second, often)
	first, err := r.Find(t.Context(), "toy", "")
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(dir, "toy.yaml")))
	require.Eventually(t, func() bool { return !has("toy")() }, 20*time.Second, often)
	require.Same(t, first, <-retired)
	// A folder that is gone is an error, and no reason to drop what there was.
	require.NoError(t, os.RemoveAll(dir))
	require.Eventually(t, func() bool { _, problem := r.List(); return problem != "" }, 20*time.Second, often)
	require.True(t, has("other")())
}

func TestToolsThatComeAndGoAreNoticed(t *testing.T) {
	m := newMachine(t)
	prove, _ := numbered()
	r := start(t, toy, lang.Options{Prove: prove, Poll: often})
	becomes(t, r, "missing", func(l eval.Language, _ string) bool { return strings.Contains(l.Problem, "in PATH") })
	path := m.write("bin/toy", "\x7fELF real")
	becomes(t, r, "installed", func(l eval.Language, _ string) bool { return l.Available && l.Version == "1" })
	m.write("bin/toy", "\x7fELF another")
	becomes(t, r, "updated", func(l eval.Language, _ string) bool { return l.Available && l.Version == "2" })
	require.NoError(t, os.Remove(path))
	becomes(t, r, "removed", func(l eval.Language, _ string) bool { return !l.Available && strings.Contains(l.Problem, "in PATH") })
}

func TestReloadAsksAgainWhatDidNotWork(t *testing.T) {
	m := newMachine(t)
	m.write("bin/toy", "\x7fELF real")
	var broken atomic.Bool
	broken.Store(true)
	r := start(t, toy, lang.Options{Poll: -1, Prove: func(context.Context, *lang.Toolchain) (lang.Proof, error) {
		if broken.Load() {
			return lang.Proof{}, errors.New("libtoy.so is missing")
		}
		return lang.Proof{Version: "7"}, nil
	}})
	becomes(t, r, "broken", func(l eval.Language, _ string) bool { return l.Problem == "libtoy.so is missing" })
	broken.Store(false)
	r.Reload()
	becomes(t, r, "works", func(l eval.Language, _ string) bool { return l.Available })
}

func TestAToolchainThatCannotBeStartedIsProvenAnewOnce(t *testing.T) {
	m := newMachine(t)
	m.write("bin/toy", "\x7fELF real")
	proofs := make(chan error)
	r := start(t, toy, lang.Options{
		Poll: -1, RecheckEvery: time.Nanosecond, Remember: true, CacheDir: t.TempDir(),
		Prove: func(ctx context.Context, _ *lang.Toolchain) (lang.Proof, error) {
			select {
			case err := <-proofs:
				return lang.Proof{Version: "7"}, err
			case <-ctx.Done():
				return lang.Proof{}, ctx.Err()
			}
		},
	})
	proofs <- nil
	found, err := r.Find(t.Context(), "toy", "")
	require.NoError(t, err)
	for range 3 {
		r.Recheck(found)
	}
	proofs <- sandbox.ErrPlatform
	proofs <- sandbox.ErrPlatform
	proofs <- sandbox.ErrPlatform
	require.True(t, only(t, r).Available, "a failure of the sandbox is none of the language")
	r.Recheck(found)
	proofs <- errors.New("its loader is gone")
	becomes(t, r, "withdrawn", func(l eval.Language, _ string) bool { return l.Problem == "its loader is gone" })
	r.Recheck(found) // offered no more: nothing to check
	r.Reload()
	proofs <- nil
	becomes(t, r, "back", func(l eval.Language, _ string) bool { return l.Available })
}

func TestVersionsAreOfferedBesideTheDefault(t *testing.T) {
	m := newMachine(t)
	m.write("bin/toy", "\x7fELF 3.11.7")
	m.write("bin/toy3.11", "\x7fELF 3.11.7")
	m.write("old/toy-3.1.4/bin/toy", "\x7fELF 3.1.4")
	require.NoError(t, os.Symlink(m.path("bin/toy"), m.path("bin/toy3")))
	m.write("bin/toy3.9", "\x7fELF broken")
	file := changed("run:", `versions:
  of: ["3", "3.12", "3.1", "3.9"]
  tools: {toy: ["toy${version}", "`+m.path("old")+`/toy-${version}.*/bin/toy"]}
run:`)
	prove := func(_ context.Context, found *lang.Toolchain) (lang.Proof, error) {
		raw, err := os.ReadFile(found.Path())
		version := strings.TrimPrefix(string(raw), "\x7fELF ")
		if version == "broken" {
			err = errors.New("it is broken")
		}
		return lang.Proof{Version: version}, err
	}
	r := start(t, file, lang.Options{Prove: prove, Poll: -1})
	require.NoError(t, r.AllSettled(t.Context()))
	l := only(t, r)
	require.Equal(t, "3.11.7", l.Version)
	require.Equal(t, []string{"3.11.7", "3.1.4"}, l.Versions, "the same program twice is one; a broken one is not offered")
	for want, path := range map[string]string{"": "bin/toy", "3": "bin/toy", "3.11": "bin/toy", "3.1": "old/toy-3.1.4/bin/toy", "3.1.4": "old/toy-3.1.4/bin/toy"} {
		found, err := r.Find(t.Context(), "plaything", want)
		require.NoError(t, err, want)
		require.Equal(t, m.path(path), found.Path(), want)
	}
	for _, none := range []string{"3.9", "3.11.70", "4", "3.1.41", "x"} {
		_, err := r.Find(t.Context(), "toy", none)
		require.Equal(t, eval.KindInvalid, eval.KindOf(err), none)
		require.ErrorContains(t, err, "3.11.7, 3.1.4")
	}
}

func TestThoseWhoWaitHearThatTheRegistryCloses(t *testing.T) {
	m := newMachine(t)
	m.write("bin/toy", "\x7fELF real")
	asked := make(chan struct{})
	r := start(t, toy, lang.Options{Prove: func(ctx context.Context, _ *lang.Toolchain) (lang.Proof, error) {
		close(asked)
		<-ctx.Done()
		return lang.Proof{}, ctx.Err()
	}})
	<-asked
	heard := make(chan error)
	go func() { _, err := r.Find(t.Context(), "toy", ""); heard <- err }()
	r.Close()
	require.Equal(t, eval.KindStopping, eval.KindOf(<-heard))
}
