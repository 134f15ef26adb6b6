package cli

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// DeadLettersCmd is about what the platform gave up on.
type DeadLettersCmd struct {
	List   DeadLettersListCmd   `cmd:"" default:"withargs" help:"List them, the newest first (the default)."`
	Show   DeadLettersShowCmd   `cmd:"" help:"Show one, with how each attempt failed."`
	Retry  DeadLettersRetryCmd  `cmd:"" help:"Run them again, as new evaluations."`
	Delete DeadLettersDeleteCmd `cmd:"" help:"Take them from the list; the evaluations stay."`
}

const deadLetters = "/api/v1/dead-letters"

// deadLetter is a dead letter as the API shows it.
type deadLetter struct {
	ID       eval.ID      `json:"id"`
	Language string       `json:"language"`
	Tags     []string     `json:"tags"`
	BatchID  string       `json:"batch_id"`
	Failure  eval.Failure `json:"failure"`
	Attempts int          `json:"attempts"`
	FailedAt time.Time    `json:"failed_at"`
	History  []attempt    `json:"history"`
}

// DeadLettersListCmd lists dead letters.
type DeadLettersListCmd struct {
	remote
	filter
	Kind   []eval.Kind `help:"Only failures of these kinds, such as unavailable or poison."`
	Limit  int         `short:"n" default:"50" help:"How many, 1 to 500."`
	Cursor string      `help:"Where to go on: next of the page before."`
}

// Run implements a kong command.
func (c *DeadLettersListCmd) Run(s *session) error {
	api, err := c.open(1)
	if err != nil {
		return err
	}
	defer api.Close()
	q, err := c.values()
	if err != nil {
		return err
	}
	q.Set("limit", strconv.Itoa(c.Limit))
	for _, k := range c.Kind {
		q.Add("kind", string(k))
	}
	if c.Cursor != "" {
		q.Set("cursor", c.Cursor)
	}
	var out struct {
		DeadLetters []deadLetter `json:"dead_letters"`
		Next        string       `json:"next"`
	}
	raw, err := askBoth(s, api, deadLetters+"?"+q.Encode(), &out)
	if err != nil {
		return err
	}
	if s.json {
		return writeJSON(s.stdout, raw)
	}
	var rows [][]string
	for _, d := range out.DeadLetters {
		rows = append(rows, []string{string(d.ID), d.Language, ago(d.FailedAt), fmt.Sprint(d.Attempts), string(d.Failure.Kind), printable([]byte(firstLine(d.Failure.Message)))})
	}
	if err := table(s.stdout, "ID\tLANGUAGE\tFAILED\tATTEMPTS\tKIND\tREASON", rows); err != nil {
		return err
	}
	if out.Next != "" {
		fmt.Fprintf(s.stderr, "there is more: --cursor %s\n", out.Next)
	}
	return nil
}

// DeadLettersShowCmd shows one dead letter.
type DeadLettersShowCmd struct {
	remote
	ID eval.ID `arg:"" help:"Which."`
}

// Run implements a kong command.
func (c *DeadLettersShowCmd) Run(s *session) error {
	var d deadLetter
	look := look{remote: c.remote}
	return look.path(s, deadLetters+"/"+url.PathEscape(string(c.ID)), &d, func() error {
		p := paintFor(s.stdout)
		rows := [][]string{
			{"id", string(d.ID)}, {"language", d.Language}, {"tags", strings.Join(d.Tags, " ")}, {"batch", d.BatchID},
			{"failed", d.FailedAt.Local().Format(time.RFC3339)}, {"kind", p.bad(string(d.Failure.Kind))}, {"reason", printable([]byte(d.Failure.Message))},
		}
		for _, r := range rows {
			if r[1] != "" {
				fmt.Fprintf(s.stdout, "%-10s %s\n", r[0], r[1])
			}
		}
		fmt.Fprintf(s.stdout, "\n%s\n", plural(d.Attempts, "attempt"))
		rows = nil
		for _, a := range d.History {
			failure := ""
			if a.Failure != nil {
				failure = string(a.Failure.Kind) + ": " + printable([]byte(firstLine(a.Failure.Message)))
			}
			rows = append(rows, []string{fmt.Sprint(a.Number), p.ended(a.Outcome), a.StartedAt.Local().Format("15:04:05.000"), ms(a.TookMS), a.Worker, failure})
		}
		if len(rows) > 0 {
			if err := table(s.stdout, "ATTEMPT\tOUTCOME\tSTARTED\tTOOK\tWORKER\tFAILURE", rows); err != nil {
				return err
			}
		}
		fmt.Fprintf(s.stdout, "\n%s\n", p.faint("run it again: crucible dead-letters retry "+string(d.ID)))
		return nil
	})
}

// deadSelection are the flags of commands that change many dead letters.
type deadSelection struct {
	remote
	filter
	IDs  []eval.ID `arg:"" optional:"" name:"id" help:"Which."`
	Kind eval.Kind `help:"Those with failures of this kind, such as unavailable or poison."`
	All  bool      `help:"All of them."`
}

// each changes the selected dead letters, a part at a time.
func (c *deadSelection) each(s *session, path string, part func(answer) []string) error {
	selected, err := c.body()
	if err != nil {
		return err
	}
	if c.Kind != "" {
		selected["kind"] = c.Kind
	}
	if c.All {
		selected["all"] = true
	}
	return changeMany(s, c.remote, path, c.IDs, selected, nil, part)
}

// DeadLettersRetryCmd runs dead letters again.
type DeadLettersRetryCmd struct{ deadSelection }

// Run implements a kong command.
func (c *DeadLettersRetryCmd) Run(s *session) error {
	return c.each(s, deadLetters+"/retry", func(a answer) (lines []string) {
		for _, r := range a.Retried {
			lines = append(lines, fmt.Sprintf("%s  retried as %s", r.ID, r.NewID))
		}
		return lines
	})
}

// DeadLettersDeleteCmd takes dead letters from the list.
type DeadLettersDeleteCmd struct{ deadSelection }

// Run implements a kong command.
func (c *DeadLettersDeleteCmd) Run(s *session) error {
	return c.each(s, deadLetters+"/delete", func(a answer) (lines []string) {
		for _, id := range a.Deleted {
			lines = append(lines, string(id)+"  deleted")
		}
		return lines
	})
}
