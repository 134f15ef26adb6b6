package run

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBuildsAreKeptUpToTheirRoomThoseUsedLast(t *testing.T) {
	b := newBuilds(100)
	made := func(key byte, n int) *build { return &build{key: buildKey{key}, made: files{"": make([]byte, n)}} }
	for key := range byte(3) {
		b.put(made(key, 30))
	}
	b.put(made(0, 30)) // it is there
	require.NotNil(t, b.get(buildKey{0}))
	b.put(made(3, 30))
	require.Nil(t, b.get(buildKey{1}), "it was not used for the longest")
	for _, key := range []byte{0, 2, 3} {
		require.NotNil(t, b.get(buildKey{key}))
	}
	b.put(made(4, 100))
	require.NotNil(t, b.get(buildKey{4}))
	require.Equal(t, 1, b.order.Len())
	require.Zero(t, b.room)
	b.put(made(5, maxBuildKept+1))
	require.Nil(t, b.get(buildKey{5}), "too large to keep")
	require.NotNil(t, b.get(buildKey{4}))
}
