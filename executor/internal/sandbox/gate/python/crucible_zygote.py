"""Makes copies of this interpreter, each in a box of its own.

The interpreter is a zygote: it runs with privileges inside of its own user
namespace, and never sees a program. For each copy it clones a process into new
namespaces, the first of the box (B), which mounts what is the box's own and
forks the process of the program (C), which gives up everything and waits for
its release on a descriptor that only it reads. Only C ever returns from here.

Every result of a system call is checked; what fails ends the process, and is
a box that could not be made.
"""

import _socket
import ctypes
import gc
import os
import resource
import signal
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

SYS_CLONE = {"x86_64": 56, "aarch64": 220}.get(os.uname().machine)
SYS_MOVE_MOUNT = 429
SYS_CLOSE_RANGE = 436

CLONE_PIDFD = 0x1000
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
BOX = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
QUIET = MS_NOSUID | MS_NODEV
AT_FDCWD = -100
MOVE_MOUNT_F_EMPTY_PATH = 4

PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_SECCOMP, PR_CAPBSET_DROP = 4, 15, 22, 24
PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 28, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_MODE_FILTER = 2
SECURE_BITS = 1 << 0 | 1 << 1 | 1 << 6 | 1 << 7  # see boxinit
CAPABILITY_VERSION_3 = 0x20080522
EINVAL = 22
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40


def must(result):
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def prctl(option, *args):
    must(libc.prctl(option, *map(ctypes.c_ulong, args + (0,) * (4 - len(args)))))


def mount(source, target, kind, flags, data=None):
    must(libc.mount(source, target, kind, ctypes.c_ulong(flags), data))


class Message:
    """Reads what package wire writes."""

    def __init__(self, data):
        self.data = data

    def unsigned(self):
        value = shift = 0
        for i, byte in enumerate(self.data):
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                self.data = self.data[i + 1:]
                return value
        raise ValueError("malformed message")

    def integer(self):
        value = self.unsigned()
        return value >> 1 ^ -(value & 1)

    def string(self):
        size = self.unsigned()
        value, self.data = self.data[:size], self.data[size:]
        return value

    def strings(self):
        return [self.string() for _ in range(self.unsigned())]


def integers(*values):
    """Writes numbers that are not negative."""
    out = bytearray()
    for value in values:
        value <<= 1
        while value >= 0x80:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


class Setup:
    def __init__(self, message):
        self.ended, self.fatal = message.integer(), message.integer()
        self.uid, self.gid = message.integer(), message.integer()
        self.work_dir = message.string()
        self.mask, self.read_only = message.strings(), message.strings()
        self.filter = message.string()


def serve(fd):
    """Makes copies for as long as the other end of fd is there. Returns, in
    each copy, the descriptor of its release."""
    control = _socket.socket(fileno=fd)
    try:
        setup = Setup(Message(control.recv(1 << 16)))
        if SYS_CLONE is None:
            raise OSError("this architecture is not known")
        if len(os.listdir("/proc/self/task")) != 1:
            raise OSError("the interpreter has more than one thread")
        # Collections in the copies leave these objects, and their pages, alone.
        gc.freeze()
        control.send(b"+")
    except BaseException as error:
        control.send(b"-" + repr(error).encode())
        os._exit(1)
    while True:
        data, fds = receive(control)
        if not data:
            os._exit(0)
        request = Message(data)
        first, tmp = request.integer(), request.string()
        try:
            pid, pidfd, go = clone()
            if pid == 0:
                break
            introduce(setup, control, first, pid, pidfd, go)
        except BaseException as error:
            control.send(b"-" + repr(error).encode())
        for fd in fds:
            os.close(fd)
        reap()
    control.close()
    return begin(setup, tmp, fds, go)


def introduce(setup, control, first, pid, pidfd, go):
    """Gives a new box its ids and the executor its descriptor."""
    try:
        for name, low in (b"uid_map", setup.uid), (b"gid_map", setup.gid):
            write(b"/proc/%d/%s" % (pid, name), b"0 %d 1\n%d %d 1\n" % (first, low, first + 1))
        os.write(go, b"+")
        control.sendmsg([b"+"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, pidfd.to_bytes(4, "little"))])
    finally:
        os.close(go)
        os.close(pidfd)


