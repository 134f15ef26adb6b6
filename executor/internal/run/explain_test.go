package run

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExplanationsAreSentences(t *testing.T) {
	for code := 1; code < 256; code++ {
		s := explainExit(code)
		require.Regexp(t, `\.$`, s)
		require.Contains(t, s, strings.TrimSpace(grouped(int64(code))))
	}
	require.Contains(t, explainExit(139), "SIGSEGV")
	require.Contains(t, explainExit(143), "SIGTERM")
	require.Contains(t, explainSignal("SIGFPE"), "division")
	require.Equal(t, "12,345,678", grouped(12_345_678))
	require.Equal(t, "123", grouped(123))
	require.Equal(t, "1,536 bytes", size(1536))
	require.Equal(t, "64 MiB", size(64<<20))
}
