package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/api"
)

// contract is openapi.yaml as the tests hold it against what they see.
var contract = func() *openapi3.T {
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI())
	if err != nil {
		panic(err)
	}
	return doc
}()

// checked sends the requests of all tests, and fails those whose request or
// response is not as the contract says.
var checked = &http.Client{Transport: newContractTransport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// contractTransport compares every exchange with the contract.
type contractTransport struct {
	router routers.Router
	next   *http.Transport
	mu     sync.Mutex
	seen   map[string]bool // operations that were answered with success
}

func newContractTransport() *contractTransport {
	router, err := gorillamux.NewRouter(contract)
	if err != nil {
		panic(err)
	}
	return &contractTransport{router: router, seen: map[string]bool{}, next: &http.Transport{MaxIdleConnsPerHost: 300, ExpectContinueTimeout: 10 * time.Second}}
}

// CloseIdleConnections is what http.Client calls.
func (c *contractTransport) CloseIdleConnections() { c.next.CloseIdleConnections() }

// maxChecked is the longest body that is compared.
const maxChecked = 2 << 20

func (c *contractTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	var sentBody []byte
	if r.Body != nil && r.ContentLength > 0 && r.ContentLength < maxChecked {
		var err error
		if sentBody, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(sentBody))
	}
	resp, err := c.next.RoundTrip(r)
	if err != nil || strings.HasPrefix(r.URL.Path, "/monitor") {
		return resp, err
	}
	if err := c.check(r, sentBody, resp); err != nil {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("not as openapi.yaml says: %w", err)
	}
	return resp, nil
}

func (c *contractTransport) check(r *http.Request, sentBody []byte, resp *http.Response) error {
	local := r.Clone(context.Background())
	local.URL = &url.URL{Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	local.Body = io.NopCloser(bytes.NewReader(sentBody))
	route, params, err := c.router.FindRoute(local)
	if err != nil {
		if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed {
			return nil // the server says so too
		}
		return fmt.Errorf("%s %s answers %d and is not in it", r.Method, r.URL.Path, resp.StatusCode)
	}
	options := &openapi3filter.Options{IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}
	input := &openapi3filter.RequestValidationInput{Request: local, PathParams: params, Route: route, Options: options}
	if resp.StatusCode < 300 {
		if err := openapi3filter.ValidateRequest(context.Background(), input); err != nil {
			return fmt.Errorf("accepted a request that is not in it: %w", err)
		}
		c.mu.Lock()
		c.seen[route.Operation.OperationID] = true
		c.mu.Unlock()
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: input, Status: resp.StatusCode, Header: resp.Header, Options: options}
	if resp.Header.Get("Content-Type") == "text/event-stream" || r.Method == http.MethodHead || resp.ContentLength > maxChecked {
		options.ExcludeResponseBody = true
	} else {
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(got))
		out.SetBodyBytes(got)
	}
	if err := openapi3filter.ValidateResponse(context.Background(), out); err != nil {
		return fmt.Errorf("%s %s answers %d: %w", r.Method, r.URL.Path, resp.StatusCode, err)
	}
	return nil
}

// fits checks a value against a schema of the contract.
func fits(t testing.TB, schema string, raw string) {
	t.Helper()
	var v any
	require.NoError(t, json.Unmarshal([]byte(raw), &v))
	require.NoError(t, contract.Components.Schemas[schema].Value.VisitJSON(v, openapi3.EnableFormatValidation()), raw)
}

func TestMain(m *testing.M) {
	openapi3filter.RegisterBodyDecoder("text/html", openapi3filter.PlainBodyDecoder)
	code := m.Run()
	transport := checked.Transport.(*contractTransport)
	transport.CloseIdleConnections()
	whole := !slices.ContainsFunc([]string{"run", "skip", "list", "fuzz"}, func(name string) bool { return flag.Lookup("test."+name).Value.String() != "" })
	if code == 0 && whole { // it has seen each operation succeed
		for path, item := range contract.Paths.Map() {
			for method, op := range item.Operations() {
				if !transport.seen[op.OperationID] && path != "/monitor" {
					fmt.Fprintf(os.Stderr, "no test saw %s %s (%s) succeed\n", method, path, op.OperationID)
					code = 1
				}
			}
		}
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func TestContractIsValid(t *testing.T) {
	require.NoError(t, contract.Validate(t.Context(), openapi3.EnableExamplesValidation()))
	require.Equal(t, "3.0.3", contract.OpenAPI)
	ids := map[string]bool{}
	for path, item := range contract.Paths.Map() {
		for method, op := range item.Operations() {
			at := method + " " + path
			require.NotEmpty(t, op.OperationID, at)
			require.False(t, ids[op.OperationID], at)
			ids[op.OperationID] = true
			require.NotEmpty(t, op.Summary, at)
			require.Len(t, op.Tags, 1, at)
			require.NotNil(t, contract.Tags.Get(op.Tags[0]), at)
			if op.RequestBody != nil {
				require.NotEmpty(t, op.RequestBody.Value.Content.Get("application/json").Examples, "%s has no example", at)
			}
		}
	}
}

func TestContractHasEveryRouteAndNoOther(t *testing.T) {
	p := start(t)
	param := regexp.MustCompile(`:(\w+)`)
	var routes, paths []string
	for _, r := range p.api.Routes() {
		if strings.HasPrefix(r[1], "/monitor") && r[0] != http.MethodGet || r[1] == "/monitor/*" {
			continue // asynqmon's own
		}
		routes = append(routes, r[0]+" "+param.ReplaceAllString(r[1], "{$1}"))
	}
	for path, item := range contract.Paths.Map() {
		for method := range item.Operations() {
			paths = append(paths, method+" "+path)
		}
	}
	slices.Sort(routes)
	slices.Sort(paths)
	require.Equal(t, paths, slices.Compact(routes))
}
