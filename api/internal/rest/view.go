package rest

import (
	"encoding/base64"
	"time"
	"unicode/utf8"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Evaluation is an evaluation as clients see it: what was asked for, flat,
// and what became of it. What only the platform needs is left out.
type Evaluation struct {
	ID      eval.ID      `json:"id"`
	Status  eval.Status  `json:"status"`
	Verdict eval.Verdict `json:"verdict,omitempty"`
	Cause   eval.Cause   `json:"cause,omitempty"`
	Attempt int          `json:"attempt"`

	eval.Spec
	BatchID string  `json:"batch_id,omitempty"`
	RetryOf eval.ID `json:"retry_of,omitempty"`
	Client  string  `json:"client,omitempty"`

	CreatedAt         time.Time  `json:"created_at"`
	StartedAt         *time.Time `json:"started_at,omitempty"`
	FinishedAt        *time.Time `json:"finished_at,omitempty"`
	QueueMS           *float64   `json:"queue_ms,omitempty"`
	NextTryAt         *time.Time `json:"next_try_at,omitempty"` // queued again after a failure
	ExpiresAt         *time.Time `json:"expires_at,omitempty"`
	CancelRequestedAt *time.Time `json:"cancel_requested_at,omitempty"`

	Worker   string        `json:"worker,omitempty"`
	Executor string        `json:"executor,omitempty"`
	Failure  *eval.Failure `json:"failure,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Result   *Result       `json:"result,omitempty"`
	Callback *Callback     `json:"callback,omitempty"` // in GET of one that has ended and has one
	Links    Links         `json:"links"`
}

// Links are the paths where an evaluation goes on. Those that cannot answer
// in its state are left out.
type Links struct {
	Self    string `json:"self"`
	Events  string `json:"events"`
	Stdout  string `json:"stdout,omitempty"`
	Stderr  string `json:"stderr,omitempty"`
	Cancel  string `json:"cancel,omitempty"`
	Retry   string `json:"retry,omitempty"`
	RetryOf string `json:"retry_of,omitempty"`
}

// Result is what the program did. Its verdict is that of the evaluation.
type Result struct {
	Verdict eval.Verdict `json:"verdict"`
	Cause   eval.Cause   `json:"cause,omitempty"`
	eval.Usage
	Explanation  string           `json:"explanation,omitempty"`
	Stdout       Stream           `json:"stdout"`
	Stderr       Stream           `json:"stderr"`
	Compile      *Phase           `json:"compile,omitempty"`
	Tests        []Test           `json:"tests,omitempty"`
	Artifacts    []Artifact       `json:"artifacts,omitempty"`
	ArtifactsCut bool             `json:"artifacts_cut,omitempty"`
	Language     eval.LanguageRef `json:"language"`
	Isolation    eval.Isolation   `json:"isolation"`
	Start        eval.Start       `json:"start,omitempty"`
}

// Phase is the compilation.
type Phase struct {
	Cached bool `json:"cached,omitempty"`
	eval.Usage
	Stdout Stream `json:"stdout"`
	Stderr Stream `json:"stderr"`
}

// Test is the outcome of one test.
type Test struct {
	Name    string       `json:"name,omitempty"`
	Verdict eval.Verdict `json:"verdict"`
	Cause   eval.Cause   `json:"cause,omitempty"`
	Message string       `json:"message,omitempty"`
	eval.Usage
	Stdout Stream `json:"stdout"`
	Stderr Stream `json:"stderr"`
}

// Artifact is a file that the program left: with its data when it is short,
// and in any case at url; or why it could not be brought back.
type Artifact struct {
	Path     string `json:"path"`
	Bytes    int64  `json:"bytes"`
	SHA256   string `json:"sha256,omitempty"`
	Data     string `json:"data,omitempty"`
	Encoding string `json:"encoding,omitempty"`
	URL      string `json:"url,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Stream is what a program wrote to stdout or stderr. When preview is true,
// data is only its beginning; url has the whole, byte for byte.
type Stream struct {
	Data      string `json:"data"`
	Encoding  string `json:"encoding"`
	Bytes     int64  `json:"bytes"`
	Truncated bool   `json:"truncated"`
	Preview   bool   `json:"preview,omitempty"`
	URL       string `json:"url,omitempty"`
}

const evaluationsPath = "/api/v1/evaluations"

func pathOf(id eval.ID) string { return evaluationsPath + "/" + string(id) }

// view shows an evaluation whole.
func view(e eval.Evaluation) Evaluation {
	v := Evaluation{
		ID: e.ID, Status: e.Status, Verdict: e.Verdict, Cause: e.Cause, Attempt: e.Attempt,
		Spec: e.Spec, BatchID: e.BatchID, RetryOf: e.RetryOf, Client: e.Client,
		CreatedAt: e.CreatedAt, StartedAt: e.StartedAt, FinishedAt: e.FinishedAt, ExpiresAt: e.ExpiresAt, CancelRequestedAt: e.CancelRequestedAt,
		Worker: e.Worker, Executor: e.Executor, Failure: e.Failure, Reason: e.Reason,
		Links: Links{Self: pathOf(e.ID), Events: pathOf(e.ID) + "/events"},
	}
	if e.StartedAt != nil {
		from := e.CreatedAt
		if e.Spec.RunAt != nil && e.Spec.RunAt.After(from) {
			from = *e.Spec.RunAt
		}
		ms := max(0, float64(e.StartedAt.Sub(from).Microseconds())/1000)
		v.QueueMS = &ms
	}
	if e.Status == eval.Queued && e.Failure != nil && !e.Dispatched() {
		v.NextTryAt = e.NextDispatchAt
	}
	if !e.Status.Terminal() {
		v.Links.Cancel = pathOf(e.ID) + "/cancel"
	}
	if e.Status == eval.Failed {
		v.Links.Retry = pathOf(e.ID) + "/retry"
	}
	if e.RetryOf != "" {
		v.Links.RetryOf = pathOf(e.RetryOf)
	}
	if e.Result != nil {
		v.Result = viewResult(e.ID, *e.Result)
		v.Links.Stdout, v.Links.Stderr = v.Result.Stdout.URL, v.Result.Stderr.URL
	}
	return v
}

// brief is view without the program, which its sender has.
func brief(e eval.Evaluation) Evaluation {
	s := &e.Spec
	s.Code, s.Files, s.Stdin, s.Tests, s.Env, s.Args = nil, nil, nil, nil, nil, nil
	s.Checker, s.Artifacts = eval.Checker{}, nil
	return view(e)
}

func viewResult(id eval.ID, r eval.Result) *Result {
	url := outputPath(id, "")
	v := &Result{
		ArtifactsCut: r.ArtifactsCut,
		Verdict:      r.Verdict, Cause: r.Cause, Usage: r.Usage, Explanation: r.Explanation, Language: r.Language, Isolation: r.Isolation, Start: r.Start,
		Stdout: viewStream(r.Stdout, url("stdout")), Stderr: viewStream(r.Stderr, url("stderr")),
	}
	if c := r.Compile; c != nil {
		v.Compile = &Phase{c.Cached, c.Usage, viewStream(c.Stdout, url("stdout")+partCompile), viewStream(c.Stderr, url("stderr")+partCompile)}
	}
	for i, t := range r.Tests {
		part := partTest(i)
		v.Tests = append(v.Tests, Test{t.Name, t.Verdict, t.Cause, t.Message, t.Usage,
			viewStream(t.Stdout, url("stdout")+part), viewStream(t.Stderr, url("stderr")+part)})
	}
	for i, a := range r.Artifacts {
		v.Artifacts = append(v.Artifacts, viewArtifact(a, artifactPath(id, i)))
	}
	return v
}

func viewArtifact(a eval.Artifact, url string) Artifact {
	v := Artifact{Path: a.Path, Bytes: a.Content.Bytes, SHA256: a.SHA256, Error: a.Error}
	if a.Error != "" {
		return v
	}
	if v.URL = url; int64(len(a.Content.Data)) == a.Content.Bytes {
		v.Data, v.Encoding = encoded(a.Content.Data)
	}
	return v
}

func viewStream(s eval.Stream, url string) Stream {
	v := Stream{Bytes: s.Bytes, Truncated: s.Truncated, Preview: int64(len(s.Data)) < s.Bytes, URL: url}
	data := s.Data
	if v.Preview {
		data = wholeRunes(data)
	}
	v.Data, v.Encoding = encoded(data)
	return v
}

func encoded(data []byte) (text, encoding string) {
	if utf8.Valid(data) {
		return string(data), eval.EncodingUTF8
	}
	return base64.StdEncoding.EncodeToString(data), eval.EncodingBase64
}

// wholeRunes leaves out a rune that was cut in two at the end, so that the
// preview of a text stays a text.
func wholeRunes(b []byte) []byte {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return b[:len(b)-n]
			}
			break
		}
	}
	return b
}

