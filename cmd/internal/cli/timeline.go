package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// attempt is a try at running an evaluation, as the API shows it.
type attempt struct {
	Number     int                 `json:"number"`
	Outcome    eval.AttemptOutcome `json:"outcome"`
	Worker     string              `json:"worker"`
	Executor   string              `json:"executor"`
	Alone      bool                `json:"alone"`
	StartedAt  time.Time           `json:"started_at"`
	FinishedAt *time.Time          `json:"finished_at"`
	TookMS     float64             `json:"took_ms"`
	Failure    *eval.Failure       `json:"failure"`
}

// ended is how an attempt ended, in the colour that it deserves.
func (p paint) ended(o eval.AttemptOutcome) string {
	switch o {
	case eval.AttemptCompleted:
		return p.good(string(o))
	case eval.AttemptFailed, eval.AttemptLost:
		return p.bad(string(o))
	case eval.AttemptRunning:
		return string(o)
	default:
		return p.warn(string(o))
	}
}

// printAttempts shows the tries at running an evaluation.
func printAttempts(s *session, api *client.Client, e client.Evaluation) error {
	var out struct {
		RetryPolicy struct {
			Name  string `json:"name"`
			Tries int    `json:"tries"`
		} `json:"retry_policy"`
		Tries    int       `json:"tries"`
		Lost     int       `json:"lost"`
		Attempts []attempt `json:"attempts"`
	}
	raw, err := askBoth(s, api, "/api/v1/evaluations/"+string(e.ID)+"/attempts", &out)
	if err != nil {
		return err
	}
	if s.json {
		return writeJSON(s.stdout, raw)
	}
	p := paintFor(s.stdout)
	fmt.Fprintf(s.stdout, "%s, %d of %s of policy %s used", plural(len(out.Attempts), "attempt"), out.Tries, plural(out.RetryPolicy.Tries, "try"), out.RetryPolicy.Name)
	if out.Lost > 0 {
		fmt.Fprintf(s.stdout, ", lost its worker or executor %s", plural(out.Lost, "time"))
	}
	fmt.Fprintln(s.stdout)
	if len(out.Attempts) == 0 {
		return nil
	}
	fmt.Fprintln(s.stdout)
	var rows [][]string
	for _, a := range out.Attempts {
		alone, failure := "", ""
		if a.Alone {
			alone = "yes"
		}
		if a.Failure != nil {
			failure = string(a.Failure.Kind) + ": " + a.Failure.Message
		}
		rows = append(rows, []string{fmt.Sprint(a.Number), p.ended(a.Outcome), a.StartedAt.Local().Format("15:04:05.000"), ms(a.TookMS), a.Worker, a.Executor, alone, failure})
	}
	return table(s.stdout, "ATTEMPT\tOUTCOME\tSTARTED\tTOOK\tWORKER\tEXECUTOR\tALONE\tFAILURE", rows)
}

// TimelineCmd tells the life of an evaluation as a story.
type TimelineCmd struct {
	remote
	ID eval.ID `arg:"" help:"Which."`
}

// timeline is the answer of the API.
type timeline struct {
	ID         eval.ID      `json:"id"`
	Status     eval.Status  `json:"status"`
	Verdict    eval.Verdict `json:"verdict"`
	AcceptedAt time.Time    `json:"accepted_at"`
	TotalMS    float64      `json:"total_ms"`
	RunningMS  float64      `json:"running_ms"`
	Attempts   int          `json:"attempts"`
	LeftOut    int64        `json:"left_out"`
	Entries    []moment     `json:"entries"`
}

type moment struct {
	At          time.Time      `json:"at"`
	AfterMS     float64        `json:"after_ms"`
	Type        eval.EventType `json:"type"`
	Status      eval.Status    `json:"status"`
	Planned     bool           `json:"planned"`
	Explanation string         `json:"explanation"`
	Number      int            `json:"number"`
	Attempt     *attempt       `json:"attempt"`
}

