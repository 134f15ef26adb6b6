//go:build linux

package abuse_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/abuse"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// TestCases runs every case at every level that the machine offers, beside
// ordinary runs, and looks at the host after each.
func TestCases(t *testing.T) {
	saw := abuse.Table{}
	for _, level := range eval.IsolationLevels() {
		t.Run(level, func(t *testing.T) {
			r := newRig(t, level)
			var before state
			var warmed time.Time
			late, ran := 0, 0
			for i, c := range abuse.Cases() {
				if !whole() && !brief(i, c, level) {
					continue
				}
				t.Run(c.Name, func(t *testing.T) { // warmed here, so that there are as many goroutines
					t.Cleanup(func() { saw.Note(c, level, seen(t)) })
					if time.Since(warmed) > time.Minute {
						now := r.warm(t)
						if before != nil && now.differs(before) != "" {
							t.Errorf("the host is not as it was: %s", now.differs(before))
						}
						before, warmed = now, time.Now()
					}
					promise := c.Promised(level)
					if promise.Not != "" {
						t.Skipf("no promise: %s", promise.Not)
					}
					if c.Class == abuse.Signals && os.Geteuid() != 0 && (level == "landlock" || level == "none") {
						t.Skip("a program is this very user, and what it kills may be yours")
					}
					if ok, why := r.offers(t, c.Program.Language); !ok {
						t.Skipf("%s: %s", c.Program.Language, why)
					}
					ran++
					if r.attack(t, c, promise, before) > 100*time.Millisecond {
						late++
					}
				})
			}
			t.Run("many in a row", func(t *testing.T) { r.storm(t, r.warm(t)) })
			t.Logf("%s: the host was as before within 100 ms after all but %d of %d cases", level, late, ran)
		})
	}
	if file := os.Getenv("CRUCIBLE_ABUSE_TABLE"); file != "" {
		require.NoError(t, os.WriteFile(file, []byte(saw.String()), 0o644))
	}
}

// brief tells whether a short test runs the i-th case: at gvisor, where a box
// takes long, every eighth, and compilers, which are confined as programs are,
// at one level only.
func brief(i int, c abuse.Case, level string) bool {
	switch level {
	case "namespaces":
		return true
	case "gvisor":
		return i%8 == 0
	}
	return c.Class != abuse.Compilers
}

func seen(t *testing.T) string {
	switch {
	case t.Failed():
		return "FAILED"
	case t.Skipped():
		return "—"
	}
	return "ok"
}

// attack runs one case, and returns how long after it the host was as before.
func (r *rig) attack(t *testing.T, c abuse.Case, promise abuse.Promise, before state) time.Duration {
	t.Helper()
	if c.Before != nil {
		first := c.Program
		first.Args = c.Before
		_, err := r.do(t.Context(), first)
		require.NoError(t, err)
	}
	stop := r.neighbour(t.Context())
	res, err := r.do(t.Context(), c.Program)
	survivors := look(t)["hostile programs"]
	runs, neighbourErr := stop()
	require.NoError(t, err)
	require.NoError(t, neighbourErr)
	require.LessOrEqual(t, survivors, 1, "programs that were alive when the result came, the neighbour's too")
	if err := promise.Hold(res); err != nil {
		t.Errorf("%v\nstdout %.2000q\nstderr %.2000q\n%s", err, res.Stdout.Data, res.Stderr.Data, compileLog(res))
	}
	require.Equal(t, r.level, res.Isolation.Level)
	took, diff := settle(t, before, r.folders...)
	if diff != "" {
		t.Errorf("the host is not as it was after %v: %s", took, diff)
	}
	t.Logf("%s in %.0f ms, beside %d ordinary runs; the host as before after %v", res.Verdict, res.WallMS, runs, took.Round(time.Millisecond))
	return took
}

func compileLog(res eval.Result) string {
	if res.Compile == nil {
		return ""
	}
	return fmt.Sprintf("compiler: %.2000q %.2000q", res.Compile.Stdout.Data, res.Compile.Stderr.Data)
}

// TestEveryProgramIsACase holds the programs and the cases together.
func TestEveryProgramIsACase(t *testing.T) {
	out, err := exec.Command(made.hostile, "list").Output()
	require.NoError(t, err)
	used := []string{"plant"} // by the compilation of the language planted
	for _, c := range abuse.Cases() {
		if len(c.Program.Args) > 0 {
			used = append(used, c.Program.Args[0])
		}
		if c.Before != nil {
			used = append(used, c.Before[0])
		}
	}
	slices.Sort(used)
	require.Equal(t, strings.Fields(string(out)), slices.Compact(used))
}

// TestCasesAreWellMade checks what the page relies on.
func TestCasesAreWellMade(t *testing.T) {
	names := map[string]bool{}
	for _, c := range abuse.Cases() {
		require.False(t, names[c.Name], "%s is there twice", c.Name)
		names[c.Name] = true
		require.NotEmpty(t, c.Class, c.Name)
		require.NotEmpty(t, c.Does, c.Name)
		for _, level := range eval.IsolationLevels() {
			p := c.Promised(level)
			require.True(t, p.Not != "" || len(p.Outcomes) > 0, "%s at %s", c.Name, level)
		}
	}
}

// TestThePageHasTheCases holds docs/isolation.md to the list.
func TestThePageHasTheCases(t *testing.T) {
	page, err := os.ReadFile("../../../docs/isolation.md")
	require.NoError(t, err)
	require.Contains(t, string(page), abuse.Markdown(), "run make generate")
}
