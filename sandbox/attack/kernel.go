package attack

// calls is an attack that makes a call which no program of an App needs and whose code
// was often broken. What it passes does nothing where the call is let through.
func calls(name, tries, script string) Attack {
	return Attack{Name: name, Tries: tries, Walls: walls("seccomp"), Script: script}
}

// callsOfRoot is one that the kernel itself allows to root alone: the filter is the
// second wall, and the user namespace the first.
func callsOfRoot(name, tries, script string) Attack {
	return Attack{Name: name, Tries: tries, Walls: walls("seccomp, user namespace"), Proof: BareRoot, Script: script}
}

var kernel = []Attack{
	callsOfRoot("load BPF programs", "Makes a BPF map, the way into the kernel's verifier.", `
attr = struct.pack("<5I", 2, 4, 4, 1, 0).ljust(72, b"\0") # an array of one entry
return raw("bpf", 0, attr, 72) and "made a map"`),
	callsOfRoot("count by perf", "Opens a hardware or tracing counter of the whole machine.", `
attr = struct.pack("<IIQ", 1, 112, 0).ljust(112, b"\0") # the software clock
return refused_all(*(lambda p=p, c=c: raw("perf_event_open", attr, p, c, -1, 0) and "opened a counter" for p, c in [(-1, 0), (0, -1)]))`),
	calls("queue calls by io_uring", "Makes a ring by which calls pass a filter unseen.", `
return raw("io_uring_setup", 4, bytes(120)) and "made a ring"`),
	calls("hold the kernel by userfaultfd", "Takes over page faults, which holds the kernel still in the middle of a call.", `
return refused_all(lambda: raw("userfaultfd", 1) and "took user faults", lambda: raw("userfaultfd", 0) and "took all faults")`),
	callsOfRoot("load another kernel", "Asks to load a kernel that takes over.", `
try: raw("kexec_load", 0, 1 << 20, None, 0) # refused for its number of segments, once it may
except OSError as e:
    if e.errno == errno.EINVAL: return "would load one"
    raise`),
	callsOfRoot("load kernel modules", "Loads and removes modules.", `
def load(): raw("init_module", None, 0, b"")
def load_file(): raw("finit_module", -1, b"", 0)
def remove(): raw("delete_module", b"spare_no_such_module", 0)
for f in [load, load_file, remove]:
    try: f()
    except OSError as e:
        if e.errno not in [errno.EPERM, errno.ENOSYS, errno.EACCES]: return "%s was answered with %s" % (f.__name__, e)
        last = e
raise last`),
	calls("use the kernel's keyrings", "Makes keyrings and adds keys, which take memory of the kernel's.", `
return refused_all(
    lambda: raw("keyctl", 0, -2, 1) and "made a keyring",
    lambda: raw("add_key", b"user", b"spare-attack", b"x", 1, -2) and "added a key")`),
	callsOfRoot("set the clock", "Sets the host's clock, by which licences and certificates are judged.", `
time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME))
return "set it to what it was"`),
	callsOfRoot("name the host", "Sets the host's name and domain.", `
name = os.uname().nodename.encode()
return refused_all(
    lambda: raw("sethostname", name, len(name)) == 0 and "set the host's name",
    lambda: raw("setdomainname", b"(none)", 6) == 0 and "set the host's domain")`),
	callsOfRoot("swap on a file", "Makes the host swap to its file, or stop swapping.", `
for name, args in [("swapon", (RW.encode(), 0)), ("swapoff", (RW.encode(),))]:
    try: raw(name, *args)
    except OSError as e:
        if e.errno in [errno.EINVAL, errno.EISDIR]: return name + " would do it" # a folder is no swap file
        last = e
raise last`),
	callsOfRoot("set quotas and accounting", "Changes disk quotas and switches on the record of processes.", `
try: raw("acct", RW.encode())
except OSError as e:
    if e.errno in [errno.EISDIR, errno.EACCES]: return "would account to its file"
    raise`),
	callsOfRoot("restart the host", "Asks for a restart, with a number that the kernel refuses after it looked at the rights.", `
try: raw("reboot", 0, 0, 0, None)
except OSError as e:
    if e.errno == errno.EINVAL: return "may restart it"
    raise`),
	callsOfRoot("reach the ports", "Takes the right to the machine's input and output ports.", `
return refused_all(lambda: raw("iopl", 3) == 0 and "has all ports", lambda: raw("ioperm", 0x70, 1, 1) == 0 and "has port 0x70")`),
	calls("change its personality", "Switches off the random layout of memory and makes readable memory executable.", `
return refused_all(*(lambda p=p: raw("personality", p) >= 0 and "set %x" % p for p in [0x0400000, 0x0200000, 0x0040000]))`),
	calls("change its segments", "Sets entries of the local descriptor table.", `
if os.uname().machine != "x86_64": raise Absent("only x86-64 has it")
return raw("modify_ldt", 1, struct.pack("<4I", 0, 0, 0, 0x51), 16) == 0 and "set an entry"`),
	calls("move memory between nodes", "Steers the kernel's memory by migrate_pages, move_pages and mbind.", `
return refused_all(
    lambda: raw("move_pages", 0, 0, None, None, None, 2) >= 0 and "moved pages",
    lambda: raw("migrate_pages", 0, 64, struct.pack("Q", 1), struct.pack("Q", 1)) >= 0 and "migrated pages")`),
	callsOfRoot("watch the host's files", "Watches whole file systems by fanotify.", `
return refused_all(lambda: raw("fanotify_init", 0x4, 0) and "watches and may refuse", lambda: raw("fanotify_init", 0, 0) and "watches")`),
	calls("ask for file handles", "Asks for handles of files, the first half of opening them past the mounts.", `
handle = ctypes.create_string_buffer(struct.pack("<Ii", 128, 0) + bytes(128))
mount = ctypes.create_string_buffer(8)
return raw("name_to_handle_at", -100, b"/", handle, mount, 0) == 0 and "got the root's"`),
	callsOfRoot("hang up a terminal", "Hangs up the terminal that it runs on.", `
try: raw("vhangup")
except OSError: raise
return "hung it up"`),
}
