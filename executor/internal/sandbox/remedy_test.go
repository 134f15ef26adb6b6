//go:build linux

package sandbox

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestObstacles: each known reason is told with what to do about it, and only
// where it is found.
func TestObstacles(t *testing.T) {
	for _, c := range []struct {
		name, file, content string
		rootless            bool
		want                string
	}{
		{"none", "/proc/sys/user/max_user_namespaces", "0", false, "user.max_user_namespaces"},
		{"root only", "/proc/sys/kernel/unprivileged_userns_clone", "0", true, "kernel.unprivileged_userns_clone"},
		{"AppArmor", "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", true, "apparmor_restrict_unprivileged_userns"},
		{"container", "/proc/self/status", "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n", false, "hostUsers: false"},
	} {
		t.Run(c.name, func(t *testing.T) {
			read := func(name string) string {
				if name == c.file {
					return c.content
				}
				return ""
			}
			said := strings.Join(obstacles(read, c.rootless), "; ")
			require.Contains(t, said, c.want)
			require.Equal(t, c.rootless, strings.Contains(said, "as root"))
			healthy := strings.Join(obstacles(func(string) string { return "" }, c.rootless), "; ")
			require.NotContains(t, healthy, c.want)
			require.Contains(t, healthy, "clone, unshare and mount")
		})
	}
}
