package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Signals returns a context that ends with the first SIGINT or SIGTERM, and
// one that ends with the second. stop frees what they need.
func Signals() (ctx, hard context.Context, stop func()) {
	hard, endHard := context.WithCancel(context.Background())
	ctx, end := context.WithCancel(hard)
	seen := make(chan os.Signal, 2)
	signal.Notify(seen, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, cancel := range []context.CancelFunc{end, endHard} {
			select {
			case <-seen:
				cancel()
			case <-hard.Done():
				return
			}
		}
	}()
	return ctx, hard, func() {
		signal.Stop(seen)
		end()
		endHard()
		<-done
	}
}
