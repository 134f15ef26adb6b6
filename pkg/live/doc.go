// Package live carries what is of use only now, through Redis: hints that an evaluation has changed ([Notices]), the
// output of running programs ([OutputLog]), and the list of workers alive ([Roster]). All of it may be lost without
// harm: the store is the truth. When Redis is away, each operation fails fast, one line in the log says so, and
// nothing else stops.
package live

import (
	"errors"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/internal/outage"
)

// patience is how long one operation may take. What is late here is of no use.
const patience = 250 * time.Millisecond

// Live is the three of them over one Redis.
type Live struct {
	*Notices
	*OutputLog
	*Roster
}

// New returns them. Close ends their connections, but not the client.
func New(client *redis.Client, logger *slog.Logger) *Live {
	gate := outage.NewGate("live output and notices: Redis", time.Second, logger)
	return &Live{
		Notices:   newNotices(client, gate),
		OutputLog: newOutputLog(client, gate),
		Roster:    &Roster{client: client, gate: gate},
	}
}

// Close ends what New started. Watchers' channels are closed.
func (l *Live) Close() error { return errors.Join(l.Notices.Close(), l.OutputLog.Close()) }

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return eval.Errorf(eval.KindUnavailable, "Redis cannot be reached; live output and the list of workers come back with it: %w", err)
}

func closedGate() error {
	return eval.Errorf(eval.KindUnavailable, "Redis cannot be reached; it is tried again in a second")
}
