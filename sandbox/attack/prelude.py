# What every attack may use. The battery's scripts follow as functions; H is the bait.
import errno, json, os, struct, sys, time

try:
    import ctypes, fcntl, mmap, resource, signal, socket
    WASM = False
    libc = ctypes.CDLL(None, use_errno=True)
except ImportError: # Python on WebAssembly has none of these
    WASM = True

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "bait.json")) as f:
    H = json.load(f)
BUSY = 6 if WASM else 1.5 # seconds that are far too much
START = time.monotonic()
LONG = 4 + 2 * H["patience"] # seconds that are far too long
RW, RO, PROGRAMS = H["rw"], H["ro"], H["programs"]


def burnt():
    """Seconds of processor time that it took; WebAssembly knows only those on the wall."""
    return time.monotonic() - START if WASM else sum(os.times()[:4])


class Absent(Exception):
    """What the attack goes for does not exist here."""


# Numbers of the kernel's calls: x86-64, arm64.
CALLS = """
mount 165 40, umount2 166 39, swapon 167 224, swapoff 168 225, reboot 169 142, sethostname 170 161, setdomainname 171 162,
init_module 175 105, delete_module 176 106, finit_module 313 273, quotactl 179 60, pivot_root 155 41, adjtimex 159 171,
chroot 161 51, acct 163 89, settimeofday 164 170, unshare 272 97, setns 308 268, clone 56 220, clone3 435 435,
ptrace 101 117, syslog 103 116, process_vm_readv 310 270, process_vm_writev 311 271, kcmp 312 272, pidfd_open 434 434,
pidfd_getfd 438 438, pidfd_send_signal 424 424, process_madvise 440 440, name_to_handle_at 303 264, open_by_handle_at 304 265,
bpf 321 280, perf_event_open 298 241, fanotify_init 300 262, io_uring_setup 425 425, userfaultfd 323 282, kexec_load 246 104,
add_key 248 217, request_key 249 218, keyctl 250 219, clock_settime 227 112, personality 135 92, modify_ldt 154 -1,
iopl 172 -1, ioperm 173 -1, vhangup 153 58, move_mount 429 429, open_tree 428 428, fsopen 430 430, fsconfig 431 431,
fsmount 432 432, mount_setattr 442 442, memfd_create 319 279, capset 126 91, shmget 29 194, shmat 30 196, shmctl 31 195,
msgget 68 186, mq_open 240 180, prlimit64 302 261, migrate_pages 256 238, move_pages 279 239, mbind 237 235,
set_mempolicy 238 237, ioprio_set 251 30, inotify_init1 294 26, prctl 157 167, sched_setattr 314 274, lookup_dcookie 212 18,
vmsplice 278 75, pidfd_open 434 434, statmount 457 457, listmount 458 458, semget 64 190, timer_create 222 107, renameat2 316 276, exit 60 93
"""
NR = {}
for call in CALLS.replace("\n", " ").split(","):
    name, amd64, arm64 = call.split()
    NR[name] = int(arm64 if not WASM and os.uname().machine == "aarch64" else amd64)


