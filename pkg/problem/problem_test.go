package problem_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
)

// overTheWire sends an error as a response and reads it back.
func overTheWire(t *testing.T, err error) (*http.Response, *eval.Error) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.NoError(t, problem.Write(w, r, err))
	}))
	defer srv.Close()
	resp, rerr := http.Get(srv.URL + "/x")
	require.NoError(t, rerr)
	defer resp.Body.Close()
	got, ok := errors.AsType[*eval.Error](problem.Decode(resp))
	require.True(t, ok)
	return resp, got
}

func TestEveryKindSurvivesTheWire(t *testing.T) {
	for _, info := range eval.Kinds() {
		t.Run(string(info.Kind), func(t *testing.T) {
			sent := &eval.Error{Kind: info.Kind, Message: "what to do", Status: eval.Failed, RetryAfter: 1500 * time.Millisecond,
				Fields: []eval.FieldError{{Field: "a.b", Message: "is wrong"}}}
			resp, got := overTheWire(t, sent)
			require.Equal(t, info.Status, resp.StatusCode)
			require.Equal(t, "2", resp.Header.Get("Retry-After"))
			sent.Do = info.Do // on the way every error is told what can be done
			require.Equal(t, sent, got)
		})
	}
}

func TestAnUnknownErrorShowsNothingOfItself(t *testing.T) {
	resp, got := overTheWire(t, errors.New("password is hunter2"))
	require.Equal(t, http.StatusInternalServerError, resp.StatusCode)
	require.NotContains(t, got.Error(), "hunter2")
}

func TestACauseStaysAtHome(t *testing.T) {
	_, got := overTheWire(t, eval.Errorf(eval.KindUnavailable, "the database does not answer: %w", errors.New("dial 10.0.0.1")))
	require.Equal(t, "the database does not answer", got.Message)
}

func TestWhatIsNoProblemIsToldApart(t *testing.T) {
	for status, kind := range map[int]eval.Kind{502: eval.KindUnavailable, 404: eval.KindNotFound, 401: eval.KindUnauthorized, 418: eval.KindInvalid} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
		}))
		resp, err := http.Get(srv.URL)
		require.NoError(t, err)
		got, ok := errors.AsType[*eval.Error](problem.Decode(resp))
		require.True(t, ok)
		require.Equal(t, kind, got.Kind)
		require.Equal(t, 7*time.Second, got.RetryAfter)
		resp.Body.Close()
		srv.Close()
	}
}
