package service_test

import (
	"context"
	"errors"
	"testing"

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
	l := service.NewLoop("loop", func(ctx context.Context) error {
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

	broken := service.NewLoop("broken", func(context.Context) error { return errors.New("no") })
	require.NoError(t, broken.Start(t.Context()))
	require.EqualError(t, <-broken.Failed(), "no")
	require.NoError(t, broken.Stop(t.Context()))
}
