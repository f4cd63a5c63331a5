package attack

var processes = []Attack{
	{
		Name: "see the host's processes", Tries: "Lists the host's processes and reads their arguments, where passwords are.",
		Walls: walls("pid namespace"),
		Script: `
def look(pid):
    line = read("/proc/%s/cmdline" % pid)
    return H["marker"].encode() in line and "%s runs %r" % (pid, line)
return refused_all(*(lambda p=p: look(p) for p in [str(H["pid"])] + [p for p in os.listdir("/proc") if p.isdigit()]))`,
	},
	{
		Name: "signal a host's process", Tries: "Sends a signal to a process of the host that runs as the same user.",
		Walls: walls("pid namespace, landlock"), Proof: Bare,
		Script: `
os.kill(H["pid"], 0) # a signal that only asks whether it may
return "may signal %d" % H["pid"]`,
	},
	{
		Name: "signal by descriptor", Tries: "Opens a process of the host by pidfd_open and signals it.",
		Walls: walls("pid namespace, landlock"), Proof: Bare,
		Script: `
fd = raw("pidfd_open", H["pid"], 0)
raw("pidfd_send_signal", fd, 0, None, 0)
return "may signal %d" % H["pid"]`,
	},
	{
		Name: "trace a host's process", Tries: "Attaches to a process of the host by ptrace.",
		Walls: walls("pid namespace, user namespace, seccomp, landlock"), Proof: Bare,
		Script: `
raw("ptrace", 0x4206, H["pid"], None, None) # PTRACE_SEIZE, which does not stop it
raw("ptrace", 0x4207, H["pid"], None, None) # PTRACE_INTERRUPT
os.waitpid(H["pid"], 0x40000000)
raw("ptrace", 17, H["pid"], None, None) # PTRACE_DETACH
return "traced %d" % H["pid"]`,
	},
	{
		Name: "trace the first process", Tries: "Attaches by ptrace to the sandbox's first process, which sets the walls up.",
		Walls: walls("undumpable first process, seccomp, landlock, no capabilities"),
		Script: `
first()
raw("ptrace", 0x4206, 1, None, None)
return "traced process 1"`,
	},
	{
		Name: "read a host's process's memory", Tries: "Reads a process of the host by process_vm_readv and /proc/*/mem.",
		Walls: walls("pid namespace, user namespace, seccomp, landlock"), Proof: Bare,
		Script: `
def maps(): return read("/proc/%d/maps" % H["pid"]) and "read its memory map"
def vm():
    with open("/proc/%d/maps" % H["pid"]) as f: at = int(f.readline().split("-")[0], 16)
    buf = ctypes.create_string_buffer(64)
    here = struct.pack("QQ", ctypes.addressof(buf), 64)
    raw("process_vm_readv", H["pid"], here, 1, struct.pack("QQ", at, 64), 1, 0)
    return "read its memory"
return refused_all(vm, maps)`,
	},
	{
		Name: "read the first process's memory", Tries: "Reads the first process by process_vm_readv.",
		Walls: walls("undumpable first process, seccomp, landlock, no capabilities"),
		Script: `
first()
buf = ctypes.create_string_buffer(8)
here = struct.pack("QQ", ctypes.addressof(buf), 8)
for at in [0x400000, 0x10000]: # where a Go program without address randomisation lies
    try:
        raw("process_vm_readv", 1, here, 1, struct.pack("QQ", at, 8), 1, 0)
        return "read its memory"
    except OSError as e:
        if e.errno == errno.EFAULT: return "was let in, and found nothing at %x" % at
        raise`,
	},
	{
		Name: "take another process's descriptor", Tries: "Takes descriptors out of other processes by pidfd_getfd.",
		Walls: walls("pid namespace, user namespace, seccomp, landlock"), Proof: Bare,
		Script: `
fd = raw("pidfd_open", H["pid"], 0)
raw("pidfd_getfd", fd, 0, 0)
return "took a descriptor of %d" % H["pid"]`,
	},
	{
		Name: "take the first process's descriptors", Tries: "Takes the descriptor by which the first process gets its orders.",
		Walls: walls("undumpable first process, seccomp, landlock, no capabilities"),
		Script: `
first()
fd = raw("pidfd_open", 1, 0)
return refused_all(*(lambda n=n: raw("pidfd_getfd", fd, n, 0) and "took descriptor %d" % n for n in [3, 4, 5, 0, 1, 2]))`,
	},
	{
		Name: "kill the first process", Tries: "Ends the first process, and with it the record of what was used, by every signal there is.",
		Unshown: "the kernel keeps signals from inside from the first process of a pid namespace",
		Script: `
first()
for s in list(range(1, 32)) + list(range(34, 65)):
    if s != signal.SIGSTOP: os.kill(1, s)
time.sleep(0.05)
os.kill(1, 0) # it lives
return None`,
	},
	{
		Name: "change a host's process", Tries: "Sets limits, priority and processors of a process of the host.",
		Walls: walls("pid namespace, user namespace"), Proof: Bare,
		Script: `
return refused_all(
    lambda: os.setpriority(os.PRIO_PROCESS, H["pid"], 1) or "set its priority",
    lambda: os.sched_setaffinity(H["pid"], os.sched_getaffinity(H["pid"])) or "set its processors",
    lambda: resource.prlimit(H["pid"], resource.RLIMIT_CORE, (0, 0)) and "set its limits")`,
	},
	{
		Name: "compare with a host's process", Tries: "Learns of a process of the host by kcmp.",
		Walls: walls("pid namespace, user namespace, seccomp"), Proof: Bare,
		Script: `
return raw("kcmp", os.getpid(), H["pid"], 0, 0, 0) >= 0 and "compared with %d" % H["pid"]`,
	},
	{
		Name: "type on the owner's terminal", Tries: "Opens the terminals of the host and puts input into them (TIOCSTI).",
		Walls: walls("own root, landlock"), Proof: Bare,
		Script: `
def put(name):
    fd = os.open(name, os.O_RDWR | os.O_NOCTTY)
    if not os.isatty(fd): return None
    try: fcntl.ioctl(fd, 0x5412, b"\n")
    except OSError: pass
    return "opened " + name
return refused_all(*(lambda n=n: put(n) for n in [H["tty"], "/dev/tty", "/dev/console", "/dev/tty1", "/dev/pts/0", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"]))`,
	},
	{
		Name: "use up the owner's watches", Tries: "Makes so many inotify instances that the owner's editor and desktop get none.",
		Walls: walls("resource limits, no nested user namespaces"), Proof: ByUser,
		Script: `
if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 150: raise Absent("too few descriptors for it")
made = []
try:
    while len(made) < 128: made.append(raw("inotify_init1", 0))
except OSError: pass
# Programs that run as a user of their own take nothing from the owner.
return len(made) > 100 and not H["own"] and "made %d" % len(made)`,
	},
}
