package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare/sandbox/first"
)

// A breach is a script that says "ok" behind a wall, and something else without it.
type breach struct {
	wall   string
	also   []string // walls that would stop it too, and are left out with it
	script string
	change func(*Spec)
	root   bool  // only where Spare is root
	killed Cause // what becomes of it behind the wall, if not "ok"
}

func (b breach) prove(t *testing.T) {
	t.Helper()
	if b.root && os.Getuid() != 0 {
		return
	}
	script := denied + b.script
	for _, others := range append([][]string{nil}, b.also) { // the wall holds by itself, too
		e := pythonWithout(t, others, script, b.change)
		if b.killed == "" {
			e.wantOK(t)
		} else if e.Cause != b.killed {
			t.Fatalf("behind the wall: %+v\n%s", e.Result, e.out)
		}
	}
	e := pythonWithout(t, append([]string{b.wall}, b.also...), script, b.change)
	if e.Cause != Exited || e.ExitCode != 0 || strings.TrimSpace(e.out) == "ok" {
		t.Errorf("without it nothing gets through either: the test shows nothing: %+v\n%s", e.Result, e.out)
	}
}

// foreign is a script that complains if a namespace is this process's.
func foreign(file string) string {
	ours, err := os.Readlink("/proc/self/ns/" + file)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("\nif os.readlink('/proc/self/ns/%s') == %q: bad.append('the host\\'s')\nfinish()", file, ours)
}

func TestWall_UserNamespaceHidesTheHostsUsers(t *testing.T) {
	breach{wall: first.WallUser, root: true, script: `
if os.stat("/usr").st_uid == 0: bad.append("the host's root")
finish()`}.prove(t)
}

func TestWall_NamespacesAreItsOwn(t *testing.T) {
	for wall, file := range map[string]string{
		first.WallMounts: "mnt", first.WallNetwork: "net", first.WallIPC: "ipc", first.WallUTS: "uts", first.WallCgroups: "cgroup",
	} {
		t.Run(file, func(t *testing.T) { breach{wall: wall, script: foreign(file)}.prove(t) })
	}
}

// shared is a folder of the host that anybody may use, outside /tmp, where the program
// has its own.
func shared(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "spare-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestWall_MountNamespaceAndRootHideTheHostsFiles(t *testing.T) {
	file := filepath.Join(shared(t), "secret")
	if err := os.WriteFile(file, []byte("the secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("denied('secret', lambda: open(%q).read())\nfinish()", file)
	breach{wall: first.WallMounts, also: []string{first.WallLandlock}, script: script}.prove(t)
	breach{wall: first.WallRoot, also: []string{first.WallLandlock}, script: script}.prove(t)
	// Landlock alone stops it as well.
	breach{wall: first.WallLandlock, also: []string{first.WallRoot}, script: script}.prove(t)
}

func TestWall_RootKeepsTheHostsFoldersAsTheyAre(t *testing.T) {
	script := fmt.Sprintf("denied('write', open, %q, 'w')\nfinish()", shared(t)+"/new")
	breach{wall: first.WallRoot, also: []string{first.WallLandlock}, script: script}.prove(t)
	breach{wall: first.WallLandlock, also: []string{first.WallRoot}, script: script}.prove(t)
}

func TestWall_PIDNamespaceHidesTheHostsProcesses(t *testing.T) {
	breach{wall: first.WallPIDs, script: fmt.Sprintf("denied('process', os.stat, '/proc/%d')\nfinish()", os.Getpid())}.prove(t)
}

func TestWall_NetworkNamespaceHidesAbstractSockets(t *testing.T) {
	name := fmt.Sprintf("spare-test-%d-%s", os.Getpid(), t.Name())
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, err := range []error{unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name}), unix.Listen(fd, 1)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	script := fmt.Sprintf("denied('connect', socket.socket(socket.AF_UNIX).connect, '\\0' + %q)\nfinish()", name)
	breach{wall: first.WallNetwork, also: []string{first.WallLandlock}, script: script}.prove(t)
	breach{wall: first.WallLandlock, also: []string{first.WallNetwork}, script: script}.prove(t)
}

func TestWall_IPCNamespaceHidesSharedMemory(t *testing.T) {
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) }()
	breach{wall: first.WallIPC, script: `
if len(open("/proc/sysvipc/shm").readlines()) != 1: bad.append("the host's segments")
finish()`}.prove(t)
}

func TestWall_UTSNamespaceHidesTheHostsName(t *testing.T) {
	breach{wall: first.WallUTS, script: `
if socket.gethostname() != "spare": bad.append(socket.gethostname())
finish()`}.prove(t)
}

func TestWall_NoCapabilitiesNoMount(t *testing.T) {
	breach{wall: first.WallRights, also: []string{first.WallSeccomp, first.WallLandlock}, script: `
denied("mount", call, "mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None)
finish()`}.prove(t)
}

