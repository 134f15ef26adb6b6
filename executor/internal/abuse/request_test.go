//go:build linux

package abuse_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/executor/internal/abuse"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// door serves an executor over HTTP, and returns what sends it a run.
func door(t *testing.T) func(ctx context.Context, body, contentType string) (status int, answer string) {
	t.Helper()
	r := newRig(t, "")
	s, err := executor.New(executor.ServiceConfig{Listen: "127.0.0.1:0"}, r.Local, nil, nil)
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context()))
	client := &http.Client{}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		require.NoError(t, s.Stop(ctx))
	})
	return func(ctx context.Context, body, contentType string) (int, string) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+"/v1/runs", strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", contentType)
		resp, err := client.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer func() { _ = resp.Body.Close() }()
		answer, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(answer)
	}
}

// TestRequests sends what a client could get wrong, or mean: each is refused
// with a reason, and the executor goes on.
func TestRequests(t *testing.T) {
	post := door(t)
	const program = `"id":"a","attempt":1,"language":"hostile","code":"-","args":["version"]`
	limit := func(name, value string) string { return `{` + program + `,"limits":{"` + name + `":` + value + `}}` }
	file := func(name string) string {
		return `{"id":"a","attempt":1,"language":"hostile","entrypoint":"m","files":{"m":"-","` + name + `":"x"}}`
	}
	bodies := map[string]string{
		"limit -1": limit("wall_ms", "-1"), "limit NaN": limit("wall_ms", "NaN"), "limit 1e308": limit("wall_ms", "1e308"),
		"limit 1.5": limit("cpu_ms", "1.5"), "limit as text": limit("memory_bytes", `"1"`), "limit true": limit("processes", "true"),
		"limit 2^63": limit("memory_bytes", "9223372036854775808"), "limit -2^63": limit("disk_bytes", "-9223372036854775808"),
		"too much": limit("processes", "100000"), "too little": limit("memory_bytes", "1"), "unknown limit": limit("gpu", "1"),
		"path above": file("../../x"), "path absolute": file("/abs"), "path through above": file("a/../../b"), "path with NUL": file(`a\u0000b`),
		"path too long": file(strings.Repeat("x", 4096)), "path with a backslash": file(`a\\b`), "path twice /": file("a//b"), "path .": file("."),
		"path empty": file(""), "path with a newline": file(`a\nb`), "path below a file": file("m/x"), "path to a folder": file("a/"),
		"no id": `{"attempt":1,"language":"hostile","code":"-"}`, "long id": `{"id":"` + strings.Repeat("i", 129) + `","attempt":1,"language":"hostile","code":"-"}`,
		"attempt 0": `{"id":"a","attempt":0,"language":"hostile","code":"-"}`, "attempt -1": `{"id":"a","attempt":-1,"language":"hostile","code":"-"}`,
		"argument with NUL": `{` + program + `,"stdin":"","env":{"A":"b\u0000"}}`, "variable with =": `{` + program + `,"env":{"A=B":"c"}}`, "variable without name": `{` + program + `,"env":{"":"c"}}`,
		"too many arguments": `{"id":"a","attempt":1,"language":"hostile","code":"-","args":[` + strings.Repeat(`"",`, 300) + `""]}`,
		"unknown language":   `{"id":"a","attempt":1,"language":"../../etc","code":"-"}`, "unknown level": `{` + program + `,"min_isolation":"strong"}`,
		"deep": strings.Repeat(`{"tests":[`, 20_000), "two values": `{` + program + `}{}`, "nothing": ``, "not an object": `[]`, "null": `null`,
		"bad base64": `{"id":"a","attempt":1,"language":"hostile","code":{"data":"***","encoding":"base64"}}`, "other encoding": `{"id":"a","attempt":1,"language":"hostile","code":{"data":"-","encoding":"utf-7"}}`,
	}
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) {
			status, answer := post(t.Context(), body, "application/json")
			require.Equal(t, http.StatusBadRequest, status, answer)
			require.Less(t, len(answer), 8<<10, "what was sent is not sent back whole")
		})
	}
	status, answer := post(t.Context(), `{`+program+`}`, "text/plain")
	require.Equal(t, http.StatusUnsupportedMediaType, status, answer)
	for name, body := range map[string]string{"zero means the default": limit("wall_ms", "0"), "null means the default": limit("wall_ms", "null")} {
		status, answer = post(t.Context(), body, "application/json")
		require.Equal(t, http.StatusOK, status, "%s: %s", name, answer)
		require.Contains(t, answer, `"verdict":"accepted"`)
	}
}

// TestTheSameIDTwice runs one attempt at a time: the second is refused, a
// later attempt takes over, and an earlier one comes late.
func TestTheSameIDTwice(t *testing.T) {
	post := door(t)
	run := func(ctx context.Context, attempt int, args string) (int, string) {
		return post(ctx, fmt.Sprintf(`{"id":"twice","attempt":%d,"language":%q,"code":"-","args":[%s]}`, attempt, abuse.Hostile, args), "application/json")
	}
	type outcome struct {
		status int
		answer string
	}
	first := make(chan outcome, 1)
	go func() {
		status, answer := run(context.WithoutCancel(t.Context()), 2, `"sleep"`)
		first <- outcome{status, answer}
	}()
	testkit.Eventually(t, func() bool { return look(t)["hostile programs"] > 0 }, "the first runs")
	status, answer := run(t.Context(), 2, `"version"`)
	require.Equal(t, http.StatusConflict, status, answer)
	status, answer = run(t.Context(), 1, `"version"`)
	require.Equal(t, http.StatusConflict, status, answer)
	status, answer = run(t.Context(), 3, `"version"`)
	require.Equal(t, http.StatusOK, status, answer)
	ended := <-first
	require.Equal(t, http.StatusConflict, ended.status, ended.answer)
	require.Zero(t, look(t)["hostile programs"])
}
