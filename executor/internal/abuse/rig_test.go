//go:build linux

package abuse_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/executor/internal/abuse"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// rig is an executor at one level, and what programs may try to reach of its
// host.
type rig struct {
	*executor.Local
	level   string
	folders []string // where executors leave files
	words   *strings.Replacer
	next    atomic.Int64
}

// slots are more than a hostile run and its neighbour need.
const slots = 4

// newRig opens an executor at a level, or skips the test where there is none.
func newRig(t *testing.T, level string) *rig {
	t.Helper()
	r := &rig{level: level, folders: []string{folder(t), folder(t)}}
	t.Setenv("TMPDIR", r.folders[0])
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	l, err := executor.Open(t.Context(), executor.Config{
		Isolation: level, AllowUnsafe: level == "none", CacheDir: r.folders[1], LanguagesDir: made.languages,
		Languages: []string{abuse.Hostile, abuse.Planted, "c", "cpp"}, Slots: slots, Patience: 20 * time.Second, InitPath: made.init,
		RunscPath: runsc(),
	}, logger, nil)
	if err != nil {
		if os.Getenv("REQUIRE_SERVICES") == "1" && required[level] {
			t.Fatal(err)
		}
		t.Skipf("level %s: %v", level, err)
	}
	r.Local = l
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	require.NoError(t, l.Checked(t.Context()))

	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	unix, err := net.Listen("unix", fmt.Sprintf("@crucible-abuse-%d", os.Getpid()))
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = tcp.Close(), unix.Close() })
	file := filepath.Join(made.dir, "secret") // readable for everybody on the host
	require.NoError(t, os.WriteFile(file, []byte(strings.Join(abuse.Secret[:], "-")+"\n"), 0o644))
	r.words = strings.NewReplacer("${tcp}", tcp.Addr().String(), "${unix}", unix.Addr().String(), "${file}", file)
	return r
}

// folder makes one that the users of boxes can pass through.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(made.dir, "")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// runsc is gVisor's program, in PATH or as make builds it; empty where there
// is none.
func runsc() string {
	if found, err := exec.LookPath("runsc"); err == nil {
		return found
	}
	built, err := filepath.Abs("../../../bin/tools/runsc")
	if err == nil {
		_, err = os.Stat(built)
	}
	if err != nil {
		return ""
	}
	return built
}

// required are the levels that CI must have.
var required = map[string]bool{"namespaces": true, "namespaces-rlimit": true}

// offers tells whether a language is there, and why not.
func (r *rig) offers(t testing.TB, language string) (bool, string) {
	t.Helper()
	status, err := r.Status(t.Context())
	require.NoError(t, err)
	for _, l := range status.Languages {
		if l.ID == language {
			return l.Available, l.Problem
		}
	}
	return false, "there is no such language"
}

// do runs a program with what it may look for put in.
func (r *rig) do(ctx context.Context, p eval.Program) (eval.Result, error) {
	args := make([]string, len(p.Args))
	for i, a := range p.Args {
		args[i] = r.words.Replace(a)
	}
	p.Args, p.Code = args, eval.Bytes(r.words.Replace(string(p.Code)))
	id := eval.ID(fmt.Sprintf("%s-%d", r.level, r.next.Add(1)))
	return r.Run(ctx, eval.Request{ID: id, Attempt: 1, Program: p}, nil)
}

// ordinary is a run that must not notice who is beside it.
func (r *rig) ordinary(ctx context.Context) error {
	res, err := r.do(ctx, eval.Program{
		Language: abuse.Hostile, Code: eval.Bytes("-"), Args: []string{"version"}, Limits: eval.Limits{WallMS: 10_000, MemoryBytes: 64 << 20},
	})
	switch {
	case err != nil:
		return fmt.Errorf("an ordinary run: %w", err)
	case res.Verdict != eval.Accepted || string(res.Stdout.Data) != "hostile 1\n":
		return fmt.Errorf("an ordinary run ended with %s (%s), and printed %q %q", res.Verdict, res.Explanation, res.Stdout.Data, res.Stderr.Data)
	case res.WallMS > 5000:
		return fmt.Errorf("an ordinary run took %.0f ms", res.WallMS)
	}
	return nil
}

// neighbour does ordinary runs, one after the other, until stop is called,
// which tells how many there were and what went wrong. There is at least one.
func (r *rig) neighbour(ctx context.Context) (stop func() (int, error)) {
	ended := make(chan struct{})
	var runs int
	var failed error
	var working sync.WaitGroup
	working.Go(func() {
		for {
			if err := r.ordinary(ctx); err != nil && failed == nil {
				failed = err
			}
			runs++
			select {
			case <-ended:
				return
			default:
			}
		}
	})
	return func() (int, error) {
		close(ended)
		working.Wait()
		return runs, failed
	}
}

// warm fills what the executor keeps ready for the kinds of runs of this
// suite, so that counts before and after can be compared.
func (r *rig) warm(t *testing.T) state {
	t.Helper()
	for language, code := range map[string]string{abuse.Planted: "-", "c": "int main() {}", "cpp": "int main() {}"} {
		if ok, _ := r.offers(t, language); ok {
			_, err := r.do(t.Context(), eval.Program{Language: language, Code: eval.Bytes(code)})
			require.NoError(t, err)
		}
	}
	var all sync.WaitGroup
	for range slots {
		all.Go(func() {
			if err := r.ordinary(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	return steady(t, r.folders...)
}
