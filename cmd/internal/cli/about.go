package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/observe"
)

// LanguagesCmd lists the languages.
type LanguagesCmd struct {
	remote
	All bool `short:"a" help:"Also those that are not available, and why."`
}

// Run implements a kong command.
func (c *LanguagesCmd) Run(s *session) error {
	api, err := c.open(1)
	if err != nil {
		return err
	}
	defer api.Close()
	list, err := api.LanguageList(s.ctx)
	if err != nil {
		return err
	}
	if s.json {
		return writeJSON(s.stdout, list)
	}
	for _, p := range list.Problems {
		fmt.Fprintf(s.stderr, "executor %s did not take over its language files: %s\n", p.Executor, p.Problem)
	}
	return printLanguages(s, list.Languages, c.All)
}

func printLanguages(s *session, all []eval.Language, whole bool) error {
	var rows [][]string
	missing := 0
	for _, l := range all {
		state := strings.Join(l.Versions, ", ")
		if !l.Available {
			missing++
			if !whole {
				continue
			}
			state = "not available: " + l.Problem
		}
		rows = append(rows, []string{l.ID, strings.Join(l.Extensions, " "), state})
	}
	if err := table(s.stdout, "LANGUAGE\tFILES\tVERSION", rows); err != nil {
		return err
	}
	if missing > 0 && !whole {
		fmt.Fprintf(s.stderr, "%s not available; --all says why\n", plural(missing, "language"))
	}
	return nil
}

// IsolationCmd shows what the executors' sandboxes enforce.
type IsolationCmd struct{ remote }

// Run implements a kong command.
func (c *IsolationCmd) Run(s *session) error {
	api, err := c.open(1)
	if err != nil {
		return err
	}
	defer api.Close()
	var raw json.RawMessage
	if err := api.Ask(s.ctx, "/api/v1/isolation", nil, &raw); err != nil {
		return err
	}
	if s.json {
		return writeJSON(s.stdout, raw)
	}
	var out struct {
		Executors []struct {
			Name string `json:"name"`
			eval.Isolation
		} `json:"executors"`
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	for _, e := range out.Executors {
		fmt.Fprintf(s.stdout, "executor %s\n", e.Name)
		if err := printIsolation(s, e.Isolation); err != nil {
			return err
		}
	}
	return nil
}

func printIsolation(s *session, iso eval.Isolation) error {
	p := paintFor(s.stdout)
	fmt.Fprintf(s.stdout, "isolation level: %s\n", iso.Level)
	var rows [][]string
	for _, c := range iso.Controls {
		state := p.good(c.State)
		switch c.State {
		case eval.ControlApproximated:
			state = p.warn(c.State)
		case eval.ControlAbsent:
			state = p.bad(c.State)
		}
		rows = append(rows, []string{"  " + c.Name, state, c.Detail})
		if c.Remedy != "" {
			rows = append(rows, []string{"", "", "to do: " + c.Remedy})
		}
	}
	return table(s.stdout, "", rows)
}

// VersionCmd prints the version.
type VersionCmd struct{}

// Run implements a kong command.
func (c *VersionCmd) Run(s *session) error {
	b := observe.Version()
	if s.json {
		return writeJSON(s.stdout, b)
	}
	fmt.Fprintln(s.stdout, "crucible", b)
	return nil
}
