package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// secret makes a file that anybody on the host may read.
func secret(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	name := filepath.Join(dir, "secret")
	if err := os.WriteFile(name, []byte("the secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestLinux_HidesAccountsHomesAndKeys(t *testing.T) {
	python(t, denied+`
for f in ["/etc/shadow", "/etc/gshadow", "/etc/ssh", "/etc/ssl/private", "/etc/machine-id", "/root", "/home", "/var/lib", "/var/log", "/boot", "/opt", "/mnt", "/work", "/sys/kernel", "/run/user", "/run/systemd"]:
    denied(f, os.stat, f)
names = [l.split(":")[0] for l in open("/etc/passwd")]
if names != ["spare", "nobody"]: bad.append("accounts: %r" % names)
finish()`, nil).wantOK(t)
}

func TestLinux_HidesOtherFoldersOfTheHost(t *testing.T) {
	file := secret(t)
	other := t.TempDir()
	python(t, denied+fmt.Sprintf(`
for root in ["", "/..", "/../..", "/tmp/../..", "/proc/1/root", "/proc/1/cwd", "/proc/self/root", "/proc/%d/root", "/spare/ro/..", "/spare/ro/link"]:
    for f in [%q, %q]:
        denied(root + f, os.stat, root + f)
denied("link", open, "/spare/ro/link")
finish()`, os.Getpid(), file, other), func(s *Spec) {
		ro := t.TempDir()
		if err := os.Symlink(file, filepath.Join(ro, "link")); err != nil {
			t.Fatal(err)
		}
		s.Mounts = []Mount{{Host: ro, Inner: "/spare/ro"}}
	}).wantOK(t)
}

func TestLinux_SeesAndSignalsNoProcessOfTheHost(t *testing.T) {
	host := exec.Command("sleep", "600")
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = host.Process.Kill(); _ = host.Wait() }()
	python(t, denied+fmt.Sprintf(`
import signal
pids = [int(p) for p in os.listdir("/proc") if p.isdigit()]
if len(pids) > 2: bad.append("sees %%r" %% pids)
for pid in [%d, %d]:
    denied("signal", os.kill, pid, 0)
    denied("ptrace", call, "ptrace", 16, pid, None, None)
for s in [signal.SIGTERM, signal.SIGKILL, signal.SIGQUIT, signal.SIGSEGV, signal.SIGSTOP, 64]:
    try: os.kill(1, s) # has no effect, if it is not refused
    except PermissionError: pass
finish()`, host.Process.Pid, os.Getpid()), nil).wantOK(t)
	if err := host.Process.Signal(unix.Signal(0)); err != nil {
		t.Fatalf("the host's process is gone: %v", err)
	}
}

func TestLinux_WritesOnlyItsOwnFolders(t *testing.T) {
	ro, rw := t.TempDir(), t.TempDir()
	python(t, denied+`
def touch(dir):
    with open(dir + "/probe", "w") as f: f.write("x")
for dir in ["/", "/usr", "/usr/bin", "/usr/local", "/etc", "/bin", "/lib", "/dev", "/proc", "/proc/sys/kernel", "/var", "/run", "/spare", "/spare/ro"]:
    denied(dir, touch, dir)
for f in ["/usr/bin/python3", "/etc/passwd", "/etc/ld.so.cache", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/user/max_user_namespaces", "/proc/sysrq-trigger"]:
    if "trigger" in f: # masked, if this kernel has it: what is written goes nowhere
        if os.path.exists(f) and os.stat(f).st_rdev != os.stat("/dev/null").st_rdev: denied(f, open, f, "w")
    else:
        denied(f, open, f, "r+")
denied("chmod", os.chmod, "/spare/ro", 0o777)
denied("remove", os.rmdir, "/spare/ro")
for dir in ["/tmp", "/dev/shm", "/spare/rw", "/var/tmp"]:
    touch(dir)
finish()`, func(s *Spec) {
		s.Mounts = []Mount{{Host: ro, Inner: "/spare/ro"}, {Host: rw, Inner: "/spare/rw", Writable: true}}
	}).wantOK(t)
	if text, err := os.ReadFile(filepath.Join(rw, "probe")); err != nil || string(text) != "x" {
		t.Errorf("what was written in the writable mount: %q, %v", text, err)
	}
	if left, _ := os.ReadDir(ro); len(left) != 0 {
		t.Errorf("the read-only mount has %v", left)
	}
}

func TestLinux_FirstProcessCannotBeReached(t *testing.T) {
	before, err := os.Stat("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	// Overwriting the program through /proc/…/exe is CVE-2019-5736; a descriptor or
	// working folder left open on the host's root is CVE-2024-21626.
	python(t, denied+`
for what in ["exe", "cwd", "root"]:
    denied(what, os.readlink, "/proc/1/" + what)
for mode in ["rb", "r+b", "wb"]:
    denied("exe " + mode, open, "/proc/1/exe", mode)
for what in ["mem", "environ", "maps", "auxv", "stack"]:
    denied(what, lambda w: open("/proc/1/" + w, "rb").read(1), what)
for what in ["fd", "map_files", "fdinfo"]:
    denied(what, os.listdir, "/proc/1/" + what)
denied("ptrace", call, "ptrace", 16, 1, None, None)
me = os.readlink("/proc/self/exe")
if not me.startswith("/usr/"): bad.append("runs " + me)
denied("own exe", open, "/proc/self/exe", "r+b")
finish()`, nil).wantOK(t)
	after, err := os.Stat("/proc/self/exe")
	if err != nil || !os.SameFile(before, after) || before.Size() != after.Size() || !before.ModTime().Equal(after.ModTime()) {
		t.Errorf("this program's file changed: %v, %v, %v", before, after, err)
	}
}

func TestLinux_InheritsNoFileOrFolder(t *testing.T) {
	// Descriptors as a careless parent leaves them: open across exec.
	for _, name := range []string{secret(t), "/"} {
		fd, err := unix.Open(name, unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	t.Chdir(t.TempDir())
	python(t, denied+`
open_fds = sorted(int(f) for f in os.listdir("/proc/self/fd"))
if open_fds[:3] != [0, 1, 2] or len(open_fds) > 4: bad.append("open: %r" % open_fds)
if os.getcwd() != "/tmp": bad.append("works in " + os.getcwd())
if os.read(0, 1) != b"": bad.append("stdin")
if set(os.environ) - {"LC_CTYPE"} != {"PATH", "HOME", "LANG"}: bad.append("knows %r" % dict(os.environ))
if os.getppid() != 1 or os.getsid(0) != os.getpid(): bad.append("session")
finish()`, nil).wantOK(t)
}

func TestLinux_InheritsNoKeyring(t *testing.T) {
	runtime.LockOSThread() // keyrings belong to threads, and Run starts the process from this one
	defer runtime.UnlockOSThread()
	if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.AddKey("user", "spare-test", []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING); err != nil {
		t.Fatal(err)
	}
	python(t, denied+fmt.Sprintf(`
denied("key", call, "syscall", %d, 10, ctypes.c_long(-3), b"user", b"spare-test", 0)
finish()`, unix.SYS_KEYCTL), nil).wantOK(t)
}

func TestLinux_ShowsWhatProgramsNeed(t *testing.T) {
	python(t, denied+`
import ssl, tempfile, subprocess, multiprocessing, pwd, getpass
if os.getuid() != 1000 or getpass.getuser() != "spare": bad.append("user")
if socket.gethostname() != "spare": bad.append(socket.gethostname())
tempfile.NamedTemporaryFile().write(b"x")
if subprocess.check_output(["sh", "-c", "echo $((1+1))"]).strip() != b"2": bad.append("sh")
if len(os.urandom(8)) != 8 or open("/dev/zero", "rb").read(3) != b"\0\0\0": bad.append("devices")
open("/dev/null", "w").write("x")
open("/dev/stdout", "w").write("")
multiprocessing.Lock()
if not any(l.startswith("MemTotal") for l in open("/proc/meminfo")): bad.append("meminfo")
finish()`, nil).wantOK(t)
}

func TestLinux_GivesMountsWhateverTheirOwnerAndMode(t *testing.T) {
	ro, rw := filepath.Join(t.TempDir(), "ro"), filepath.Join(t.TempDir(), "rw")
	for _, dir := range []string{ro, filepath.Join(ro, "sub"), rw, filepath.Join(rw, "sub")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	python(t, denied+`
for f in ["/spare/ro/file", "/spare/ro/sub/file", "/spare/rw/file", "/spare/rw/sub/file"]:
    if open(f).read() != "text": bad.append(f)
if open("/spare/task/data.bin").read() != "data": bad.append("file mount")
denied("write", open, "/spare/task/data.bin", "w")
open("/spare/rw/sub/new", "w").write("made")
os.remove("/spare/rw/sub/file")
os.mkdir("/spare/rw/deep", 0o000)
finish()`, func(s *Spec) {
		s.Mounts = []Mount{{Host: ro, Inner: "/spare/ro"}, {Host: file, Inner: "/spare/task/data.bin"}, {Host: rw, Inner: "/spare/rw", Writable: true}}
	}).wantOK(t)
	if text, err := os.ReadFile(filepath.Join(rw, "sub", "new")); err != nil || string(text) != "made" {
		t.Errorf("the host reads %q, %v", text, err)
	}
	if err := os.RemoveAll(rw); err != nil {
		t.Errorf("the host cannot remove it: %v", err)
	}
}

func TestLinux_MountsWhatOnlyRootReaches(t *testing.T) {
	if os.Getuid() != 0 {
		return // an ordinary user mounts only what it reaches
	}
	home := t.TempDir() // another user's, closed to all
	dir := filepath.Join(home, "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o600), os.Chown(home, ordinaryUser, ordinaryUser), os.Chmod(home, 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	e := python(t, `print(open("/spare/ro/file").read())`, func(s *Spec) { s.Mounts = []Mount{{Host: dir, Inner: "/spare/ro"}} })
	if strings.TrimSpace(e.out) != "text" {
		t.Errorf("inside: %+v %s", e.Result, e.out)
	}
}
