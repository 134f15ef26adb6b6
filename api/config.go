package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/pkg/httpkit"
)

// Defaults of Config.
const (
	DefaultListen         = "127.0.0.1:8080"
	DefaultBodyLimit      = httpkit.DefaultBodyLimit
	DefaultBatchBodyLimit = 32 << 20
	DefaultMaxWait        = 60 * time.Second
	DefaultMaxStreams     = 1000
	DefaultMaxWaiters     = 10_000
	DefaultMeasureEvery   = 5 * time.Second
)

// Config is what an operator decides about the API. Zero values are the
// defaults.
type Config struct {
	// Listen is host:port; port 0 takes a free one. Beyond loopback it needs
	// APIKeys or AllowInsecure.
	Listen string
	// APIKeys are the credentials that clients may send: KEY, or NAME:KEY.
	// The name is who the client is: evaluations show it, and limits go by it.
	// Several keys of one name are one client. A key without a name is named
	// by a hash of it. Without any, no credentials are needed, and there is
	// one client, whose name is empty.
	APIKeys []string
	// AllowInsecure permits to listen beyond loopback without keys.
	AllowInsecure bool
	// AllowedHosts are accepted as Host besides loopback names when there
	// are no keys.
	AllowedHosts []string

	BodyLimit      int64         // bytes of a request
	BatchBodyLimit int64         // bytes of a batch
	MaxWait        time.Duration // the most that ?wait= may ask for
	MaxWaiters     int           // requests with ?wait= at once; beyond it 503
	MaxStreams     int           // event streams at once; beyond it 503

	// MeasureEvery is how often the backlog, the queue, workers and executors
	// are counted for /metrics.
	MeasureEvery time.Duration

	// MonitorReadOnly makes /monitor show and not change the queues.
	MonitorReadOnly bool
}

func (c Config) withDefaults() Config {
	c.Listen = cmp.Or(c.Listen, DefaultListen)
	c.BodyLimit = cmp.Or(c.BodyLimit, int64(DefaultBodyLimit))
	c.BatchBodyLimit = cmp.Or(c.BatchBodyLimit, int64(DefaultBatchBodyLimit))
	c.MaxWait = cmp.Or(c.MaxWait, DefaultMaxWait)
	c.MaxWaiters = cmp.Or(c.MaxWaiters, DefaultMaxWaiters)
	c.MeasureEvery = cmp.Or(c.MeasureEvery, DefaultMeasureEvery)
	c.MaxStreams = cmp.Or(c.MaxStreams, DefaultMaxStreams)
	return c
}

// clientName is what the name of a client looks like: it stands in logs,
// metrics and query parameters.
var clientName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

// tokens are the configured keys with their names. A key has no colon, so what
// follows the last one is the key in both forms.
func (c Config) tokens() ([]httpkit.Token, error) {
	var tokens []httpkit.Token
	names := map[string]string{} // by key
	for i, k := range c.APIKeys {
		at := strings.LastIndex(k, ":")
		key := strings.TrimSpace(k[at+1:])
		if key == "" {
			return nil, fmt.Errorf("API key %d is empty: give KEY, or NAME:KEY", i+1)
		}
		name := nameOf(key)
		if at >= 0 {
			name = strings.TrimSpace(k[:at])
		}
		if !clientName.MatchString(name) {
			return nil, fmt.Errorf("the name of API key %d is not one: it has 1 to 64 letters, digits, dots, dashes, underscores and @", i+1)
		}
		if have, twice := names[key]; twice && have != name {
			return nil, fmt.Errorf("API key %d is that of client %q too: each client needs a key of its own", i+1, have)
		}
		names[key] = name
		tokens = append(tokens, httpkit.Token{Client: name, Secret: key})
	}
	return tokens, nil
}

// nameOf names a client by its key: 32 bits of a hash, which tell clients apart
// and nothing about a key that is not easily guessed anyway.
func nameOf(key string) string {
	sum := sha256.Sum256([]byte("crucible client " + key))
	return "key-" + hex.EncodeToString(sum[:4])
}
