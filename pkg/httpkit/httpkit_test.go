package httpkit_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/pkg/httpkit"
	"github.com/crucible-eval/crucible/pkg/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type body struct {
	Name  string `json:"name"`
	Count int64  `json:"count"`
	Inner struct {
		Wall int64 `json:"wall_ms"`
	} `json:"inner"`
}

// serve starts a server with a few routes and stops it with the test.
func serve(t *testing.T, opt httpkit.Options) *httpkit.Server {
	t.Helper()
	opt.Name, opt.Listen = "test", "127.0.0.1:0"
	s, err := httpkit.New(opt)
	require.NoError(t, err)
	s.Echo().POST("/body", func(c echo.Context) error {
		b, err := httpkit.Decode[body](c)
		if err != nil {
			return err
		}
		return c.JSON(200, b)
	})
	s.Echo().POST("/slow", func(c echo.Context) error {
		if _, err := httpkit.Decode[body](c); err != nil {
			return err
		}
		select {
		case <-c.Request().Context().Done():
			return context.Cause(c.Request().Context())
		case <-time.After(3 * opt.BodyPatience):
			return c.NoContent(200)
		}
	})
	s.Echo().GET("/panic", func(echo.Context) error { panic("secret") })
	s.Echo().GET("/fail", func(echo.Context) error { return errors.New("secret") })
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(func() {
		require.NoError(t, s.Stop(context.WithoutCancel(t.Context())))
		http.DefaultClient.CloseIdleConnections()
	})
	return s
}

func do(t *testing.T, method, url, sent string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(sent))
	require.NoError(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(raw)
}

func TestDecodeIsStrict(t *testing.T) {
	s := serve(t, httpkit.Options{BodyLimit: 200})
	for _, tt := range []struct {
		name, sent string
		status     int
		says       string
	}{
		{"good", `{"name":"a","count":1}`, 200, `"name":"a"`},
		{"unknown field", `{"nam":"a"}`, 400, `"field":"nam"`},
		{"wrong type", `{"inner":{"wall_ms":"soon"}}`, 400, `"field":"inner.wall_ms"`},
		{"absurd number", `{"count":1e308}`, 400, `"field":"count"`},
		{"malformed", `{"name":`, 400, "ends before"},
		{"not JSON", `name=a`, 400, "at byte"},
		{"two values", `{} {}`, 400, "exactly one"},
		{"empty", ``, 400, "ends before"},
		{"too large", `{"name":"` + strings.Repeat("a", 300) + `"}`, 413, "200 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, got := do(t, "POST", s.URL()+"/body", tt.sent, "Content-Type", "application/json")
			require.Equal(t, tt.status, status, got)
			require.Contains(t, got, tt.says)
		})
	}
	status, _ := do(t, "POST", s.URL()+"/body", `{}`, "Content-Type", "text/plain")
	require.Equal(t, 415, status)
}

func TestABodyThatComesTooSlowlyIsRefused(t *testing.T) {
	s := serve(t, httpkit.Options{BodyPatience: 50 * time.Millisecond})
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Addr())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, "POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	require.Equal(t, 400, resp.StatusCode)
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Contains(t, string(answer), "too slowly")
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF, "the connection is closed")

	// One that comes in time can be answered later than its patience.
	status, _ := do(t, "POST", s.URL()+"/slow", `{"name":"x"}`, "Content-Type", "application/json")
	require.Equal(t, 200, status)
}

func TestErrorsAreProblemsWithoutSecrets(t *testing.T) {
	s := serve(t, httpkit.Options{})
	for path, want := range map[string]int{"/panic": 500, "/fail": 500, "/nowhere": 404} {
		status, got := do(t, "GET", s.URL()+path, "")
		require.Equal(t, want, status)
		require.NotContains(t, got, "secret")
		var p problem.Problem
		require.NoError(t, json.Unmarshal([]byte(got), &p))
		require.Equal(t, path, p.Instance)
	}
}

func TestWithoutTokensOnlyThisMachineMayAsk(t *testing.T) {
	s := serve(t, httpkit.Options{AllowedHosts: []string{"crucible.test"}})
	for _, tt := range []struct {
		name   string
		header []string
		status int
	}{
		{"loopback", nil, 200},
		{"an allowed host", []string{"Host", "crucible.test"}, 200},
		{"a name that was made to point here", []string{"Host", "evil.test"}, 403},
		{"another site's page", []string{"Origin", "https://evil.test", "Sec-Fetch-Site", "cross-site"}, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, got := do(t, "POST", s.URL()+"/body", `{}`, tt.header...)
			require.Equal(t, tt.status, status, got)
		})
	}
}

func TestWithTokensEachRequestNeedsOne(t *testing.T) {
	s := serve(t, httpkit.Options{Tokens: []httpkit.Token{{Client: "one", Secret: "k1"}, {Client: "two", Secret: "k2"}}})
	for _, tt := range []struct {
		name   string
		header []string
		status int
	}{
		{"none", nil, 401},
		{"wrong", []string{"Authorization", "Bearer k3"}, 401},
		{"empty", []string{"Authorization", "Bearer "}, 401},
		{"bearer", []string{"Authorization", "Bearer k2"}, 200},
		{"header", []string{"X-Api-Key", "k1"}, 200},
		{"any host", []string{"X-Api-Key", "k1", "Host", "crucible.example"}, 200},
		{"basic, from another site", []string{"Authorization", "Basic OmsxCg==", "Sec-Fetch-Site", "cross-site"}, 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, got := do(t, "POST", s.URL()+"/body", `{}`, tt.header...)
			require.Equal(t, tt.status, status, got)
		})
	}
	status, _ := do(t, "GET", s.URL()+"/livez", "")
	require.Equal(t, 200, status, "health needs no credentials")
	status, _ = do(t, "GET", s.URL()+"/metrics", "")
	require.Equal(t, 401, status)
}

func TestListeningElsewhereNeedsCredentials(t *testing.T) {
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:80"} {
		_, err := httpkit.New(httpkit.Options{Name: "test", Listen: listen})
		require.ErrorContains(t, err, "without credentials", listen)
	}
	_, err := httpkit.New(httpkit.Options{Name: "test", Listen: "0.0.0.0:0", AllowInsecure: true})
	require.NoError(t, err)
	_, err = httpkit.New(httpkit.Options{Name: "test", Listen: "0.0.0.0:0", Tokens: httpkit.Nameless([]string{"k"})})
	require.NoError(t, err)
}

func TestAnEventStreamEndsWithTheServer(t *testing.T) {
	s, err := httpkit.New(httpkit.Options{Name: "test", Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	s.Echo().GET("/events", func(c echo.Context) error {
		stream, err := httpkit.SSE(c)
		if err != nil {
			return err
		}
		if err := stream.Send("7", "hello", []byte("a\nb")); err != nil {
			return err
		}
		select {
		case <-c.Request().Context().Done():
		case <-s.Draining():
		}
		return nil
	})
	require.NoError(t, s.Start(t.Context()))
	resp, err := http.Get(s.URL() + "/events")
	require.NoError(t, err)
	defer resp.Body.Close()
	want := "id: 7\nevent: hello\ndata: a\ndata: b\n\n"
	got := make([]byte, len(want))
	_, err = io.ReadFull(resp.Body, got)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
	require.NoError(t, s.Stop(t.Context()))
	require.NoError(t, s.Stop(t.Context()), "stopping twice is fine")
	http.DefaultClient.CloseIdleConnections()
}
