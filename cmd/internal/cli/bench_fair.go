package cli

import (
	"errors"
	"fmt"

	"github.com/crucible-eval/crucible/cmd/internal/bench"
	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/cmd/internal/platform"
	"github.com/crucible-eval/crucible/pkg/config"
)

// fair measures how long one client waits behind another one's burst.
func (c *BenchCmd) fair(s *session) (err error) {
	if c.Burst < 1 || c.Few < 1 {
		return withCode{errors.New("--burst and --few are 1 or more"), exitUsage}
	}
	if c.URL != "" && (c.Token == "" || c.OtherToken == "") {
		return withCode{errors.New("clients are told apart by their API keys: give two with --token and --other-token"), exitUsage}
	}
	url, tokens := c.URL, [2]string{c.Token.Reveal(), c.OtherToken.Reveal()}
	if url == "" {
		tokens = [2]string{"key-of-the-burst", "key-of-the-few"} // of a platform on loopback that lives as long as this
		api, stop, err := embedded(s, platform.AllInOneConfig{
			Queue: platform.Queue{RedisURL: c.RedisURL}, Keep: platform.Keep{DatabaseURL: c.DatabaseURL}, Sandbox: platform.Sandbox{Slots: c.Slots},
			Keys: platform.Keys{APIKeys: []config.Secret{config.Secret("burst:" + tokens[0]), config.Secret("few:" + tokens[1])}},
		}, 2)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
		url = api.URL("")
	}
	var clients [2]*client.Client
	for i := range clients {
		if clients[i], err = client.New(url, tokens[i], c.Few); err != nil {
			return err
		}
		defer clients[i].Close()
	}
	p := paintFor(s.stderr)
	f, err := bench.Fair(s.ctx, clients[0], clients[1], bench.FairOptions{Burst: c.Burst, Few: c.Few, Program: c.Mix[0], Cancel: c.URL != ""},
		func(what string) { fmt.Fprintln(s.stderr, p.faint(what)) })
	if err != nil {
		return err
	}
	if s.json {
		return writeJSON(s.stdout, f)
	}
	fmt.Fprintf(s.stdout, "%d evaluations (%s) by themselves: %s\n", f.Few, f.Program, ms(f.Alone))
	fmt.Fprintf(s.stdout, "right behind %d of another client, accepted in %s: %s, which is %s more\n", f.Burst, ms(f.Accept), ms(f.Beside), ms(f.Delay))
	fmt.Fprintf(s.stdout, "%d of the burst had not ended then; at most %d waited in Redis at one priority\n", f.Left, f.InQueue)
	return nil
}
