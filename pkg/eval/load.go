package eval

import (
	"fmt"
	"strconv"
	"strings"
)

// Load is how much an executor has to do now.
type Load struct {
	Slots         int   `json:"slots"`   // runs at once
	Busy          int   `json:"busy"`    // of them taken
	Waiting       int   `json:"waiting"` // runs in line for one
	MemoryBytes   int64 `json:"memory_bytes"`
	ReservedBytes int64 `json:"reserved_bytes"` // of them promised to the runs under way; memory_bytes 0: not counted
	Draining      bool  `json:"draining"`       // shutting down
}

// Loaded is an Executor that knows its load without being asked.
type Loaded interface {
	// Load is the load now, or for an executor behind HTTP that of its last
	// answer. ok is false while there was none.
	Load() (l Load, ok bool)
}

// LoadHeader is the header in which an executor says its Load, on every
// answer, as [Load.Header] writes it.
const LoadHeader = "X-Executor-Load"

// Header writes the load as a dictionary of RFC 9651 (structured fields):
// slots=2, busy=1, waiting=0, memory=8589934592, reserved=268435456, draining.
// The last is there only when it is so.
func (l Load) Header() string {
	s := fmt.Sprintf("slots=%d, busy=%d, waiting=%d, memory=%d, reserved=%d", l.Slots, l.Busy, l.Waiting, l.MemoryBytes, l.ReservedBytes)
	if l.Draining {
		s += ", draining"
	}
	return s
}

// ParseLoad reads what Header wrote; members that it does not know are
// skipped. ok is false where slots is missing, or a number is none.
func ParseLoad(text string) (l Load, ok bool) {
	for member := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(member), "=")
		n, err := strconv.ParseInt(value, 10, 64)
		switch key {
		case "slots":
			l.Slots, ok = int(n), true
		case "busy":
			l.Busy = int(n)
		case "waiting":
			l.Waiting = int(n)
		case "memory":
			l.MemoryBytes = n
		case "reserved":
			l.ReservedBytes = n
		case "draining":
			l.Draining = value == "" || value == "?1"
			continue
		default:
			continue
		}
		if err != nil || n < 0 {
			return Load{}, false
		}
	}
	return l, ok
}
