package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// GetCmd shows one evaluation.
type GetCmd struct {
	remote
	ID        eval.ID `arg:"" help:"Which."`
	Wait      bool    `help:"Wait for its end."`
	Attempts  bool    `help:"Show each try at running it instead, and what was decided about the next one."`
	Artifacts string  `placeholder:"DIR" help:"Write the files that came back into this folder. Nothing that is there is replaced."`
}

// Run implements a kong command.
func (c *GetCmd) Run(s *session) error {
	api, err := c.open(1)
	if err != nil {
		return err
	}
	defer api.Close()
	var e client.Evaluation
	if c.Wait {
		e, err = api.Await(s.ctx, c.ID)
	} else {
		e, err = api.Get(s.ctx, c.ID, 0)
	}
	if err != nil {
		return err
	}
	switch {
	case c.Attempts:
		err = printAttempts(s, api, e)
	case s.json:
		err = writeJSON(s.stdout, e)
	default:
		err = printEvaluation(s, e)
	}
	if err != nil || c.Artifacts == "" {
		return err
	}
	return saveArtifacts(s, api, e, c.Artifacts)
}

func printEvaluation(s *session, e client.Evaluation) error {
	p := paintFor(s.stdout)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(s.stdout, "%-10s %s\n", name, value)
		}
	}
	line("id", string(e.ID))
	line("status", p.outcome(e.Status, ""))
	if e.Verdict != "" {
		verdict := p.outcome(e.Status, e.Verdict)
		if e.Cause != "" {
			verdict += " (" + string(e.Cause) + ")"
		}
		line("verdict", verdict)
	}
	line("language", e.Language)
	line("tags", strings.Join(e.Tags, " "))
	line("created", e.CreatedAt.Local().Format(time.RFC3339))
	if e.QueueMS != nil {
		line("queued", ms(*e.QueueMS))
	}
	line("attempt", fmt.Sprint(e.Attempt))
	line("client", e.Client)
	line("worker", e.Worker)
	line("executor", e.Executor)
	line("reason", e.Reason)
	if e.Failure != nil {
		line("failure", fmt.Sprintf("%s (%s)", e.Failure.Message, e.Failure.Kind))
	}
	if e.NextTryAt != nil {
		line("next try", e.NextTryAt.Local().Format(time.RFC3339))
	}
	if e.ExpiresAt != nil && !e.Status.Terminal() {
		line("deadline", e.ExpiresAt.Local().Format(time.RFC3339))
	}
	if c := e.Callback; c != nil {
		text := fmt.Sprintf("%s to %s, %d of %d tries", c.Status, c.Host, c.Tries, c.MaxTries)
		if c.Message != "" {
			text += ": " + c.Message
		}
		line("callback", text)
	}
	if r := e.Result; r != nil {
		if r.ExitCode != nil {
			line("exit code", fmt.Sprint(*r.ExitCode))
		}
		line("signal", r.Signal)
		line("meaning", r.Explanation)
		line("wall", ms(r.WallMS))
		line("cpu", ms(r.CPUMS))
		line("memory", bytesText(r.MemoryPeakBytes))
		line("isolation", r.Isolation.Level)
		line("start", string(r.Start))
		for _, part := range []struct {
			name   string
			stream eval.Stream
		}{{"stdout", r.Stdout}, {"stderr", r.Stderr}} {
			printStream(s, p, e.ID, part.name, part.stream)
		}
		printTests(s.stdout, p, r.Tests)
		printArtifacts(s, p, r)
	}
	return nil
}

// previewBytes is how much of a stream get shows.
const previewBytes = 4 << 10

func printStream(s *session, p paint, id eval.ID, name string, stream eval.Stream) {
	if stream.Bytes == 0 {
		return
	}
	cut := ""
	if stream.Truncated {
		cut = ", cut at its limit"
	}
	fmt.Fprintln(s.stdout, p.faint(fmt.Sprintf("--- %s: %s%s", name, bytesText(stream.Bytes), cut)))
	shown := stream.Data[:min(len(stream.Data), previewBytes)]
	text := printable(shown)
	fmt.Fprint(s.stdout, text)
	if !strings.HasSuffix(text, "\n") {
		fmt.Fprintln(s.stdout)
	}
	if int64(len(shown)) < stream.Bytes {
		fmt.Fprintln(s.stdout, p.faint(fmt.Sprintf("--- %s more: crucible logs %s", bytesText(stream.Bytes-int64(len(shown))), id)))
	}
}

// printable keeps a program's output from steering the terminal.
func printable(b []byte) string {
	var out strings.Builder
	for _, r := range string(b) {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\ufffd' {
			q := strconv.QuoteRune(r)
			out.WriteString(q[1 : len(q)-1])
			continue
		}
		out.WriteRune(r)
	}
	return out.String()
}

