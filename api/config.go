package api

import (
	"cmp"
	"fmt"
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
)

// Config is what an operator decides about the API. Zero values are the
// defaults.
type Config struct {
	// Listen is host:port; port 0 takes a free one. Beyond loopback it needs
	// APIKeys or AllowInsecure.
	Listen string
	// APIKeys are the credentials that clients may send: KEY, or NAME:KEY
	// where the name is for people. Without any, no credentials are needed.
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

	// MonitorReadOnly makes /monitor show and not change the queues.
	MonitorReadOnly bool
}

func (c Config) withDefaults() Config {
	c.Listen = cmp.Or(c.Listen, DefaultListen)
	c.BodyLimit = cmp.Or(c.BodyLimit, int64(DefaultBodyLimit))
	c.BatchBodyLimit = cmp.Or(c.BatchBodyLimit, int64(DefaultBatchBodyLimit))
	c.MaxWait = cmp.Or(c.MaxWait, DefaultMaxWait)
	c.MaxWaiters = cmp.Or(c.MaxWaiters, DefaultMaxWaiters)
	c.MaxStreams = cmp.Or(c.MaxStreams, DefaultMaxStreams)
	return c
}

// keys are the configured keys without their names. A key has no colon, so
// what follows the last one is the key in both forms.
func (c Config) keys() ([]string, error) {
	var keys []string
	for i, k := range c.APIKeys {
		k = strings.TrimSpace(k[strings.LastIndex(k, ":")+1:])
		if k == "" {
			return nil, fmt.Errorf("API key %d is empty: give KEY, or NAME:KEY", i+1)
		}
		keys = append(keys, k)
	}
	return keys, nil
}
