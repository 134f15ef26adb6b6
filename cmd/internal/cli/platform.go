package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// WorkersCmd lists the workers.
type WorkersCmd struct{ look }

type workerList struct {
	Workers []eval.WorkerInfo `json:"workers"`
}

// Run implements a kong command.
func (c *WorkersCmd) Run(s *session) error {
	var out workerList
	return c.path(s, "/api/v1/workers", &out, func() error { return printWorkers(s, out.Workers) })
}

func printWorkers(s *session, all []eval.WorkerInfo) error {
	p := paintFor(s.stdout)
	if len(all) == 0 {
		fmt.Fprintln(s.stdout, "no worker is alive: evaluations wait until one is (crucible worker, or crucible up, starts one)")
		return nil
	}
	var rows, running, problems [][]string
	for _, w := range all {
		rows = append(rows, []string{w.ID, p.state(w.State()), fmt.Sprintf("%d/%d", len(w.Running), w.Slots), fmt.Sprint(w.Finished),
			w.Version, ago(w.StartedAt), ago(w.SeenAt)})
		running = append(running, runningRows(w.ID, w.Running)...)
		for _, e := range w.Executors {
			if e.Problem != "" {
				problems = append(problems, []string{w.ID, e.Name, e.Problem})
			}
		}
	}
	if err := table(s.stdout, "WORKER\tSTATE\tRUNNING\tFINISHED\tVERSION\tSTARTED\tSEEN", rows); err != nil {
		return err
	}
	if err := section(s, "WORKER\tEXECUTOR\tPROBLEM", problems); err != nil {
		return err
	}
	return section(s, "RUNNING\tLANGUAGE\tATTEMPT\tFOR\tWORKER", running)
}

// ExecutorsCmd lists the executors.
type ExecutorsCmd struct{ look }

// executorInfo is an executor as the API shows it.
type executorInfo struct {
	Name    string `json:"name"`
	State   string `json:"state"`
	Problem string `json:"problem"`
	Version string `json:"version"`
	eval.Load
	Running   []eval.RunningInfo `json:"running"`
	SeenAt    *time.Time         `json:"seen_at"`
	Isolation *eval.Isolation    `json:"isolation"`
}

type executorList struct {
	Executors []executorInfo `json:"executors"`
}

// Run implements a kong command.
func (c *ExecutorsCmd) Run(s *session) error {
	var out executorList
	return c.path(s, "/api/v1/executors", &out, func() error { return printExecutors(s, out.Executors) })
}

func printExecutors(s *session, all []executorInfo) error {
	p := paintFor(s.stdout)
	var rows, running [][]string
	for _, e := range all {
		memory, level, seen := "-", "-", "never"
		if e.MemoryBytes > 0 {
			memory = bytesText(e.ReservedBytes) + " of " + bytesText(e.MemoryBytes)
		}
		if e.Isolation != nil {
			level = e.Isolation.Level
		}
		if e.SeenAt != nil {
			seen = ago(*e.SeenAt)
		}
		rows = append(rows, []string{e.Name, p.state(e.State), fmt.Sprintf("%d/%d", e.Busy, e.Slots), fmt.Sprint(e.Waiting), memory, level,
			e.Version, seen, e.Problem})
		running = append(running, runningRows(e.Name, e.Running)...)
	}
	if err := table(s.stdout, "EXECUTOR\tSTATE\tBUSY\tIN LINE\tMEMORY\tISOLATION\tVERSION\tSEEN\tPROBLEM", rows); err != nil {
		return err
	}
	return section(s, "RUNNING\tLANGUAGE\tATTEMPT\tFOR\tEXECUTOR", running)
}

// runningRows are the attempts that somebody has in hand.
func runningRows(where string, all []eval.RunningInfo) (rows [][]string) {
	for _, r := range all {
		rows = append(rows, []string{string(r.ID), r.Language, fmt.Sprint(r.Attempt), span(time.Since(r.Since)), where})
	}
	return rows
}

// section prints a further table below another, if there is anything in it.
func section(s *session, head string, rows [][]string) error {
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(s.stdout)
	return table(s.stdout, head, rows)
}

// state is the state of a worker, an executor or a queue in the colour that
// it deserves.
func (p paint) state(word string) string {
	switch word {
	case "working", "ready":
		return p.good(word)
	case "lost", "away", "troubled":
		return p.bad(word)
	default:
		return p.warn(word)
	}
}

// PoliciesCmd shows the retry policies.
type PoliciesCmd struct{ remote }

// Run implements a kong command.
func (c *PoliciesCmd) Run(s *session) error {
	var out struct {
		Policies []struct {
			Name   string  `json:"name"`
			Tries  int     `json:"tries"`
			BaseMS float64 `json:"base_ms"`
			Factor float64 `json:"factor"`
			CapMS  float64 `json:"cap_ms"`
			Jitter bool    `json:"jitter"`
		} `json:"retry_policies"`
		Kinds []struct {
			Kind  eval.Kind `json:"kind"`
			Retry string    `json:"retry"`
			Means string    `json:"means"`
		} `json:"kinds"`
	}
	return look{remote: c.remote}.path(s, "/api/v1/retry-policies", &out, func() error {
		var rows [][]string
		for _, p := range out.Policies {
			jitter := "no"
			if p.Jitter {
				jitter = "up to 25 %"
			}
			rows = append(rows, []string{p.Name, fmt.Sprint(p.Tries), ms(p.BaseMS), fmt.Sprintf("x %g", p.Factor), ms(p.CapMS), jitter})
		}
		if err := table(s.stdout, "POLICY\tTRIES\tFIRST WAIT\tTHEN\tAT MOST\tJITTER", rows); err != nil {
			return err
		}
		rows = nil
		for _, k := range out.Kinds {
			rows = append(rows, []string{string(k.Kind), strings.ReplaceAll(k.Retry, "_", " "), k.Means})
		}
		return section(s, "FAILURE\tRETRY\tWHAT BECOMES OF THE EVALUATION", rows)
	})
}
