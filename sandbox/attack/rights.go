package attack

import (
	"time"

	"github.com/spare-compute/spare/sandbox"
)

var rights = []Attack{
	{
		Name: "become root", Tries: "Sets its user id to 0.",
		Walls: walls("no capabilities, user namespace"), Proof: BareRoot,
		Script: `
return refused_all(
    lambda: os.setuid(0) or os.getuid() == 0 and "is 0",
    lambda: os.setresuid(0, 0, 0) or "is 0",
    lambda: os.setreuid(0, -1) or "is 0")`,
	},
	{
		Name: "become another user", Tries: "Sets its user id to another user's, and its groups to those of disks and shadow.",
		Walls: walls("no capabilities, user namespace"), Proof: BareRoot,
		Script: `
return refused_all(
    lambda: os.setgroups([0, 6, 42]) or "is in group disk",
    lambda: os.setgid(42) or "is group shadow",
    lambda: os.setuid(65534) or "is nobody")`,
	},
	{
		Name: "run a setuid program", Tries: "Runs a program that belongs to another user and has the setuid bit.",
		Walls: walls("no_new_privs, own root, user namespace"), Proof: BareUser,
		Script: `
def run():
    before = os.getresuid()
    text = os.popen("%s -c 'import os; print(os.getresuid())'" % (PROGRAMS + "/setuid")).read()
    if not text: raise OSError(errno.EACCES, "it did not run")
    return text.strip() != repr(before) and "ran as " + text
return run()`,
	},
	{
		Name: "run a program with file capabilities", Tries: "Runs a program whose file gives it the right to everything.",
		Walls: walls("no_new_privs, own root, user namespace"), Proof: BareUser,
		Script: `
text = os.popen("%s -c 'print(open(\"/proc/self/status\").read())'" % (PROGRAMS + "/capable")).read()
if not text: raise OSError(errno.EACCES, "it did not run")
held = [l.split()[1] for l in text.splitlines() if l.startswith("CapEff")][0]
mine = [l.split()[1] for l in open("/proc/self/status") if l.startswith("CapEff")][0]
return int(held, 16) & ~int(mine, 16) and "got capabilities " + held`,
	},
	{
		Name: "run the host's setuid programs", Tries: "Runs su, sudo, mount, newuidmap, pkexec or whatever the system's folders hold with the setuid bit.",
		Walls: walls("no_new_privs, own root, user namespace"), Unshown: "what these programs do once they have rights is up to them",
		Script: `
# A program's rights show in the auxiliary vector that the kernel gives it: AT_SECURE.
env = {"LD_SHOW_AUXV": "1", "PATH": "/usr/bin"}
import subprocess
for name in ["su", "sudo", "mount", "newuidmap", "pkexec", "passwd", "chsh", "fusermount3", "ping"]:
    for dir in ["/usr/bin/", "/bin/", "/usr/sbin/"]:
        try:
            if not os.stat(dir + name).st_mode & 0o6000: continue
            text = subprocess.run([dir + name, "--version"], env=env, capture_output=True, timeout=5).stdout.decode(errors="replace")
        except OSError: continue
        if "AT_SECURE:            1" in text: return name + " ran with rights"
return None`,
	},
	{
		Name: "raise capabilities", Tries: "Puts capabilities back into its effective, inheritable and ambient sets.",
		Walls: walls("no capabilities"),
		Script: `
def held(): return int([l.split()[1] for l in open("/proc/self/status") if l.startswith("CapEff")][0], 16)
def all_sets():
    every = (1 << 41) - 1
    data = struct.pack("<6I", every & 0xffffffff, every & 0xffffffff, every & 0xffffffff, every >> 32, every >> 32, every >> 32)
    raw("capset", struct.pack("<Ii", 0x20080522, 0), data)
    return "has %x" % held()
def ambient():
    raw("prctl", 47, 2, 21, 0, 0)
    return "has ambient CAP_SYS_ADMIN"
if held() & 1 << 21: return "holds %x" % held()
return refused_all(all_sets, ambient)`,
	},
	{
		Name: "make a user namespace", Tries: "Makes a user namespace by unshare, where it would be root and reach the kernel's privileged code.",
		Walls: walls("no nested user namespaces, seccomp"),
		Script: `
return child(lambda: raw("unshare", 0x10000000) == 0 and "made one")`,
	},
	{
		Name: "clone into a user namespace", Tries: "Makes a user namespace by clone.",
		Walls: walls("no nested user namespaces, seccomp"),
		Script: `
pid = raw("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
if pid == 0: os._exit(0)
os.waitpid(pid, 0)
return "made one"`,
	},
	{
		Name: "clone3 into a user namespace", Tries: "Makes a user namespace by clone3, whose flags a filter cannot see.",
		Walls: walls("no nested user namespaces, seccomp"),
		Script: `
args = ctypes.create_string_buffer(struct.pack("<11Q", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0))
pid = raw("clone3", args, 88)
if pid == 0: os._exit(0)
os.waitpid(pid, 0)
return "made one"`,
	},
	{
		Name: "make namespaces with what it has", Tries: "Makes mount, network, pid and other namespaces without a user namespace.",
		Walls: walls("no capabilities, seccomp"),
		Script: `
kinds = {"mount": 0x20000, "network": 0x40000000, "pid": 0x20000000, "ipc": 0x8000000, "uts": 0x4000000, "cgroup": 0x2000000, "time": 0x80}
return refused_all(*(lambda k=k: child(lambda: raw("unshare", kinds[k]) == 0 and "made a %s namespace" % k) for k in kinds))`,
	},
	{
		Name: "enter the host's namespaces", Tries: "Enters namespaces of the host and of the first process by setns.",
		Walls: walls("no capabilities, seccomp"),
		Script: `
def enter(pid, kind):
    fd = os.open("/proc/%s/ns/%s" % (pid, kind), os.O_RDONLY)
    return child(lambda: raw("setns", fd, 0) == 0 and "entered %s of %s" % (kind, pid))
return refused_all(*(lambda p=p, k=k: enter(p, k) for p in [1, H["pid"], "self"] for k in ["mnt", "net", "uts", "ipc", "cgroup"]))`,
	},
	{
		Name: "raise its limits", Tries: "Raises its limits on files, processes, core dumps and locked memory above what it was given.",
		Walls: walls("no capabilities, user namespace"), Proof: BareRoot,
		Script: `
needs(24)
def one(limit):
    soft, hard = resource.getrlimit(limit)
    if hard == resource.RLIM_INFINITY: return None
    try: resource.setrlimit(limit, (hard + 1, hard + 1))
    except ValueError as e: raise PermissionError(errno.EPERM, str(e))
    return "raised limit %d to %d" % (limit, hard + 1)
return refused_all(*(lambda l=l: one(l) for l in [resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE]))`,
	},
	{
		Name: "come first", Tries: "Takes real-time scheduling and a priority above the owner's programs.",
		Walls: walls("no capabilities, user namespace"), Proof: BareRoot,
		Script: `
return refused_all(
    lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)) or "runs in real time",
    lambda: os.setpriority(os.PRIO_PROCESS, 0, -5) or "has priority -5",
    lambda: raw("ioprio_set", 1, 0, 1 << 13) == 0 and "has real-time input and output")`,
	},
	{
		Name: "take more processors", Tries: "Spreads over all of the machine's processors where it was given one.",
		Walls: walls("cgroup cpu, seccomp"), Unshown: "what it gets without it depends on what else the machine does",
		Script: `
if H["cpus"] < 2: raise Absent("the machine has one processor")
def burn(w):
    try: os.sched_setaffinity(0, range(H["cpus"]))
    except OSError: pass
    end = time.monotonic() + 1
    while time.monotonic() < end: pass
    os.write(w, struct.pack("d", time.process_time()))
    os._exit(0)
r, w = os.pipe()
for _ in range(2):
    if os.fork() == 0: burn(w)
for _ in range(2): os.wait()
got = sum(struct.unpack("2d", os.read(r, 16)))
return got > 1.35 and "got %.2f processors" % got`,
		Load: &Load{Limits: sandbox.Limits{CPUs: 1, Memory: 256 << 20, Processes: 40, Wall: 15 * time.Second}, First: true},
	},
	{
		Name: "get rid of no_new_privs", Tries: "Takes back no_new_privs, the secure bits and the filter of calls.",
		Walls: walls("no_new_privs"),
		Script: `
if raw("prctl", 39, 0, 0, 0, 0) == 0: return "may gain rights"
return refused_all(
    lambda: raw("prctl", 38, 0, 0, 0, 0) == 0 and "took back no_new_privs",
    lambda: raw("prctl", 22, 0, 0, 0, 0) == 0 and "took back the filter")`,
	},
	{
		Name: "leave a device by renaming", Tries: "Moves a file such that a device node stays in its place (RENAME_WHITEOUT).",
		Walls: walls("seccomp"),
		Script: `
open("/tmp/moved", "w").close()
raw("renameat2", -100, b"/tmp/moved", -100, b"/tmp/away", 4)
return os.lstat("/tmp/moved").st_mode & 0o170000 == 0o020000 and "a device stays"`,
	},
	{
		Name: "limit the first process by its threads", Tries: "Takes the descriptors of the first process, which a thread's number names as well as its own.",
		Walls: walls("seccomp"),
		Script: `
first()
ids = [int(t) for t in os.listdir("/proc/1/task") if t != "1"] or [2]
limits = lambda t: resource.prlimit(t, resource.RLIMIT_NOFILE)
return refused_all(*(lambda t=t: resource.prlimit(t, resource.RLIMIT_NOFILE, limits(t)) and "set them by thread %d" % t for t in ids))`,
	},
	{
		Name: "leave the filter by the 32-bit entry", Tries: "Makes a call that is filtered by the numbers of 32-bit programs (int 0x80).",
		Walls: walls("seccomp"),
		Script: `
if os.uname().machine != "x86_64": raise Absent("only x86-64 has it")
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
# keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1) of 32-bit programs
code.write(b"\x53\xb8\x20\x01\x00\x00\x31\xdb\xb9\xfe\xff\xff\xff\xba\x01\x00\x00\x00\xcd\x80\x5b\xc3")
f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
if os.fork() == 0:
    os._exit(0 if f() > 0 else 1)
status = os.wait()[1]
if status == signal.SIGSEGV: raise Absent("this kernel has no 32-bit entry")
return status == 0 and "a keyring by a 32-bit call"`,
	},
}