def receive(control):
    try:
        data, ancillary, _, _ = control.recvmsg(4096, _socket.CMSG_SPACE(16 * 4), _socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return b"", []
    fds = []
    for _, _, rights in ancillary:
        fds += [int.from_bytes(rights[i:i + 4], "little") for i in range(0, len(rights), 4)]
    return data, fds


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def write(path, text):
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def clone():
    """Returns, here, the process, its descriptor, and a pipe that lets it
    begin; there, 0, nothing, and the other end of the pipe."""
    ready, go = os.pipe()
    pidfd = ctypes.c_int(-1)
    flags = ctypes.c_long(BOX | CLONE_PIDFD | signal.SIGCHLD)
    pid = libc.syscall(SYS_CLONE, flags, None, ctypes.byref(pidfd), None, None)
    if pid == 0:
        os.close(go)
        return 0, -1, ready
    os.close(ready)
    if pid == -1:
        os.close(go)
        must(pid)
    return pid, pidfd.value, go


def begin(setup, tmp, fds, ready):
    """Is the first process of a box, and returns in the second."""
    control, *others = fds
    try:
        if os.read(ready, 1) != b"+":
            os._exit(1)
        os.close(ready)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        make_box(setup, tmp, others[4])
        name = ctypes.create_string_buffer(b"sandbox-init")
        prctl(PR_SET_DUMPABLE, 0)
        main = os.fork()
        if main == 0:
            return become(setup, *others)
        prctl(PR_SET_NAME, ctypes.addressof(name))
        # The first process of a namespace gets no signal whose action is the default.
        for number in signal.SIGINT, signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
        for fd in others:
            os.close(fd)
        attend(setup, control, main)
    except BaseException as error:
        text = repr(error).encode()[:1000]
        size = len(text)
        os.write(control, bytes([setup.fatal, size & 0x7F | 0x80, size >> 7]) + text)
    os._exit(1)


def make_box(setup, tmp, workspace):
    mount(b"proc", b"/proc", b"proc", QUIET | MS_NOEXEC, b"hidepid=2")
    for path in setup.read_only:
        mount(path, path, None, MS_BIND)
        mount(None, path, None, MS_BIND | MS_REMOUNT | MS_RDONLY | QUIET | MS_NOEXEC)
    for path in setup.mask:
        mount(b"/dev/null", path, None, MS_BIND)
    mount(b"tmpfs", b"/tmp", b"tmpfs", QUIET, tmp)
    must(libc.syscall(SYS_MOVE_MOUNT, workspace, b"", AT_FDCWD, setup.work_dir, MOVE_MOUNT_F_EMPTY_PATH))
    any_socket = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    flags = b"lo".ljust(16, b"\0") + (IFF_UP | IFF_RUNNING).to_bytes(2, "little") + bytes(22)
    must(libc.ioctl(any_socket.fileno(), ctypes.c_ulong(SIOCSIFFLAGS), flags))
    any_socket.close()


def become(setup, release, stdin, stdout, stderr, workspace, *groups):
    """Turns this process into what the program will be: see boxinit."""
    os.setsid()
    for fd in groups:
        os.write(fd, b"0")
    must(libc.unshare(CLONE_NEWCGROUP))
    for number, fd in enumerate((stdin, stdout, stderr)):
        os.dup2(fd, number)
    os.dup2(release, 3, inheritable=False)
    must(libc.syscall(SYS_CLOSE_RANGE, 4, ctypes.c_uint(0xFFFFFFFF), 0))
    os.chdir(setup.work_dir)
    drop_bounding()
    prctl(PR_SET_SECUREBITS, SECURE_BITS)
    os.setgroups([])
    os.setresgid(setup.gid, setup.gid, setup.gid)
    os.setresuid(setup.uid, setup.uid, setup.uid)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4)
    must(libc.capset(header, bytes(24)))
    prctl(PR_SET_DUMPABLE, 1)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    code = ctypes.create_string_buffer(setup.filter, len(setup.filter))
    program = (len(setup.filter) // 8).to_bytes(8, "little") + ctypes.addressof(code).to_bytes(8, "little")
    must(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, None, None))
    return 3


def drop_bounding():
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), None, None, None) == -1:
            if ctypes.get_errno() == EINVAL and capability > 0:
                return
            must(-1)


def attend(setup, control, main):
    """Waits for the program, ends what it left, and reports."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == main:
            break
    at = time.monotonic_ns()
    try:
        while True:
            try:
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                pass
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass
    os.write(control, bytes([setup.ended]) + integers(at, status, 0, 0, 0, 0, 0, 0))
    os._exit(0)


def limit(limits):
    """Lowers this process's limits: pairs of a resource and a value."""
    for entry in limits:
        number, value = map(int, entry.split())
        value = min(value, (1 << 63) - 1)
        _, most = resource.getrlimit(number)
        if most != resource.RLIM_INFINITY:
            value = min(value, most)
        resource.setrlimit(number, (value, value))
