package task

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// embedded is a Redis inside this process. It listens on a random loopback port behind a random password, so that
// nobody else on the machine can put work into it.
type embedded struct {
	server   *miniredis.Miniredis
	password string
}

func startEmbedded() (*embedded, error) {
	e := &embedded{server: miniredis.NewMiniRedis(), password: rand.Text()}
	e.server.RequireAuth(e.password)
	if err := e.server.StartAddr("127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("start the embedded Redis on a loopback port: %w", err)
	}
	return e, nil
}

func (e *embedded) addr() string { return e.server.Addr() }

// tick lets the time to live of keys pass, which it does not by itself, until ctx ends.
func (e *embedded) tick(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			now := time.Now()
			e.server.FastForward(now.Sub(last))
			last = now
		}
	}
}
