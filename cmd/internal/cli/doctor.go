package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/platform"
	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/storage"
)

// DoctorCmd checks what this machine offers.
type DoctorCmd struct {
	platform.Queue
	platform.Keep
	platform.Sandbox

	Languages bool     `help:"Run the smoke test of each language anew and say how it did, and nothing else."`
	Names     []string `arg:"" optional:"" name:"language" help:"With --languages: which, such as python,c; each of them has to work. Default: all, whatever is installed."`
}

// finding is one line of the doctor.
type finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// report is what the doctor found.
type report struct {
	OK        bool            `json:"ok"` // everything that is needed works
	Isolation *eval.Isolation `json:"isolation,omitempty"`
	Levels    []levelReport   `json:"levels,omitempty"` // what else this machine could offer, the strongest first
	Languages []eval.Language `json:"languages,omitempty"`
	Checks    []finding       `json:"checks"`
}

// levelReport is one level of isolation, tried out.
type levelReport struct {
	Level   string `json:"level"`
	Offered bool   `json:"offered"`
	Problem string `json:"problem,omitempty"` // why not, and what to do about it
}

// checkTime bounds each check.
const checkTime = time.Minute

// Run implements a kong command. The exit code is 1 when something that the
// configuration needs does not work, the sandbox among it, and 0 otherwise: a
// control that is missing, a stronger level that this machine does not have, or
// a language that is not installed is shown and costs nothing.
func (c *DoctorCmd) Run(s *session) error {
	if c.Languages {
		return c.checkLanguages(s)
	}
	if len(c.Names) > 0 {
		return errors.New("languages can be named only together with --languages: crucible doctor --languages python")
	}
	r := report{OK: true, Checks: []finding{}}
	check := func(name string, do func(context.Context) (string, error)) {
		ctx, cancel := context.WithTimeout(s.ctx, checkTime)
		defer cancel()
		detail, err := do(ctx)
		if err != nil {
			detail = explain(err)
			r.OK = false
		}
		r.Checks = append(r.Checks, finding{name, err == nil, detail})
	}
	check("sandbox", func(ctx context.Context) (string, error) { return c.sandbox(ctx, &r) })
	for _, o := range executor.Survey(s.ctx, c.Executor()) {
		l := levelReport{Level: o.Level, Offered: o.Problem == nil}
		if !l.Offered {
			l.Problem = explain(o.Problem)
		}
		r.Levels = append(r.Levels, l)
	}
	check("storage", c.storage)
	check("queue", c.queue)
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	if err := printReport(s, r); err != nil {
		return err
	}
	if !r.OK {
		return exitCode(exitError)
	}
	return nil
}

func (c *DoctorCmd) sandbox(ctx context.Context, r *report) (string, error) {
	local, err := executor.Open(ctx, c.Executor(), nil, nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = local.Close() }() // nothing has run in it
	// The first check of a language may build a cache. What is not known in
	// time is shown as being checked.
	settled, stop := context.WithTimeout(ctx, checkTime/2)
	defer stop()
	if err := local.Checked(settled); err != nil && ctx.Err() != nil {
		return "", err
	}
	status, err := local.Status(ctx)
	if err != nil {
		return "", err
	}
	r.Isolation, r.Languages = &status.Isolation, status.Languages
	available := 0
	for _, l := range status.Languages {
		if l.Available {
			available++
		}
	}
	return fmt.Sprintf("isolation %s, %s, %s", status.Isolation.Level, plural(available, "language"), plural(status.Slots, "slot")), nil
}

func (c *DoctorCmd) storage(ctx context.Context) (string, error) {
	cfg, err := c.Storage(false)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(cfg.DataDir); errors.Is(err, os.ErrNotExist) && c.DatabaseURL == "" {
		return cfg.DataDir + " is made at the first start", nil
	}
	steps, err := storage.MigrationStatus(ctx, cfg)
	if err != nil {
		return "", err
	}
	todo := 0
	for _, m := range steps {
		if m.AppliedAt == nil {
			todo++
		}
	}
	where := cfg.DataDir
	if c.DatabaseURL != "" {
		where = c.DatabaseURL.String()
	}
	if todo > 0 && c.DatabaseURL != "" {
		return "", fmt.Errorf("%s answers, and has %s to come: run crucible migrate", where, plural(todo, "migration"))
	}
	return where, nil
}

func (c *DoctorCmd) queue(ctx context.Context) (string, error) {
	if c.RedisURL == "" {
		return "in the process of crucible up; the split services need --redis-url", nil
	}
	redis, err := task.Open(ctx, task.RedisConfig{URL: c.RedisURL.Reveal()}, nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = redis.Close() }()
	if err := redis.Ready(ctx); err != nil {
		return "", err
	}
	return "Redis at " + redis.Addr(), nil
}

func printReport(s *session, r report) error {
	if s.json {
		return writeJSON(s.stdout, r)
	}
	p := paintFor(s.stdout)
	for _, f := range r.Checks {
		mark := p.good("ok  ")
		if !f.OK {
			mark = p.bad("FAIL")
		}
		fmt.Fprintf(s.stdout, "%s %-8s %s\n", mark, f.Name, f.Detail)
	}
	if r.Isolation != nil {
		fmt.Fprintln(s.stdout)
		if err := printIsolation(s, *r.Isolation); err != nil {
			return err
		}
	}
	fmt.Fprintln(s.stdout)
	var rows [][]string
	for _, l := range r.Levels {
		state := p.good("can be had")
		if !l.Offered {
			state = p.warn("not here")
		}
		rows = append(rows, []string{l.Level, state, l.Problem})
	}
	if err := table(s.stdout, "", rows); err != nil {
		return err
	}
	if r.Languages != nil {
		fmt.Fprintln(s.stdout)
		return printLanguages(s, r.Languages, true)
	}
	return nil
}