// Event is a change in the life of an evaluation.
type Event struct {
	ID      eval.ID        `json:"id"`
	Seq     int64          `json:"seq"`
	Type    eval.EventType `json:"type"`
	Status  eval.Status    `json:"status"`
	Verdict eval.Verdict   `json:"verdict,omitempty"`
	Cause   eval.Cause     `json:"cause,omitempty"`
	Attempt int            `json:"attempt"`
	At      time.Time      `json:"at"`
	Worker  string         `json:"worker,omitempty"`
	Message string         `json:"message,omitempty"`
}

func viewEvent(e eval.Event) Event {
	return Event{e.ID, e.Seq, e.Type, e.Status, e.Verdict, e.Cause, e.Attempt, e.At, e.Worker, e.Message}
}

// Output is a piece of a running program's output.
type Output struct {
	ID      eval.ID    `json:"id"`
	Attempt int        `json:"attempt"`
	Stream  string     `json:"stream"` // stdout or stderr
	Offset  int64      `json:"offset"` // of the first byte in its stream
	Data    eval.Bytes `json:"data"`
	At      time.Time  `json:"at"`
}

// DeadLetter is an evaluation that the platform gave up on.
type DeadLetter struct {
	ID       eval.ID      `json:"id"`
	Language string       `json:"language"`
	Tags     []string     `json:"tags,omitempty"`
	BatchID  string       `json:"batch_id,omitempty"`
	Client   string       `json:"client,omitempty"`
	Failure  eval.Failure `json:"failure"`
	Attempts int          `json:"attempts"`
	FailedAt time.Time    `json:"failed_at"`
	Links    Links        `json:"links"`
}

func viewDeadLetter(d eval.DeadLetter) DeadLetter {
	at := pathOf(d.ID)
	return DeadLetter{d.ID, d.Language, d.Tags, d.BatchID, d.Client, d.Failure, d.Attempts, d.FailedAt,
		Links{Self: at, Events: at + "/events", Retry: "/api/v1/dead-letters/" + string(d.ID) + "/retry"}}
}
