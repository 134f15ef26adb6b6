package sandbox

import (
	"fmt"
	"os"
	"strings"
)

// noNamespaces adds what to do to an error of the first namespaces.
func noNamespaces(err error, rootless bool) error {
	return fmt.Errorf("%w: make namespaces: %w; %s", ErrUnsupported, err, strings.Join(obstacles(setting, rootless), "; "))
}

// setting reads a file of /proc; empty where there is none.
func setting(name string) string {
	text, _ := os.ReadFile(name)
	return strings.TrimSpace(string(text))
}

// obstacles are what is known to keep programs from making namespaces, as far
// as it is found on this machine, and what to do about each.
func obstacles(read func(string) string, rootless bool) []string {
	var found []string
	say := func(when bool, what string) {
		if when {
			found = append(found, what)
		}
	}
	say(read("/proc/sys/user/max_user_namespaces") == "0",
		"user namespaces are switched off: set the sysctl user.max_user_namespaces to 10000")
	say(rootless && read("/proc/sys/kernel/unprivileged_userns_clone") == "0",
		"user namespaces are root's alone: set the sysctl kernel.unprivileged_userns_clone to 1")
	say(rootless && read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1",
		"AppArmor restricts user namespaces: set the sysctl kernel.apparmor_restrict_unprivileged_userns to 0, "+
			"or load a profile with 'userns,' for this program")
	say(field(read("/proc/self/status"), "Seccomp") == "2",
		"a seccomp profile is in force, as in most containers: with Docker, --security-opt seccomp=unconfined "+
			"and --security-opt systempaths=unconfined for an unmasked /proc; in Kubernetes, seccompProfile Unconfined, procMount Unmasked "+
			"and hostUsers: false")
	if len(found) == 0 {
		found = append(found, "does the container allow clone, unshare and mount (its seccomp profile, CAP_SYS_ADMIN, an unmasked /proc)?")
	}
	if rootless {
		found = append(found, "or run the executor as root")
	}
	return found
}

// field returns a value of a status file.
func field(status, name string) string {
	for line := range strings.Lines(status) {
		if key, value, ok := strings.Cut(line, ":"); ok && key == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
