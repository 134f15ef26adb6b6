package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// StatusCmd shows the platform at one look.
type StatusCmd struct{ look }

// statusPart is one question of the overview.
type statusPart struct {
	name string
	out  any
	raw  json.RawMessage
	err  error
}

// Run implements a kong command.
func (c *StatusCmd) Run(s *session) error {
	var parts []*statusPart
	ask := func(api *client.Client) (any, error) {
		parts = []*statusPart{
			{name: "stats", out: &statsInfo{}}, {name: "queues", out: &queueList{}},
			{name: "workers", out: &workerList{}}, {name: "executors", out: &executorList{}},
		}
		return askStatus(s, api, parts)
	}
	return c.show(s, ask, func() error { return printStatus(s, parts) })
}

// askStatus asks all parts at once. One that cannot be asked is told as a
// problem; none at all is an error.
func askStatus(s *session, api *client.Client, parts []*statusPart) (any, error) {
	var wg sync.WaitGroup
	for _, p := range parts {
		wg.Go(func() { p.raw, p.err = askBoth(s, api, "/api/v1/"+p.name, p.out) })
	}
	wg.Wait()
	answer, problems := map[string]any{}, map[string]string{}
	for _, p := range parts {
		if p.err != nil {
			problems[p.name] = explain(p.err)
			continue
		}
		answer[p.name] = p.raw
	}
	if len(answer) == 0 {
		return nil, parts[0].err
	}
	answer["problems"] = problems
	return answer, nil
}

// statsInfo are the counts of evaluations.
type statsInfo struct {
	eval.Stats
	Version string `json:"version"`
}

func printStatus(s *session, parts []*statusPart) error {
	p := paintFor(s.stdout)
	var rows [][]string
	for _, part := range parts {
		if part.err != nil {
			rows = append(rows, []string{part.name, p.bad(strings.ReplaceAll(explain(part.err), "\n", "; "))})
			continue
		}
		switch out := part.out.(type) {
		case *statsInfo:
			rows = append(rows, statsRows(p, out)...)
		case *queueList:
			rows = append(rows, queueRows(p, out.Queues)...)
		case *workerList:
			rows = append(rows, []string{"workers", workersText(p, out.Workers)})
		case *executorList:
			rows = append(rows, executorRows(p, out.Executors)...)
		}
	}
	return table(s.stdout, "", rows)
}

func statsRows(p paint, st *statsInfo) [][]string {
	var counts []string
	for _, status := range eval.Statuses() {
		counts = append(counts, fmt.Sprintf("%d %s", st.Statuses[status], status))
	}
	dead := fmt.Sprint(st.DeadLetters)
	if st.DeadLetters > 0 {
		dead = p.warn(dead) + p.faint("  crucible dead-letters shows them")
	}
	return [][]string{{"version", st.Version}, {"evaluations", strings.Join(counts, ", ")}, {"dead letters", dead}}
}

func queueRows(p paint, all []queueInfo) [][]string {
	var waiting, later int64
	var lag float64
	var paused []string
	known := false
	for _, q := range all {
		if q.Paused {
			paused = append(paused, q.Name)
		}
		if b := q.Backlog; b != nil {
			known, waiting, later, lag = true, waiting+b.Stored+b.Dispatched, later+b.Later, max(lag, b.LagMS)
		}
	}
	text := "not known: the store could not be asked"
	if known {
		text = fmt.Sprintf("%d, the oldest for %s; %d until their time", waiting, ms(lag), later)
	}
	rows := [][]string{{"waiting", text}}
	if len(paused) > 0 {
		rows = append(rows, []string{"paused", p.warn(strings.Join(paused, ", ")) + p.faint("  crucible queues resume starts them")})
	}
	return rows
}

func workersText(p paint, all []eval.WorkerInfo) string {
	states := map[string]int{}
	slots, taken := 0, 0
	for _, w := range all {
		states[w.State()]++
		if !w.Lost {
			slots, taken = slots+w.Slots, taken+len(w.Running)
		}
	}
	if states["working"]+states["draining"] == 0 {
		return p.bad("none is alive") + lostText(p, states["lost"]) + p.faint("  evaluations wait; crucible worker starts one")
	}
	text := fmt.Sprintf("%d working", states["working"])
	if states["draining"] > 0 {
		text += ", " + p.warn(fmt.Sprintf("%d draining", states["draining"]))
	}
	return text + lostText(p, states["lost"]) + fmt.Sprintf("; %d of %s taken", taken, plural(slots, "slot"))
}

func lostText(p paint, n int) string {
	if n == 0 {
		return ""
	}
	return ", " + p.bad(fmt.Sprintf("%d lost", n))
}

func executorRows(p paint, all []executorInfo) [][]string {
	states := map[string]int{}
	slots, busy := 0, 0
	var rows [][]string
	for _, e := range all {
		states[e.State]++
		slots, busy = slots+e.Slots, busy+e.Busy
		if e.State != "ready" {
			rows = append(rows, []string{"", e.Name + " is " + p.state(e.State) + ": " + e.Problem})
		}
	}
	text := fmt.Sprintf("%d of %d ready; %d of %s taken", states["ready"], len(all), busy, plural(slots, "slot"))
	return append([][]string{{"executors", text}}, rows...)
}
