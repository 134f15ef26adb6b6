package httpkit

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
)

// Timings of event streams.
const (
	HeartbeatEvery  = 15 * time.Second // a comment, so that proxies keep the stream open
	sseWriteTimeout = 10 * time.Second // for a reader that does not read
	ssePiece        = 256 << 10        // what it has to read in that time
)

// Stream is a response of server-sent events. It is used by one goroutine.
type Stream struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

// SSE starts a stream of server-sent events.
func SSE(c echo.Context) (*Stream, error) {
	h := c.Response().Header()
	h.Set(echo.HeaderContentType, "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	c.Response().WriteHeader(http.StatusOK)
	s := &Stream{w: c.Response(), rc: http.NewResponseController(c.Response())}
	return s, s.flush()
}

// Send writes one event and flushes it. id and event may be empty; data is
// usually JSON in one line. A reader that takes nothing for ten seconds is an
// error.
func (s *Stream) Send(id, event string, data []byte) error {
	var b bytes.Buffer
	if id != "" {
		fmt.Fprintf(&b, "id: %s\n", oneLine(id))
	}
	if event != "" {
		fmt.Fprintf(&b, "event: %s\n", oneLine(event))
	}
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		b.WriteString("data: ")
		b.Write(bytes.TrimSuffix(line, []byte("\r")))
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	return s.write(b.Bytes())
}

// Heartbeat writes a comment, which readers skip.
func (s *Stream) Heartbeat() error { return s.write([]byte(": alive\n\n")) }

func (s *Stream) write(p []byte) error {
	for piece := range slices.Chunk(p, ssePiece) {
		// Not every writer knows deadlines (a test's recorder does not).
		_ = s.rc.SetWriteDeadline(time.Now().Add(sseWriteTimeout))
		if _, err := s.w.Write(piece); err != nil {
			return err
		}
	}
	return s.flush()
}

func (s *Stream) flush() error { return s.rc.Flush() }

func oneLine(s string) string {
	return strings.NewReplacer("\n", " ", "\r", " ").Replace(s)
}
