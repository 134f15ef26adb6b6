package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
	"github.com/crucible-eval/crucible/pkg/spool"
)

const (
	// RunHeartbeat is how often an executor says on a quiet stream that the
	// run is alive.
	RunHeartbeat = 5 * time.Second
	// runSilence is how long a stream may be quiet before it counts as cut.
	runSilence = 4 * RunHeartbeat
	// endGrace is how long a cancelled run may take to report what there was.
	endGrace = 2 * time.Second
	// callTimeout bounds the short calls.
	callTimeout = 10 * time.Second
	// maxRunEvent bounds one event of a stream: a result with the output of
	// many tests, escaped.
	maxRunEvent = 512 << 20
)

// FinishedRun is the data of the last event of a run's stream. The streams of
// a run without tests have no data there: every byte of them came before.
type FinishedRun struct {
	Type   eval.RunEventType `json:"type"` // finished
	At     time.Time         `json:"at"`
	Result *eval.Result      `json:"result,omitempty"` // partial when there is an error
	Error  *problem.Problem  `json:"error,omitempty"`
}

// executor is an eval.Executor behind HTTP.
type executor struct {
	base   string
	token  string
	client *http.Client
	load   atomic.Pointer[eval.Load]
}

var _ eval.Loaded = (*executor)(nil)

// NewExecutor returns the executor at a base URL, such as
// http://127.0.0.1:8082. token may be empty. client may be nil; it must not
// have a timeout, because a run lasts as long as it lasts.
func NewExecutor(baseURL, token string, client *http.Client) eval.Executor {
	if client == nil {
		client = &http.Client{Transport: newTransport()}
	}
	return &executor{base: strings.TrimRight(baseURL, "/"), token: token, client: client}
}

// Run implements eval.Runner.
func (e *executor) Run(ctx context.Context, req eval.Request, sink func(eval.RunEvent)) (eval.Result, error) {
	if err := ctx.Err(); err != nil {
		return eval.Result{}, fmt.Errorf("the run was ended: %w", context.Cause(ctx))
	}
	body, err := json.Marshal(req)
	if err != nil {
		return eval.Result{}, eval.Errorf(eval.KindInvalid, "the request cannot be written as JSON: %w", err)
	}
	// The connection outlives ctx for a moment, to bring what there was.
	wire, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	stopWatching := context.AfterFunc(ctx, func() {
		defer close(ended)
		if eval.IsKind(context.Cause(ctx), eval.KindLeaseLost) {
			cut(errEnded) // nobody wants what there was, and another attempt may begin at any moment
			return
		}
		e.end(wire, cut, req)
	})
	var alive sync.WaitGroup
	if req.Silence > 0 {
		alive.Go(func() { e.alive(wire, req) })
	}
	res, err := e.stream(wire, cut, body, sink)
	cut(nil)
	alive.Wait()
	if !stopWatching() {
		<-ended
	}
	if ctx.Err() != nil && err != nil {
		err = fmt.Errorf("the run was ended: %w", context.Cause(ctx))
	}
	return res, err
}

// alive tells the executor that we are, until ctx ends. A word that is lost
// is followed by others before the executor loses patience.
func (e *executor) alive(ctx context.Context, req eval.Request) {
	every := time.Duration(max(req.Silence, eval.MinSilence)) / 4
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		word, cancel := context.WithTimeout(ctx, every)
		_ = e.call(word, http.MethodPost, e.runPath(req, "/heard"), nil)
		cancel()
	}
}

func (e *executor) runPath(req eval.Request, below string) string {
	return "/v1/runs/" + url.PathEscape(string(req.ID)) + below + "?attempt=" + strconv.Itoa(req.Attempt)
}

// end asks for the end of a run whose context has ended, and cuts the
// connection, which ends it in any case, when the answer does not come.
func (e *executor) end(wire context.Context, cut context.CancelCauseFunc, req eval.Request) {
	ctx, cancel := context.WithTimeout(wire, endGrace)
	defer cancel()
	if err := e.call(ctx, http.MethodDelete, e.runPath(req, ""), nil); err == nil {
		<-ctx.Done() // by the end of Run, or of patience
	}
	cut(errEnded)
}

var (
	errEnded  = errors.New("the run was ended")
	errSilent = errors.New("nothing came from the executor, not even a sign of life")
	// errNonsense is no loss: the executor is there.
	errNonsense = errors.New("what came from the executor cannot be read")
)

