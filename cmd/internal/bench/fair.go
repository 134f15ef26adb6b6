package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// FairOptions say how large the burst of one client is, and how many
// evaluations another one wants meanwhile.
type FairOptions struct {
	Burst   int
	Few     int
	Program string // a name of Programs
	Cancel  bool   // what is left of the burst; else the platform ends with it
}

// FairFigures are how long a few evaluations take by themselves and behind
// another client's burst. Times are in milliseconds.
type FairFigures struct {
	Burst   int     `json:"burst"`
	Few     int     `json:"few"`
	Program string  `json:"program"`
	Accept  float64 `json:"accept_ms"`    // of the burst
	Alone   float64 `json:"alone_ms"`     // from the submission of the few to the end of the last one, with nothing else to do
	Beside  float64 `json:"beside_ms"`    // the same, right after the burst was accepted
	Delay   float64 `json:"delay_ms"`     // the difference
	Left    int     `json:"left"`         // of the burst, when the few had ended
	InQueue int     `json:"most_pending"` // the most that waited in Redis at the priority, as far as it was seen
}

// fairBatch is how many evaluations of the burst one request submits.
const fairBatch = 1000

// Fair measures. The clients are two: each has an API key with a name of its
// own.
func Fair(ctx context.Context, burst, few *client.Client, o FairOptions, progress func(string)) (FairFigures, error) {
	f := FairFigures{Burst: o.Burst, Few: o.Few, Program: o.Program}
	p, ok := programs[o.Program]
	if !ok {
		return f, fmt.Errorf("there is no program %q to measure: use %v", o.Program, Programs())
	}
	spec, err := json.Marshal(eval.Spec{Program: p.program})
	if err != nil {
		return f, err
	}
	progress("warming up")
	for range 3 {
		if _, err := evaluate(ctx, few, o.Program); err != nil {
			return f, err
		}
	}
	progress(fmt.Sprintf("%d by themselves", o.Few))
	alone, err := together(ctx, few, spec, o.Few)
	if err != nil {
		return f, err
	}
	progress(fmt.Sprintf("%d of one client", o.Burst))
	began := time.Now()
	var batches []string
	if o.Cancel {
		defer func() { cancelAll(burst, batches) }()
	}
	for left := o.Burst; left > 0; left -= fairBatch {
		b, err := burst.SubmitBatch(ctx, repeated(spec, min(left, fairBatch)))
		if err != nil {
			return f, err
		}
		batches = append(batches, b.ID)
	}
	f.Accept = inMS(time.Since(began))
	progress(fmt.Sprintf("%d of another one", o.Few))
	watch, stop := context.WithCancel(ctx)
	most := make(chan int, 1)
	go func() { most <- deepest(watch, few) }()
	beside, err := together(ctx, few, spec, o.Few)
	stop()
	f.InQueue = <-most
	if err != nil {
		return f, err
	}
	f.Alone, f.Beside, f.Delay = inMS(alone), inMS(beside), inMS(beside-alone)
	var stats struct {
		Statuses map[eval.Status]int `json:"statuses"`
	}
	err = few.Ask(ctx, "/api/v1/stats", nil, &stats)
	f.Left = stats.Statuses[eval.Queued] + stats.Statuses[eval.Running]
	return f, err
}

func inMS(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func repeated(spec json.RawMessage, n int) []json.RawMessage {
	all := make([]json.RawMessage, n)
	for i := range all {
		all[i] = spec
	}
	return all
}

// together submits n in one batch and returns how long it takes until all
// have ended.
func together(ctx context.Context, api *client.Client, spec json.RawMessage, n int) (time.Duration, error) {
	began := time.Now()
	b, err := api.SubmitBatch(ctx, repeated(spec, n))
	if err != nil {
		return 0, err
	}
	_, took, err := load(n, n, func(i int) (time.Duration, error) {
		e, err := api.Await(ctx, b.Evaluations[i].ID)
		if err == nil && (e.Status != eval.Completed || e.Verdict != eval.Accepted) {
			err = fmt.Errorf("evaluation %s has the wrong outcome: %s %s", e.ID, e.Status, e.Verdict)
		}
		return 0, err
	})
	return max(took, time.Since(began)), err
}

// deepest looks at the queue until ctx ends.
func deepest(ctx context.Context, api *client.Client) (most int) {
	for ctx.Err() == nil {
		var answer struct {
			Queues []struct {
				Name    string `json:"name"`
				Pending int    `json:"pending"`
			} `json:"queues"`
		}
		if api.Ask(ctx, "/api/v1/queues", nil, &answer) == nil {
			for _, q := range answer.Queues {
				most = max(most, q.Pending)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return most
}

// cancelAll ends what is left of batches. What cannot be cancelled runs to
// its end.
func cancelAll(api *client.Client, batches []string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, b := range batches {
		for left := true; left && ctx.Err() == nil; {
			var answer struct {
				Next string `json:"next"`
			}
			err := api.Order(ctx, http.MethodPost, "/api/v1/evaluations/cancel", map[string]any{"batch": b}, &answer)
			left = err == nil && answer.Next != ""
		}
	}
}
