//go:build e2e && linux

package e2e_test

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/crucible-eval/crucible/pkg/testkit"
)

// traces is an OTLP collector that remembers which services took part in which trace.
type traces struct {
	mu       sync.Mutex
	services map[string]map[string]bool // trace id -> service.name
}

func (c *traces) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	var sent collector.ExportTraceServiceRequest
	if err != nil || proto.Unmarshal(raw, &sent) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, from := range sent.ResourceSpans {
		service := ""
		for _, a := range from.Resource.Attributes {
			if a.Key == "service.name" {
				service = a.Value.GetStringValue()
			}
		}
		for _, scope := range from.ScopeSpans {
			for _, span := range scope.Spans {
				id := hex.EncodeToString(span.TraceId)
				if c.services[id] == nil {
					c.services[id] = map[string]bool{}
				}
				c.services[id][service] = true
			}
		}
	}
}

// in says whether the service has sent a span of the trace.
func (c *traces) in(trace, service string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.services[trace][service]
}

// A trace that a client began goes through the API, the queue, the worker and the executor.
func TestOneTraceFromTheClientToTheExecutor(t *testing.T) {
	seen := &traces{services: map[string]map[string]bool{}}
	server := httptest.NewServer(seen)
	defer server.Close()
	p := splitWith(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL, "OTEL_BSP_SCHEDULE_DELAY=100")

	const id = "0af7651916cd43dd8448eb211c80319c"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/api/v1/evaluations?wait=20s",
		strings.NewReader(`{"language":"python","code":"print(1)"}`))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("traceparent", "00-"+id+"-b7ad6b7169203331-01")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	require.Equal(t, http.StatusOK, resp.StatusCode)

	for _, service := range []string{"crucible-api", "crucible-worker", "crucible-executor", "crucible-storage"} {
		testkit.EventuallyWithin(t, 30*time.Second, func() bool { return seen.in(id, service) }, service+" sends its spans of the trace")
	}
}
