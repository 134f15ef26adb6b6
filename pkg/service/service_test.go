package service_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/pkg/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// part writes down when it starts and stops.
type part struct {
	name     string
	log      *[]string
	startErr error
	failed   chan error
}

func (p *part) Name() string { return p.name }
func (p *part) Start(context.Context) error {
	if p.startErr == nil {
		*p.log = append(*p.log, "+"+p.name)
	}
	return p.startErr
}
func (p *part) Stop(context.Context) error { *p.log = append(*p.log, "-"+p.name); return nil }
func (p *part) Failed() <-chan error       { return p.failed }

func TestGroupStartsInOrderAndStopsInReverse(t *testing.T) {
	var log []string
	g := service.NewGroup(nil, &part{name: "a", log: &log}, &part{name: "b", log: &log})
	require.NoError(t, g.Start(t.Context()))
	require.NoError(t, g.Stop(t.Context()))
	require.NoError(t, g.Stop(t.Context()), "stopping twice is fine")
	require.Equal(t, []string{"+a", "+b", "-b", "-a"}, log)
}

func TestGroupStopsWhatStartedWhenOneCannot(t *testing.T) {
	var log []string
	broken := errors.New("port in use")
	g := service.NewGroup(nil, &part{name: "a", log: &log}, &part{name: "b", log: &log, startErr: broken}, &part{name: "c", log: &log})
	err := g.Start(t.Context())
	require.ErrorIs(t, err, broken)
	require.ErrorContains(t, err, "start b")
	require.Equal(t, []string{"+a", "-a"}, log)
}

func TestGroupTellsWhichPartFailed(t *testing.T) {
	var log []string
	p := &part{name: "a", log: &log, failed: make(chan error, 1)}
	g := service.NewGroup(nil, p)
	require.NoError(t, g.Start(t.Context()))
	p.failed <- errors.New("gone")
	require.EqualError(t, <-g.Failed(), "a: gone")
	require.NoError(t, g.Stop(t.Context()))
}

func TestLoop(t *testing.T) {
	running := make(chan struct{})
	l := service.NewLoop("loop", time.Minute, func(ctx context.Context) error {
		close(running)
		<-ctx.Done()
		return ctx.Err()
	})
	require.NoError(t, l.Stop(t.Context()), "stopping what never started is fine")
	require.NoError(t, l.Start(t.Context()))
	<-running
	require.NoError(t, l.Stop(t.Context()))
	require.NoError(t, l.Stop(t.Context()))
	require.Empty(t, l.Failed(), "ending when asked is no failure")

	broken := service.NewLoop("broken", time.Minute, func(context.Context) error { return errors.New("no") })
	require.NoError(t, broken.Start(t.Context()))
	require.EqualError(t, <-broken.Failed(), "no")
	require.NoError(t, broken.Stop(t.Context()))
}

// drainable is a part that can refuse new work.
type drainable struct{ part }

func (d *drainable) Drain() { *d.log = append(*d.log, "~"+d.name) }

func TestAllOfAGroupDrainBeforeTheFirstStops(t *testing.T) {
	var log []string
	inner := service.NewGroup(nil, &drainable{part{name: "a", log: &log}}, &part{name: "b", log: &log})
	g := service.NewGroup(nil, inner, &drainable{part{name: "c", log: &log}}, &drainable{part{name: "d", log: &log, startErr: errors.New("no")}})
	require.Error(t, g.Start(t.Context()))
	require.Equal(t, []string{"+a", "+b", "+c", "-c", "~a", "-b", "-a"}, log, "what failed to start has no work to refuse")

	log = nil
	g = service.NewGroup(nil, service.NewGroup(nil, &drainable{part{name: "a", log: &log}}), &drainable{part{name: "c", log: &log}})
	g.Drain()
	require.Empty(t, log, "what never started has no work to refuse")
	require.NoError(t, g.Start(t.Context()))
	require.NoError(t, g.Stop(t.Context()))
	require.Equal(t, []string{"+a", "+c", "~c", "~a", "-c", "~a", "-a"}, log)
}

func TestALoopThatDoesNotBeatIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck, goOn := make(chan struct{}), make(chan struct{})
		steady := service.NewLoop("steady", time.Minute, func(ctx context.Context) error {
			tick := time.NewTicker(50 * time.Second)
			defer tick.Stop()
			for {
				service.Beat(ctx)
				select {
				case <-ctx.Done():
					return nil
				case <-tick.C:
				}
			}
		})
		sticking := service.NewLoop("sticking", time.Minute, func(ctx context.Context) error {
			step, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Hour)
			defer cancel()
			<-stuck
			service.Beat(step) // of a context derived from the loop's
			<-goOn
			return nil
		})
		g := service.NewGroup(nil, service.NewGroup(nil, steady, sticking))
		require.NoError(t, g.Live(), "what does not run is not stuck")
		require.NoError(t, g.Start(t.Context()))
		time.Sleep(time.Minute)
		require.NoError(t, g.Live())
		time.Sleep(5 * time.Second)
		require.EqualError(t, g.Live(), "sticking has made no progress for 1m5s; at most 1m0s is right")
		close(stuck)
		synctest.Wait()
		require.NoError(t, g.Live(), "it goes on")
		time.Sleep(2 * time.Minute)
		require.ErrorContains(t, g.Live(), "sticking")
		close(goOn)
		synctest.Wait()
		require.NoError(t, g.Live(), "what has ended is not stuck")
		require.NoError(t, g.Stop(t.Context()))
	})
}
