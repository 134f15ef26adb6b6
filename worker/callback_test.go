package worker_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/egress"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/worker"
)

// listener is a receiver of callbacks on loopback.
type listener struct {
	*httptest.Server
	mu  sync.Mutex
	got map[eval.ID][]eval.Evaluation
}

func listen(t testing.TB) *listener {
	l := &listener{got: map[eval.ID][]eval.Evaluation{}}
	l.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e eval.Evaluation
		body, _ := io.ReadAll(r.Body)
		if json.Unmarshal(body, &e) == nil && string(e.ID) == r.Header.Get("webhook-id") {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.got[e.ID] = append(l.got[e.ID], e)
		}
	}))
	t.Cleanup(l.Close)
	return l
}

func (l *listener) heard(id eval.ID) []eval.Evaluation {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.got[id]
}

func (l *listener) settings(t testing.TB) *worker.Callbacks {
	guard, err := egress.New(egress.Config{HTTP: true, Ports: []uint16{0}, Allow: []string{"127.0.0.1"}})
	require.NoError(t, err)
	return &worker.Callbacks{
		Guard: guard, Secrets: []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, Every: 20 * time.Millisecond,
		Payload: func(e eval.Evaluation) ([]byte, error) { return json.Marshal(e) },
	}
}

func calling(l *listener) func(*eval.Spec) {
	return func(s *eval.Spec) { s.CallbackURL = l.URL + "/hook" }
}

// However an evaluation ends, whoever asked for it is told, once.
func TestWhoeverAskedIsToldOfTheEnd(t *testing.T) {
	r, l := newRig(t, task.RedisConfig{}), listen(t)
	silent := r.submit("hello")
	var told []eval.Evaluation
	for range 5 {
		told = append(told, r.submit("hello", calling(l)))
	}
	cancelled := r.create("hello", calling(l))
	_, err := r.store.Cancel(t.Context(), cancelled.Key, "")
	require.NoError(t, err)
	told = append(told, cancelled)
	r.worker(worker.Config{Callbacks: l.settings(t)}, nil)
	r.worker(worker.Config{Callbacks: l.settings(t)}, nil)
	for _, e := range told {
		testkit.Eventually(t, func() bool { return len(l.heard(e.ID)) > 0 }, "the receiver has heard of it")
		testkit.Eventually(t, func() bool {
			c, err := r.store.Callback(t.Context(), e.Key)
			return err == nil && c.Status == eval.CallbackDelivered
		}, "it is delivered")
		require.Len(t, l.heard(e.ID), 1)
		require.Equal(t, r.get(e.Key).Status, l.heard(e.ID)[0].Status)
	}
	r.ended(silent.Key)
	require.Empty(t, l.heard(silent.ID))
}

// What ended while callbacks were off, or no worker was there, is told later.
func TestTheEndIsToldLaterWhereNobodyCould(t *testing.T) {
	r, l := newRig(t, task.RedisConfig{}), listen(t)
	off := r.worker(worker.Config{}, nil)
	e := r.submit("hello", calling(l))
	r.ended(e.Key)
	require.NoError(t, off.Stop(t.Context()))
	require.Empty(t, l.heard(e.ID))
	r.worker(worker.Config{Callbacks: l.settings(t)}, nil)
	testkit.Eventually(t, func() bool { return len(l.heard(e.ID)) == 1 }, "the receiver has heard of it")
}

func TestCallbacksNeedASecret(t *testing.T) {
	l := listen(t)
	for name, edit := range map[string]func(*worker.Callbacks){
		"no secret":     func(c *worker.Callbacks) { c.Secrets = nil },
		"a bad secret":  func(c *worker.Callbacks) { c.Secrets = []string{"hunter2"} },
		"no guard":      func(c *worker.Callbacks) { c.Guard = nil },
		"a long wait":   func(c *worker.Callbacks) { c.Timeout = time.Hour },
		"bad numbers":   func(c *worker.Callbacks) { c.PerHost = -1 },
		"nothing to do": func(c *worker.Callbacks) { c.Payload = nil },
	} {
		c := l.settings(t)
		edit(c)
		require.Error(t, c.Check(), name)
	}
	require.NoError(t, l.settings(t).Check())
}
