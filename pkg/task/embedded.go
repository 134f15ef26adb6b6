package task

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
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
	e.server.Server().SetPreHook(e.look)
	return e, nil
}

// look answers asynq's look into an empty queue, which is a Lua script, without running it: "nothing" is all that the
// script can say then, and it is asked hundreds of times a second. Without this an idle process spends a fifth of a
// core on starting the Lua interpreter.
func (e *embedded) look(peer *server.Peer, command string, args ...string) bool {
	if command != "EVALSHA" || len(args) < 6 || args[1] != "4" ||
		!strings.HasSuffix(args[2], ":pending") || !strings.HasSuffix(args[3], ":paused") || !strings.HasSuffix(args[5], ":lease") {
		return false
	}
	if e.server.DB(0).Exists(args[2]) {
		return false
	}
	peer.WriteNull()
	return true
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
