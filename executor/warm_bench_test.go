//go:build linux

package executor_test

import (
	"fmt"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/remote"
)

// hello is a program in each language that can have a warm interpreter, with
// what it is compared with: the same as a bare process, and, for Python, one
// that leaves out what the machine's site adds to each start.
var hello = map[string]struct {
	code  string
	modes []eval.Warm
	bare  func(b *testing.B) [][]string
}{
	"python": {"print('hello')", eval.WarmModes(), func(b *testing.B) [][]string {
		return [][]string{{realPython(b), "-c", "print('hello')"}, {realPython(b), "-S", "-c", "print('hello')"}}
	}},
	"javascript": {"console.log('hello')", []eval.Warm{eval.WarmOff, eval.WarmPrestart}, func(*testing.B) [][]string {
		return [][]string{{"node", "-e", "console.log('hello')"}}
	}},
}

// patience is a pause in which an interpreter is started.
const patience = 150 * time.Millisecond

// BenchmarkWarm runs hello through the HTTP door in each mode, one run after
// another with pauses, each beside bare processes. The figures are medians in
// milliseconds, and ratios to the bare process; "warm-part" is how many runs
// had the interpreter that the mode promises.
func BenchmarkWarm(b *testing.B) {
	for language, h := range hello {
		door := doorTo(b, language)
		for _, mode := range h.modes {
			b.Run(language+"/"+string(mode), func(b *testing.B) {
				all := make([][]time.Duration, 1+len(h.bare(b)))
				warm := 0
				for range 4 {
					postHello(b, door, language, h.code, mode)
					time.Sleep(patience)
				}
				for b.Loop() {
					for i, argv := range h.bare(b) {
						began := time.Now()
						_, err := exec.Command(argv[0], argv[1:]...).Output()
						all[1+i] = append(all[1+i], time.Since(began))
						require.NoError(b, err)
					}
					time.Sleep(patience)
					began := time.Now()
					res := postHello(b, door, language, h.code, mode)
					all[0] = append(all[0], time.Since(began))
					if string(res.Start) == string(mode) {
						warm++
					}
				}
				b.ReportMetric(median(all[0]), "post-ms")
				b.ReportMetric(median(all[1]), "bare-ms")
				b.ReportMetric(median(all[0])/median(all[1]), "post-ratio")
				if len(all) > 2 {
					b.ReportMetric(median(all[0])/median(all[2]), "post-ratio-without-site")
				}
				b.ReportMetric(float64(warm)/float64(len(all[0])), "warm-part")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// BenchmarkWarmThroughput has four clients run hello at once, without pauses,
// in turn with four that start bare processes. The figures are runs a second,
// and their ratio.
func BenchmarkWarmThroughput(b *testing.B) {
	const clients, each = 4, 10
	atOnce := func(f func()) time.Duration {
		began := time.Now()
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				for range each {
					f()
				}
			})
		}
		wg.Wait()
		return time.Since(began)
	}
	for language, h := range hello {
		door := doorTo(b, language)
		for _, mode := range h.modes {
			b.Run(language+"/"+string(mode), func(b *testing.B) {
				for range 4 {
					postHello(b, door, language, h.code, mode)
					time.Sleep(patience)
				}
				argv := h.bare(b)[0]
				var bare, ours []time.Duration
				for b.Loop() {
					bare = append(bare, atOnce(func() {
						if _, err := exec.Command(argv[0], argv[1:]...).Output(); err != nil {
							b.Error(err)
						}
					}))
					ours = append(ours, atOnce(func() { postHello(b, door, language, h.code, mode) }))
				}
				persecond := func(d []time.Duration) float64 { return clients * each * 1000 / median(d) }
				b.ReportMetric(persecond(bare), "bare/s")
				b.ReportMetric(persecond(ours), "post/s")
				b.ReportMetric(persecond(ours)/persecond(bare), "ratio")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

func doorTo(b *testing.B, language string) eval.Runner {
	local := open(b, executor.Config{Languages: []string{language}, Patience: time.Minute})
	s, client := serve(b, local)
	return remote.NewExecutor(s.URL(), "", client)
}

var posted struct {
	sync.Mutex
	n int
}

func postHello(b *testing.B, door eval.Runner, language, code string, mode eval.Warm) eval.Result {
	posted.Lock()
	posted.n++
	id := eval.ID(fmt.Sprint("hello-", posted.n))
	posted.Unlock()
	res, err := door.Run(b.Context(), eval.Request{
		ID: id, Attempt: 1, Program: eval.Program{Language: language, Code: eval.Bytes(code), Warm: mode},
	}, nil)
	if err != nil || res.Verdict != eval.Accepted {
		b.Error(err, res.Verdict)
	}
	return res
}
