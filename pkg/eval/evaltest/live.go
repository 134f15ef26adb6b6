package evaltest

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// TestNotices checks that notices keep the contract of [eval.Notices]. open makes two ends of the same notices, as two
// processes have them, which end with the test.
func TestNotices(t *testing.T, open func(t *testing.T) (here, there eval.Notices)) {
	notice := func(n int64) eval.Notice {
		return eval.Notice{Key: dispatch(int(n)).Key, Status: eval.Running, Seq: n, CancelRequested: n%2 == 0}
	}
	t.Run("every watcher hears it, in every process", func(t *testing.T) {
		here, there := open(t)
		var watchers []<-chan eval.Notice
		for _, n := range []eval.Notices{here, here, there} {
			ch, err := n.Watch(t.Context())
			require.NoError(t, err)
			watchers = append(watchers, ch)
		}
		for i := range int64(10) {
			require.NoError(t, here.Announce(t.Context(), notice(i)))
		}
		for _, ch := range watchers {
			for i := range int64(10) {
				require.Equal(t, notice(i), next(t, ch))
			}
		}
	})
	t.Run("a watcher's channel is closed when its context ends", func(t *testing.T) {
		here, _ := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		ends, err := here.Watch(ctx)
		require.NoError(t, err)
		stays, err := here.Watch(t.Context())
		require.NoError(t, err)
		cancel()
		for open := true; open; {
			_, open = <-ends
		}
		require.NoError(t, here.Announce(t.Context(), notice(1)))
		require.Equal(t, notice(1), next(t, stays))
	})
	t.Run("a watcher that does not read holds nobody up", func(t *testing.T) {
		here, there := open(t)
		_, err := there.Watch(t.Context())
		require.NoError(t, err)
		reads, err := there.Watch(t.Context())
		require.NoError(t, err)
		for i := range int64(2000) {
			require.NoError(t, here.Announce(t.Context(), notice(i)))
			require.Equal(t, notice(i), next(t, reads))
		}
	})
}

