package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/observe"
)

// watchEvery is the pause of --watch.
const watchEvery = 2 * time.Second

// look are the flags of commands that show what the platform does now.
type look struct {
	remote
	Watch bool `short:"w" help:"Show it again every two seconds, until Ctrl-C."`
}

// show asks and prints: once, or until Ctrl-C. With -o json the answer is
// written as the API gave it, with --watch one in a line.
func (l look) show(s *session, ask func(*client.Client) (any, error), print func() error) error {
	api, err := l.open(4)
	if err != nil {
		return err
	}
	defer api.Close()
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for first := true; ; first = false {
		answer, err := ask(api)
		switch {
		case s.ctx.Err() != nil && l.Watch:
			return nil // Ctrl-C is how one leaves
		case err != nil:
			return err
		case s.json && l.Watch:
			err = json.NewEncoder(s.stdout).Encode(answer)
		case s.json:
			err = writeJSON(s.stdout, answer)
		default:
			if l.Watch && observe.IsTerminal(s.stdout) {
				fmt.Fprint(s.stdout, "\x1b[H\x1b[2J")
			} else if !first {
				fmt.Fprintln(s.stdout)
			}
			err = print()
		}
		if err != nil || !l.Watch {
			return err
		}
		select {
		case <-s.ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// path is show for the answer of one path of the API, read into out.
func (l look) path(s *session, path string, out any, print func() error) error {
	return l.show(s, func(api *client.Client) (any, error) { return askBoth(s, api, path, out) }, print)
}

// askBoth gets a path into out, and returns the answer as it came.
func askBoth(s *session, api *client.Client, path string, out any) (json.RawMessage, error) {
	var raw json.RawMessage
	if err := api.Ask(s.ctx, path, nil, &raw); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return nil, fmt.Errorf("the answer of %s cannot be read; does the server have the version of this program?: %w", path, err)
	}
	return raw, nil
}
