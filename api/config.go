package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/api/internal/quota"
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

// Quota has the limits of all clients, and Limits are those of one. See
// package quota.
type (
	Quota  = quota.Config
	Limits = quota.Limits
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

	// Quota is how much clients may submit, and how much may wait. Zero: no
	// bounds.
	Quota Quota

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

// NewQuota makes a quota of the limits of each client, those of all together,
// and others by name: NAME:rate=20,burst=200,queued=50000, of which what is
// not named is as for each.
func NewQuota(each Limits, queued int64, others []string) (Quota, error) {
	q := Quota{Each: each, Queued: queued, Clients: map[string]Limits{}}
	if each.Rate < 0 || each.Burst < 0 || each.Queued < 0 || queued < 0 {
		return q, errors.New("the limits of clients must not be negative; 0 is no bound")
	}
	for _, text := range others {
		name, list, ok := strings.Cut(text, ":")
		name = strings.TrimSpace(name)
		if !ok || !clientName.MatchString(name) {
			return q, fmt.Errorf("the limits %q of a client cannot be read: write NAME:rate=20,burst=200,queued=50000", text)
		}
		if _, twice := q.Clients[name]; twice {
			return q, fmt.Errorf("client %q has limits twice", name)
		}
		l := each
		for part := range strings.SplitSeq(list, ",") {
			key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			n, err := strconv.ParseFloat(value, 64)
			whole := n == math.Trunc(n) && n <= 1<<53
			switch {
			case err != nil || !(n >= 0 && n <= math.MaxFloat64):
				return q, fmt.Errorf("limit %q of client %q: want %s=NUMBER, and 0 for no bound", part, name, cmp.Or(key, "rate"))
			case key == "rate":
				l.Rate = n
			case key == "burst" && whole:
				l.Burst = int(n)
			case key == "queued" && whole:
				l.Queued = int64(n)
			default:
				return q, fmt.Errorf("limit %q of client %q: there are rate, burst and queued, and the last two are whole numbers", part, name)
			}
		}
		q.Clients[name] = l
	}
	return q, nil
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