// ListCmd lists evaluations.
type ListCmd struct {
	remote
	filter
	Status  []eval.Status  `help:"Only these: queued, running, completed, failed, cancelled."`
	Verdict []eval.Verdict `help:"Only these, such as accepted or time_limit."`
	Limit   int            `short:"n" default:"20" help:"How many, 1 to 500."`
	Cursor  string         `help:"Where to go on: next of the page before."`
}

// Run implements a kong command.
func (c *ListCmd) Run(s *session) error {
	api, err := c.open(1)
	if err != nil {
		return err
	}
	defer api.Close()
	q, err := c.query()
	if err != nil {
		return err
	}
	page, err := api.List(s.ctx, q)
	if err != nil {
		return err
	}
	if s.json {
		return writeJSON(s.stdout, page)
	}
	rows := make([][]string, len(page.Evaluations))
	for i, e := range page.Evaluations {
		rows[i] = listRow(e)
	}
	if err := table(s.stdout, listHead, rows); err != nil {
		return err
	}
	if page.Next != "" {
		fmt.Fprintf(s.stderr, "there is more: --cursor %s\n", page.Next)
	}
	return nil
}

const listHead = "ID\tCREATED\tLANGUAGE\tSTATUS\tVERDICT\tWALL\tMEMORY"

func listRow(e client.Evaluation) []string {
	row := []string{string(e.ID), ago(e.CreatedAt), e.Language, string(e.Status), string(e.Verdict), "", ""}
	if e.Result != nil {
		row[5], row[6] = ms(e.Result.WallMS), bytesText(e.Result.MemoryPeakBytes)
	}
	return row
}

func (c *ListCmd) query() (url.Values, error) {
	q, err := c.values()
	if err != nil {
		return nil, err
	}
	q.Set("limit", strconv.Itoa(c.Limit))
	for _, v := range c.Status {
		q.Add("status", string(v))
	}
	for _, v := range c.Verdict {
		q.Add("verdict", string(v))
	}
	if c.Cursor != "" {
		q.Set("cursor", c.Cursor)
	}
	return q, nil
}

// WatchCmd shows changes as they happen.
type WatchCmd struct {
	remote
	Status []eval.Status `help:"Only changes to these."`
	Count  int           `short:"n" placeholder:"N" help:"End after so many changes."`
}

// Run implements a kong command.
func (c *WatchCmd) Run(s *session) error {
	api, err := c.open(1)
	if err != nil {
		return err
	}
	defer api.Close()
	p := paintFor(s.stdout)
	seen := 0
	var broken error
	err = api.Events(s.ctx, "/api/v1/events", nil, "", func(ev client.Event) bool {
		var e eval.Event
		if json.Unmarshal(ev.Data, &e) != nil || e.ID == "" {
			return true
		}
		if len(c.Status) > 0 && !slices.Contains(c.Status, e.Status) {
			return true
		}
		if s.json {
			broken = compactJSON(s, ev.Data)
		} else {
			what := string(e.Type)
			if e.Status.Terminal() {
				what = p.outcome(e.Status, e.Verdict)
			}
			_, broken = fmt.Fprintf(s.stdout, "%s  %s  %s %s\n", e.At.Local().Format("15:04:05.000"), e.ID, what, p.faint(e.Message))
		}
		seen++
		return broken == nil && (c.Count == 0 || seen < c.Count)
	})
	if broken != nil {
		return broken
	}
	if s.ctx.Err() != nil {
		return nil // Ctrl-C is how one leaves
	}
	return err
}

func compactJSON(s *session, raw []byte) error {
	_, err := fmt.Fprintf(s.stdout, "%s\n", raw)
	return err
}

// LogsCmd prints a program's output.
type LogsCmd struct {
	remote
	ID     eval.ID `arg:"" help:"Which."`
	Follow bool    `short:"f" help:"Go on until the program ends."`
	Stream string  `enum:"both,stdout,stderr" default:"both" help:"Which stream: ${enum}."`
}

// Run implements a kong command.
func (c *LogsCmd) Run(s *session) error {
	api, err := c.open(2)
	if err != nil {
		return err
	}
	defer api.Close()
	e, err := api.Get(s.ctx, c.ID, 0)
	if err != nil {
		return err
	}
	if !e.Status.Terminal() && !c.Follow {
		return fmt.Errorf("evaluation %s is %s: its output is complete when it has ended; -f shows it as it comes", e.ID, e.Status)
	}
	t := &tail{api: api, stdout: s.stdout, stderr: s.stderr}
	switch c.Stream {
	case "stdout":
		t.stderr = io.Discard
	case "stderr":
		t.stdout = io.Discard
	}
	_, err = t.follow(s, e, true)
	return err
}
