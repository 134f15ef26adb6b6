package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
)

// Door is the HTTP door of an executor.
type Door struct {
	url    string
	token  string
	client *http.Client
	run    string // starts the ids of this run
	next   atomic.Int64
}

// NewDoor returns the door at a base URL, for as many clients at once. token
// may be empty.
func NewDoor(url, token string, clients int) *Door {
	return &Door{
		url: strings.TrimRight(url, "/"), token: token,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}},
		run:    "bench-" + strconv.FormatInt(time.Now().UnixNano(), 36),
	}
}

// Close gives back the connections.
func (d *Door) Close() { d.client.CloseIdleConnections() }

// ExecutorOptions say what to measure at an executor's door.
type ExecutorOptions struct {
	Programs    []string    // names of Subjects, one row each
	Warm        []eval.Warm // one row of each program for each; empty: as the executor likes
	Latency     int         // samples, one at a time
	Count       int         // runs for the throughput
	Concurrency int         // clients at once
}

// Row is one program at one executor. Times are in milliseconds.
type Row struct {
	Program   string `json:"program"`
	Isolation string `json:"isolation"` // the level at which it ran
	// Starts counts how the runs whose latency was measured began.
	Starts     map[eval.Start]int `json:"starts"`
	Latency    Pair               `json:"latency"`
	Over       float64            `json:"over_ms"` // what the executor adds to the median
	Throughput Rates              `json:"throughput"`
	UnderLoad  Spread             `json:"under_load"` // latency at full concurrency
	Refused    int64              `json:"refused"`    // answers that there was no room; asked again
}

// settle is a pause between samples. What an executor does after an answer,
// which is to take away one box and to make another, is no part of the next
// sample, ours or the bare process's; under load it is.
const settle = 20 * time.Millisecond

// refusedPause is how long a client that was refused waits, whatever it was
// told: the bench wants the executor full.
const refusedPause = 2 * time.Millisecond

// Executor measures one executor. progress is told what is going on.
func Executor(ctx context.Context, d *Door, o ExecutorOptions, progress func(string)) ([]Row, error) {
	var rows []Row
	modes := o.Warm
	if len(modes) == 0 {
		modes = []eval.Warm{""}
	}
	for _, name := range o.Programs {
		s, err := findSubject(name)
		if err != nil {
			return nil, err
		}
		for _, s.program.Warm = range modes {
			row, err := measure(ctx, d, s, o, progress)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func measure(ctx context.Context, d *Door, s subject, o ExecutorOptions, progress func(string)) (Row, error) {
	row := Row{Program: s.name, Starts: map[eval.Start]int{}}
	b, err := newBare(s.stdout)
	if err != nil {
		return row, err
	}
	defer b.close()
	if err := s.bare(ctx, b); err != nil {
		return row, err
	}
	var refused atomic.Int64
	one := func() (eval.Result, time.Duration, error) {
		time.Sleep(settle)
		return d.sample(ctx, s, &refused)
	}

	progress(s.name + ": warming up")
	for range warmUps {
		if _, _, err := one(); err != nil {
			return row, err
		}
	}

	progress(s.name + ": latency, one at a time, in turn with bare processes")
	var ours, theirs []time.Duration
	for range o.Latency {
		time.Sleep(settle)
		took, err := b.run(ctx)
		if err != nil {
			return row, err
		}
		theirs = append(theirs, took)
		res, took, err := one()
		if err != nil {
			return row, err
		}
		ours = append(ours, took)
		row.Isolation = res.Isolation.Level
		row.Starts[res.Start]++
	}
	row.Latency = Pair{Crucible: spread(ours), Bare: spread(theirs)}
	row.Latency.Ratio = row.Latency.Crucible.P50 / row.Latency.Bare.P50
	row.Over = row.Latency.Crucible.P50 - row.Latency.Bare.P50
	if s.more > 0 {
		return row, nil // there is no such request to send by itself
	}

	progress(fmt.Sprintf("%s: throughput, %d at once, in turn with bare processes", s.name, o.Concurrency))
	row.Throughput, row.UnderLoad, err = rates(o.Concurrency, o.Count,
		func(int) (time.Duration, error) { return b.run(ctx) },
		func(int) (time.Duration, error) {
			_, took, err := d.sample(ctx, s, &refused)
			return took, err
		})
	row.Refused = refused.Load()
	return row, err
}

// warmUps are runs that are not measured: an executor makes boxes ready for
// what is asked for.
const warmUps = 5

// sample runs a subject once and returns how long that took.
func (d *Door) sample(ctx context.Context, s subject, refused *atomic.Int64) (eval.Result, time.Duration, error) {
	p := s.program
	if s.more > 0 {
		p.Tests = make([]eval.Test, 1)
	}
	res, took, err := d.check(ctx, p, s.stdout, refused)
	if err != nil || s.more == 0 {
		return res, took, err
	}
	p.Tests = make([]eval.Test, 1+s.more)
	res, all, err := d.check(ctx, p, s.stdout, refused)
	return res, (all - took) / time.Duration(s.more), err
}

// check posts a program and checks the answer.
func (d *Door) check(ctx context.Context, p eval.Program, stdout string, refused *atomic.Int64) (eval.Result, time.Duration, error) {
	res, took, err := d.post(ctx, p, refused)
	if err == nil && (res.Verdict != eval.Accepted || string(res.Stdout.Data) != stdout) {
		err = fmt.Errorf("the wrong outcome: %s, %s", res.Verdict, res.Explanation)
	}
	return res, took, err
}

// post runs a program. The time is from the request to the last byte of the
// answer, and counts the waiting where there was no room.
func (d *Door) post(ctx context.Context, p eval.Program, refused *atomic.Int64) (eval.Result, time.Duration, error) {
	var res eval.Result
	id := eval.ID(fmt.Sprintf("%s-%d", d.run, d.next.Add(1)))
	body, err := json.Marshal(eval.Request{ID: id, Attempt: 1, Client: "bench", Program: p})
	if err != nil {
		return res, 0, err
	}
	began := time.Now()
	for {
		answer, full, err := d.send(ctx, body)
		took := time.Since(began)
		if full {
			refused.Add(1)
			time.Sleep(refusedPause)
			continue
		}
		if err == nil {
			err = json.Unmarshal(answer, &res)
		}
		return res, took, err
	}
}

// send makes one request; full says that it was refused for want of room.
func (d *Door) send(ctx context.Context, body []byte) (answer []byte, full bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url+"/v1/runs", bytes.NewReader(body))
	if err != nil {
		return nil, false, err
	}
	r.Header.Set("Content-Type", "application/json")
	if d.token != "" {
		r.Header.Set("Authorization", "Bearer "+d.token)
	}
	resp, err := d.client.Do(r)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		err := problem.Decode(resp)
		return nil, eval.KindOf(err) == eval.KindFull, err
	}
	answer, err = io.ReadAll(resp.Body)
	return answer, false, err
}
