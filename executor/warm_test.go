//go:build linux

package executor_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// modes are how an interpreter may come about, with what a result says of it.
var modes = []struct {
	warm  eval.Warm
	start []eval.Start
}{
	{eval.WarmOff, []eval.Start{eval.StartCold, eval.StartBox}},
	{eval.WarmPrestart, []eval.Start{eval.StartPrestart}},
	{eval.WarmFork, []eval.Start{eval.StartFork}},
}

// inMode runs a program with an interpreter that came about in the wanted way.
// The first run of a kind has none, and a busy machine may make others late.
func inMode(t *testing.T, l *executor.Local, mode int, p eval.Program) eval.Result {
	t.Helper()
	if modes[mode].warm != eval.WarmOff {
		needsVersion1(t)
	}
	p.Warm = modes[mode].warm
	for range 50 {
		res := runProgram(t, l, "", p)
		if slices.Contains(modes[mode].start, res.Start) {
			return res
		}
	}
	t.Fatalf("no run began in one of the ways %v", modes[mode].start)
	return eval.Result{}
}

// needsVersion1 skips where no interpreter can be warm.
func needsVersion1(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err != nil || os.Geteuid() != 0 {
		t.Skip("warm interpreters need root and cgroups of version 1 here")
	}
}

var runs int

func runProgram(t testing.TB, l *executor.Local, client string, p eval.Program) eval.Result {
	t.Helper()
	runs++
	res, err := l.Run(t.Context(), eval.Request{ID: eval.ID(fmt.Sprint("warm-", runs)), Attempt: 1, Client: client, Program: p}, nil)
	require.NoError(t, err)
	return res
}

// said is all that a program can say about itself, without what is measured.
func said(res eval.Result) string {
	exit := "none"
	if res.ExitCode != nil {
		exit = fmt.Sprint(*res.ExitCode)
	}
	text := fmt.Sprintf("%s %s exit=%s signal=%s %s\n--- stdout %v\n%s\n--- stderr %v\n%s", res.Verdict, res.Cause, exit, res.Signal,
		res.Explanation, res.Stdout.Truncated, res.Stdout.Data, res.Stderr.Truncated, res.Stderr.Data)
	return ownNumbers.ReplaceAllString(text, "$1=N")
}

// ownNumbers differ from run to run: addresses, and ids of the box on the host.
var ownNumbers = regexp.MustCompile(`(at |uid|gid)[= ]?(0x[0-9a-f]+|\d{10})`)

// programs are run in each mode, and have to come to the same.
type program struct {
	name string
	p    eval.Program
	want string // part of stdout, stderr or verdict
}

func code(name, text, want string) program {
	return program{name, eval.Program{Code: eval.Bytes(text)}, want}
}

