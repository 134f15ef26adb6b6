package live

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/internal/outage"
)

const (
	outputPrefix = "crucible:output:"
	// outputTTL is how long a log stays after its last chunk.
	outputTTL = 15 * time.Minute
	// outputBytes and outputChunks bound the log of one evaluation; the oldest chunks go first.
	outputBytes  = 4 << 20
	outputChunks = 4096
	// chunkBytes is the most of one chunk; what is longer is split.
	chunkBytes = 64 << 10
	// readers is how many may wait for output at once, each with a connection. Further ones poll.
	readers = 64
	// slice bounds one blocking read: how late a reader notices that its context has ended.
	slice = 500 * time.Millisecond
	// readPatience is how long Redis may take to answer, beyond the wait that was asked for. Nobody's run waits for it.
	readPatience = 2 * time.Second
	// pollEvery is the pause of those who poll.
	pollEvery = 200 * time.Millisecond
	// atMost is how many chunks one Read returns.
	atMost = 100
)

// appendChunk adds a chunk and drops the oldest ones until both bounds hold. A key beside the stream counts its bytes.
var appendChunk = redis.NewScript(`
local id = redis.call('XADD', KEYS[1], '*', 'attempt', ARGV[1], 'stream', ARGV[2], 'offset', ARGV[3], 'at', ARGV[4], 'data', ARGV[5])
local size = redis.call('INCRBY', KEYS[2], string.len(ARGV[5]))
local count = redis.call('XLEN', KEYS[1])
while count > 1 and (size > tonumber(ARGV[6]) or count > tonumber(ARGV[7])) do
	local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
	redis.call('XDEL', KEYS[1], oldest[1])
	size = redis.call('DECRBY', KEYS[2], string.len(oldest[2][10]))
	count = count - 1
end
redis.call('PEXPIRE', KEYS[1], ARGV[8])
redis.call('PEXPIRE', KEYS[2], ARGV[8])
return id
`)

// OutputLog is an eval.OutputLog: one capped Redis stream for each evaluation that prints.
type OutputLog struct {
	client  *redis.Client
	gate    *outage.Gate
	waiting *redis.Client // for reads that block, so that they never take the connections of others
	slots   chan struct{}
}

var _ eval.OutputLog = (*OutputLog)(nil)

func newOutputLog(client *redis.Client, gate *outage.Gate) *OutputLog {
	o := *client.Options()
	o.PoolSize = readers
	o.ConnMaxIdleTime = 30 * time.Second
	return &OutputLog{client: client, gate: gate, waiting: redis.NewClient(&o), slots: make(chan struct{}, readers)}
}

// Close ends the readers' connections.
func (l *OutputLog) Close() error {
	if err := l.waiting.Close(); !errors.Is(err, redis.ErrClosed) {
		return err
	}
	return nil
}

// Append implements eval.OutputLog. KindUnavailable.
func (l *OutputLog) Append(ctx context.Context, key eval.Key, c eval.OutputChunk) error {
	return guarded(ctx, l.gate, func(ctx context.Context) error {
		name := outputKey(key)
		for first := true; first || len(c.Data) > 0; first = false {
			n := min(len(c.Data), chunkBytes)
			err := appendChunk.Run(ctx, l.client, []string{name, name + ":bytes"},
				c.Attempt, c.Stream, c.Offset, c.At.UnixMicro(), []byte(c.Data[:n]),
				outputBytes, outputChunks, outputTTL.Milliseconds()).Err()
			if err != nil {
				return err
			}
			c.Data, c.Offset = c.Data[n:], c.Offset+int64(n)
		}
		return nil
	})
}

// Read implements eval.OutputLog. It notices the end of ctx within half a second. KindUnavailable; KindInvalid for a
// position that no chunk had.
func (l *OutputLog) Read(ctx context.Context, key eval.Key, after string, wait time.Duration) ([]eval.OutputChunk, error) {
	if after == "" {
		after = "0-0"
	}
	if !validPosition(after) {
		return nil, eval.Errorf(eval.KindInvalid, "position %q is not one of this log", after)
	}
	chunks, err := l.read(ctx, l.client, key, after, -1)
	until := time.Now().Add(wait)
	for err == nil && len(chunks) == 0 && ctx.Err() == nil {
		left := time.Until(until)
		if left < time.Millisecond {
			return nil, nil
		}
		select {
		case l.slots <- struct{}{}:
			chunks, err = l.read(ctx, l.waiting, key, after, min(left, slice))
			<-l.slots
		default:
			select {
			case <-ctx.Done():
			case <-time.After(min(left, pollEvery)):
			}
			chunks, err = l.read(ctx, l.client, key, after, -1)
		}
	}
	if ctx.Err() != nil && len(chunks) == 0 {
		return nil, ctx.Err()
	}
	return chunks, err
}

// read returns what is there after a position; with block >= 0 it waits so long for something.
func (l *OutputLog) read(ctx context.Context, client *redis.Client, key eval.Key, after string, block time.Duration) ([]eval.OutputChunk, error) {
	if !l.gate.Allow() {
		return nil, closedGate()
	}
	limited, cancel := context.WithTimeout(ctx, max(block, 0)+readPatience)
	defer cancel()
	streams, err := client.XRead(limited, &redis.XReadArgs{Streams: []string{outputKey(key), after}, Count: atMost, Block: block}).Result()
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	if ctx.Err() == nil {
		l.gate.Report(err)
	}
	if err != nil || len(streams) == 0 {
		return nil, unavailable(err)
	}
	var chunks []eval.OutputChunk
	for _, m := range streams[0].Messages {
		chunks = append(chunks, chunkOf(m))
	}
	return chunks, nil
}

func chunkOf(m redis.XMessage) eval.OutputChunk {
	text := func(name string) string { s, _ := m.Values[name].(string); return s }
	number := func(name string) int64 { n, _ := strconv.ParseInt(text(name), 10, 64); return n }
	return eval.OutputChunk{
		Position: m.ID, Attempt: int(number("attempt")), Stream: text("stream"), Offset: number("offset"),
		Data: eval.Bytes(text("data")), At: time.UnixMicro(number("at")).UTC(),
	}
}

func outputKey(key eval.Key) string { return outputPrefix + key.Project + ":" + string(key.ID) }

// validPosition checks for the form of a stream's id: two decimal numbers.
func validPosition(s string) bool {
	first, second, ok := strings.Cut(s, "-")
	if !ok {
		return false
	}
	_, err1 := strconv.ParseUint(first, 10, 64)
	_, err2 := strconv.ParseUint(second, 10, 64)
	return err1 == nil && err2 == nil
}