// restrained reports whether this process itself may gain no privileges, as a service
// that is confined well: then nothing that it starts may, whatever walls are left out.
func restrained(t *testing.T) bool {
	t.Helper()
	set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return set == 1
}

func TestWall_NoNewPrivileges(t *testing.T) {
	if restrained(t) {
		return
	}
	breach{wall: first.WallPrivileges, script: `
if libc.prctl(39, 0, 0, 0, 0) != 1: bad.append("may gain privileges")
finish()`}.prove(t)
}

func TestWall_NoNestedUserNamespaces(t *testing.T) {
	breach{wall: first.WallNested, also: []string{first.WallSeccomp}, script: `
denied("unshare", call, "unshare", 0x10000000)
finish()`}.prove(t)
}

func TestWall_ResourceLimits(t *testing.T) {
	breach{wall: first.WallLimits, change: func(s *Spec) { s.Limits.Files = 20 }, script: `
denied("many files", lambda: [os.dup(0) for _ in range(30)])
finish()`}.prove(t)
}

func TestWall_MemoryAndProcessorTimeAreWatched(t *testing.T) {
	breach{wall: first.WallMemoryWatch, also: []string{"cgroup memory"}, change: func(s *Spec) { s.Limits.Memory = 100 << 20 }, script: `
held = []
for _ in range(12):
    held.append(b"x" * (20 << 20))
    time.sleep(0.05)
bad.append("took 240 MiB")
finish()`, killed: KilledMemory}.prove(t)
	breach{wall: first.WallCPUTime, change: func(s *Spec) { s.Limits.CPU = 500 * time.Millisecond }, script: `
while time.process_time() < 1.5: pass
bad.append("got 1.5 s")
finish()`, killed: KilledTime}.prove(t)
}

func TestWall_MaskedProc(t *testing.T) {
	breach{wall: first.WallProc, script: `
for name in ["interrupts", "cmdline", "softirqs"]:
    if open("/proc/" + name).read(): bad.append(name)
finish()`}.prove(t)
}

func TestWall_OwnUser(t *testing.T) {
	breach{wall: first.WallOwnUser, root: true, script: `
if open("/proc/self/uid_map").read().split()[1] == "0": bad.append("is the host's root")
finish()`}.prove(t)
}

func TestWall_FirstProcessIsUndumpable(t *testing.T) {
	script := `
for what in ["exe", "cwd", "root"]: denied(what, os.readlink, "/proc/1/" + what)
denied("memory", open, "/proc/1/mem", "rb")
finish()`
	breach{wall: first.WallUndumpable, also: []string{first.WallLandlock}, script: script}.prove(t)
	breach{wall: first.WallLandlock, also: []string{first.WallUndumpable}, script: script}.prove(t)
}

func TestWall_DescriptorsAreClosed(t *testing.T) {
	fd, err := unix.Open(secret(t), unix.O_RDONLY, 0) // as a careless library leaves it
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	breach{wall: first.WallDescriptors, script: `
for fd in range(3, 64): denied(str(fd), os.fstat, fd)
finish()`}.prove(t)
}

func TestWall_LandlockKeepsFromDevicesAndTheFirstProcess(t *testing.T) {
	if first.LandlockVersion() < 6 {
		t.Logf("this kernel's Landlock is version %d: no rules for signals and devices", first.LandlockVersion())
		return
	}
	breach{wall: first.WallLandlock, script: `
import fcntl
try: fcntl.ioctl(os.open("/dev/null", os.O_RDWR), 0x5401)
except OSError as e:
    if e.errno != errno.EACCES: bad.append(str(e))
denied("signal", os.kill, 1, 0)
finish()`}.prove(t)
}

func TestWall_LandlockLeavesOnlyTheProxysPort(t *testing.T) {
	if v := first.LandlockVersion(); v < 4 {
		t.Logf("this kernel's Landlock is version %d: no rules for the network", v)
		return
	}
	breach{wall: first.WallLandlock, change: func(s *Spec) { s.Network = Outbound }, script: `
denied("bind", socket.socket().bind, ("127.0.0.1", 0))
try: socket.socket().connect(("127.0.0.1", 9))
except OSError as e:
    if e.errno != errno.EACCES: bad.append(str(e))
socket.create_connection(("127.0.0.1", 3128)).close()
finish()`}.prove(t)
}

