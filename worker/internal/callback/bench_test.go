package callback_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/worker/internal/callback"
)

// BenchmarkDelivery is callbacks from the outbox (memory) to receivers on loopback and reported back, by hosts.
func BenchmarkDelivery(b *testing.B) {
	for _, hosts := range []int{1, 8} {
		b.Run(fmt.Sprintf("hosts=%d", hosts), func(b *testing.B) {
			r, to := newRig(b), newReceiver(b, nil)
			for i := range b.N {
				r.ended(to.at(fmt.Sprintf("h%d.test", i%hosts)))
			}
			b.ResetTimer()
			d := r.deliverer(nil, nil, func(c *callback.Config) { c.AtOnce, c.PerHost, c.Every = 32, 4, time.Second })
			for {
				stats, err := r.store.CountCallbacks(b.Context(), eval.DefaultProject)
				if err != nil {
					b.Fatal(err)
				}
				if stats.Pending == 0 {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			b.StopTimer()
			d.stop()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "callbacks/s")
		})
	}
}
