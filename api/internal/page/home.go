package page

import (
	"bytes"
	"context"
	"fmt"
	"html/template"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/api/internal/catalog"
	"github.com/crucible-eval/crucible/api/internal/rest"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
	"github.com/crucible-eval/crucible/pkg/task"
)

const (
	// askTime bounds what the page waits for all it shows.
	askTime = 3 * time.Second
	recent  = 12
)

// home is what the page shows. A part that cannot be reached has its problem
// in place of numbers.
type home struct {
	Style    template.CSS
	Version  string
	URL      string // as the client reached it
	Monitor  bool
	Now      time.Time
	Level    string
	Controls []eval.Control
	Counts   []count
	Problem  string // the store's

	Languages    []catalog.Language
	Missing      []catalog.Language
	Executors    []catalog.State
	Workers      []eval.WorkerInfo
	WorkersAway  string
	Queues       []task.QueueInfo
	QueuesAway   string
	Recent       []eval.Evaluation
	DeadLetters  int64
	OldestQueued *time.Time
}

type count struct {
	Status eval.Status
	N      int64
}

func (p *Pages) showHome(c echo.Context) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), askTime)
	defer cancel()
	h := p.look(ctx)
	scheme := "http"
	if c.Request().TLS != nil {
		scheme = "https"
	}
	h.URL = scheme + "://" + c.Request().Host
	var b bytes.Buffer
	if err := p.home.Execute(&b, h); err != nil {
		return err
	}
	return p.html(c, b.Bytes())
}

// look asks all parts at once.
func (p *Pages) look(ctx context.Context) home {
	a := p.api
	h := home{Style: p.style, Version: a.Version, Monitor: p.monitor, Now: time.Now().UTC()}
	var wg sync.WaitGroup
	wg.Go(func() {
		h.Executors = a.Catalog.States(ctx)
		if report, ok := rest.Isolation(h.Executors); ok {
			h.Level = report.Level
			h.Controls = report.Executors[0].Controls
		}
		all, _ := a.Catalog.Languages()
		for _, l := range all {
			if l.Available {
				h.Languages = append(h.Languages, l)
			} else {
				h.Missing = append(h.Missing, l)
			}
		}
	})
	wg.Go(func() {
		var err error
		if h.Workers, err = a.Workers(ctx); err != nil {
			h.WorkersAway = problem.From(err).Detail
		}
	})
	wg.Go(func() {
		if a.Queues == nil {
			h.QueuesAway = "this server is not connected to the queue"
			return
		}
		var err error
		if h.Queues, err = a.Queues.Queues(ctx); err != nil {
			h.QueuesAway = problem.From(err).Detail
		}
	})
	wg.Go(func() {
		stats, err := a.Store.Stats(ctx, eval.DefaultProject)
		var page eval.Page
		if err == nil {
			page, err = a.Store.List(ctx, eval.Query{Project: eval.DefaultProject, Limit: recent})
		}
		if err != nil {
			h.Problem = problem.From(err).Detail
			return
		}
		for _, s := range eval.Statuses() {
			h.Counts = append(h.Counts, count{s, stats.Statuses[s]})
		}
		h.Recent, h.DeadLetters, h.OldestQueued = page.Evaluations, stats.DeadLetters, stats.OldestQueuedAt
	})
	wg.Wait()
	return h
}

var helpers = template.FuncMap{
	"ago":    ago,
	"short":  func(id eval.ID) string { return string(id[:min(8, len(id))]) + "…" + string(id[max(0, len(id)-4):]) },
	"ms":     millis,
	"took":   took,
	"colour": colour,
	"clock":  func(t time.Time) string { return t.UTC().Format("15:04:05 UTC") },
}

// ago is how long before now t was, for people.
func ago(now, t time.Time) string {
	switch d := now.Sub(t); {
	case d < 0:
		return "soon"
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return t.Format(time.DateOnly)
	}
}

func millis(ms float64) string {
	if ms >= 10_000 {
		return fmt.Sprintf("%.1f s", ms/1000)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

// took is the program's wall time, where it ran.
func took(e eval.Evaluation) string {
	if e.Result == nil {
		return ""
	}
	return millis(e.Result.WallMS)
}

// colour is the class of a status or verdict.
func colour(e eval.Evaluation) string {
	switch {
	case e.Status == eval.Completed && e.Verdict == eval.Accepted:
		return "good"
	case e.Status == eval.Completed:
		return "warn"
	case e.Status == eval.Failed:
		return "bad"
	case e.Status == eval.Running:
		return "busy"
	default:
		return "calm"
	}
}
