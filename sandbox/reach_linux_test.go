package sandbox

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestLinux_ReachesNoNetwork(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	name := fmt.Sprintf("@spare-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	abstract, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	python(t, denied+fmt.Sprintf(`
def connect(family, address, kind=socket.SOCK_STREAM):
    s = socket.socket(family, kind)
    s.settimeout(5)
    s.connect(address)
    s.send(b"x")
denied("loopback", connect, socket.AF_INET, ("127.0.0.1", %d))
denied("loopback, UDP", connect, socket.AF_INET, ("127.0.0.1", %d), socket.SOCK_DGRAM)
denied("metadata", connect, socket.AF_INET, ("169.254.169.254", 80))
denied("anywhere", connect, socket.AF_INET, ("192.0.2.1", 80))
denied("anywhere, IPv6", connect, socket.AF_INET6, ("2001:db8::1", 80))
denied("abstract socket", connect, socket.AF_UNIX, "\0" + %q[1:])
denied("raw", socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
denied("packet", socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
names = [n for _, n in socket.if_nameindex()]
if names != ["lo"]: bad.append("interfaces: %%r" %% names)
finish()`, tcp.Addr().(*net.TCPAddr).Port, udp.LocalAddr().(*net.UDPAddr).Port, name), nil).wantOK(t)
	for _, l := range []interface{ SetDeadline(time.Time) error }{tcp.(*net.TCPListener), abstract.(*net.UnixListener), udp} {
		if err := l.SetDeadline(time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := tcp.Accept(); err == nil {
		t.Errorf("a connection came through from %v", c.RemoteAddr())
	}
	if _, err := abstract.Accept(); err == nil {
		t.Error("a connection came through the abstract socket")
	}
	if n, _, err := udp.ReadFrom(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes came through by UDP", n)
	}
}

func TestLinux_HasNoRights(t *testing.T) {
	python(t, denied+`
status = dict(l.strip("\n").split(":\t", 1) for l in open("/proc/self/status") if ":\t" in l)
for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]:
    if int(status[set], 16): bad.append(set + " " + status[set])
if status["NoNewPrivs"] != "1": bad.append("may gain privileges")
if [int(i) for i in status["Uid"].split()] != [1000] * 4: bad.append(status["Uid"])
NEWNS, NEWUSER, NEWNET = 0x20000, 0x10000000, 0x40000000
denied("mount", call, "mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None)
denied("bind mount", call, "mount", b"/tmp", b"/usr", None, 4096, None)
denied("remount", call, "mount", None, b"/", None, 4096 | 32, None)
denied("umount", call, "umount2", b"/proc/sys", 2)
denied("pivot", os.chroot, "/tmp")
denied("block device", os.mknod, "/tmp/disk", 0o60666, os.makedev(8, 0))
denied("character device", os.mknod, "/tmp/mem", 0o20666, os.makedev(1, 1))
denied("user namespace", call, "unshare", NEWUSER)
denied("user and mount namespace", call, "unshare", NEWUSER | NEWNS)
denied("net namespace", call, "unshare", NEWNET)
denied("setns", lambda: call("setns", os.open("/proc/1/ns/net", os.O_RDONLY), 0))
denied("become 0", os.setuid, 0)
denied("become another", os.setuid, 65534)
denied("groups", os.setgroups, [0])
denied("host name", call, "sethostname", b"x", 1)
denied("priority", os.setpriority, os.PRIO_PROCESS, 0, -5)
denied("affinity of init", lambda: os.kill(1, 0) or os.setpriority(os.PRIO_PROCESS, 1, -1))
denied("reboot", call, "reboot", 0)
denied("kernel log", call, "klogctl", 3, ctypes.create_string_buffer(10), 10)
finish()`, nil).wantOK(t)
}

func TestLinux_EveryMountIsNosuidAndNoOtherDevice(t *testing.T) {
	python(t, denied+`
covered = {"/proc/sys"}
for l in open("/proc/self/mounts"):
    _, at, kind, options, *_ = l.split()
    options = options.split(",")
    if "nosuid" not in options: bad.append(at + " without nosuid")
    device = at.startswith("/dev/") and kind == "devtmpfs" or at.startswith("/proc/")
    if "nodev" not in options and not device and at not in ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]: bad.append(at + " without nodev")
    if "ro" not in options and at not in ["/tmp", "/dev/shm", "/proc", "/spare/rw"] and kind != "devtmpfs": bad.append(at + " writable")
    covered.discard(at)
bad += [at for at in covered if os.path.isdir(at)]
finish()`, func(s *Spec) { s.Mounts = []Mount{{Host: t.TempDir(), Inner: "/spare/rw", Writable: true}} }).wantOK(t)
}

func TestLinux_SetuidProgramHasNoEffect(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "python")
	copyFile(t, "/usr/bin/python3", program, 0o755)
	if err := os.Chmod(program, 0o755|os.ModeSetuid|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	python(t, `
os.execv("/spare/ro/python", ["python", "-c", "import os; print('ok' if os.getresuid() == (1000,) * 3 and os.getresgid() == (1000,) * 3 else os.getresuid())"])`, func(s *Spec) {
		s.Mounts = []Mount{{Host: dir, Inner: "/spare/ro"}}
	}).wantOK(t)
}

func TestLinux_MasksTheKernelsFiles(t *testing.T) {
	python(t, denied+`
for name in ["kcore", "keys", "key-users", "kmsg", "kallsyms", "modules", "timer_list", "cmdline", "partitions", "diskstats", "interrupts", "softirqs", "schedstat", "locks", "latency_stats", "sched_debug"]:
    try: text = open("/proc/" + name, "rb").read(10)
    except OSError: continue
    if text: bad.append(name)
for name in ["acpi", "bus", "driver", "fs", "irq", "pressure", "scsi", "tty"]:
    if os.path.exists("/proc/" + name) and os.listdir("/proc/" + name): bad.append(name)
for name in ["meminfo", "cpuinfo", "stat", "uptime", "loadavg", "filesystems", "self/net/dev"]:
    if not open("/proc/" + name).read(): bad.append("no " + name)
for name in ["/sys", "/sys/firmware", "/sys/class", "/dev/mem", "/dev/kmsg", "/dev/tty", "/dev/ptmx", "/dev/fuse", "/dev/kvm"]:
    denied(name, lambda n: os.listdir(n) if os.path.isdir(n) else open(n), name)
finish()`, nil).wantOK(t)
}

func TestLinux_RunsAreHiddenFromEachOther(t *testing.T) {
	mine := t.TempDir()
	done := make(chan ended, 1)
	go func() {
		done <- python(t, lockHolder+`
open("/spare/rw/ready", "w")
while not os.path.exists("/spare/rw/stop"): time.sleep(0.01)
print("ok")`, func(s *Spec) { s.Mounts = []Mount{{Host: mine, Inner: "/spare/rw", Writable: true}} })
	}()
	eventually(t, "the first run starts", func() bool { _, err := os.Stat(filepath.Join(mine, "ready")); return err == nil })
	python(t, denied+fmt.Sprintf(`
pids = [p for p in os.listdir("/proc") if p.isdigit()]
if len(pids) > 2: bad.append("sees %%r" %% pids)
denied("folder", os.stat, %q)
denied("mount", os.stat, "/spare")
denied("all", os.kill, -1, 9)
finish()`, mine), nil).wantOK(t)
	if err := os.WriteFile(filepath.Join(mine, "stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	(<-done).wantOK(t)
}
