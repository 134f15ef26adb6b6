package run

import (
	"container/list"
	"crypto/sha256"
	"encoding/json"
	"sync"

	"github.com/crucible-eval/crucible/pkg/eval"
)

const (
	// maxBuilds is how many bytes of compiled programs are kept in memory.
	maxBuilds = 64 << 20
	// maxBuildKept is the largest one that is kept.
	maxBuildKept = 16 << 20
)

// builds keeps what compilers made of the programs that were compiled last.
// What is in it was made by programs that nobody trusts, so each is found only
// by the same client with the same program, whole, for the same toolchain and
// command lines.
type builds struct {
	mu    sync.Mutex
	room  int64
	byKey map[buildKey]*list.Element
	order *list.List // of *build; the one used last comes first
}

type buildKey [sha256.Size]byte

type build struct {
	key            buildKey
	made           files
	stdout, stderr eval.Stream
	size           int64
}

func newBuilds(room int64) *builds {
	return &builds{room: room, byKey: map[buildKey]*list.Element{}, order: list.New()}
}

// get returns what was kept, or nil. It must not be changed.
func (b *builds) get(key buildKey) *build {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.byKey[key]
	if e == nil {
		return nil
	}
	b.order.MoveToFront(e)
	return e.Value.(*build)
}

// put keeps a build, which must not be changed any more, and drops those that
// were not used for the longest.
func (b *builds) put(made *build) {
	made.size = int64(len(made.stdout.Data) + len(made.stderr.Data))
	for name, content := range made.made {
		made.size += int64(len(name) + len(content))
	}
	if made.size > maxBuildKept {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byKey[made.key] != nil {
		return // another run of the same program was faster
	}
	b.byKey[made.key] = b.order.PushFront(made)
	for b.room -= made.size; b.room < 0; {
		oldest := b.order.Remove(b.order.Back()).(*build)
		delete(b.byKey, oldest.key)
		b.room += oldest.size
	}
}

// buildKey names everything that a compilation depends on.
func (j *job) buildKey() (key buildKey) {
	h := sha256.New()
	// What is encoded cannot fail, and a hash takes everything.
	_ = json.NewEncoder(h).Encode(struct {
		Client, Toolchain string
		Steps             [][]string
		Env               []string
		Files             map[string]eval.Bytes
	}{j.task.Client, j.lang.Stamp(), j.lang.Steps(j.source), j.lang.Environ(nil), j.source.Files})
	return buildKey(h.Sum(nil))
}