func TestWall_SeccompKeepsFromTheKernel(t *testing.T) {
	for name, script := range map[string]string{
		"personality": `denied("READ_IMPLIES_EXEC", call, "personality", 0x400000)`,
		"io_uring":    `denied("io_uring", number, 425, 4, ctypes.create_string_buffer(120))`,
		"userfaultfd": fmt.Sprintf(`denied("userfaultfd", number, %d, 1)`, unix.SYS_USERFAULTFD),
		"clone3":      `denied("clone3", number, 435, ctypes.create_string_buffer(88), 88) if os.getpid() == me else os._exit(0)`,
		"keyrings": fmt.Sprintf(`
denied("keyring", number, %d, 0, ctypes.c_long(-3), 1)
denied("add_key", number, %d, b"user", b"spare", b"x", 1, ctypes.c_long(-3))`, unix.SYS_KEYCTL, unix.SYS_ADD_KEY),
		"virtual sockets": `denied("AF_VSOCK", socket.socket, socket.AF_VSOCK, socket.SOCK_STREAM)`,
		"internet":        `denied("AF_INET", socket.socket)`,
		"kernel events":   `denied("NETLINK_KOBJECT_UEVENT", socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 15)`,
		"file handles":    fmt.Sprintf(`denied("name_to_handle_at", number, %d, -100, b"/tmp", (ctypes.c_uint * 64)(128), ctypes.byref(ctypes.c_int()), 0)`, unix.SYS_NAME_TO_HANDLE_AT),
		"ptrace": `
if os.fork() == 0:
    try: call("ptrace", 0, 0, None, None)
    except OSError: os._exit(0)
    os._exit(1)
if os.wait()[1]: bad.append("ptrace")`,
		"other processes' memory": fmt.Sprintf(`
text = ctypes.create_string_buffer(8)
vector = (ctypes.c_ulong * 2)(ctypes.addressof(text), 8)
denied("process_vm_readv", number, %d, os.getpid(), vector, ctypes.c_long(1), vector, ctypes.c_long(1), ctypes.c_long(0))`, unix.SYS_PROCESS_VM_READV),
		"another's descriptors":          `denied("pidfd_getfd", number, 438, os.pidfd_open(os.getpid()), 0, 0)`,
		"shared memory segments":         fmt.Sprintf(`denied("shmget", number, %d, 0, 4096, 0o1600)`, unix.SYS_SHMGET),
		"asynchronous requests":          fmt.Sprintf(`denied("io_setup", number, %d, 1, ctypes.byref(ctypes.c_long()))`, unix.SYS_IO_SETUP),
		"setuid files":                   `open("/tmp/x", "w"); denied("chmod", os.chmod, "/tmp/x", 0o4755)`,
		"whiteouts":                      `denied("mknod", os.mknod, "/tmp/w", 0o20600, 0)`,
		"the first process's limits":     `import resource; denied("prlimit", resource.prlimit, 1, resource.RLIMIT_NOFILE, (9, 9))`,
		"its limits by a thread":         `import resource; denied("prlimit", resource.prlimit, 2, resource.RLIMIT_NOFILE, (9, 9))`,
		"whiteouts left by renaming":     `open("/tmp/y", "w"); denied("renameat2", number, {"x86_64": 316}.get(os.uname().machine, 276), -100, b"/tmp/y", -100, b"/tmp/z", 4)`,
		"the first process's processors": `denied("affinity", os.sched_setaffinity, 1, [0])`,
		"terminals": `
import fcntl
try: fcntl.ioctl(0, 0x5412, b"x") # TIOCSTI
except OSError as e:
    if e.errno != errno.EPERM: bad.append(str(e))`,
	} {
		t.Run(name, func(t *testing.T) {
			breach{wall: first.WallSeccomp, also: []string{first.WallLandlock}, script: `
me = os.getpid()
def number(nr, *args):
    r = libc.syscall(nr, *args)
    if r < 0: raise OSError(ctypes.get_errno(), nr)
    return r
` + script + "\nfinish()"}.prove(t)
		})
	}
}

func TestWall_SeccompEndsProgramsOfAnotherArchitecture(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		return
	}
	// getpid by the 32-bit way into the kernel, where the same numbers mean other calls,
	// and by x32's.
	for name, code := range map[string]string{
		"i386": `\xb8\x14\x00\x00\x00\xcd\x80\xc3`, // mov eax, 20; int 0x80; ret
		"x32":  `\xb8\x27\x00\x00\x40\x0f\x05\xc3`, // mov eax, 1<<30 | 39; syscall; ret
	} {
		script := fmt.Sprintf(`
import mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"%s")
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
print("ok")
sys.stdout.flush()
os._exit(0)`, code)
		e := python(t, script, nil)
		if e.Signal == "SIGSEGV" && name == "i386" {
			// A kernel that was built, or is run by a hypervisor, without that way.
			if open := pythonWithout(t, []string{first.WallSeccomp}, script, nil); open.Signal == "SIGSEGV" {
				continue
			}
		}
		if e.Cause != KilledSignal || e.Signal != "SIGSYS" {
			t.Errorf("%s: %+v %s", name, e.Result, e.out)
		}
		pythonWithout(t, []string{first.WallSeccomp}, script, nil).wantOK(t)
	}
}
