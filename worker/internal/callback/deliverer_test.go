package callback_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/worker/internal/callback"
)

func TestACallbackIsDeliveredOnceAndSigned(t *testing.T) {
	r, to := newRig(t), newReceiver(t, nil)
	key := r.ended(to.at("receiver.test"))
	d := r.deliverer(nil, nil)
	c := r.until(key, "delivered", status(eval.CallbackDelivered))
	require.Equal(t, 200, c.HTTPStatus)
	r.clock.advance(48 * time.Hour)
	later := r.ended(to.at("receiver.test"))
	d.Wake()
	r.until(later, "delivered", status(eval.CallbackDelivered))

	got := to.requests()
	require.Len(t, got, 2, "one for each evaluation, and no second one after two days")
	require.Equal(t, string(key.ID), got[0].header.Get("webhook-id"))
	require.Equal(t, "application/json", got[0].header.Get("Content-Type"))
	require.Contains(t, got[0].header.Get("User-Agent"), "Crucible/1.2.3")
	require.JSONEq(t, fmt.Sprintf(`{"id":%q,"status":"cancelled"}`, key.ID), string(got[0].body))
	for _, secret := range []string{oldSecret, newSecret} {
		webhook, err := standardwebhooks.NewWebhook(secret)
		require.NoError(t, err)
		require.NoError(t, webhook.Verify(got[0].body, got[0].header), "with each of the secrets")
		require.Error(t, webhook.Verify(append(got[0].body, ' '), got[0].header))
	}
	stranger, err := standardwebhooks.NewWebhook("whsec_" + strings.Repeat("A", 32))
	require.NoError(t, err)
	require.Error(t, stranger.Verify(got[0].body, got[0].header))

	require.EqualValues(t, 2, d.metric(t, "crucible_callbacks_delivered_total", ""))
	require.EqualValues(t, 2, d.metric(t, "crucible_callbacks_lag_seconds", ""))
}

func TestAReceiverThatIsDownGetsItLaterUnderTheSameID(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	r, to := newRig(t), newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	key := r.ended(to.at("receiver.test"))
	d := r.deliverer(nil, nil)
	c := r.until(key, "the first try has failed", failed(1))
	require.Equal(t, eval.CallbackBroken, c.Reason)
	require.Equal(t, http.StatusServiceUnavailable, c.HTTPStatus)
	require.Equal(t, time.Minute, c.NextAt.Sub(r.clock.now()), "as the receiver has asked")
	down.Store(false)
	r.clock.advance(time.Minute)
	c = r.until(key, "delivered", status(eval.CallbackDelivered))
	require.Equal(t, 2, c.Tries)
	got := to.requests()
	require.Len(t, got, 2)
	require.Equal(t, got[0].header.Get("webhook-id"), got[1].header.Get("webhook-id"))
	require.EqualValues(t, 1, d.metric(t, "crucible_callbacks_failed_tries_total", "broken"))
}

func TestASlowReceiverDoesNotHoldUpTheOthers(t *testing.T) {
	release := make(chan struct{})
	var inside, most atomic.Int32
	r := newRig(t)
	slow := newReceiver(t, func(http.ResponseWriter, *http.Request) {
		most.Store(max(most.Load(), inside.Add(1)))
		<-release
		inside.Add(-1)
	})
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	quick := newReceiver(t, nil)
	var waiting, through []eval.Key
	for range 20 {
		waiting = append(waiting, r.ended(slow.at("slow.test")))
	}
	for range 20 {
		through = append(through, r.ended(quick.at("quick.test")))
	}
	r.deliverer(nil, nil) // eight at once, two for each host
	for _, key := range through {
		r.until(key, "delivered past the slow one", status(eval.CallbackDelivered))
	}
	testkit.Eventually(t, func() bool { return inside.Load() == 2 }, "two requests wait at the slow receiver")
	require.EqualValues(t, 2, most.Load(), "never more than its share")
	free()
	for _, key := range waiting {
		r.until(key, "delivered in the end", status(eval.CallbackDelivered))
	}
	require.Len(t, slow.requests(), 20)
}

