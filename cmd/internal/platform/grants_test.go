package platform

import (
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/config"
	"github.com/crucible-eval/crucible/pkg/eval"
)

func TestDocumentedGrantsAreThePolicy(t *testing.T) {
	var g Grants
	parser, err := kong.New(&g)
	require.NoError(t, err)
	_, err = parser.Parse(nil)
	require.NoError(t, err)
	documented, err := g.policy()
	require.NoError(t, err)
	require.Equal(t, eval.DefaultPolicy(), documented, "the defaults in the help")
	unset, err := Grants{}.policy()
	require.NoError(t, err)
	require.Equal(t, eval.DefaultPolicy(), unset)
}

func TestGrantsThatContradictEachOtherAreRefused(t *testing.T) {
	_, err := Grants{DefaultMemory: config.Size(1 << 30), MaxMemory: config.Size(1 << 20)}.policy()
	require.ErrorContains(t, err, "limits.memory_bytes")
	p, err := Grants{DefaultWall: 3 * time.Second, MaxWall: 3 * time.Second}.policy()
	require.NoError(t, err)
	require.Equal(t, int64(3000), p.Default.CPUMS)
	_, bad := p.Grant(eval.Limits{WallMS: 3001})
	require.Len(t, bad, 1)
}
