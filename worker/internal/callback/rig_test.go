package callback_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/pkg/egress"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/memory"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/worker/internal/callback"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	oldSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	newSecret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	token     = "t0ken-of-the-client"
)

// clock is one that a test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// everywhere resolves every name to loopback, except those below nowhere.test.
type everywhere struct{}

func (everywhere) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if strings.HasSuffix(host, "nowhere.test") {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if strings.HasSuffix(host, "metadata.test") {
		return []netip.Addr{netip.MustParseAddr("169.254.169.254")}, nil
	}
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// rig is a store, a clock and what a deliverer needs. Names mean loopback, which is allowed.
type rig struct {
	t     testing.TB
	clock *clock
	store *memory.Store
	guard *egress.Guard
	log   *logs
	ids   int
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, clock: &clock{at: time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)}, log: &logs{}}
	r.store = memory.NewStore(memory.Options{Now: r.clock.now})
	var err error
	r.guard, err = egress.New(egress.Config{HTTP: true, Ports: []uint16{0}, Allow: []string{"127.0.0.1"}, Resolver: everywhere{}})
	require.NoError(t, err)
	return r
}

// logs keeps what is logged.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// payload is the body in these tests: what a receiver wants to know.
func payload(e eval.Evaluation) ([]byte, error) {
	return json.Marshal(map[string]any{"id": e.ID, "status": e.Status})
}

// ended writes an evaluation that is cancelled at once, so that its callback is due.
func (r *rig) ended(url string) eval.Key {
	r.t.Helper()
	r.ids++
	key := eval.Key{Project: eval.DefaultProject, ID: eval.ID(fmt.Sprintf("019a0000-0000-7000-8000-%012d", r.ids))}
	spec := eval.Spec{Program: eval.Program{Language: "c", Code: eval.Bytes("x")}, CallbackURL: url}
	_, _, err := r.store.Create(r.t.Context(), eval.Submission{Evaluations: []eval.Evaluation{{Key: key, Spec: spec}}})
	require.NoError(r.t, err)
	_, err = r.store.Cancel(r.t.Context(), key, "")
	require.NoError(r.t, err)
	return key
}

// running is a deliverer that a test has started.
type running struct {
	*callback.Deliverer
	registry *prometheus.Registry
	stop     func()
}

func (r *rig) deliverer(store callback.Store, client *http.Client, edit ...func(*callback.Config)) *running {
	r.t.Helper()
	if store == nil {
		store = r.store
	}
	if client == nil {
		client = r.guard.Client()
	}
	signer, err := callback.NewSigner([]string{oldSecret, newSecret})
	require.NoError(r.t, err)
	cfg := callback.Config{Name: "d", Version: "1.2.3", Every: 5 * time.Millisecond, Timeout: 10 * time.Second, AtOnce: 8, PerHost: 2}
	for _, change := range edit {
		change(&cfg)
	}
	registry := prometheus.NewRegistry()
	d := callback.New(cfg, callback.Deps{
		Store: store, Client: client, Check: r.guard.Check, Sign: signer, Payload: payload,
		Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Registry: registry,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = d.Run(ctx)
	}()
	stop := sync.OnceFunc(func() { cancel(); <-done })
	r.t.Cleanup(stop)
	return &running{d, registry, stop}
}

func (d *running) metric(t testing.TB, name, label string) float64 {
	t.Helper()
	families, err := d.registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return value(m)
			}
		}
	}
	return 0
}

func value(m *dto.Metric) float64 {
	return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
}

func (r *rig) callback(key eval.Key) eval.Callback {
	r.t.Helper()
	c, err := r.store.Callback(context.Background(), key)
	require.NoError(r.t, err)
	return c
}

// until waits for the callback to be so.
func (r *rig) until(key eval.Key, what string, so func(eval.Callback) bool) eval.Callback {
	r.t.Helper()
	var c eval.Callback
	testkit.Eventually(r.t, func() bool { c = r.callback(key); return so(c) }, what)
	return c
}

func status(s eval.CallbackStatus) func(eval.Callback) bool {
	return func(c eval.Callback) bool { return c.Status == s }
}

// failed is a callback whose nth try has failed and that waits for the next.
func failed(n int) func(eval.Callback) bool {
	return func(c eval.Callback) bool { return c.Tries == n && c.Deliverer == "" && c.Reason != "" }
}

// received is a request as it came.
type received struct {
	header http.Header
	body   []byte
	path   string
}

// receiver is a server on loopback that keeps what it gets.
type receiver struct {
	*httptest.Server
	mu  sync.Mutex
	got []received
}

func newReceiver(t testing.TB, handle http.HandlerFunc) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		r.got = append(r.got, received{req.Header.Clone(), body, req.URL.Path})
		r.mu.Unlock()
		if handle != nil {
			handle(w, req)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) requests() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]received(nil), r.got...)
}

// at is a URL of the receiver under another name.
func (r *receiver) at(host string) string {
	_, port, _ := net.SplitHostPort(r.Listener.Addr().String())
	return "http://" + host + ":" + port + "/hook?token=" + token
}
