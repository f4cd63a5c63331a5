package attack

import (
	"time"

	"github.com/spare-compute/spare/sandbox"
)

// mounting is what stops whoever mounts.
var mounting = walls("no capabilities, seccomp, landlock")

var mounts = []Attack{
	{
		Name: "mount a file system", Tries: "Mounts a tmpfs and a proc of its own.",
		Walls: mounting,
		Script: `
os.makedirs(RW + "/m", exist_ok=True)
def one(kind):
    raw("mount", kind, (RW + "/m").encode(), kind, 0, None)
    raw("umount2", (RW + "/m").encode(), 2)
    return "mounted %s" % kind
return refused_all(*(lambda k=k: one(k) for k in [b"tmpfs", b"proc", b"sysfs", b"ramfs", b"devpts", b"mqueue"]))`,
	},
	{
		Name: "bind over a system file", Tries: "Puts a file of its own over /etc/passwd by a bind mount.",
		Walls: mounting,
		Script: `
with open(RW + "/passwd", "w") as f: f.write("root::0:0::/:/bin/sh\n")
raw("mount", (RW + "/passwd").encode(), b"/etc/passwd", None, 4096, None)
raw("umount2", b"/etc/passwd", 2)
return "mounted it"`,
	},
	{
		Name: "make read-only mounts writable", Tries: "Mounts its read-only folders and its root again, writable.",
		Walls: mounting,
		Script: `
def one(name):
    raw("mount", None, name.encode(), None, 4096 | 32, None) # MS_BIND | MS_REMOUNT, not MS_RDONLY
    return "remounted " + name
return refused_all(*(lambda n=n: one(n) for n in [RO, "/usr", "/", "/proc/sys"]))`,
	},
	{
		Name: "make mounts writable by mount_setattr", Tries: "Clears the read-only mark of its mounts by the newer call.",
		Walls: mounting,
		Script: `
def one(name):
    raw("mount_setattr", -100, name.encode(), 0x8000, struct.pack("QQQQ", 0, 1, 0, 0), 32)
    return "cleared read-only of " + name
return refused_all(*(lambda n=n: one(n) for n in [RO, "/usr", "/"]))`,
	},
	{
		Name: "mount by the new calls", Tries: "Makes file systems by fsopen and clones mounts by open_tree.",
		Walls: mounting,
		Script: `
return refused_all(
    lambda: raw("fsopen", b"tmpfs", 1) and "opened a file system",
    lambda: raw("open_tree", -100, b"/", 1 | 0x8000) and "cloned the root's mounts")`,
	},
	{
		Name: "take away a mask", Tries: "Unmounts what hides the kernel's files in /proc and the host's folders.",
		Walls: mounting,
		Script: `
def one(name):
    raw("umount2", name.encode(), 2)
    return "unmounted " + name
masks = [l.split()[1] for l in open("/proc/self/mounts") if l.split()[1].startswith(("/proc/", "/sys", "/dev/", "/tmp"))]
return refused_all(*(lambda n=n: one(n) for n in masks))`,
	},
	{
		Name: "mount by FUSE", Tries: "Opens /dev/fuse and mounts a file system that the program itself answers for.",
		Walls: walls("own root, own user"), Proof: BareRoot,
		Script: `
fd = os.open("/dev/fuse", os.O_RDWR)
return "opened /dev/fuse"`,
	},
	{
		Name: "swap the root", Tries: "Makes another folder its root by pivot_root.",
		Walls: mounting,
		Script: `
def swap():
    new = (RW + "/root").encode()
    os.makedirs(new + b"/old", exist_ok=True)
    raw("unshare", 0x20000)
    raw("mount", None, b"/", None, 0x44000, None)
    raw("mount", new, new, None, 4096, None)
    raw("pivot_root", new, new + b"/old")
    return "swapped it"
return child(swap)`,
	},
	{
		Name: "escape by chroot", Tries: "Changes its root below its working folder and climbs out from there.",
		Walls: walls("no capabilities, seccomp"), Proof: BareRoot,
		Script: `
def climb():
    os.makedirs(RW + "/jail", exist_ok=True)
    out = os.open("/", os.O_RDONLY)
    raw("chroot", (RW + "/jail").encode())
    os.fchdir(out)
    return "changed its root and left it"
return child(climb)`,
	},
	{
		Name: "make device nodes", Tries: "Makes nodes of the memory device and of a terminal in its writable folders and in /tmp.",
		Walls: walls("user namespace, seccomp"), Proof: BareRoot,
		Script: `
import stat
def one(dir, minor):
    name = dir + "/node%d" % minor
    os.mknod(name, 0o600 | stat.S_IFCHR, os.makedev(1, minor))
    os.unlink(name)
    return "made " + name
return refused_all(*(lambda d=d, m=m: one(d, m) for d in [RW, "/tmp", "/dev/shm", "/dev"] for m in [1, 11]))`,
	},
	{
		Name: "open the hypervisor's door", Tries: "Opens /dev/kvm, /dev/vhost-net, /dev/net/tun, /dev/loop-control and other doors into the kernel.",
		Walls: walls("own root, own user"), Proof: BareRoot,
		Script: `
names = ["kvm", "vhost-net", "vhost-vsock", "net/tun", "loop-control", "mapper/control", "uinput", "uhid", "userfaultfd", "btrfs-control", "autofs", "snapshot", "rtc0", "dri/card0", "nvidiactl", "ptmx0"]
return refused_all(*(lambda n=n: os.close(os.open("/dev/" + n, os.O_RDWR)) or "opened /dev/" + n for n in names))`,
	},
	{
		Name: "mount through a link", Tries: "Has a link to a folder of the host where its image's mounts go, so that they are made there (CVE-2021-30465).",
		Unshown: "no link of an image is followed on the way", Load: &Load{Linked: true, Limits: sandbox.Limits{Memory: 64 << 20, Wall: 15 * time.Second}},
	},
	{
		Name: "list the host's mounts", Tries: "Asks for the mounts of the host's namespace by listmount and /proc/*/mounts.",
		Walls: walls("mount namespace, pid namespace"), Proof: Bare,
		Script: `
return refused_all(*(lambda p=p: H["mount"].encode() in read("/proc/%s/mountinfo" % p, 1 << 20) and "saw " + H["mount"] for p in ["self", 1, H["pid"]]))`,
	},
}
