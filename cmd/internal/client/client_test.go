package client_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestACutEventStreamGoesOnWhereItWasLeft(t *testing.T) {
	var calls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			fmt.Fprint(w, ": alive\n\nid: 1\nevent: queued\ndata: {\"a\":\ndata: 1}\n\nid: 2\nevent: half")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		switch r.Header.Get("Last-Event-ID") {
		case "1":
			fmt.Fprint(w, "id: 2\nevent: completed\ndata: {}\n\n")
		case "2":
			w.WriteHeader(http.StatusNoContent)
		default:
			http.Error(w, "wrong place", http.StatusBadRequest)
		}
	}))
	defer server.Close()
	c, err := client.New(server.URL+"/", "", 1)
	require.NoError(t, err)
	defer c.Close()
	var got []string
	require.NoError(t, c.Events(t.Context(), "/events", nil, "", func(e client.Event) bool {
		got = append(got, fmt.Sprintf("%s %s %q", e.ID, e.Type, e.Data))
		return true
	}))
	require.Equal(t, []string{`1 queued "{\"a\":\n1}"`, `2 completed "{}"`}, got)
}

// A server that shuts down ends its streams in good order, and refuses new ones for a moment. Neither is the end of what
// is followed: that is said by 204.
func TestAServerThatShutsDownDoesNotEndAnEventStream(t *testing.T) {
	answers := []http.HandlerFunc{
		func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "id: 1\nevent: queued\ndata: {}\n\n") },
		func(w http.ResponseWriter, r *http.Request) {
			_ = problem.Write(w, r, eval.Errorf(eval.KindStopping, "this server is shutting down; connect again"))
		},
		func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "id: 2\nevent: completed\ndata: {}\n\n") },
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
	}
	var calls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answers[calls.Add(1)-1](w, r) }))
	defer server.Close()
	c, err := client.New(server.URL, "", 1)
	require.NoError(t, err)
	defer c.Close()
	var got []string
	require.NoError(t, c.Events(t.Context(), "/events", nil, "", func(e client.Event) bool {
		got = append(got, e.Type)
		return true
	}))
	require.Equal(t, []string{"queued", "completed"}, got)
}

func TestARefusedEventStreamIsNotAskedForAgain(t *testing.T) {
	var calls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	c, err := client.New(server.URL, "", 1)
	require.NoError(t, err)
	defer c.Close()
	require.Error(t, c.Events(t.Context(), "/events", nil, "", func(client.Event) bool { return true }))
	require.EqualValues(t, 1, calls.Load())
}

func TestNoAPISaysHowToStartOne(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	c, err := client.New(server.URL, "", 1)
	require.NoError(t, err)
	_, err = c.List(t.Context(), nil)
	require.ErrorContains(t, err, "crucible up")
	_, err = client.New("localhost:8080", "", 1)
	require.ErrorContains(t, err, "http://127.0.0.1:8080")
}
