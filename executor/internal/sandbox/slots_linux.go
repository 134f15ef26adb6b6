package sandbox

import (
	"os"
	"sync"
	"sync/atomic"
)

// Host ids of boxes lie above everything that distributions and container
// managers hand out (which ends at 1,879,048,191), each executor having a block
// of its own by its process id, so that two executors do not share ids. A
// sandbox that takes another's place in one process, while the last boxes of
// that one are still there, takes the next block: eight of them fit below 2^32.
const (
	firstHostUID  = 1_900_000_000
	slotsPerBlock = 1024
	idsPerSlot    = 2 // init and the program
	blocks        = 65_536
	generations   = 8
)

// generation counts the sandboxes of this process.
var generation atomic.Int64

// slots lends pairs of host ids: never the same to two boxes or workspaces
// that live at once, except to a workspace and its boxes.
type slots struct {
	mu   sync.Mutex
	free []int64
	next int64
	base int64
}

func newSlots() *slots {
	block := int64(os.Getpid()%blocks) + (generation.Add(1)-1)%generations*blocks
	return &slots{base: firstHostUID + block*slotsPerBlock*idsPerSlot}
}

// block is all that take can return: the first id, and how many.
func (s *slots) block() (first, count int64) { return s.base, slotsPerBlock * idsPerSlot }

// take returns the first id of a free pair, or false when all are taken.
func (s *slots) take() (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Oldest first: a pair rests as long as possible before it is used again.
	if s.next < slotsPerBlock {
		s.next++
		return s.base + (s.next-1)*idsPerSlot, true
	}
	if len(s.free) == 0 {
		return 0, false
	}
	uid := s.free[0]
	s.free = s.free[1:]
	return uid, true
}

func (s *slots) give(uid int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = append(s.free, uid)
}
