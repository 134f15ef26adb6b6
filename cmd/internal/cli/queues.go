package cli

import (
	"fmt"
	"net/http"

	"github.com/crucible-eval/crucible/cmd/internal/client"
)

// QueuesCmd is about the queues, one for each priority.
type QueuesCmd struct {
	List   QueuesListCmd   `cmd:"" default:"withargs" help:"Show them, the most urgent first (the default)."`
	Pause  QueuesPauseCmd  `cmd:"" help:"Let nothing more start from them; evaluations are still accepted."`
	Resume QueuesResumeCmd `cmd:"" help:"Let evaluations start again."`
}

// queueInfo is a queue as the API shows it.
type queueInfo struct {
	Name     string `json:"name"`
	Paused   bool   `json:"paused"`
	Pending  int64  `json:"pending"`
	Active   int64  `json:"active"`
	Retry    int64  `json:"retry"`
	Archived int64  `json:"archived"`
	Today    int64  `json:"processed_today"`
	Backlog  *struct {
		Stored     int64   `json:"stored"`
		Dispatched int64   `json:"dispatched"`
		Later      int64   `json:"later"`
		Running    int64   `json:"running"`
		LagMS      float64 `json:"lag_ms"`
	} `json:"backlog"`
}

type queueList struct {
	Queues []queueInfo `json:"queues"`
}

const queues = "/api/v1/queues"

// QueuesListCmd shows the queues.
type QueuesListCmd struct{ look }

// Run implements a kong command.
func (c *QueuesListCmd) Run(s *session) error {
	var out queueList
	return c.path(s, queues, &out, func() error { return printQueues(s, out.Queues) })
}

// printQueues shows first what the store has, which counts, and then the
// tasks in Redis.
func printQueues(s *session, all []queueInfo) error {
	p := paintFor(s.stdout)
	var rows [][]string
	for _, q := range all {
		state := "working"
		if q.Paused {
			state = "paused"
		}
		row := []string{q.Name, p.state(state), "-", "-", "-", "-", "-"}
		if b := q.Backlog; b != nil {
			copy(row[2:], []string{fmt.Sprint(b.Stored + b.Dispatched), ms(b.LagMS), fmt.Sprint(b.Dispatched), fmt.Sprint(b.Later), fmt.Sprint(b.Running)})
		}
		rows = append(rows, append(row, fmt.Sprint(q.Pending), fmt.Sprint(q.Active), fmt.Sprint(q.Retry), fmt.Sprint(q.Archived), fmt.Sprint(q.Today)))
	}
	return table(s.stdout, "QUEUE\tSTATE\tWAITING\tLAG\tDISPATCHED\tLATER\tRUNNING\tTASKS\tACTIVE\tRETRY\tARCHIVED\tTODAY", rows)
}

// QueuesPauseCmd pauses queues.
type QueuesPauseCmd struct {
	remote
	Names []string `arg:"" name:"queue" enum:"critical,high,default,low" help:"Which: ${enum}."`
}

// Run implements a kong command.
func (c *QueuesPauseCmd) Run(s *session) error { return changeQueues(s, c.remote, c.Names, "pause") }

// QueuesResumeCmd resumes queues.
type QueuesResumeCmd struct {
	remote
	Names []string `arg:"" name:"queue" enum:"critical,high,default,low" help:"Which: ${enum}."`
}

// Run implements a kong command.
func (c *QueuesResumeCmd) Run(s *session) error { return changeQueues(s, c.remote, c.Names, "resume") }

func changeQueues(s *session, r remote, names []string, what string) error {
	api, err := r.open(1)
	if err != nil {
		return err
	}
	defer api.Close()
	var out queueList
	for _, name := range names {
		q, err := changeQueue(s, api, name, what)
		if err != nil {
			return err
		}
		out.Queues = append(out.Queues, q)
	}
	if s.json {
		return writeJSON(s.stdout, out)
	}
	return printQueues(s, out.Queues)
}

func changeQueue(s *session, api *client.Client, name, what string) (q queueInfo, err error) {
	return q, api.Order(s.ctx, http.MethodPost, queues+"/"+name+"/"+what, nil, &q)
}
