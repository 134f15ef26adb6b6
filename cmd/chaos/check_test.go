//go:build chaos && linux

package chaos_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// check reads everything that the cluster has kept and compares it with what clients have seen.
func (c *cluster) check(ctx context.Context, r *report) {
	c.say("checking %d evaluations", c.load.count())
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	again := c.readAll(ctx)
	r.Accepted = len(c.load.byID)
	for id, it := range c.load.byID {
		events := again[id]
		switch err := broken(events); {
		case errors.Is(err, errTwice):
			r.Double++
			r.problem("%s (%s): %v: %s", id, it.kind, err, told(events))
		case !ended(events):
			r.Lost++
			r.problem("%s (%s): %v: %s", id, it.kind, err, told(events))
		case err != nil:
			r.problem("%s (%s): %v: %s", id, it.kind, err, told(events))
		}
		if ended(events) {
			r.Ended++
		}
		_ = c.history.until(ctx, id, ended) // what is followed comes a moment later
		if seen := c.history.of(id); !slices.Equal(seen, events) {
			r.problem("%s: its history changed: it was %s, and is %s", id, told(seen), told(events))
		}
		if n := len(events); n > 0 && events[n-1].Attempt > 1 {
			r.Again++
		}
	}
	for id := range again {
		if c.load.byID[id] == nil {
			r.Double++
			r.problem("%s is an evaluation that nobody has an answer for: a submission was accepted twice", id)
		}
	}
	c.compareFinal(ctx, r)
	c.checkDeadLetters(ctx, r)
	c.checkQueue(ctx, r)
}

// readAll reads the feed from its beginning.
func (c *cluster) readAll(ctx context.Context) map[eval.ID][]eval.Event {
	all := map[eval.ID][]eval.Event{}
	for after := int64(0); ; {
		page, err := c.store.Feed(ctx, eval.DefaultProject, after, feedPage)
		require.NoError(c.t, err)
		for _, e := range page {
			all[e.ID] = append(all[e.ID], e)
			after = e.Cursor
		}
		if len(page) == 0 {
			return all
		}
	}
}

// compareFinal wants every evaluation to look as when its end was first seen, and its attempts to tell the same story.
func (c *cluster) compareFinal(ctx context.Context, r *report) {
	var wg sync.WaitGroup
	room := make(chan struct{}, 8)
	for id, it := range c.load.byID {
		if !it.seen {
			continue // counted as lost
		}
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			now, err := c.load.api.Get(ctx, id, 0)
			if err != nil {
				r.problem("%s cannot be read: %v", id, err)
				return
			}
			if !bytes.Equal(bytes.TrimSpace(now.Raw), bytes.TrimSpace(it.final.Raw)) {
				r.problem("%s changed after its end: it was %s, and is %s", id, clip(it.final.Raw), clip(now.Raw))
			}
			if err := c.compareAttempts(ctx, now); err != nil {
				r.problem("%s: %v", id, err)
			}
		})
	}
	wg.Wait()
}

func (c *cluster) compareAttempts(ctx context.Context, e client.Evaluation) error {
	attempts, err := c.store.Attempts(ctx, eval.Key{Project: eval.DefaultProject, ID: e.ID})
	if err != nil {
		return err
	}
	if len(attempts) != e.Attempt {
		return fmt.Errorf("%d attempts are kept of %d", len(attempts), e.Attempt)
	}
	for i, a := range attempts {
		last := i == len(attempts)-1
		switch {
		case a.Number != i+1:
			return fmt.Errorf("attempt %d has number %d", i+1, a.Number)
		case a.Outcome == eval.AttemptRunning:
			return fmt.Errorf("attempt %d runs for ever", a.Number)
		case a.Outcome == eval.AttemptCompleted && (!last || e.Status != eval.Completed):
			return fmt.Errorf("attempt %d of %d completed, and the evaluation is %s", a.Number, len(attempts), e.Status)
		case last && e.Status == eval.Completed && a.Outcome != eval.AttemptCompleted:
			return fmt.Errorf("it completed, and its last attempt was %s", a.Outcome)
		}
	}
	return nil
}

