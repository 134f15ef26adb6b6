package platform

import (
	"errors"
	"fmt"
	"time"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/pkg/config"
	"github.com/crucible-eval/crucible/pkg/egress"
	"github.com/crucible-eval/crucible/worker"
)

// Receivers is who may be called back. The API and its workers should be given
// the same: the API refuses other URLs, and so does a worker when it comes to
// the call.
type Receivers struct {
	Callbacks     bool     `group:"Callbacks" env:"CRUCIBLE_CALLBACKS" help:"Accept a callback_url with an evaluation, and send it there when it has ended. API and workers need it; see docs/callbacks.md."`
	CallbackHTTP  bool     `name:"callback-http" group:"Callbacks" env:"CRUCIBLE_CALLBACK_HTTP" help:"Call http URLs too: what is sent can then be read on its way."`
	CallbackPorts []uint16 `name:"callback-port" group:"Callbacks" env:"CRUCIBLE_CALLBACK_PORTS" placeholder:"PORT" help:"A port that may be called. May be repeated; 0 allows any. Default: 443, and 80 with --callback-http."`
	CallbackAllow []string `name:"callback-allow" group:"Callbacks" env:"CRUCIBLE_CALLBACK_ALLOW" placeholder:"HOST" help:"A host name, address or CIDR that may be called although it is not public. May be repeated."`
}

// Sender is how callbacks are sent.
type Sender struct {
	CallbackSecrets []config.Secret `name:"callback-secret" group:"Callbacks" env:"CRUCIBLE_CALLBACK_SECRETS" placeholder:"SECRET" help:"What callbacks are signed with: whsec_ and the base64 of 24 to 64 random bytes. Required with --callbacks. May be repeated while receivers change from one to the next."`
	CallbackTimeout time.Duration   `group:"Callbacks" env:"CRUCIBLE_CALLBACK_TIMEOUT" default:"10s" help:"How long a receiver may take to answer."`
}

// guard is nil where callbacks are off.
func (r Receivers) guard() (*egress.Guard, error) {
	if !r.Callbacks {
		return nil, nil
	}
	guard, err := egress.New(egress.Config{HTTP: r.CallbackHTTP, Ports: r.CallbackPorts, Allow: r.CallbackAllow})
	if err != nil {
		return nil, fmt.Errorf("the setting callback_allow: %w", err)
	}
	return guard, nil
}

// callbacks are a worker's settings; nil where guard is.
func (s Sender) callbacks(guard *egress.Guard) (*worker.Callbacks, error) {
	switch {
	case guard == nil && len(s.CallbackSecrets) > 0:
		return nil, errors.New("there is a callback secret and callbacks are off: turn them on with --callbacks, or remove the secret")
	case guard == nil:
		return nil, nil
	}
	c := &worker.Callbacks{Guard: guard, Secrets: secrets(s.CallbackSecrets), Payload: api.Payload, Timeout: s.CallbackTimeout}
	return c, c.Check()
}
