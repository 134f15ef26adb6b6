package observe_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/pkg/observe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLogIsJSONWhereNobodyWatches(t *testing.T) {
	var out bytes.Buffer
	log, err := observe.NewLogger(&out, "info", observe.LogAuto)
	require.NoError(t, err)
	log.Debug("hidden")
	log.Info("seen", "answer", 42)
	var line map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &line), out.String())
	require.Equal(t, "seen", line["msg"])
	require.EqualValues(t, 42, line["answer"])
}

func TestTextLogHasNoColoursInAFile(t *testing.T) {
	var out bytes.Buffer
	log, err := observe.NewLogger(&out, "debug", observe.LogText)
	require.NoError(t, err)
	log.Debug("seen", "answer", 42)
	require.Contains(t, out.String(), "DBG seen answer=42\n")
	require.NotContains(t, out.String(), "\x1b")
}

func TestUnknownLogSettingsSayWhatIsKnown(t *testing.T) {
	_, err := observe.NewLogger(io.Discard, "loud", observe.LogText)
	require.ErrorContains(t, err, "debug, info, warn or error")
	_, err = observe.NewLogger(io.Discard, "info", "xml")
	require.ErrorContains(t, err, "auto, text or json")
}

func TestRegistryTellsTheBuild(t *testing.T) {
	families, err := observe.NewRegistry("api").Gather()
	require.NoError(t, err)
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
	}
	require.Subset(t, names, []string{"crucible_build_info", "go_goroutines"})
}

func TestVersionIsNeverEmpty(t *testing.T) {
	v := observe.Version()
	require.NotEmpty(t, v.Version)
	require.Contains(t, v.String(), v.Go)
}

func TestSpansReachTheCollectorBeforeStopReturns(t *testing.T) {
	got := make(chan []byte, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			unzipped, err := gzip.NewReader(body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			body = unzipped
		}
		raw, err := io.ReadAll(body)
		if r.URL.Path == "/v1/traces" && err == nil {
			got <- raw
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	defer collector.Close()

	stop, err := observe.Tracing(t.Context(), observe.TraceConfig{Endpoint: collector.URL, Service: "crucible-test", Ratio: 1}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	_, span := otel.Tracer("test").Start(t.Context(), "a span to find")
	span.End()
	require.NoError(t, stop(context.Background()))
	sent := string(<-got)
	require.Contains(t, sent, "a span to find")
	require.Contains(t, sent, "crucible-test")
}

func TestABadTraceEndpointIsRefused(t *testing.T) {
	_, err := observe.Tracing(t.Context(), observe.TraceConfig{Endpoint: "localhost:4318", Ratio: 1}, nil)
	require.ErrorContains(t, err, "http://127.0.0.1:4318")
}

func TestWithoutAnEndpointNothingIsTraced(t *testing.T) {
	stop, err := observe.Tracing(t.Context(), observe.TraceConfig{Service: "crucible-test"}, nil)
	require.NoError(t, err)
	require.NoError(t, stop(t.Context()))
	require.NoError(t, stop(t.Context()))
}