// Run implements a kong command.
func (c *TimelineCmd) Run(s *session) error {
	var out timeline
	look := look{remote: c.remote}
	return look.path(s, "/api/v1/evaluations/"+string(c.ID)+"/timeline", &out, func() error { return printTimeline(s, out) })
}

func printTimeline(s *session, t timeline) error {
	p := paintFor(s.stdout)
	until := "until now"
	if t.Status.Terminal() {
		until = "from acceptance to the end"
	}
	fmt.Fprintf(s.stdout, "%s  %s: %s %s, %s of it in %s\n\n", t.ID, p.outcome(t.Status, t.Verdict), ms(t.TotalMS), until, ms(t.RunningMS), plural(t.Attempts, "attempt"))
	if t.LeftOut > 0 {
		fmt.Fprintln(s.stdout, p.faint(fmt.Sprintf("%s before these", plural(int(t.LeftOut), "entry"))))
	}
	var rows [][]string
	for _, m := range t.Entries {
		name, words := p.moment(m), m.Explanation
		if m.Attempt != nil && m.Attempt.Executor != "" {
			words += p.faint(" at executor " + m.Attempt.Executor)
		}
		if m.Planned {
			words = p.faint(words + ", in " + span(time.Until(m.At)))
		}
		rows = append(rows, []string{clock(m.AfterMS), name, words})
	}
	if err := table(s.stdout, "", rows); err != nil {
		return err
	}
	return printBars(s, p, t)
}

// moment is what an entry is called, in the colour that it deserves.
func (p paint) moment(m moment) string {
	switch {
	case m.Planned:
		return p.faint(strings.ReplaceAll(string(m.Type), "_", " "))
	case m.Type == eval.EventRunning:
		return fmt.Sprintf("attempt %d", m.Number)
	case m.Type == eval.EventCompleted:
		return p.good(string(m.Type))
	case m.Type == eval.EventFailed:
		return p.bad(string(m.Type))
	case m.Type == eval.EventQueued:
		return "accepted"
	case m.Attempt != nil && m.Attempt.Outcome == eval.AttemptLost:
		return p.bad("lost")
	default:
		return p.warn(strings.ReplaceAll(string(m.Type), "_", " "))
	}
}

// clock is a time since acceptance, such as "+ 12.345 s".
func clock(ms float64) string { return fmt.Sprintf("+%9.3f s", ms/1000) }

const (
	barWidth = 60 // characters for the whole time
	mostBars = 40 // attempts, the last ones
)

// printBars draws when each attempt ran.
func printBars(s *session, p paint, t timeline) error {
	var rows [][]string
	for _, m := range t.Entries {
		var a attempt
		switch {
		case m.Attempt != nil:
			a = *m.Attempt
		case m.Type == eval.EventRunning && m.Number == t.Attempts && t.Status == eval.Running:
			a = attempt{Number: m.Number, StartedAt: m.At, Outcome: eval.AttemptRunning, TookMS: t.TotalMS - m.AfterMS}
		default:
			continue
		}
		rows = append(rows, []string{fmt.Sprintf("attempt %d", a.Number), stretch(a, t), ms(a.TookMS), p.ended(a.Outcome)})
	}
	if len(rows) == 0 {
		return nil
	}
	return section(s, "", rows[max(0, len(rows)-mostBars):])
}

// stretch is an attempt on the line of the whole time: dots for waiting, blocks
// for running, at least one.
func stretch(a attempt, t timeline) string {
	column := func(ms float64) int {
		if t.TotalMS <= 0 {
			return 0
		}
		return min(max(int(ms/t.TotalMS*barWidth), 0), barWidth)
	}
	begin := float64(a.StartedAt.Sub(t.AcceptedAt).Microseconds()) / 1000
	from := min(column(begin), barWidth-1)
	to := min(max(column(begin+a.TookMS), from+1), barWidth)
	return strings.Repeat("·", from) + strings.Repeat("█", to-from) + strings.Repeat("·", barWidth-to)
}
