package api_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/memory"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// BenchmarkSubmit is one submission after the other over HTTP, on a store in
// memory and a Redis process: without limits, with a bound on what may wait,
// and with a rate too. Compare within one run.
func BenchmarkSubmit(b *testing.B) {
	for name, quota := range map[string]api.Quota{
		"limits=none":        {},
		"limits=queued":      {Each: api.Limits{Queued: 1 << 40}, Queued: 1 << 40},
		"limits=queued+rate": {Each: api.Limits{Queued: 1 << 40, Rate: 1e6, Burst: 1e6}, Queued: 1 << 40},
	} {
		b.Run(name, func(b *testing.B) {
			redis, err := task.Open(b.Context(), task.RedisConfig{URL: testkit.Redis(b).URL}, nil)
			require.NoError(b, err)
			b.Cleanup(func() { _ = redis.Close() })
			rules := eval.DefaultRules()
			p := start(b, func(c *api.Config, d *api.Deps) {
				c.Quota, d.Redis, d.Queue = quota, redis, task.NewQueue(redis)
				d.Store, d.Notices = memory.NewStore(memory.Options{MaxEvaluations: 1 << 30, Rules: rules}), nil
			})
			client := &http.Client{}
			for b.Loop() {
				resp, err := client.Post(p.url+"/api/v1/evaluations", "application/json", strings.NewReader(hello))
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusAccepted {
					b.Fatal(resp.Status)
				}
			}
			client.CloseIdleConnections()
		})
	}
}
