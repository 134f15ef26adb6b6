package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/observe"
)

const (
	longestRequest = 32 << 20
	lookEvery      = 250 * time.Millisecond
)

// BatchCmd runs many programs.
type BatchCmd struct {
	remote
	File   string `arg:"" placeholder:"FILE.jsonl" help:"One request in JSON on each line, as POST /api/v1/evaluations takes it; - is the standard input."`
	Size   int    `default:"500" help:"How many are sent in one batch, 1 to 1000. A batch is accepted whole or not at all."`
	Wait   bool   `negatable:"" default:"true" help:"Wait until all have ended (the default)."`
	Repeat int    `default:"1" help:"Send the file so many times over."`
}

// Run implements a kong command. The exit code is 0 when all were accepted
// and none failed or was cancelled; what the programs did does not count.
func (c *BatchCmd) Run(s *session) error {
	if c.Size < 1 || c.Size > 1000 {
		return withCode{fmt.Errorf("--size is %d; a batch has 1 to 1000", c.Size), exitUsage}
	}
	lines, err := c.read(s)
	if err != nil {
		return err
	}
	api, err := c.open(2)
	if err != nil {
		return err
	}
	defer api.Close()
	began := time.Now()
	sum := summary{Verdicts: map[eval.Verdict]int{}, Statuses: map[eval.Status]int{}}
	for from := 0; from < len(lines); from += c.Size {
		part := lines[from:min(from+c.Size, len(lines))]
		b, err := api.SubmitBatch(s.ctx, part)
		if err != nil {
			return fmt.Errorf("requests %d to %d: %w", from+1, from+len(part), err)
		}
		sum.Batches = append(sum.Batches, b.ID)
		sum.Accepted += len(b.Evaluations)
	}
	if c.Wait {
		if err := awaitBatches(s, api, &sum); err != nil {
			return err
		}
	}
	sum.Seconds = time.Since(began).Seconds()
	if err := sum.print(s, c.Wait); err != nil {
		return err
	}
	if sum.Statuses[eval.Failed]+sum.Statuses[eval.Cancelled] > 0 {
		return exitCode(exitError)
	}
	return nil
}

// read returns the requests; each line has to be JSON.
func (c *BatchCmd) read(s *session) ([]json.RawMessage, error) {
	var in io.Reader = s.stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	scan := bufio.NewScanner(in)
	scan.Buffer(make([]byte, 0, 64<<10), longestRequest)
	var lines []json.RawMessage
	for n := 1; scan.Scan(); n++ {
		line := bytes.TrimSpace(scan.Bytes())
		if len(line) == 0 {
			continue
		}
		if !json.Valid(line) {
			return nil, fmt.Errorf("%s line %d is not JSON: each line is one request, such as {\"language\":\"python\",\"code\":\"print(1)\"}", c.File, n)
		}
		lines = append(lines, bytes.Clone(line))
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.File, err)
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("%s has no requests: each line is one, such as {\"language\":\"python\",\"code\":\"print(1)\"}", c.File)
	}
	all := lines
	for range max(c.Repeat, 1) - 1 {
		all = append(all, lines...)
	}
	return all, nil
}

// summary is what became of the batches.
type summary struct {
	Batches  []string             `json:"batches"`
	Accepted int                  `json:"accepted"`
	Statuses map[eval.Status]int  `json:"statuses,omitempty"`
	Verdicts map[eval.Verdict]int `json:"verdicts,omitempty"`
	Seconds  float64              `json:"seconds"`
}

// awaitBatches looks until every evaluation has ended, and shows how far
// they are.
func awaitBatches(s *session, api *client.Client, sum *summary) error {
	bar := newBar(s.stderr, sum.Accepted)
	defer bar.done()
	ended := 0
	for _, batch := range sum.Batches {
		for {
			now, open, err := count(s.ctx, api, batch)
			if err != nil {
				return err
			}
			bar.show(ended + len(now))
			if !open {
				for _, e := range now {
					sum.Statuses[e.Status]++
					if e.Verdict != "" {
						sum.Verdicts[e.Verdict]++
					}
				}
				ended += len(now)
				break
			}
			select {
			case <-s.ctx.Done():
				return errors.New("stopped waiting; the evaluations go on: crucible list --batch " + batch)
			case <-time.After(lookEvery):
			}
		}
	}
	return nil
}

// count returns those of a batch that have ended; open says that others have not.
func count(ctx context.Context, api *client.Client, batch string) (ended []client.Evaluation, open bool, err error) {
	q := url.Values{"batch": {batch}, "limit": {"500"}}
	for {
		page, err := api.List(ctx, q)
		if err != nil {
			return nil, false, err
		}
		for _, e := range page.Evaluations {
			if e.Status.Terminal() {
				ended = append(ended, e)
			} else {
				open = true
			}
		}
		if page.Next == "" {
			return ended, open, nil
		}
		q.Set("cursor", page.Next)
	}
}

func (sum summary) print(s *session, waited bool) error {
	if s.json {
		return writeJSON(s.stdout, sum)
	}
	if !waited {
		fmt.Fprintf(s.stdout, "%d accepted in %d batches: %s\n", sum.Accepted, len(sum.Batches), strings.Join(sum.Batches, " "))
		return nil
	}
	p := paintFor(s.stdout)
	fmt.Fprintf(s.stdout, "%d evaluations in %.1f s, %.1f a second\n", sum.Accepted, sum.Seconds, float64(sum.Accepted)/sum.Seconds)
	for _, v := range eval.Verdicts() {
		if n := sum.Verdicts[v]; n > 0 {
			fmt.Fprintf(s.stdout, "  %6d %s\n", n, p.outcome(eval.Completed, v))
		}
	}
	for _, st := range []eval.Status{eval.Failed, eval.Cancelled} {
		if n := sum.Statuses[st]; n > 0 {
			fmt.Fprintf(s.stdout, "  %6d %s\n", n, p.outcome(st, ""))
		}
	}
	return nil
}

// bar is a progress bar, on a terminal only.
type bar struct {
	w     io.Writer
	total int
	on    bool
	began time.Time
}

func newBar(w io.Writer, total int) *bar {
	return &bar{w: w, total: total, on: observe.IsTerminal(w), began: time.Now()}
}

func (b *bar) show(n int) {
	if !b.on {
		return
	}
	const width = 40
	full := 0
	if b.total > 0 {
		full = width * n / b.total
	}
	rate := float64(n) / max(time.Since(b.began).Seconds(), 0.001)
	fmt.Fprintf(b.w, "\r[%s%s] %d/%d  %.0f/s ", strings.Repeat("#", full), strings.Repeat("-", width-full), n, b.total, rate)
}

func (b *bar) done() {
	if b.on {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}
