package testkit

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

// diesWithParent says that the kernel kills a child when the test binary ends.
const diesWithParent = true

func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// running reads every process from /proc; there is no ps on a small machine.
func running() map[int]state {
	entries, _ := os.ReadDir("/proc")
	all := make(map[int]state)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		content, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue // It ended meanwhile.
		}
		// "pid (name) state parent ...", and a name may hold anything, brackets and blanks too.
		_, rest, _ := strings.Cut(string(content)[strings.LastIndexByte(string(content), ')')+1:], " ")
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			continue
		}
		parent, _ := strconv.Atoi(fields[1])
		all[pid] = state{parent: parent, stopped: fields[0] == "T", zombie: fields[0] == "Z" || fields[0] == "X"}
	}
	return all
}
