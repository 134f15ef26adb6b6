package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// SeedCmd fills a platform with evaluations to look at.
type SeedCmd struct {
	remote
	Times int `default:"3" help:"How often each program is sent."`
}

// seeds are programs that end in every verdict, and some that do not end yet.
func seeds() []eval.Spec {
	python := func(code string) eval.Spec {
		return eval.Spec{Program: eval.Program{Language: "python", Code: eval.Bytes(code)}}
	}
	with := func(s eval.Spec, change func(*eval.Spec)) eval.Spec { change(&s); return s }
	later := time.Now().Add(time.Hour)
	right, wrong := eval.Bytes("4\n"), eval.Bytes("5\n")
	return []eval.Spec{
		python("print('hello')"),
		python("import time\nfor i in range(5):\n    print('step', i, flush=True)\n    time.sleep(0.2)\n"),
		python("import sys\nprint('about to fail', file=sys.stderr)\nsys.exit(3)"),
		python("print([1, 2, 3][7])"),
		with(python("import time; time.sleep(9)"), func(s *eval.Spec) { s.Limits.WallMS = 300 }),
		with(python("while True: pass"), func(s *eval.Spec) { s.Limits.CPUMS, s.Limits.WallMS = 300, 5000 }),
		with(python("x = [bytearray(1 << 20) for _ in range(999)]"), func(s *eval.Spec) { s.Limits.MemoryBytes = 48 << 20 }),
		with(python("while True: print('x' * 99)"), func(s *eval.Spec) { s.Limits.OutputBytes = 10_000 }),
		with(python("print(2 + 2)"), func(s *eval.Spec) {
			s.Tests = []eval.Test{{Name: "right", ExpectedStdout: &right}, {Name: "wrong", ExpectedStdout: &wrong}}
		}),
		{Program: eval.Program{Language: "bash", Code: eval.Bytes("echo $RANDOM; exit 0")}, Priority: eval.PriorityHigh},
		with(python("print('an hour later')"), func(s *eval.Spec) { s.RunAt = &later }), // stays queued
		// Stronger than any machine offers by itself, so the platform gives up: a dead letter.
		with(python("print('never')"), func(s *eval.Spec) {
			s.MinIsolation, s.RetryPolicy = eval.IsolationLevels()[0], eval.PolicyConservative
		}),
	}
}

// Run implements a kong command.
func (c *SeedCmd) Run(s *session) error {
	api, err := c.open(2)
	if err != nil {
		return err
	}
	defer api.Close()
	var requests []json.RawMessage
	for range max(c.Times, 1) {
		for _, spec := range seeds() {
			spec.Tags = append(spec.Tags, "seed")
			raw, err := json.Marshal(spec)
			if err != nil {
				return err
			}
			requests = append(requests, raw)
		}
	}
	b, err := api.SubmitBatch(s.ctx, requests)
	if err != nil {
		return err
	}
	// One is cancelled while it waits, one runs on for a while.
	long := eval.Spec{Program: eval.Program{Language: "python", Code: eval.Bytes("import time\nfor i in range(240):\n    print(i, flush=True)\n    time.sleep(1)\n")}}
	long.Limits.WallMS, long.Tags = 280_000, []string{"seed"}
	running, err := api.Submit(s.ctx, long, 0, "")
	if err != nil {
		return err
	}
	cancelled, err := api.Submit(s.ctx, long, 0, "")
	if err != nil {
		return err
	}
	if _, err := api.Cancel(s.ctx, cancelled.ID, "an example of a cancelled one"); err != nil {
		return err
	}
	if s.json {
		return writeJSON(s.stdout, map[string]any{"batch_id": b.ID, "running": running.ID, "cancelled": cancelled.ID, "accepted": len(b.Evaluations) + 2})
	}
	fmt.Fprintf(s.stdout, "%d evaluations accepted, with the tag seed: crucible list --tag seed\n", len(b.Evaluations)+2)
	return nil
}
