package cli

import (
	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/config"
)

// remote are the flags of commands that speak to an API.
type remote struct {
	URL   string        `name:"url" env:"CRUCIBLE_URL" default:"http://127.0.0.1:8080" group:"Client" help:"Address of the API."`
	Token config.Secret `env:"CRUCIBLE_TOKEN" group:"Client" placeholder:"KEY" help:"API key to send."`
}

func (r remote) open(connections int) (*client.Client, error) {
	return client.New(r.URL, r.Token.Reveal(), connections)
}
