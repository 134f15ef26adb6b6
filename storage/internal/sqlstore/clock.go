package sqlstore

import (
	"context"
	"database/sql"
	"sync"
	"sync/atomic"
	"time"
)

const (
	clockEvery   = time.Minute
	clockTimeout = 5 * time.Second
)

// clock tells the time of the database, so that several processes agree about
// leases: the local clock, corrected by a difference measured now and then.
type clock struct {
	db     *sql.DB
	offset atomic.Int64 // nanoseconds that the database is ahead
	stop   context.CancelFunc
	done   sync.WaitGroup
}

func newClock(ctx context.Context, db *sql.DB) (*clock, error) {
	c := &clock{db: db}
	if err := c.measure(ctx); err != nil {
		return nil, err
	}
	ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	c.done.Go(func() {
		tick := time.NewTicker(clockEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				_ = c.measure(ctx) // without an answer, the last difference holds
			}
		}
	})
	return c, nil
}

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

// measure asks for the database's time. Half of the round trip is taken to
// lie before the answer.
func (c *clock) measure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	var best time.Duration
	for i := range 3 {
		var micros int64
		before := time.Now()
		if err := c.db.QueryRowContext(ctx, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").Scan(&micros); err != nil {
			return err
		}
		took := time.Since(before)
		if i == 0 || took < best {
			best = took
			c.offset.Store(int64(time.UnixMicro(micros).Sub(before.Add(took / 2))))
		}
	}
	return nil
}

// Close stops the measuring.
func (c *clock) Close() error {
	c.stop()
	c.done.Wait()
	return nil
}
