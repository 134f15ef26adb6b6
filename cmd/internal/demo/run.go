package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// Outcome is what became of one case.
type Outcome struct {
	Demo     string             `json:"demo"`
	Title    string             `json:"title"`
	Case     string             `json:"case,omitempty"`
	Language string             `json:"language"`
	Times    int                `json:"times"`
	Skipped  string             `json:"skipped,omitempty"` // why it was left out
	Wrong    []string           `json:"wrong,omitempty"`   // what does not hold; none: it holds
	Seconds  float64            `json:"seconds"`           // from the first submission to the last answer
	Verdict  eval.Verdict       `json:"verdict,omitempty"`
	Cause    eval.Cause         `json:"cause,omitempty"`
	WallMS   float64            `json:"wall_ms,omitempty"` // of the program; the longest
	CPUMS    float64            `json:"cpu_ms,omitempty"`
	Memory   int64              `json:"memory_peak_bytes,omitempty"`
	Steps    []Step             `json:"steps,omitempty"`
	Sample   *client.Evaluation `json:"evaluation,omitempty"` // the first, whole
}

// Step is a change in the life of an evaluation.
type Step struct {
	At      time.Time      `json:"at"`
	Type    eval.EventType `json:"type"`
	Attempt int            `json:"attempt"`
	Worker  string         `json:"worker,omitempty"`
}

// Holds is whether everything was as expected.
func (o Outcome) Holds() bool { return len(o.Wrong) == 0 }

// Name is the demo's folder, with the case if it has a name.
func (o Outcome) Name() string {
	if o.Case == "" {
		return o.Demo
	}
	return o.Demo + ": " + o.Case
}

// Run runs one case to its end, or leaves it out where its language is not
// available. The platform failing is part of the outcome.
func (d Demo) Run(ctx context.Context, api *client.Client, c Case, available func(language string) bool) Outcome {
	o := Outcome{Demo: d.Folder, Title: d.Title, Case: c.Name, Times: c.Times}
	o.Language, _ = c.Request["language"].(string)
	if !available(o.Language) {
		o.Skipped = o.Language + " is not available on this machine"
		return o
	}
	began := time.Now()
	ended := make([]client.Evaluation, c.Times)
	wrong := make([][]string, c.Times)
	var all sync.WaitGroup
	for i := range c.Times {
		all.Go(func() {
			var err error
			if ended[i], err = runOne(ctx, api, c, i+1); err != nil {
				wrong[i] = []string{err.Error()}
			}
		})
	}
	all.Wait()
	o.Seconds = time.Since(began).Seconds()
	seen := map[eval.ID]bool{}
	for i, e := range ended {
		if wrong[i] == nil {
			wrong[i] = c.Expect.check(ctx, api, e, i+1)
			if seen[e.ID] {
				wrong[i] = append(wrong[i], fmt.Sprintf("evaluation %s was answered twice", e.ID))
			}
			seen[e.ID] = true
		}
		o.Wrong = append(o.Wrong, wrong[i]...)
		o.Verdict, o.Cause = e.Verdict, e.Cause
		if r := e.Result; r != nil {
			o.WallMS, o.CPUMS, o.Memory = max(o.WallMS, r.WallMS), max(o.CPUMS, r.CPUMS), max(o.Memory, r.MemoryPeakBytes)
		}
	}
	if ended[0].ID != "" {
		o.Sample = &ended[0]
		if d.Steps {
			o.Steps = steps(ctx, api, ended[0].ID)
		}
	}
	return o
}

func runOne(ctx context.Context, api *client.Client, c Case, n int) (client.Evaluation, error) {
	spec, err := c.spec(n)
	if err != nil {
		return client.Evaluation{}, err
	}
	e, err := api.Submit(ctx, spec, client.MaxWait, "")
	if err != nil || e.Status.Terminal() {
		return e, err
	}
	return api.Await(ctx, e.ID)
}

// steps reads the history of an evaluation that has ended. What cannot be
// read is not shown.
func steps(ctx context.Context, api *client.Client, id eval.ID) []Step {
	var all []Step
	_ = api.Events(ctx, "/api/v1/evaluations/"+string(id)+"/events", nil, "", func(ev client.Event) bool {
		var s Step
		if json.Unmarshal(ev.Data, &s) == nil && s.Type != "" && ev.Type == string(s.Type) {
			all = append(all, s)
		}
		return true
	})
	return all
}
