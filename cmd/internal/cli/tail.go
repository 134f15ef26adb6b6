package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// tail shows a program's output as it comes, and in the end each byte once.
type tail struct {
	api            *client.Client
	stdout, stderr io.Writer
	attempt        int
	shown          [2]int64 // bytes of stdout and stderr that were written
	broken         error    // of the writers
}

// follow shows the output until the evaluation has ended, which is returned.
// With quiet nothing but the output is shown.
func (t *tail) follow(s *session, e client.Evaluation, quiet bool) (client.Evaluation, error) {
	if !e.Status.Terminal() {
		err := t.api.Events(s.ctx, "/api/v1/evaluations/"+string(e.ID)+"/events", nil, "", func(ev client.Event) bool {
			return t.event(ev, s, quiet)
		})
		if err != nil {
			return e, err
		}
		if t.broken != nil {
			return e, t.broken
		}
		if e, err = t.api.Await(s.ctx, e.ID); err != nil {
			return e, err
		}
	} else if e.Result == nil && e.Status == eval.Completed {
		var err error
		if e, err = t.api.Get(s.ctx, e.ID, 0); err != nil {
			return e, err
		}
	}
	return e, t.rest(s, e)
}

// event handles one event; false ends the stream.
func (t *tail) event(ev client.Event, s *session, quiet bool) bool {
	switch ev.Type {
	case "stdout", "stderr":
		var c eval.OutputChunk
		if json.Unmarshal(ev.Data, &c) == nil {
			t.chunk(c)
		}
		return t.broken == nil
	case string(eval.EventRequeued):
		var change eval.Event
		if json.Unmarshal(ev.Data, &change) == nil && !quiet {
			fmt.Fprintf(s.stderr, "crucible: will be tried again: %s\n", change.Message)
		}
	}
	return !eval.Status(ev.Type).Terminal()
}

// chunk writes what of a chunk has not been shown. A chunk that leaves a gap
// is left to rest, which has the whole.
func (t *tail) chunk(c eval.OutputChunk) {
	if c.Attempt != t.attempt { // another try: its output starts anew
		t.attempt, t.shown = c.Attempt, [2]int64{}
	}
	i, w := t.stream(c.Stream)
	skip := t.shown[i] - c.Offset
	if skip < 0 || skip >= int64(len(c.Data)) {
		return
	}
	n, err := w.Write(c.Data[skip:])
	t.shown[i] += int64(n)
	if err != nil {
		t.broken = err
	}
}

func (t *tail) stream(name string) (int, io.Writer) {
	if name == "stderr" {
		return 1, t.stderr
	}
	return 0, t.stdout
}

// rest writes what the end result has and was not shown: all of it for a
// short program, what live output lost, and a compiler's messages.
func (t *tail) rest(s *session, e client.Evaluation) error {
	if e.Result == nil {
		return nil
	}
	if t.attempt != 0 && t.attempt != e.Attempt {
		t.shown = [2]int64{}
	}
	if c := e.Result.Compile; c != nil && e.Verdict == eval.CompileError {
		for _, log := range []eval.Stream{c.Stdout, c.Stderr} {
			if _, err := t.stderr.Write(log.Data); err != nil {
				return err
			}
		}
	}
	for _, part := range []struct {
		name   string
		stream eval.Stream
	}{{"stdout", e.Result.Stdout}, {"stderr", e.Result.Stderr}} {
		i, w := t.stream(part.name)
		if t.shown[i] >= part.stream.Bytes {
			continue
		}
		if int64(len(part.stream.Data)) >= part.stream.Bytes {
			if _, err := w.Write(part.stream.Data[t.shown[i]:]); err != nil {
				return err
			}
			continue
		}
		if _, err := t.api.Output(s.ctx, e.ID, part.name, t.shown[i], w); err != nil {
			return err
		}
	}
	return nil
}