// stream posts the run and follows its events to the end.
func (e *executor) stream(ctx context.Context, cut context.CancelCauseFunc, body []byte, sink func(eval.RunEvent)) (eval.Result, error) {
	r, err := e.request(ctx, http.MethodPost, "/v1/runs", bytes.NewReader(body))
	if err != nil {
		return eval.Result{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "text/event-stream")
	resp, err := e.do(r)
	if err != nil {
		return eval.Result{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return eval.Result{}, problem.Decode(resp)
	}
	kept := spool.New(sink)
	defer kept.Close()
	silence := time.AfterFunc(runSilence, func() { cut(errSilent) })
	defer silence.Stop()
	events := newEventReader(resp.Body, maxRunEvent, func() { silence.Reset(runSilence) })
	last, admitted, err := follow(events, kept)
	kept.Close()
	stdout, stderr := kept.Streams()
	if err != nil {
		partial := eval.Result{Stdout: stdout, Stderr: stderr}
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		err = fmt.Errorf("the connection was cut before the run ended: %w", err)
		if admitted && !errors.Is(err, errNonsense) {
			return partial, eval.Errorf(eval.KindExecutorLost, "executor %s vanished in the middle of the run: %w", e.base, err)
		}
		return partial, e.unavailable(err)
	}
	return last.assemble(stdout, stderr)
}

// follow reads events until the last one. admitted says whether the run had
// been taken on, as far as was heard.
func follow(events *eventReader, kept *spool.Spool) (last FinishedRun, admitted bool, err error) {
	for {
		name, data, err := events.next()
		if err != nil {
			return FinishedRun{}, admitted, err
		}
		switch eval.RunEventType(name) {
		case eval.RunAdmitted:
			admitted = true
		case eval.RunStarted:
			kept.Started()
		case eval.RunStdout, eval.RunStderr:
			var event eval.RunEvent
			if err := json.Unmarshal(data, &event); err != nil {
				return FinishedRun{}, admitted, fmt.Errorf("%w: event %s: %w", errNonsense, name, err)
			}
			to := kept.Stdout()
			if event.Type == eval.RunStderr {
				to = kept.Stderr()
			}
			_, _ = to.Write(event.Data)
		case eval.RunFinished:
			if err := json.Unmarshal(data, &last); err != nil {
				return FinishedRun{}, admitted, fmt.Errorf("%w: event %s: %w", errNonsense, name, err)
			}
			return last, admitted, nil
		}
	}
}

// assemble puts the streams that came before into the result, and checks
// that nothing is missing.
func (f FinishedRun) assemble(stdout, stderr eval.Stream) (eval.Result, error) {
	res := eval.Result{Stdout: stdout, Stderr: stderr}
	if f.Result != nil {
		res = *f.Result
		if res.Stdout.Bytes != stdout.Bytes || res.Stderr.Bytes != stderr.Bytes {
			return eval.Result{Stdout: stdout, Stderr: stderr}, eval.Errorf(eval.KindUnavailable,
				"the executor counted %d and %d bytes of output, and %d and %d arrived", res.Stdout.Bytes, res.Stderr.Bytes, stdout.Bytes, stderr.Bytes)
		}
		res.Stdout.Data, res.Stderr.Data = stdout.Data, stderr.Data
	}
	switch {
	case f.Error != nil:
		return res, f.Error.Err()
	case f.Result == nil:
		return res, eval.Errorf(eval.KindUnavailable, "the executor said that the run finished, and not how; start it with the version of the worker")
	}
	return res, nil
}

// Status implements eval.Executor.
func (e *executor) Status(ctx context.Context) (eval.ExecutorStatus, error) {
	var s eval.ExecutorStatus
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s, e.call(ctx, http.MethodGet, "/v1/status", &s)
}

// Stop implements eval.Executor.
func (e *executor) Stop(ctx context.Context, id eval.ID) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return e.call(ctx, http.MethodDelete, "/v1/runs/"+url.PathEscape(string(id)), nil)
}

// call does a request without a body; the answer's is decoded into to, unless
// that is nil.
func (e *executor) call(ctx context.Context, method, path string, to any) error {
	r, err := e.request(ctx, method, path, nil)
	if err != nil {
		return err
	}
	resp, err := e.do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= 300 {
		return problem.Decode(resp)
	}
	if to == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 8<<20)).Decode(to); err != nil {
		return e.unavailable(err)
	}
	return nil
}

func (e *executor) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, e.base+path, body)
	if err != nil {
		return nil, eval.Errorf(eval.KindInvalid, "executor URL %q cannot be used; give one such as http://127.0.0.1:8082 with --executor-url: %w", e.base, err)
	}
	introduce(r, e.token)
	return r, nil
}

// do sends a request, and remembers the load that the answer tells.
func (e *executor) do(r *http.Request) (*http.Response, error) {
	resp, err := e.client.Do(r)
	if err != nil {
		return nil, e.unavailable(err)
	}
	if l, ok := eval.ParseLoad(resp.Header.Get(eval.LoadHeader)); ok {
		e.load.Store(&l)
	}
	return resp, nil
}

// Load implements eval.Loaded.
func (e *executor) Load() (eval.Load, bool) {
	if l := e.load.Load(); l != nil {
		return *l, true
	}
	return eval.Load{}, false
}

func (e *executor) unavailable(err error) error {
	return eval.Errorf(eval.KindUnavailable, "executor %s cannot be reached: %w", e.base, err)
}
