//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var processes = map[string]program{
	// Every process forks for ever.
	"fork-bomb": func([]string) {
		for {
			_, _ = fork(0)
		}
	},
	// Each child burns a little, forks and exits: nobody lives long enough to be seen.
	"fork-chain": func([]string) {
		if pid, _ := fork(0); pid == 0 {
			for {
				burn(2 * time.Millisecond)
				if pid, _ := fork(0); pid != 0 {
					exit(0)
				}
			}
		}
		forever()
	},
	// Two forks and a session of its own: what outlives its parent.
	"daemon": func([]string) {
		if pid, _ := fork(0); pid == 0 {
			_, _ = call(unix.SYS_SETSID)
			if pid, _ := fork(0); pid == 0 {
				for {
					nap(1000)
				}
			}
			exit(0)
		}
	},
	// Threads until the kernel refuses one, which ends a Go program.
	"thread-bomb": func([]string) {
		for {
			go func() {
				runtime.LockOSThread() // its thread is nobody else's
				time.Sleep(time.Hour)
			}()
			runtime.Gosched()
		}
	},
	// Children that nobody waits for keep their process numbers.
	"zombies": func([]string) {
		for n := 0; ; n++ {
			pid, e := fork(0)
			if pid == 0 && e == 0 {
				exit(0)
			}
			if e != 0 {
				if e != syscall.EAGAIN {
					breach("after %d: %v", n, e)
				}
				return
			}
			if n > 100_000 {
				breach("no limit of processes")
				return
			}
		}
	},
	// Orphans by the thousand, which init has to bury.
	"orphans": func([]string) {
		for range 1500 {
			pid, e := fork(0)
			if e != 0 {
				nap(0)
				continue
			}
			if pid == 0 {
				_, _ = fork(0)
				exit(3)
			}
			_, _ = syscall.Wait4(pid, nil, 0, nil)
		}
	},
	// The parent of a vfork waits for a child that has stopped itself.
	"vfork-stop": func([]string) {
		if pid, _ := fork(unix.CLONE_VFORK); pid == 0 {
			for {
				self, _ := call(unix.SYS_GETPID)
				_, _ = call(unix.SYS_KILL, self, uintptr(unix.SIGSTOP))
			}
		}
		breach("the child went away")
	},
	// Orphans are collected by the program instead of init, and left there.
	"subreaper": func([]string) {
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
		for range 5 {
			if pid, _ := fork(0); pid == 0 {
				_, _ = fork(0)
				nap(1000)
				exit(0)
			}
		}
	},
	// Siblings of the main process, whose end init must not take for its own.
	"clone-parent": func([]string) {
		for range 20 {
			if pid, _ := fork(unix.CLONE_PARENT); pid == 0 {
				exit(77)
			}
		}
		time.Sleep(20 * time.Millisecond)
	},
	// A child without a death signal, in a session of its own, deaf to signals.
	"pdeathsig": func([]string) {
		if pid, _ := fork(0); pid == 0 {
			_, _ = call(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, 0)
			_, _ = call(unix.SYS_SETSID)
			block()
			spin()
		}
	},
	// Eight children that spin.
	"spin-children": func([]string) {
		for range 8 {
			if pid, _ := fork(0); pid == 0 {
				spin()
			}
		}
		forever()
	},
	"sleep": func([]string) {
		fmt.Println("before")
		forever()
	},
	// A sleep that the clock cannot express as an end.
	"sleep-far": func([]string) {
		ts := unix.Timespec{Sec: 1<<62 - 1}
		for {
			_, _ = call(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, 1, pointer(&ts), 0)
		}
	},
	"exit": func(args []string) {
		code, _ := strconv.ParseInt(args[0], 0, 64)
		exit(uintptr(code))
	},
	// Interpreters that need each other.
	"shebang-loop": func([]string) {
		script(home+"/a", "#!"+home+"/b\n")
		script(home+"/b", "#!"+home+"/a\n")
		script(home+"/self", "#!"+home+"/self\n")
		for _, name := range []string{home + "/a", home + "/self"} {
			if err := exec.Command(name).Run(); err == nil {
				breach("%s ran", name)
			}
		}
	},
	// Programs that are no programs: each must fail by itself.
	"malformed-elf": func([]string) {
		for i, image := range malformed() {
			name := home + fmt.Sprint("/elf", i)
			_ = os.WriteFile(name, image, 0o755)
			if err := exec.Command(name).Run(); err == nil {
				breach("image %d ran", i)
			}
		}
	},
	// Arguments up to what the kernel takes, and beyond.
	"wide-argv": func(args []string) {
		if len(args) > 0 {
			return
		}
		wide := make([]byte, 100<<10)
		for i := range wide {
			wide[i] = 'x'
		}
		argv := []string{"wide-argv"}
		for len(argv) < 400 {
			argv = append(argv, string(wide))
			if len(argv)%40 == 0 {
				_ = exec.Command("/proc/self/exe", argv...).Run()
			}
		}
	},
}

func script(name, content string) { _ = os.WriteFile(name, []byte(content), 0o755) }

// malformed are headers that a careless loader believes.
func malformed() [][]byte {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil || len(self) < 4096 {
		return nil
	}
	head := func(change func(b []byte)) []byte {
		b := append([]byte(nil), self[:4096]...)
		change(b)
		return b
	}
	fill := func(from, to int, v byte) func([]byte) {
		return func(b []byte) {
			for i := from; i < to; i++ {
				b[i] = v
			}
		}
	}
	return [][]byte{
		self[:4], self[:52], self[:64],
		head(fill(32, 40, 0xff)),                        // program headers far outside
		head(fill(54, 58, 0xff)),                        // 65,535 of them
		head(fill(64, 64+56*4, 0xff)),                   // segments at the end of the address space
		head(fill(16, 18, 0)),                           // no type
		head(fill(18, 20, 0x77)),                        // of a machine that does not exist
		head(func(b []byte) { b[64], b[64+32] = 3, 4 }), // an interpreter made of itself
	}
}

// spin never ends, and never asks the kernel for anything.
func spin() {
	//lint:ignore SA5002 it is what a program may do
	for {
	}
}

// burn uses CPU time, without the runtime's help.
func burn(d time.Duration) {
	var from, now unix.Timespec
	_, _ = call(unix.SYS_CLOCK_GETTIME, unix.CLOCK_PROCESS_CPUTIME_ID, pointer(&from))
	for now.Nano()-from.Nano() < int64(d) {
		_, _ = call(unix.SYS_CLOCK_GETTIME, unix.CLOCK_PROCESS_CPUTIME_ID, pointer(&now))
	}
}
