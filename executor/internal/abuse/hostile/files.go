//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

var files = map[string]program{
	// Write to a file in args[0] until it is refused.
	"fill": func(args []string) {
		f, err := os.Create(args[0] + "/big")
		if err != nil {
			refused("create", err)
			return
		}
		b := bytes.Repeat([]byte("f"), 1<<20)
		for written := 0; written < 8<<30; {
			n, err := f.Write(b)
			if err != nil {
				full("write", err)
				return
			}
			written += n
		}
		breach("8 GiB were written to %s", args[0])
	},
	// Files that have no name.
	"nameless": func(args []string) {
		b := bytes.Repeat([]byte("n"), 1<<20)
		for range 8 << 10 {
			fd, err := unix.Open(args[0], unix.O_TMPFILE|unix.O_RDWR, 0o600)
			if err != nil {
				full("open", err)
				return
			}
			if _, err := unix.Write(fd, b); err != nil {
				full("write", err)
				return
			}
		}
		breach("8 GiB without a name")
	},
	"inodes": func(args []string) {
		for i := range 1 << 20 {
			fd, err := unix.Open(fmt.Sprintf("%s/%d", args[0], i), unix.O_CREAT|unix.O_WRONLY, 0o600)
			if err != nil {
				full("create", err)
				return
			}
			_ = unix.Close(fd)
		}
		breach("a million files")
	},
	// A hundred thousand folders, each in the one before.
	"deep-tree": func([]string) {
		for range 100_000 {
			if err := unix.Mkdir("d", 0o755); err != nil {
				full("mkdir", err)
				return
			}
			if err := unix.Chdir("d"); err != nil {
				breach("chdir: %v", err)
				return
			}
		}
	},
	"hard-links": func([]string) {
		for _, name := range []string{"/etc/passwd", "/usr/bin/env", "/proc/self/exe", "/proc/1/exe", "/dev/null"} {
			if err := os.Link(name, home+"/linked"); err == nil {
				breach("a link to %s", name)
			}
		}
		_ = os.WriteFile(home+"/one", nil, 0o600)
		for i := range 1 << 20 {
			if err := unix.Link(home+"/one", home+fmt.Sprint("/l", i)); err != nil {
				return
			}
		}
		breach("a million links")
	},
	"sparse": func([]string) {
		f, err := os.Create(home + "/sparse")
		if err != nil {
			breach("%v", err)
			return
		}
		_ = f.Truncate(1 << 62)
		_, _ = f.WriteAt([]byte("x"), 1<<40)
		_ = unix.Fallocate(int(f.Fd()), 0, 0, 1<<40)
	},
	"descriptors": func([]string) {
		for i := range 1 << 20 {
			if _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); err != nil {
				if err != syscall.EMFILE {
					breach("after %d: %v", i, err)
				}
				return
			}
		}
		breach("a million descriptors")
	},
	// Names that a collector or a clean-up could stumble over.
	"strange-names": func([]string) {
		for _, name := range []string{"-rf", "--", "*", "$(id)", "`id`", "a\nb", "\x1b[2J", "\xff\xfe", ". ", "...", strings.Repeat("n", 255)} {
			_ = os.WriteFile(home+"/"+name, []byte("x"), 0)
			_ = os.Mkdir(temporary+"/"+name, 0)
		}
		_ = os.Mkdir(home+"/locked", 0o700)
		_ = os.WriteFile(home+"/locked/in", nil, 0)
		_ = os.Chmod(home+"/locked", 0)
		_ = os.Chmod(home, 0)
	},
	// Things that block or follow, where the platform may look.
	"traps": func([]string) {
		_ = os.Remove(home + "/main.txt")
		_ = unix.Mkfifo(home+"/main.txt", 0o666)
		_ = unix.Mkfifo(home+"/out.txt", 0o666)
		_ = os.Symlink("/etc/shadow", home+"/shadow")
		_ = os.Symlink("/proc/1/root", home+"/root")
		_ = os.Symlink(home+"/loop", home+"/loop")
		if fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); err == nil {
			_ = unix.Bind(fd, &unix.SockaddrUnix{Name: home + "/socket"})
		}
		_ = os.WriteFile(home+"/ok.txt", []byte("fine"), 0o4755)
		for _, dev := range []int{1<<8 | 1, 1<<8 | 3, 8 << 8} {
			if unix.Mknod(home+"/device", unix.S_IFBLK|0o666, dev) == nil || unix.Mknod(home+"/device", unix.S_IFCHR|0o666, dev) == nil {
				breach("a device %x was made", dev)
			}
		}
	},
	// What a compilation leaves where the run will write and start programs.
	"plant": func([]string) {
		_ = os.Symlink("/usr/bin/env", home+"/out.txt")
		_ = os.Symlink("/proc/1/root/etc", home+"/folder")
		_ = os.Remove(home + "/main.txt")
		_ = os.Symlink("/etc/shadow", home+"/main.txt")
		_ = os.Symlink("/proc/self/exe", home+"/a.out")
	},
	"write-through": func([]string) {
		for _, name := range []string{"out.txt", "folder/passwd", "main.txt", "a.out"} {
			link, _ := os.Lstat(filepath.Join(home, name))
			f, err := os.OpenFile(filepath.Join(home, name), os.O_WRONLY|os.O_CREATE, 0o600)
			if err == nil {
				_, err = f.WriteString("x")
				_ = f.Close()
			}
			// Where the links were not carried on, these are files of its own.
			if link != nil && link.Mode()&os.ModeSymlink != 0 || err != nil {
				refused("write through "+name, err)
			}
		}
	},
	// Everything that can be written, with a mark that persist-look knows.
	"persist-write": func([]string) {
		for _, dir := range writable() {
			_ = os.WriteFile(filepath.Join(dir, persistMark), []byte(persistMark), 0o666)
		}
		for key := range 8 {
			_, _ = call(unix.SYS_SHMGET, uintptr(0x1000+key), page, 0o666|unix.IPC_CREAT)
			_, _ = call(unix.SYS_MSGGET, uintptr(0x1000+key), 0o666|unix.IPC_CREAT)
			_, _ = call(unix.SYS_SEMGET, uintptr(0x1000+key), 1, 0o666|unix.IPC_CREAT)
		}
		_ = os.Setenv("PERSIST", persistMark)
		_ = unix.Sethostname([]byte(persistMark))
	},
	"persist-look": func([]string) {
		for _, dir := range writable() {
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				if e.Name() == persistMark {
					breach("%s/%s of the run before", dir, e.Name())
				}
			}
		}
		for _, kind := range []string{"shm", "msg", "sem"} {
			b, err := os.ReadFile("/proc/sysvipc/" + kind)
			if err == nil && bytes.Count(b, []byte("\n")) > 1 {
				breach("%s of the run before", kind)
			}
		}
		if name, _ := os.Hostname(); name == persistMark {
			breach("the host name of the run before")
		}
	},
	// Programs that make others root, made here and already there.
	"setuid": func([]string) {
		self, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			breach("%v", err)
			return
		}
		_ = os.WriteFile(home+"/suid", self, 0o755)
		_ = os.Chmod(home+"/suid", 0o6755)
		_ = os.Chown(home+"/suid", 0, 0)
		// VFS_CAP_REVISION_2 with everything, effective.
		caps := []byte{1, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}
		if unix.Setxattr(home+"/suid", "security.capability", caps, 0) == nil {
			breach("capabilities on a file")
		}
		for _, argv := range [][]string{{home + "/suid", "who"}, {"/bin/su", "-c", home + "/suid who"}, {"/usr/bin/sudo", "-n", home + "/suid", "who"}, {"/usr/bin/newgrp"}} {
			out, _ := exec.Command(argv[0], argv[1:]...).Output()
			if bytes.Contains(out, []byte("privileged")) {
				breach("%v: %s", argv, out)
			}
		}
	},
	"who": func([]string) {
		if os.Geteuid() == 0 || os.Getuid() == 0 || os.Getegid() == 0 {
			fmt.Println("privileged: uid", os.Geteuid(), "gid", os.Getegid())
		}
		status, _ := os.ReadFile("/proc/self/status")
		for line := range strings.Lines(string(status)) {
			if name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t"); strings.HasPrefix(name, "Cap") && strings.Trim(value, "0") != "" {
				breach("%s is %s", name, value)
			}
		}
	},
}

const persistMark = "left-by-the-run-before"

// writable are the folders that can be written, found by trying.
func writable() []string {
	var dirs []string
	for _, root := range []string{"/", home, temporary, "/dev", "/dev/shm", "/etc", "/usr", "/usr/local", "/bin", "/var", "/var/tmp", "/proc", "/sys", "/home", "/root", "/run", "/opt"} {
		name := filepath.Join(root, "try")
		if os.WriteFile(name, nil, 0o600) == nil {
			_ = os.Remove(name)
			dirs = append(dirs, root)
		}
	}
	return dirs
}

// full breaches unless err says that there is no more room.
func full(what string, err error) {
	if e, ok := err.(*os.PathError); ok {
		err = e.Err
	}
	switch err {
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EMFILE, syscall.ENOMEM, syscall.EOPNOTSUPP:
	default:
		breach("%s: %v", what, err)
	}
}
