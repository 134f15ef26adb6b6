package cli

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/crucible-eval/crucible/pkg/observe"
)

// hangUps delivers SIGHUP to what can reload. Where the log goes to a
// terminal the signal means that the terminal is gone, and ends the program
// as ever.
func hangUps(log io.Writer, reload func()) (seen <-chan os.Signal, stop func()) {
	if reload == nil || observe.IsTerminal(log) {
		return nil, func() {}
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c, func() { signal.Stop(c) }
}

// Signals returns a context that ends with the first SIGINT or SIGTERM, and
// one that ends with the second. A third one finds nobody who catches it, and
// kills the process. stop frees what they need.
func Signals() (ctx, hard context.Context, stop func()) {
	hard, endHard := context.WithCancel(context.Background())
	ctx, end := context.WithCancel(hard)
	seen := make(chan os.Signal, 2)
	signal.Notify(seen, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer signal.Stop(seen)
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
