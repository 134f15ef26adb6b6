package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/observe"
)

// languageCheck is what crucible doctor --languages says.
type languageCheck struct {
	OK        bool                      `json:"ok"` // each language that was asked for works
	Languages []executor.LanguageReport `json:"languages"`
}

// checkLanguages runs the smoke test of each toolchain in the sandbox. The
// exit code is 1 when a language that was named does not work; without names,
// one that is not installed costs nothing.
func (c *DoctorCmd) checkLanguages(s *session) error {
	var asked []string
	for _, names := range c.Names {
		asked = append(asked, strings.FieldsFunc(names, func(r rune) bool { return r == ',' })...)
	}
	var mu sync.Mutex
	all := []executor.LanguageReport{}
	cfg := c.Executor()
	cfg.Languages = asked
	cfg.OnLanguage = func(r executor.LanguageReport) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, r)
		if !s.json && observe.IsTerminal(s.stderr) {
			fmt.Fprintf(s.stderr, "\r\x1b[K%s checked: %s", plural(len(all), "toolchain"), r.ID)
		}
	}
	local, err := executor.Open(s.ctx, cfg, nil, nil)
	if err != nil {
		return err
	}
	err = local.Checked(s.ctx)
	_ = local.Close() // nothing has run in it but the tests
	if !s.json && observe.IsTerminal(s.stderr) {
		fmt.Fprint(s.stderr, "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b executor.LanguageReport) int { return cmp.Compare(a.ID, b.ID) })
	works := map[string]bool{}
	for _, r := range all {
		works[r.ID] = works[r.ID] || r.OK
	}
	out := languageCheck{!slices.ContainsFunc(asked, func(id string) bool { return !works[id] }), all}
	if err := printLanguageCheck(s, out); err != nil {
		return err
	}
	if !out.OK {
		return exitCode(exitError)
	}
	return nil
}

func printLanguageCheck(s *session, out languageCheck) error {
	if s.json {
		return writeJSON(s.stdout, out)
	}
	var rows [][]string
	for _, r := range out.Languages {
		compile := "-"
		if r.CompileMS > 0 {
			compile = ms(r.CompileMS)
		}
		switch {
		case r.OK:
			rows = append(rows, []string{r.ID, "ok", r.Version, compile, ms(r.RunMS), r.Path})
		default:
			rows = append(rows, []string{r.ID, "problem", "-", "-", "-", strings.TrimSpace(r.Path + " " + firstLine(r.Problem))})
		}
	}
	return table(s.stdout, "LANGUAGE\tSTATE\tVERSION\tCOMPILE\tRUN\tPATH", rows)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
