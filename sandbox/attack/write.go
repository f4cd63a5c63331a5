package attack

var write = []Attack{
	{
		Name: "write system folders", Tries: "Makes files in /usr, /etc, /bin, /lib, /var and / of the host.",
		Walls: walls("own root, landlock, own user"), Proof: ByRoot,
		Script: `
def make(dir):
    if not same(dir): return None
    name = dir + "/spare-attack-" + H["token"]
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    os.unlink(name)
    return "made a file in " + dir
return refused_all(*(lambda d=d: make(d) for d in ["/usr/local/lib", "/usr", "/etc", "/bin", "/lib", "/var", "/opt", "/srv", "/"]))`,
	},
	{
		Name: "write a system file", Tries: "Opens the host's programs and settings for writing.",
		Walls: walls("own root, landlock, own user"), Proof: ByRoot,
		Script: `
return refused_all(*(lambda n=n: writes(n) for n in ["/usr/bin/env", "/etc/passwd", "/etc/ld.so.cache", "/etc/resolv.conf"]))`,
	},
	{
		Name: "write a user's folder", Tries: "Makes a file in a folder of the host that everybody may write.",
		Walls: walls("own root, landlock"),
		Script: `
name = H["open"] + "/planted"
os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
os.unlink(name)
return "made " + name`,
	},
	{
		Name: "write its own App", Tries: "Makes and changes files in its App's folder and its input, which are read-only.",
		Walls: walls("own root, landlock"), Proof: Bare,
		Script: `
def make():
    os.close(os.open(RO + "/made", os.O_CREAT | os.O_WRONLY, 0o666))
    os.unlink(RO + "/made")
    return "made a file in " + RO
def change():
    os.close(os.open(RO + "/open", os.O_WRONLY))
    return "opened " + RO + "/open for writing"
return refused_all(make, change)`,
	},
	{
		Name: "change the input's attributes", Tries: "Changes mode, times and attributes of its read-only input.",
		Walls: walls("own root"), Proof: Bare,
		Script: `
name = RO + "/open"
def mode(to):
    os.chmod(name, to)
    return os.stat(name).st_mode & 0o777 == to and "set its mode"
def times():
    os.utime(name, (1, 1))
    return os.stat(name).st_mtime == 1 and "set its times"
return refused_all(times, lambda: mode(0o640),
    lambda: os.setxattr(name, "user.spare", b"x") or os.removexattr(name, "user.spare") or "set an attribute")`,
	},
	{
		Name: "link the input to where it may write", Tries: "Makes a hard link of a read-only file in its writable folder, and moves one there.",
		Walls: walls("own root, landlock"), Proof: Bare,
		Script: `
def link():
    os.link(RO + "/open", RW + "/linked")
    os.unlink(RW + "/linked")
    return "linked it"
def move():
    os.rename(RO + "/open", RW + "/moved")
    os.rename(RW + "/moved", RO + "/open")
    return "moved it"
return refused_all(link, move)`,
	},
	{
		Name: "overwrite the first process's program", Tries: "Opens /proc/1/exe, the node's own program, for writing (CVE-2019-5736).",
		Walls: walls("undumpable first process, landlock, own user"), Proof: BareRoot,
		Script: `
first()
def way(name): # as the attack does: first held open for reading, then opened again
    fd = os.open(name, os.O_PATH)
    try: os.close(os.open("/proc/self/fd/%d" % fd, os.O_WRONLY))
    except OSError as e:
        if e.errno != errno.ETXTBSY: raise
    return "would write " + os.readlink("/proc/self/fd/%d" % fd)
return refused_all(*(lambda n=n: way(n) for n in ["/proc/1/exe", "/proc/%d/exe" % os.getppid()]))`,
	},
	{
		Name: "overwrite the interpreter", Tries: "Opens /proc/self/exe, a program that the host runs too, for writing.",
		Walls: walls("own root, landlock, own user"), Proof: ByRoot,
		Script: `
fd = os.open("/proc/self/exe", os.O_PATH)
try: os.close(os.open("/proc/self/fd/%d" % fd, os.O_WRONLY))
except OSError as e:
    if e.errno != errno.ETXTBSY: raise
return same(os.path.realpath("/proc/self/exe")) and "would write " + os.readlink("/proc/self/exe")`,
	},
	{
		Name: "set the host's core handler", Tries: "Opens /proc/sys/kernel/core_pattern or modprobe for writing: the host would run what they name.",
		Walls: walls("masked proc, own user"), Proof: ByRoot,
		Script: `
return refused_all(*(lambda n=n: os.close(os.open("/proc/sys/kernel/" + n, os.O_WRONLY)) or "opened " + n for n in ["core_pattern", "modprobe", "poweroff_cmd"]))`,
	},
	{
		Name: "set the host's sysctls", Tries: "Opens the host's settings in /proc/sys for writing.",
		Walls: walls("masked proc, own user"), Proof: ByRoot,
		Script: `
names = ["kernel/randomize_va_space", "kernel/pid_max", "vm/overcommit_memory", "vm/panic_on_oom", "fs/protected_symlinks", "user/max_user_namespaces", "kernel/unprivileged_bpf_disabled"]
return refused_all(*(lambda n=n: os.close(os.open("/proc/sys/" + n, os.O_WRONLY)) or "opened " + n for n in names))`,
	},
	{
		Name: "press the system request key", Tries: "Opens /proc/sysrq-trigger for writing, by which the host can be restarted.",
		Walls: walls("masked proc, own user"), Proof: ByRoot,
		Script: `
name = "/proc/sysrq-trigger"
try: at = os.stat(name)
except FileNotFoundError: raise Absent("this kernel has no " + name)
if at.st_rdev == os.stat("/dev/null").st_rdev: return None
fd = os.open(name, os.O_WRONLY)
os.close(fd)
return "opened " + name`,
	},
	{
		Name: "set the device event helper", Tries: "Opens /sys/kernel/uevent_helper for writing: the host would run what it names.",
		Walls: walls("own root, landlock, own user"), Proof: ByRoot,
		Script: `
return refused_all(*(lambda n=n: os.close(os.open(n, os.O_WRONLY)) or "opened " + n for n in ["/sys/kernel/uevent_helper", "/sys/kernel/uevent_seqnum", "/sys/kernel/profiling", "/sys/power/state"]))`,
	},
	{
		Name: "write control groups", Tries: "Raises its own limits, or makes a group, or names a release agent in /sys/fs/cgroup.",
		Walls: walls("own root, landlock, own user"), Proof: ByRoot,
		Script: `
import stat
def look(dir, depth=3):
    for name in sorted(os.listdir(dir)):
        at = dir + "/" + name
        if stat.S_ISDIR(os.lstat(at).st_mode):
            if depth: 
                got = look(at, depth - 1)
                if got: return got
        elif name in ["release_agent", "cgroup.procs", "memory.max", "memory.limit_in_bytes", "pids.max", "devices.allow", "notify_on_release"]:
            try: os.close(os.open(at, os.O_WRONLY))
            except OSError: continue
            return "opened " + at
return refused_all(*(lambda d=d: look(d) for d in ["/sys/fs/cgroup", "/spare", "/tmp"]))`,
	},
	{
		Name: "use the kernel's debugging files", Tries: "Opens debugfs, tracefs, securityfs, bpffs or efivars.",
		Walls: walls("own root, landlock, own user"), Proof: ByRoot,
		Script: `
names = ["/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security", "/sys/fs/bpf", "/sys/firmware/efi", "/sys/module", "/sys/kernel/config"]
return refused_all(*(lambda n=n: os.listdir(n) and "listed " + n for n in names))`,
	},
	{
		Name: "be spared when memory is short", Tries: "Lowers its own oom_score_adj, so that the host kills others first.",
		Walls: walls("no capabilities, user namespace"), Proof: BareRoot,
		Script: `
needs(24)
fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
os.write(fd, b"-1000")
return "set it to " + read("/proc/self/oom_score_adj").decode()`,
	},
}
