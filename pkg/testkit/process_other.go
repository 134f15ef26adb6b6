//go:build !linux

package testkit

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// diesWithParent is false: only Linux tells a child that its parent has died. A guard stands in.
const diesWithParent = false

func dieWithParent(*syscall.SysProcAttr) {}

// running asks ps for every process.
func running() map[int]state {
	output, _ := exec.Command("ps", "-A", "-o", "pid=,ppid=,stat=").Output()
	all := make(map[int]state)
	for line := range strings.Lines(string(output)) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		pid, _ := strconv.Atoi(fields[0])
		parent, _ := strconv.Atoi(fields[1])
		all[pid] = state{parent: parent, stopped: fields[2][0] == 'T', zombie: fields[2][0] == 'Z'}
	}
	return all
}