// TestOutputLog checks that a log keeps the contract of [eval.OutputLog]. open makes an empty one that ends with the
// test.
func TestOutputLog(t *testing.T, open func(t *testing.T) eval.OutputLog) {
	for name, test := range map[string]func(*testing.T, eval.OutputLog){
		"chunks come back in order, byte for byte":  outputExact,
		"a reader goes on where it stopped":         outputResumes,
		"a reader waits for the first chunk":        outputWaits,
		"a reader that does not wait comes back":    outputEmpty,
		"the end of the context ends the wait":      outputContext,
		"evaluations do not mix":                    outputApart,
		"one read is bounded":                       outputPages,
		"a long chunk loses nothing":                outputLong,
		"the log is capped and keeps what is newer": outputCapped,
		"a position of another kind is refused":     outputPosition,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func chunk(offset int64, data string) eval.OutputChunk {
	return eval.OutputChunk{Attempt: 2, Stream: "stdout", Offset: offset, Data: eval.Bytes(data), At: time.UnixMicro(1_800_000_000_123_456).UTC()}
}

func readOutput(t *testing.T, l eval.OutputLog, key eval.Key, after string) []eval.OutputChunk {
	t.Helper()
	chunks, err := l.Read(t.Context(), key, after, 0)
	require.NoError(t, err)
	return chunks
}

func outputExact(t *testing.T, l eval.OutputLog) {
	key := dispatch(1).Key
	all := []eval.OutputChunk{chunk(0, "first"), chunk(5, string(everyByte())), chunk(261, "")}
	all[1].Stream = "stderr"
	for _, c := range all {
		require.NoError(t, l.Append(t.Context(), key, c))
	}
	got := readOutput(t, l, key, "")
	require.Len(t, got, len(all))
	for i := range all {
		require.NotEmpty(t, got[i].Position)
		require.True(t, bytes.Equal(all[i].Data, got[i].Data))
		all[i].Position, all[i].Data = got[i].Position, got[i].Data
	}
	require.Equal(t, all, got)
}

func outputResumes(t *testing.T, l eval.OutputLog) {
	key := dispatch(1).Key
	require.NoError(t, l.Append(t.Context(), key, chunk(0, "a")))
	first := readOutput(t, l, key, "")
	require.Len(t, first, 1)
	require.Empty(t, readOutput(t, l, key, first[0].Position))
	require.NoError(t, l.Append(t.Context(), key, chunk(1, "b")))
	rest := readOutput(t, l, key, first[0].Position)
	require.Len(t, rest, 1)
	require.Equal(t, "b", string(rest[0].Data))
}

func outputWaits(t *testing.T, l eval.OutputLog) {
	key := dispatch(1).Key
	type answer struct {
		chunks []eval.OutputChunk
		err    error
	}
	got := make(chan answer, 1)
	began := time.Now()
	go func() {
		chunks, err := l.Read(t.Context(), key, "", 15*time.Second)
		got <- answer{chunks, err}
	}()
	require.NoError(t, l.Append(t.Context(), key, chunk(0, "now")))
	a := next(t, got)
	require.NoError(t, a.err)
	require.Len(t, a.chunks, 1)
	require.Less(t, time.Since(began), 5*time.Second)
}

func outputEmpty(t *testing.T, l eval.OutputLog) {
	began := time.Now()
	require.Empty(t, readOutput(t, l, dispatch(1).Key, ""))
	chunks, err := l.Read(t.Context(), dispatch(1).Key, "", 30*time.Millisecond)
	require.NoError(t, err)
	require.Empty(t, chunks)
	require.GreaterOrEqual(t, time.Since(began), 29*time.Millisecond)
}

func outputContext(t *testing.T, l eval.OutputLog) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	began := time.Now()
	chunks, err := l.Read(ctx, dispatch(1).Key, "", time.Hour)
	require.Error(t, err)
	require.Empty(t, chunks)
	require.Less(t, time.Since(began), 5*time.Second)
}

func outputApart(t *testing.T, l eval.OutputLog) {
	a, b := dispatch(1).Key, dispatch(2).Key
	other := eval.Key{Project: "other", ID: a.ID}
	for i, key := range []eval.Key{a, b, other} {
		require.NoError(t, l.Append(t.Context(), key, chunk(0, fmt.Sprint(i))))
	}
	for i, key := range []eval.Key{a, b, other} {
		got := readOutput(t, l, key, "")
		require.Len(t, got, 1)
		require.Equal(t, fmt.Sprint(i), string(got[0].Data))
	}
}

func outputPages(t *testing.T, l eval.OutputLog) {
	key := dispatch(1).Key
	const n = 250
	for i := range n {
		require.NoError(t, l.Append(t.Context(), key, chunk(int64(i), "x")))
	}
	seen, after := 0, ""
	for seen < n {
		page := readOutput(t, l, key, after)
		require.NotEmpty(t, page)
		require.LessOrEqual(t, len(page), 100)
		for _, c := range page {
			require.EqualValues(t, seen, c.Offset)
			seen++
		}
		after = page[len(page)-1].Position
	}
}

func outputLong(t *testing.T, l eval.OutputLog) {
	key := dispatch(1).Key
	whole := bytes.Repeat(everyByte(), 1000)
	require.NoError(t, l.Append(t.Context(), key, chunk(100, string(whole))))
	var got []byte
	for _, c := range readOutput(t, l, key, "") {
		require.EqualValues(t, 100+len(got), c.Offset)
		got = append(got, c.Data...)
	}
	require.True(t, bytes.Equal(whole, got))
}

func outputCapped(t *testing.T, l eval.OutputLog) {
	key := dispatch(1).Key
	part := string(bytes.Repeat([]byte("x"), 32<<10))
	const n = 600 // 19 MiB
	for i := range n {
		require.NoError(t, l.Append(t.Context(), key, chunk(int64(i*len(part)), part)))
	}
	kept, last, after := 0, int64(-1), ""
	for {
		page := readOutput(t, l, key, after)
		if len(page) == 0 {
			break
		}
		for _, c := range page {
			require.Greater(t, c.Offset, last)
			kept, last = kept+len(c.Data), c.Offset
		}
		after = page[len(page)-1].Position
	}
	require.EqualValues(t, (n-1)*len(part), last, "the newest is there")
	require.Less(t, kept, 8<<20)
	require.Greater(t, kept, 512<<10)
}

func outputPosition(t *testing.T, l eval.OutputLog) {
	_, err := l.Read(t.Context(), dispatch(1).Key, "yesterday", 0)
	require.True(t, eval.IsKind(err, eval.KindInvalid), "%v", err)
}

// TestRoster checks that a roster keeps the contract of [eval.Roster]. open makes an empty one that ends with the test.
func TestRoster(t *testing.T, open func(t *testing.T) eval.Roster) {
	info := func(id string) eval.WorkerInfo {
		at := time.UnixMicro(1_800_000_000_123_456).UTC()
		return eval.WorkerInfo{
			ID: id, Host: "h", PID: 7, Version: "1", StartedAt: at, SeenAt: at, Slots: 2, Finished: 3,
			Running:   []eval.RunningInfo{{ID: dispatch(1).ID, Language: "python", Attempt: 1, Since: at}},
			Executors: []eval.ExecutorContact{{Name: "local", InFlight: 1}},
		}
	}
	workers := func(t *testing.T, r eval.Roster) []eval.WorkerInfo {
		t.Helper()
		all, err := r.Workers(t.Context())
		require.NoError(t, err)
		return all
	}
	t.Run("those who report are listed by id, as they last said", func(t *testing.T) {
		r := open(t)
		require.Empty(t, workers(t, r))
		for _, id := range []string{"b", "a", "c", "a"} {
			require.NoError(t, r.Report(t.Context(), info(id), time.Hour))
		}
		busy := info("b")
		busy.Draining, busy.Finished = true, 4
		require.NoError(t, r.Report(t.Context(), busy, time.Hour))
		require.Equal(t, []eval.WorkerInfo{info("a"), busy, info("c")}, workers(t, r))
	})
	t.Run("who leaves is gone at once", func(t *testing.T) {
		r := open(t)
		require.NoError(t, r.Report(t.Context(), info("a"), time.Hour))
		require.NoError(t, r.Leave(t.Context(), "a"))
		require.NoError(t, r.Leave(t.Context(), "never seen"))
		require.Empty(t, workers(t, r))
	})
	t.Run("who falls silent is told as lost, and may come back", func(t *testing.T) {
		r := open(t)
		require.NoError(t, r.Report(t.Context(), info("stays"), time.Hour))
		require.NoError(t, r.Report(t.Context(), info("silent"), 100*time.Millisecond))
		lost := info("silent")
		lost.Lost = true
		testkit.Eventually(t, func() bool { return workers(t, r)[0].Lost }, "the silent worker is lost")
		require.Equal(t, []eval.WorkerInfo{lost, info("stays")}, workers(t, r), "as it last said")
		require.NoError(t, r.Report(t.Context(), info("silent"), time.Hour))
		require.Equal(t, []eval.WorkerInfo{info("silent"), info("stays")}, workers(t, r))
	})
}