func TestWhatAnswersMean(t *testing.T) {
	r := newRig(t)
	to := newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
		var code int
		_, _ = fmt.Sscanf(strings.TrimPrefix(req.Host, "h"), "%d", &code)
		w.Header().Set("Location", "http://metadata.test/latest/")
		w.WriteHeader(code)
	})
	keys := map[int]eval.Key{}
	want := map[int]struct {
		status eval.CallbackStatus
		reason eval.CallbackReason
	}{
		200: {eval.CallbackDelivered, ""}, 201: {eval.CallbackDelivered, ""}, 204: {eval.CallbackDelivered, ""}, 299: {eval.CallbackDelivered, ""},
		301: {eval.CallbackPending, eval.CallbackRedirect}, 307: {eval.CallbackPending, eval.CallbackRedirect}, 308: {eval.CallbackPending, eval.CallbackRedirect},
		400: {eval.CallbackPending, eval.CallbackRejected}, 401: {eval.CallbackPending, eval.CallbackRejected}, 404: {eval.CallbackPending, eval.CallbackRejected},
		410: {eval.CallbackDead, eval.CallbackGone}, 413: {eval.CallbackPending, eval.CallbackRejected}, 429: {eval.CallbackPending, eval.CallbackRejected},
		500: {eval.CallbackPending, eval.CallbackBroken}, 502: {eval.CallbackPending, eval.CallbackBroken}, 599: {eval.CallbackPending, eval.CallbackBroken},
	}
	for code := range want {
		keys[code] = r.ended(to.at(fmt.Sprintf("h%d.test", code)))
	}
	r.deliverer(nil, nil)
	for code, w := range want {
		c := r.until(keys[code], fmt.Sprintf("%d is judged", code), func(c eval.Callback) bool { return c.Tries == 1 && c.Deliverer == "" })
		require.Equal(t, w.status, c.Status, code)
		require.Equal(t, w.reason, c.Reason, code)
		require.Equal(t, code, c.HTTPStatus)
	}
	require.Len(t, to.requests(), len(want), "no redirect was followed")
}