def raw(name, *args):
    """Calls the kernel, past whatever the C library makes of it."""
    if WASM:
        raise Absent("WebAssembly has no calls to the kernel")
    if NR[name] < 0:
        raise Absent("this processor's kernel has no " + name)
    r = libc.syscall(ctypes.c_long(NR[name]), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    if r < 0:
        raise OSError(ctypes.get_errno(), name + ": " + os.strerror(ctypes.get_errno()))
    return r


# With no wall around it, only a kernel that lacks a thing answers so.
LACKING = [errno.ENOSYS, errno.ENODEV, errno.ENXIO, errno.ENOENT, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT]


def refused_all(*tries):
    """The first of several ways that gets through, or the last one's refusal."""
    last = None
    for f in tries:
        try:
            got = f()
        except OSError as e:
            last = e
            continue
        if got:
            return got
    if last:
        raise last


def first():
    """For attacks on the process that the sandbox itself begins with."""
    if b"attack.py" in read("/proc/1/cmdline"):
        raise Absent("there is no process before the program's own")


def needs(capability):
    """Where there are no walls, root itself may lack what an attack is done with."""
    held = [int(l.split()[1], 16) for l in open("/proc/self/status") if l.startswith("CapEff")][0]
    if H["bare"] and not held >> capability & 1:
        raise Absent("root has no capability %d here" % capability)


def count(pipe, enough):
    """Bytes that come through a pipe, until enough have or none have for two seconds."""
    n, last = 0, time.monotonic()
    while n < enough and time.monotonic() < last + 2:
        try:
            n, last = n + len(os.read(pipe, enough)), time.monotonic()
        except BlockingIOError:
            time.sleep(0.02)
    return n


def read(name, size=4096):
    with open(name, "rb", 0) as f:
        return f.read(size)


def bait(name):
    """A file of the host with a token in it that is nowhere else."""
    if H["token"].encode() in read(name):
        return "read " + name


def same(name):
    """Whether a name means the host's own file here, and not one that stands in for it."""
    at = os.stat(name)
    return H["same"].get(name) == "%d:%d" % (at.st_dev, at.st_ino)


def hosts(name):
    """Opens a file of the host for reading; one that stands in for it does not count."""
    fd = os.open(name, os.O_RDONLY)
    try:
        return same(name) and "opened the host's " + name
    finally:
        os.close(fd)


def writes(name):
    """Opens the host's file for writing, and writes nothing."""
    fd = os.open(name, os.O_WRONLY)
    os.close(fd)
    return same(name) and "opened the host's %s for writing" % name


def said(s):
    s.settimeout(3)
    return H["token"].encode() in s.recv(100) and "an answer from %r" % (s.getpeername(),)


def tcp(address):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as s:
        s.settimeout(3)
        s.connect((address, H["port"]))
        return said(s)


def udp(address, data=b"?"):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((address, H["port"]))
        s.send(data)
        return said(s)


def child(f):
    """What f returns or raises in a process of its own."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = ["got", f() or ""]
        except OSError as e:
            answer = ["errno", e.errno or 0]
        except BaseException as e:
            answer = ["error", repr(e)]
        os.write(w, json.dumps(answer).encode())
        os._exit(0)
    os.close(w)
    text = b""
    while part := os.read(r, 65536):
        text += part
    os.close(r)
    status = os.waitpid(pid, 0)[1]
    kind, value = json.loads(text or b'["errno", 1]')
    if os.WIFSIGNALED(status) and not text:
        raise OSError(errno.EPERM, "ended by signal %d" % os.WTERMSIG(status))
    if kind == "errno":
        raise OSError(value, os.strerror(value))
    if kind == "error":
        raise RuntimeError(value)
    return value


def attempt(f):
    """One attack's verdict."""
    try:
        got = f()
    except Absent as e:
        return "absent", str(e)
    except (OSError, MemoryError) as e:
        if H["bare"] and getattr(e, "errno", 0) in LACKING:
            return "absent", "this kernel has none: %s" % e
        return "refused", str(e)
    except (ImportError, NameError, AttributeError) as e:
        if WASM:
            return "absent", "WebAssembly has no such thing: %s" % e
        return "broken", repr(e)
    except Exception as e:
        return "broken", repr(e)
    return ("succeeded", str(got)) if got else ("refused", "")


def apart(f):
    """One attack's verdict, found in a process that it may ruin, in bounded time."""
    import select
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(r)
        signal.alarm(20)
        os.write(w, json.dumps(attempt(f)).encode()[:4000])
        os._exit(0)
    os.close(w)
    text, end = b"", time.time() + 10
    while select.select([r], [], [], max(0, end - time.time()))[0]:
        part = os.read(r, 65536)
        if not part:
            break
        text += part
    os.close(r)
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
    status = os.waitpid(pid, 0)[1]
    if text:
        return json.loads(text)
    how = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if how == signal.SIGSYS or how == signal.SIGKILL:
        return "refused", "ended by " + signal.Signals(how).name
    return "broken", "ended by status %d" % status


def report(name, verdict, detail):
    line = json.dumps({"attack": name, "verdict": verdict, "detail": detail[:300]})
    sys.stdout.write("\nVERDICT " + line + "\n")
    sys.stdout.flush()


def battery(attacks):
    for name, f in attacks:
        report(name, *(attempt if WASM else apart)(f))


def alone(name, f):
    """An attack with a run of its own: what it says after it got through counts."""
    verdict, detail = attempt(f)
    report(name, verdict, detail)
