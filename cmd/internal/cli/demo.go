package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/cmd/internal/demo"
	"github.com/crucible-eval/crucible/cmd/internal/platform"
	"github.com/crucible-eval/crucible/pkg/config"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/observe"
)

// DemoCmd runs the demonstrations.
type DemoCmd struct {
	URL    string        `name:"url" placeholder:"URL" help:"Run them at this API. Default: start a platform for them in a temporary folder, and remove it afterwards."`
	Token  config.Secret `env:"CRUCIBLE_TOKEN" nofile:"" placeholder:"KEY" help:"API key to send."`
	Demos  string        `placeholder:"DIR" type:"path" help:"Folder of the demonstrations. Default: demos here, or beside the program."`
	Report string        `placeholder:"DIR" type:"path" help:"Where to write report.md and report.json. Default: report in the folder of the demonstrations."`
	Only   []string      `arg:"" optional:"" name:"demo" help:"Only these, such as 01-hello. Default: all."`
}

// Run implements a kong command. The exit code is 1 when one does not hold.
func (c *DemoCmd) Run(s *session) (err error) {
	dir, err := demo.Find(c.Demos)
	if err != nil {
		return err
	}
	all, err := demo.Load(os.DirFS(dir))
	if err != nil {
		return err
	}
	if len(c.Only) > 0 {
		all = slices.DeleteFunc(all, func(d demo.Demo) bool {
			return !slices.ContainsFunc(c.Only, func(o string) bool { return strings.Contains(d.Folder, o) })
		})
		if len(all) == 0 {
			return fmt.Errorf("no demonstration in %s is called %s; their names are those of its folders", dir, strings.Join(c.Only, " or "))
		}
	}
	api, stop, err := c.platform(s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	out := s.stdout
	if s.json {
		out = io.Discard
	}
	r, err := runDemos(s, api, all, out)
	if err != nil {
		return err
	}
	if c.Report == "" {
		c.Report = filepath.Join(dir, "report")
	}
	if err := r.Write(c.Report); err != nil {
		return err
	}
	if s.json {
		err = writeJSON(s.stdout, r)
	} else {
		err = printDemos(s, r, c.Report)
	}
	if err == nil && r.Failed > 0 {
		err = exitCode(exitError)
	}
	return err
}

func (c *DemoCmd) platform(s *session) (*client.Client, func() error, error) {
	if c.URL == "" {
		return embedded(s, platform.AllInOneConfig{}, 128)
	}
	api, err := client.New(c.URL, c.Token.Reveal(), 128)
	return api, func() error { return nil }, err
}

func runDemos(s *session, api *client.Client, all []demo.Demo, out io.Writer) (demo.Report, error) {
	r := demo.Report{StartedAt: time.Now(), Version: observe.Version().Version}
	languages, err := settledLanguages(s.ctx, api)
	if err != nil {
		return r, err
	}
	available := func(id string) bool {
		return slices.ContainsFunc(languages, func(l eval.Language) bool { return l.ID == id && l.Available })
	}
	p := paintFor(out)
	for _, d := range all {
		fmt.Fprintf(out, "\n%s\n%s\n", p.bold(d.Title), p.faint(strings.TrimSpace(d.Story)))
		for _, c := range d.Cases {
			o := d.Run(s.ctx, api, c, available)
			if s.ctx.Err() != nil {
				return r, s.ctx.Err()
			}
			r.Add(o)
			if o.Sample != nil && o.Sample.Result != nil {
				r.Isolation = o.Sample.Result.Isolation.Level
			}
			printOutcome(out, p, o)
		}
	}
	r.Seconds = time.Since(r.StartedAt).Seconds()
	return r, nil
}

// settledLanguages waits until the executors know their languages, which
// takes a while at their first start.
func settledLanguages(ctx context.Context, api *client.Client) ([]eval.Language, error) {
	for {
		all, err := api.Languages(ctx)
		if err != nil || !slices.ContainsFunc(all, func(l eval.Language) bool { return l.Checking }) {
			return all, err
		}
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func printOutcome(out io.Writer, p paint, o demo.Outcome) {
	mark := p.good("ok")
	switch {
	case o.Skipped != "":
		fmt.Fprintf(out, "  -- %s: %s\n", o.Case, o.Skipped)
		return
	case !o.Holds():
		mark = p.bad("FAILED")
	}
	for i, step := range o.Steps {
		fmt.Fprintf(out, "  %8s  %s\n", ms(float64(step.At.Sub(o.Steps[0].At).Microseconds())/1000), stepWords(step, i))
	}
	name := o.Case
	if name == "" {
		name = o.Language
	}
	if o.Times > 1 {
		name = fmt.Sprintf("%d x %s", o.Times, name)
	}
	fmt.Fprintf(out, "  %s %s: %s, program %s, in all %.2f s\n", mark, name, demo.Told(o), ms(o.WallMS), o.Seconds)
	for i, w := range o.Wrong {
		if i == 10 {
			fmt.Fprintf(out, "       and %d more\n", len(o.Wrong)-i)
			break
		}
		fmt.Fprintf(out, "       %s\n", p.bad(w))
	}
}

func stepWords(step demo.Step, i int) string {
	switch {
	case i == 0:
		return "accepted: it is in the storage, and in the queue"
	case step.Type == eval.EventRunning:
		return fmt.Sprintf("claimed by worker %s: attempt %d", step.Worker, step.Attempt)
	default:
		return string(step.Type)
	}
}

func printDemos(s *session, r demo.Report, dir string) error {
	rows := make([][]string, len(r.Outcomes))
	for i, o := range r.Outcomes {
		rows[i] = []string{o.Mark(), o.Name(), fmt.Sprint(o.Times), demo.Told(o), ms(o.WallMS), bytesText(o.Memory), fmt.Sprintf("%.2f s", o.Seconds)}
	}
	fmt.Fprintln(s.stdout)
	if err := table(s.stdout, "\tDEMONSTRATION\tPROGRAMS\tOUTCOME\tTIME\tMEMORY\tIN ALL", rows); err != nil {
		return err
	}
	fmt.Fprintf(s.stdout, "\n%d held, %d failed, %d left out, in %.1f s; report in %s\n", r.Held, r.Failed, r.Skipped, r.Seconds, dir)
	return nil
}