func TestWhatIsNoAnswer(t *testing.T) {
	r := newRig(t)
	secure := httptest.NewTLSServer(nil)
	secure.Config.ErrorLog = nil
	t.Cleanup(secure.Close)
	hang := make(chan struct{})
	silent := newReceiver(t, func(http.ResponseWriter, *http.Request) { <-hang })
	defer close(hang)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed := "http://" + gone.Addr().String() + "/?token=" + token
	require.NoError(t, gone.Close())
	plain := newReceiver(t, nil)
	cut := newReceiver(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for name, want := range map[string]struct {
		url    string
		reason eval.CallbackReason
		status eval.CallbackStatus
		words  string
	}{
		"an unknown name":         {plain.at("a.nowhere.test"), eval.CallbackDNS, eval.CallbackPending, "could not be resolved"},
		"metadata behind a name":  {plain.at("a.metadata.test"), eval.CallbackRefused, eval.CallbackDead, "--callback-allow"},
		"an address inside":       {plain.at("10.0.0.1"), eval.CallbackRefused, eval.CallbackDead, "the URL is an address"},
		"nobody listens":          {closed, eval.CallbackConnect, eval.CallbackPending, "connection refused"},
		"a connection that ends":  {cut.at("cut.test"), eval.CallbackConnect, eval.CallbackPending, "ended before"},
		"an untrusted certficate": {secure.URL + "/?token=" + token, eval.CallbackTLS, eval.CallbackPending, "certificate"},
		"no TLS":                  {strings.Replace(plain.at("plain.test"), "http:", "https:", 1), eval.CallbackTLS, eval.CallbackPending, "TLS"},
		"no answer in time":       {silent.at("silent.test"), eval.CallbackTimeout, eval.CallbackPending, "no answer within 300ms"},
	} {
		key := r.ended(want.url)
		d := r.deliverer(nil, nil, func(c *callback.Config) {
			if want.reason == eval.CallbackTimeout { // the others answer, be it late
				c.Timeout = 300 * time.Millisecond
			}
		})
		c := r.until(key, name, func(c eval.Callback) bool { return c.Tries == 1 && c.Deliverer == "" })
		d.stop()
		require.Equal(t, want.reason, c.Reason, "%s: %s", name, c.Message)
		require.Equal(t, want.status, c.Status, name)
		require.Contains(t, c.Message, want.words, name)
		require.Zero(t, c.HTTPStatus, name)
		for _, secret := range []string{token, "127.0.0.1", "169.254"} {
			require.NotContains(t, c.Message, secret, name)
		}
	}
	require.NotContains(t, r.log.String(), token, "the log must not hold what may be a secret")
	require.NotContains(t, r.log.String(), "/hook")
}

// deaf is a store that a deliverer cannot report to any more: for the receiver, its process has died in between.
type deaf struct{ callback.Store }

func (deaf) ReportCallback(context.Context, eval.CallbackLease, eval.Delivery) (eval.Callback, error) {
	return eval.Callback{}, errors.New("dead")
}

func TestADelivererThatDiesLeavesItToAnotherUnderTheSameID(t *testing.T) {
	r, to := newRig(t), newReceiver(t, nil)
	key := r.ended(to.at("receiver.test"))
	first := r.deliverer(deaf{r.store}, nil)
	testkit.Eventually(t, func() bool { return len(to.requests()) == 1 }, "the first one has sent it")
	first.stop()
	second := r.deliverer(nil, nil, func(c *callback.Config) { c.Name = "second" })
	require.Equal(t, eval.CallbackPending, r.callback(key).Status, "held until the lease is over")
	r.clock.advance(time.Minute)
	second.Wake()
	c := r.until(key, "delivered", status(eval.CallbackDelivered))
	require.Equal(t, 2, c.Tries)
	got := to.requests()
	require.Len(t, got, 2, "at least once")
	require.Equal(t, got[0].header.Get("webhook-id"), got[1].header.Get("webhook-id"))
}

func TestSeveralDeliverersSendEachOnce(t *testing.T) {
	r, to := newRig(t), newReceiver(t, nil)
	var keys []eval.Key
	for i := range 60 {
		keys = append(keys, r.ended(to.at(fmt.Sprintf("h%d.test", i%7))))
	}
	for i := range 3 {
		r.deliverer(nil, nil, func(c *callback.Config) { c.Name = fmt.Sprint(i) })
	}
	for _, key := range keys {
		r.until(key, "delivered", status(eval.CallbackDelivered))
	}
	require.Len(t, to.requests(), len(keys))
}

func TestWhatIsForgottenIsGivenUp(t *testing.T) {
	r, to := newRig(t), newReceiver(t, nil)
	key := r.ended(to.at("receiver.test"))
	r.deliverer(forgetful{r.store}, nil)
	c := r.until(key, "dead", status(eval.CallbackDead))
	require.Equal(t, eval.CallbackForgotten, c.Reason)
	require.Empty(t, to.requests())
}

type forgetful struct{ callback.Store }

func (forgetful) Get(_ context.Context, key eval.Key) (eval.Evaluation, error) {
	return eval.Evaluation{}, key.Missing()
}

// pipes is a network without sockets: synctest knows when everybody in it waits.
type pipes struct{ connections chan net.Conn }

func (p pipes) Accept() (net.Conn, error) {
	conn, open := <-p.connections
	if !open {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	p.connections <- theirs
	return ours, nil
}

func TestItIsDeadAfterTenTriesInADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := pipes{make(chan net.Conn)}
		var mu sync.Mutex
		var came []time.Time
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			came = append(came, time.Now())
			mu.Unlock()
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusInternalServerError)
		})}
		go func() { _ = server.Serve(network) }()
		r := newRig(t)
		r.clock.at = time.Now()
		began := time.Now()
		key := r.ended("http://receiver.test/")
		client := &http.Client{Transport: &http.Transport{DialContext: network.dial}}
		d := r.deliverer(followed{r.store, r.clock}, client, func(c *callback.Config) { c.Every = 5 * time.Second })
		time.Sleep(36 * time.Hour)
		synctest.Wait()
		c := r.callback(key)
		require.Equal(t, eval.CallbackDead, c.Status)
		require.Equal(t, eval.CallbackBroken, c.Reason)
		require.Len(t, came, 10)
		delays := []time.Duration{
			5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
		}
		assert.Less(t, came[0].Sub(began), time.Second)
		for i, delay := range delays {
			wait := came[i+1].Sub(came[i])
			assert.True(t, wait >= delay && wait <= delay*5/4+6*time.Second, "before try %d: %v, of %v", i+2, wait, delay)
		}
		require.EqualValues(t, 1, d.metric(t, "crucible_callbacks_dead_total", "broken"))
		d.stop()
		close(network.connections)
		_ = server.Close()
	})
}

// followed moves the store's clock along with the bubble's.
type followed struct {
	callback.Store
	clock *clock
}

func (f followed) TakeCallbacks(ctx context.Context, q eval.TakeRequest) ([]eval.Callback, error) {
	f.clock.mu.Lock()
	f.clock.at = time.Now()
	f.clock.mu.Unlock()
	return f.Store.TakeCallbacks(ctx, q)
}

func TestSecretsAreChecked(t *testing.T) {
	for _, wrong := range [][]string{nil, {""}, {"hunter2"}, {"whsec_"}, {"whsec_c2hvcnQ="}, {"whsec_***"}, {oldSecret, "x"}, {"whsec_" + strings.Repeat("A", 100)}} {
		_, err := callback.NewSigner(wrong)
		require.ErrorContains(t, err, "openssl rand -base64 32", "%q", wrong)
		require.NotContains(t, err.Error(), "hunter2")
	}
}
