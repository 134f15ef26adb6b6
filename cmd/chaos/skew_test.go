//go:build chaos && linux

package chaos_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// skewVariable is how many seconds the wall clock of a skewed crucible is ahead.
const skewVariable = "CRUCIBLE_CHAOS_SKEW"

// compileSkewed builds a crucible whose wall clock is wrong by skewVariable,
// while its monotonic clock is right: that of a machine whose time was set
// badly. Linux has no namespace for the wall clock, and a static binary asks
// no library that could be replaced, so time.Now itself is changed for this
// one build; all else is what is shipped.
func compileSkewed(t testing.TB, dir string) string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	require.NoError(t, err)
	folder := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	original, err := os.ReadFile(filepath.Join(folder, "time.go"))
	require.NoError(t, err)
	const reads = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	require.Contains(t, string(original), reads, "this version of Go reads the clock in another way")
	changed := strings.Replace(string(original), reads, reads+"\tsec += skew\n", 1)

	overlay := map[string]string{}
	for name, text := range map[string]string{"time.go": changed, "skew.go": fmt.Sprintf(skewSource, skewVariable)} {
		file := filepath.Join(dir, "skewed-"+name)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		overlay[filepath.Join(folder, name)] = file
	}
	raw, err := json.Marshal(map[string]any{"Replace": overlay})
	require.NoError(t, err)
	file := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(file, raw, 0o600))
	binary := filepath.Join(dir, "crucible-skewed")
	require.NoError(t, compile(binary, "-overlay", file))
	return binary
}

const skewSource = `package time

import "syscall"

var skew = func() int64 {
	text, _ := syscall.Getenv(%q)
	n, sign := int64(0), int64(1)
	for _, c := range text {
		switch {
		case c == '-':
			sign = -1
		case '0' <= c && c <= '9':
			n = n*10 + int64(c-'0')
		}
	}
	return n * sign
}()
`