var python = []program{
	code("main", "print(__name__, __file__, __doc__, __package__, __spec__, __loader__.__class__, sorted(globals()))", "__main__ /w/main.py"),
	{"argv", eval.Program{Code: eval.Bytes("import sys; print(sys.argv, sys.orig_argv[1:])"), Args: []string{"a b", "", "ü"}}, "['/w/main.py', 'a b', '', 'ü']"},
	{"env", eval.Program{Code: eval.Bytes("import os; print(sorted(os.environ.items())); os.system('env | sort | grep -v ^_=')"), Env: map[string]string{"X": "y=z", "PATH": "/bin"}}, "('X', 'y=z')"},
	{"env of the start", eval.Program{Code: eval.Bytes("import sys; print(sys.flags, hash('x') == hash('x'))"), Env: map[string]string{"PYTHONOPTIMIZE": "2"}}, "optimize=2"},
	code("no stdin", "import sys, os; print(repr(sys.stdin.read()), sys.stdin.seekable(), sys.stdin.isatty(), os.fstat(0).st_mode)", "''"),
	{"stdin", eval.Program{Code: eval.Bytes("import sys; print(input()); print(repr(sys.stdin.read()))"), Stdin: eval.Bytes("one\ntwo\n")}, "one\n'two\\n'"},
	code("exit number", "import sys; sys.exit(3)", "exit=3"),
	code("exit text", "import sys; sys.exit('bad')", "bad"),
	code("exit none", "import sys; sys.exit(None)", "exit=0"),
	code("exit at once", "import os; print('x'); os._exit(7)", "exit=7"),
	code("segmentation fault", "import ctypes; print('before'); ctypes.string_at(0)", "SIGSEGV"),
	code("kills itself", "import os, signal; print('before'); os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
	code("aborts", "import os; os.abort()", "SIGABRT"),
	code("interrupt", "import os, signal\ntry:\n  os.kill(os.getpid(), signal.SIGINT)\n  signal.pause()\nexcept KeyboardInterrupt: print('caught')", "caught"),
	code("interrupt not caught", "import signal; signal.raise_signal(signal.SIGINT)", "KeyboardInterrupt"),
	code("dispositions", "import signal; print([(s, signal.getsignal(s)) for s in signal.valid_signals()], signal.pthread_sigmask(0, []))", "SIGINT"),
	code("uncaught", "def f():\n  return 1/0\nf()", "line 3, in <module>\n    f()"),
	code("syntax error", "print('x'\nx = (", "SyntaxError"),
	code("encoding", "# coding: latin-1\nprint('\xe9')", ""),
	code("atexit", "import atexit; atexit.register(print, 'bye'); print('hello')", "hello\nbye"),
	code("del at exit", "class A:\n  def __del__(self): print('gone')\na = A()\ndef f(): return a\nb = A(); b.me = b", "gone\ngone"),
	code("threads", "import threading\nt = threading.Thread(target=lambda: print(threading.current_thread().name, threading.main_thread().ident == threading.get_ident()))\nt.start(); t.join(); print(threading.current_thread() is threading.main_thread(), threading.enumerate().__len__())", "True 1"),
	code("multiprocessing", "import multiprocessing as m\ndef f(x): return x * x\nif __name__ == '__main__':\n  for how in 'fork', 'spawn':\n    with m.get_context(how).Pool(2) as p: print(p.map(f, range(5)))", "[0, 1, 4, 9, 16]\n[0, 1, 4, 9, 16]"),
	code("fork", "import os\npid = os.fork()\nif pid == 0: os._exit(4)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))", "4"),
	code("python in python", "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'import sys; print(sys.argv, \"sitecustomize\" in sys.modules, input())'], input=b'in', capture_output=True))", "['-c'] False in"),
	code("subprocess", "import subprocess; print(subprocess.run('cat; exit 3', shell=True, input=b'in', capture_output=True))", "returncode=3"),
	code("modules", "import sys; print(sorted(sys.modules)); print(sys.path, sys.path_importer_cache, sys.meta_path, sys.path_hooks)", "'/w'"),
	code("interpreter", "import sys, os, locale; print(sys.flags, sys.executable, sys.prefix, sys.version, sys.warnoptions, sys._xoptions, sys.getrecursionlimit(), locale.getlocale(), sys.stdout, sys.stdin, sys.stderr, sys.stdout.line_buffering, sys.stdout.write_through, sys.getswitchinterval(), sys.excepthook, sys.dont_write_bytecode)", "sys.flags"),
	code("process", "import os, resource; print(os.getcwd(), os.getuid(), os.getgid(), os.getgroups(), os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid(), os.nice(0), os.umask(0), [(n, resource.getrlimit(getattr(resource, n))) for n in dir(resource) if n.startswith('RLIMIT')])", "/w 1000 1000 []"),
	code("privileges", "print([l for l in open('/proc/self/status') if l.split(':')[0] in 'Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp Seccomp_filters SigBlk SigIgn SigCgt Threads'.split()], open('/proc/self/oom_score_adj').read())", "CapBnd:\\t0000000000000000"),
	code("descriptors", "import os; print([(f, os.path.exists('/proc/self/fd/' + f)) for f in sorted(os.listdir('/proc/self/fd'))])", "[('0', True), ('1', True), ('2', True), ('3', False)]"),
	code("processes in sight", "import os; print(len([p for p in os.listdir('/proc') if p.isdigit() and p != str(os.getpid())]), os.getppid())", "0 1"),
	code("signals to others", "import os, signal\nfor pid in 1, -1:\n  try:\n    os.kill(pid, 0); print('sent')\n  except OSError as e: print(e)", "Operation not permitted"),
	code("tracing", "import ctypes; l = ctypes.CDLL(None, use_errno=True); print(l.ptrace(16, 1, 0, 0), ctypes.get_errno())\nfor name in 'mem', 'environ', 'maps', 'fd', 'root':\n  try: open('/proc/1/' + name).read(); print('read')\n  except OSError as e: print(e)", "-1 1"),
	code("refused calls", "import ctypes; l = ctypes.CDLL(None, use_errno=True)\nfor args in (272, 0x10000000), (165, 0, 0, 0, 0, 0), (308, 0, 0), (56, 0x10000000, 0): print(l.syscall(*args), ctypes.get_errno())", "-1 1"),
	code("network", "import socket\nfor a in ('10.0.0.1', 9), ('1.1.1.1', 53):\n  try: socket.create_connection(a, 1); print('connected')\n  except OSError as e: print(e)\ns = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname()); print('loopback'); print(open('/proc/net/dev').read().count(':'))", "loopback"),
	code("namespaces", "import os, socket; print(socket.gethostname(), open('/proc/self/cgroup').read(), sorted(os.listdir('/')), sorted(os.listdir('/dev')), sorted(os.listdir('/tmp')), os.path.samefile('/dev/shm', '/tmp'))", "sandbox"),
	code("mounts", "import re\nfor l in sorted(set(re.sub(r'id=\\d+', 'id', l) for l in open('/proc/self/mounts'))): print(*l.split()[1:4])", "/w tmpfs"),
	code("quotas", "import os\nfor d in '/w', '/tmp':\n  s = os.statvfs(d); print(s.f_bsize * s.f_blocks >> 20, s.f_files)\n  open(d + '/x', 'w').write('x' * 100)\ntry: open('/x', 'w')\nexcept OSError as e: print(e)", "Read-only"),
	code("interned and hidden", "import gc, sys; print(gc.isenabled(), gc.get_threshold(), len(sys._current_frames()), sys.gettrace(), sys.getprofile())", "True (700, 10, 10) 1 None"),
	code("output kept at a kill", "import os, time\nprint('first'); print('second', end='')\nos.kill(os.getpid(), 9)", "first\nsecond"),
	code("forbidden characters", "print('\\udc80')", "\x80"),
	{"files", eval.Program{Files: map[string]eval.Bytes{"main.py": eval.Bytes("import other, pkg.part; print(other.x, pkg.part.y, other.__file__)"), "other.py": eval.Bytes("x = 1"), "pkg/part.py": eval.Bytes("y = 2")}, Entrypoint: "main.py"}, "1 2 /w/other.py"},
	{"wall limit", eval.Program{Code: eval.Bytes("import time; print('x'); time.sleep(60)"), Limits: eval.Limits{WallMS: 1000}}, "time_limit wall"},
	{"cpu limit", eval.Program{Code: eval.Bytes("print('x')\nwhile True: pass"), Limits: eval.Limits{CPUMS: 200, WallMS: 5000}}, "time_limit cpu"},
	{"memory limit", eval.Program{Code: eval.Bytes("print('x')\nx = bytearray(1 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1"), Limits: eval.Limits{MemoryBytes: 100 << 20}}, "memory_limit oom"},
	{"output limit", eval.Program{Code: eval.Bytes("while True: print('x' * 1000)"), Limits: eval.Limits{OutputBytes: 10_000}}, "output_limit stdout"},
	{"process limit", eval.Program{Code: eval.Bytes("import os, time\nn = 0\ntry:\n  while True:\n    if os.fork() == 0: time.sleep(60)\n    n += 1\nexcept OSError as e: print(n, e)"), Limits: eval.Limits{Processes: 8}}, "7 [Errno 11]"},
	code("left behind", "import os, time\nif os.fork() == 0:\n  os.setsid(); time.sleep(60)\nprint('done')", "done"),
}

func TestPythonIsTheSameWarmAndCold(t *testing.T) { sameWarmAndCold(t, "python", 3, python) }

// sameWarmAndCold runs programs in the first most modes.
func sameWarmAndCold(t *testing.T, language string, most int, programs []program) {
	l := open(t, executor.Config{Languages: []string{language}, Slots: 2})
	for _, prog := range programs {
		t.Run(prog.name, func(t *testing.T) {
			prog.p.Language = language
			var cold string
			for mode := range most {
				res := eval.Result{}
				if prog.name == "env of the start" {
					prog.p.Warm = modes[mode].warm
					res = runProgram(t, l, "", prog.p)
					require.Contains(t, modes[0].start, res.Start)
				} else {
					res = inMode(t, l, mode, prog.p)
				}
				got := said(res)
				require.Contains(t, got, prog.want, "%s", modes[mode].warm)
				if mode == 0 {
					cold = got
				}
				require.Equal(t, cold, got, "%s", modes[mode].warm)
			}
		})
	}
}

// markers are looked for in the whole memory of the next run.
const leaveMarker = "import sys\ns = sys.stdin.read()\nkeep = [s * 100, s.encode() * 100]\nprint(len(s), sys.argv, flush=True)"

const findMarker = `
import re
want = b"-".join([b"marker", b"of", b"run"])
found = 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as mem:
    for line in maps:
        low, high, mode = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()
        if mode[0] != "r" or "[vvar" in line or "[vsyscall" in line: continue
        mem.seek(int(low, 16))
        try: found += mem.read(int(high, 16) - int(low, 16)).count(want + b"-9")
        except OSError: pass
print(found)
`

func TestARunFindsNothingOfAnother(t *testing.T) {
	l := open(t, executor.Config{Languages: []string{"python"}, Slots: 1})
	for mode := range modes {
		for range 3 {
			secret := "marker-of-run-" + "9"
			inMode(t, l, mode, eval.Program{
				Language: "python", Code: eval.Bytes("# " + secret + "\n" + leaveMarker), Stdin: eval.Bytes(secret), Args: []string{secret},
				Env: map[string]string{"SECRET": secret},
			})
			res := inMode(t, l, mode, eval.Program{Language: "python", Code: eval.Bytes(findMarker)})
			require.Equal(t, "0\n", string(res.Stdout.Data), "%s %s", modes[mode].warm, res.Stderr.Data)
			// The search itself works.
			res = inMode(t, l, mode, eval.Program{Language: "python", Code: eval.Bytes(findMarker), Stdin: eval.Bytes(secret), Args: []string{secret}})
			require.NotEqual(t, "0\n", string(res.Stdout.Data), "%s %s", modes[mode].warm, res.Stderr.Data)
		}
	}
}

func TestCopiesDifferWhereTheyMust(t *testing.T) {
	l := open(t, executor.Config{Languages: []string{"python"}, Slots: 1})
	seen := map[string]bool{}
	for range 5 {
		res := inMode(t, l, 2, eval.Program{Language: "python", Code: eval.Bytes("import random, uuid, secrets; print(random.random(), uuid.uuid4(), secrets.token_hex())")})
		require.NotContains(t, seen, string(res.Stdout.Data))
		seen[string(res.Stdout.Data)] = true
	}
}

func TestClientsShareNoInterpreter(t *testing.T) {
	l := open(t, executor.Config{Languages: []string{"python"}, Slots: 1})
	needsVersion1(t)
	hash := func(client string) string {
		for range 50 {
			res := runProgram(t, l, client, eval.Program{Language: "python", Code: eval.Bytes("print(hash('x'))")})
			if res.Start == eval.StartFork {
				return string(res.Stdout.Data)
			}
		}
		t.Fatal("no run was a copy")
		return ""
	}
	one := hash("one")
	require.NotEqual(t, one, hash("two"))
	require.Equal(t, one, hash("one"), "copies of one zygote have its hash seed")
}

var javascript = []program{
	code("main", "console.log(require.main === module, module.parent, module.id, __filename, __dirname, module.children, Object.keys(require.cache))", "true null . /w/main.js /w"),
	{"argv", eval.Program{Code: eval.Bytes("console.log(process.argv.slice(1), process.execArgv, process.argv0)"), Args: []string{"a b", "", "ü"}}, "'/w/main.js', 'a b', '', 'ü'"},
	{"env", eval.Program{Code: eval.Bytes("console.log(Object.entries(process.env).sort()); console.log(require('child_process').execSync('env | sort | grep -v ^_=').toString())"), Env: map[string]string{"X": "y=z"}}, "'y=z'"},
	{"env of the start", eval.Program{Code: eval.Bytes("console.log(process.env.NODE_OPTIONS)"), Env: map[string]string{"NODE_OPTIONS": "--no-warnings"}}, "--no-warnings"},
	code("no stdin", "console.log(JSON.stringify(require('fs').readFileSync(0, 'utf8')), process.stdin.isTTY, process.stdin.constructor.name)", `""`),
	{"stdin", eval.Program{Code: eval.Bytes("process.stdin.on('data', d => console.log('got ' + d)).on('end', () => console.log('end'))"), Stdin: eval.Bytes("one\n")}, "got one\n\nend"},
	code("exit", "process.on('exit', c => console.log('exit', c)); process.exitCode = 4", "exit=4"),
	code("uncaught", "function f() { throw new Error('bad') }\nf()", "/w/main.js:1"),
	code("rejection", "Promise.reject(new Error('bad'))", "exit=1"),
	code("syntax error", "let x = (", "SyntaxError"),
	code("kills itself", "console.log('before'); process.kill(process.pid, 'SIGKILL')", "SIGKILL"),
	code("aborts", "console.error = null; process.abort()", "SIGABRT"),
	code("worker", "const { Worker } = require('worker_threads'); new Worker('console.log(process.execArgv, Object.keys(require.cache), process.env.CRUCIBLE_GATE)', { eval: true })", "undefined"),
	code("child", "const { fork } = require('child_process'); if (process.argv[2]) console.log('child', process.execArgv); else fork(__filename, ['x']).on('exit', c => console.log('exit', c))", "exit 0"),
	code("modules", "const m = require('module'); console.log(Object.keys(m._pathCache), m.globalPaths, require.resolve.paths('x'), process.features, process.release.name)", "/w/main.js"),
	code("import", "import('fs').then(m => console.log(typeof m.readFileSync, import.meta === undefined)).catch(e => console.log(e))", ""),
	{"module", eval.Program{Files: map[string]eval.Bytes{"main.js": eval.Bytes("import { x } from './other.js'; console.log(x, import.meta.url, typeof require)"), "other.js": eval.Bytes("export const x = 1"), "package.json": eval.Bytes(`{"type": "module"}`)}, Entrypoint: "main.js"}, "1 file:///w/main.js undefined"},
	{"files", eval.Program{Files: map[string]eval.Bytes{"main.js": eval.Bytes("console.log(require('./other'))"), "other.js": eval.Bytes("module.exports = 5")}, Entrypoint: "main.js"}, "5"},
	code("descriptors", "const fs = require('fs'); const f = fs.openSync('/w/main.js'); console.log(f > 2, fs.readdirSync('/proc/self/fd').filter(f => { try { return fs.readlinkSync('/proc/self/fd/' + f).startsWith('pipe:') && f < 3 } catch { return false } }))", "[ '0', '1', '2' ]"),
	code("sockets left open", "const fs = require('fs'); console.log(fs.readdirSync('/proc/self/fd').map(f => { try { return fs.readlinkSync('/proc/self/fd/' + f).replace(/\\d+/, '') } catch { return '' } }).filter(f => f.startsWith('socket') || f.startsWith('/.gate')))", "[]"),
	code("process", "const fs = require('fs'); console.log(process.cwd(), process.getuid(), process.getgroups(), os = require('os').getPriority(), fs.readFileSync('/proc/self/limits', 'utf8'), fs.readdirSync('/proc').filter(p => /^\\d+$/.test(p)).length)", "/w 1000"),
	code("privileges", "console.log(require('fs').readFileSync('/proc/self/status', 'utf8').split('\\n').filter(l => /^(Uid|Gid|Cap|NoNew|Seccomp|Sig(Blk|Ign|Cgt))/.test(l)).join('\\n'))", "CapBnd:\t0000000000000000"),
	{"wall limit", eval.Program{Code: eval.Bytes("console.log('x'); setTimeout(() => {}, 60000)"), Limits: eval.Limits{WallMS: 1000}}, "time_limit wall"},
	{"cpu limit", eval.Program{Code: eval.Bytes("console.log('x'); for (;;);"), Limits: eval.Limits{CPUMS: 200, WallMS: 5000}}, "time_limit cpu"},
	{"memory limit", eval.Program{Code: eval.Bytes("console.log('x'); const a = []; for (;;) a.push(Buffer.alloc(1 << 20, 1))"), Limits: eval.Limits{MemoryBytes: 150 << 20}}, "memory_limit oom"},
	{"output limit", eval.Program{Code: eval.Bytes("for (;;) console.log('x'.repeat(1000))"), Limits: eval.Limits{OutputBytes: 10_000}}, "output_limit stdout"},
}

func TestJavaScriptIsTheSameWarmAndCold(t *testing.T) {
	sameWarmAndCold(t, "javascript", 2, javascript)
}

func TestWarmIsNoMoreThanTheServerAllows(t *testing.T) {
	l := open(t, executor.Config{Languages: []string{"python"}, Slots: 1, Warm: eval.WarmOff})
	for range 5 {
		res := runProgram(t, l, "", eval.Program{Language: "python", Code: eval.Bytes("print('hello')"), Warm: eval.WarmFork})
		require.Contains(t, modes[0].start, res.Start)
		require.Equal(t, "hello", strings.TrimSpace(string(res.Stdout.Data)))
	}
}
