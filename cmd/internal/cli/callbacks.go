package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// CallbacksCmd is about who is told of the end of evaluations.
type CallbacksCmd struct {
	List  CallbacksListCmd  `cmd:"" default:"withargs" help:"List them, the newest first (the default)."`
	Retry CallbacksRetryCmd `cmd:"" help:"Send dead ones again."`
}

const (
	callbacks = "/api/v1/callbacks"
	// callbacksAtOnce is how many one request lists.
	callbacksAtOnce = 500
)

// CallbacksListCmd lists callbacks.
type CallbacksListCmd struct {
	remote
	Status string `enum:",pending,delivered,dead" default:"" placeholder:"STATUS" help:"Only these: pending, delivered or dead."`
	Limit  int    `short:"n" default:"50" help:"How many, 1 to 500."`
	Cursor string `help:"Where to go on: next of the page before."`
}

// Run implements a kong command.
func (c *CallbacksListCmd) Run(s *session) error {
	api, err := c.open(1)
	if err != nil {
		return err
	}
	defer api.Close()
	page, err := callbackPage(s, api, c.Status, c.Limit, c.Cursor)
	if err != nil {
		return err
	}
	if s.json {
		return writeJSON(s.stdout, page)
	}
	p := paintFor(s.stdout)
	var rows [][]string
	for _, c := range page.Callbacks {
		status := string(c.Status)
		switch c.Status {
		case eval.CallbackDelivered:
			status = p.good(status)
		case eval.CallbackDead:
			status = p.bad(status)
		}
		next := ""
		if c.NextTryAt != nil {
			next = "in " + span(max(time.Until(*c.NextTryAt), 0))
		}
		rows = append(rows, []string{string(c.ID), ago(c.CreatedAt), c.Host, status, fmt.Sprintf("%d/%d", c.Tries, c.MaxTries), next, c.Message})
	}
	if err := table(s.stdout, "ID\tENDED\tHOST\tSTATUS\tTRIES\tNEXT\tLAST PROBLEM", rows); err != nil {
		return err
	}
	if page.Next != "" {
		fmt.Fprintf(s.stderr, "there is more: --cursor %s\n", page.Next)
	}
	return nil
}

func callbackPage(s *session, api *client.Client, status string, limit int, cursor string) (client.CallbackPage, error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	for name, v := range map[string]string{"status": status, "cursor": cursor} {
		if v != "" {
			q.Set(name, v)
		}
	}
	var page client.CallbackPage
	err := api.Ask(s.ctx, callbacks, q, &page)
	return page, err
}

// CallbacksRetryCmd sends dead callbacks again.
type CallbacksRetryCmd struct {
	remote
	IDs []eval.ID `arg:"" optional:"" name:"id" help:"Of which evaluations."`
	All bool      `help:"All that are dead."`
}

// Run implements a kong command. One that fails does not stop the others; the
// exit code tells.
func (c *CallbacksRetryCmd) Run(s *session) error {
	if c.All == (len(c.IDs) > 0) {
		return errors.New("name the evaluations, or give --all")
	}
	api, err := c.open(1)
	if err != nil {
		return err
	}
	defer api.Close()
	if c.All {
		if c.IDs, err = deadCallbacks(s, api); err != nil {
			return err
		}
	}
	again, failed := []client.Callback{}, 0
	for _, id := range c.IDs {
		var one client.Callback
		err := api.Order(s.ctx, http.MethodPost, callbacks+"/"+url.PathEscape(string(id))+"/retry", nil, &one)
		if err != nil {
			if _, ok := errors.AsType[*client.Unreachable](err); ok || s.ctx.Err() != nil {
				return err
			}
			failed++
			fmt.Fprintf(s.stderr, "crucible: %s: %s\n", id, explain(err))
			continue
		}
		again = append(again, one)
		if !s.json {
			fmt.Fprintf(s.stdout, "%s  %s\n", one.ID, one.Status)
		}
	}
	if s.json {
		if err := writeJSON(s.stdout, map[string]any{"callbacks": again}); err != nil {
			return err
		}
	}
	if failed > 0 {
		return exitCode(exitError)
	}
	return nil
}

// deadCallbacks are the ids of all dead callbacks.
func deadCallbacks(s *session, api *client.Client) ([]eval.ID, error) {
	var ids []eval.ID
	for cursor := ""; ; {
		page, err := callbackPage(s, api, string(eval.CallbackDead), callbacksAtOnce, cursor)
		if err != nil {
			return nil, err
		}
		for _, c := range page.Callbacks {
			ids = append(ids, c.ID)
		}
		if cursor = page.Next; cursor == "" {
			return ids, nil
		}
	}
}