// checkDeadLetters wants those of the poison, and no other.
func (c *cluster) checkDeadLetters(ctx context.Context, r *report) {
	want := map[eval.ID]bool{}
	for id, it := range c.load.byID {
		if it.kind == poisonKind {
			want[id] = true
		}
	}
	r.Poison = len(want)
	query := url.Values{"limit": {"500"}}
	for {
		var page struct {
			DeadLetters []struct {
				ID      eval.ID      `json:"id"`
				Failure eval.Failure `json:"failure"`
			} `json:"dead_letters"`
			Next string `json:"next"`
		}
		if err := c.load.api.Ask(ctx, "/api/v1/dead-letters", query, &page); err != nil {
			r.problem("dead letters: %v", err)
			return
		}
		for _, d := range page.DeadLetters {
			r.DeadLetters++
			if !want[d.ID] {
				r.problem("%s is a dead letter, and nothing is wrong with it: %s: %s", d.ID, d.Failure.Kind, told(c.history.of(d.ID)))
			}
			delete(want, d.ID)
		}
		if page.Next == "" {
			break
		}
		query.Set("cursor", page.Next)
	}
	for id := range want {
		r.problem("%s took down whoever ran it, and is no dead letter: %s", id, told(c.history.of(id)))
	}
}

// checkQueue wants nothing left that waits for a worker. What was in the hand of a killed one is asynq's to take back,
// which takes two minutes, and then no worker's to run.
func (c *cluster) checkQueue(ctx context.Context, r *report) {
	// Broken entries are swept away every ten seconds.
	deadline := time.Now().Add(30 * time.Second)
	for {
		open, err := c.unfinished(ctx, "pending")
		open = slices.DeleteFunc(open, func(key string) bool { return strings.Contains(key, "}:t:nobody-") })
		if err == nil && len(open) == 0 {
			return
		}
		if time.Now().After(deadline) {
			r.problem("the queue is not empty: %v (%v)", open, err)
			return
		}
		time.Sleep(100 * time.Millisecond) // it comes without a signal
	}
}

// checkLeftovers wants nothing to be left of the services that have ended: no process, no control group, no mount.
func (c *cluster) checkLeftovers(r *report) {
	ours := func(pid int) bool {
		return slices.ContainsFunc(c.daemons(), func(d *daemon) bool { return d.was(pid) })
	}
	// The kernel takes a moment to end those whose parents have died.
	left := func() []string { return slices.Concat(orphans(), groups(ours), c.mounts()) }
	deadline := time.Now().Add(10 * time.Second)
	for len(left()) > 0 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond) // it comes without a signal
	}
	all := left()
	r.Leftovers = len(all)
	for _, what := range all {
		r.problem("left behind: %s", what)
	}
}

// orphans are processes that came to us because their parents died. They would run on for ever.
func orphans() []string {
	var all []string
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		state, parent := stat(pid)
		if parent != os.Getpid() || state == "Z" {
			continue
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		words := strings.Join(strings.FieldsFunc(string(line), func(r rune) bool { return r == 0 }), " ")
		if strings.Contains(words, "redis-server") || strings.Contains(words, "postgres") || strings.Contains(words, "guard") {
			continue // testkit's, and still in use
		}
		all = append(all, fmt.Sprintf("process %d: %s", pid, words))
	}
	return all
}

// groups are control groups that executors of ours have made.
func groups(ours func(pid int) bool) []string {
	var all []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil // it is gone already
		}
		rest, ok := strings.CutPrefix(entry.Name(), "crucible-")
		if !ok {
			return nil
		}
		number, _, _ := strings.Cut(rest, "-")
		if pid, err := strconv.Atoi(number); err == nil && ours(pid) {
			all = append(all, "control group "+path)
		}
		return fs.SkipDir
	})
	return all
}

// mounts are those below our folder that we have not made.
func (c *cluster) mounts() []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(c.t, err)
	var all []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], c.dir) && !strings.HasPrefix(filepath.Base(fields[4]), "disk-") {
			all = append(all, "mount "+fields[4])
		}
	}
	return all
}

// told is a history in a line.
func told(events []eval.Event) string {
	var all []string
	for _, e := range events {
		words := fmt.Sprintf("%s %s (attempt %d", e.At.Format("15:04:05.000"), e.Type, e.Attempt)
		if e.Message != "" {
			words += ", " + e.Message
		}
		all = append(all, words+")")
	}
	return strings.Join(all, "; ")
}
