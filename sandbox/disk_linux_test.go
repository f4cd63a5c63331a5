package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// leaderless is a script: it does f in a thread of a process whose first thread has ended,
// which then has no open files and no memory any more.
const leaderless = `
import threading
def leaderless(f):
    r, w = os.pipe()
    if os.fork() == 0:
        def work():
            while ") Z " not in open("/proc/self/stat").read(): time.sleep(0.01)
            f()
            os.write(w, b"x")
            time.sleep(60)
        threading.Thread(target=work).start()
        ctypes.CDLL(None).syscall(93 if os.uname().machine == "aarch64" else 60, 0) # exit(2)
    os.close(w)
    if not os.read(r, 1): sys.exit("the thread came to nothing")
`

// holder is a script: hold makes a thread that keeps what is open, in descriptors of its own.
const holder = `
libc, stacks = ctypes.CDLL(None, use_errno=True), []
def hold():
    stacks.append(ctypes.create_string_buffer(64 << 10))
    top = ctypes.addressof(stacks[-1]) + (64 << 10) & ~15
    # CLONE_VM, _FS, _SIGHAND, _THREAD and _SYSVSEM, and not CLONE_FILES.
    if libc.clone(ctypes.cast(libc.pause, ctypes.c_void_p), ctypes.c_void_p(top), 0x50b00, None) < 0: sys.exit("no thread")
`

// floods are ways to fill a disk. Each would take 64 MiB or 20,000 files if nothing held
// it, and then waits.
var floods = map[string]string{
	"one large file": `
with open("/spare/rw/f", "wb") as f:
    for _ in range(64): f.write(b"x" * (1 << 20))`,
	"many small files": `for i in range(20000): open("/spare/rw/%d" % i, "w")`,
	"many folders":     `for i in range(20000): os.mkdir("/spare/rw/%d" % i)`,
	"one sparse file":  `os.truncate(os.open("/spare/rw/f", os.O_CREAT | os.O_RDWR), 9 << 20)`,
	"many sparse files": `
for i in range(16): os.truncate(os.open("/spare/rw/%d" % i, os.O_CREAT | os.O_RDWR), 4 << 20)`,
	"space set aside": `
for i in range(16): os.posix_fallocate(os.open("/spare/rw/%d" % i, os.O_CREAT | os.O_RDWR), 0, 4 << 20)`,
	"behind closed doors": `
os.makedirs("/spare/rw/a/b/c")
for i in range(64): open("/spare/rw/a/b/c/%d" % i, "w").write("x" * (1 << 20))
os.chmod("/spare/rw/a/b/c", 0)
os.chmod("/spare/rw/a/b", 0)
os.chmod("/spare/rw/a", 0)`,
	"at the end of a long path": `
os.chdir("/spare/rw")
for _ in range(1000):
    os.mkdir("d")
    os.chdir("d")
for i in range(64): open(str(i), "w").write("x" * (1 << 20))`,
	"deleted, held open": `
held = []
for i in range(64):
    f = open("/spare/rw/f", "w")
    f.write("x" * (1 << 20))
    f.flush()
    os.remove("/spare/rw/f")
    held.append(f)`,
	"deleted, held by another process": `
r, w = os.pipe()
if os.fork() == 0:
    for i in range(64):
        f = os.open("/spare/rw/f", os.O_CREAT | os.O_WRONLY)
        os.write(f, b"x" * (1 << 20))
        os.remove("/spare/rw/f")
    ctypes.CDLL(None).prctl(4, 0) # not dumpable: nobody but root is to see its files
    os.write(w, b"x")
    time.sleep(30)
os.read(r, 1)`,
	"deleted, only mapped": `
import mmap
held = []
for i in range(64):
    f = os.open("/spare/rw/f", os.O_CREAT | os.O_RDWR)
    os.write(f, b"x" * (1 << 20))
    libc = ctypes.CDLL(None)
    libc.mmap(0, 4096, 1, 1, f, 0) # Python's own mmap keeps the file open
    os.close(f)
    os.remove("/spare/rw/f")`,
	"deleted, held when the first thread is gone": leaderless + `
held = []
def fill():
    for i in range(64):
        f = os.open("/spare/rw/f", os.O_CREAT | os.O_WRONLY)
        os.write(f, b"x" * (1 << 20))
        os.remove("/spare/rw/f")
        held.append(f)
leaderless(fill)`,
	"deleted, mapped when the first thread is gone": leaderless + `
libc = ctypes.CDLL(None)
def fill():
    for i in range(64):
        f = os.open("/spare/rw/f", os.O_CREAT | os.O_RDWR)
        os.write(f, b"x" * (1 << 20))
        libc.mmap(0, 1 << 20, 1, 1, f, 0)
        os.close(f)
        os.remove("/spare/rw/f")
leaderless(fill)`,
	"deleted, held by threads with their own descriptors": holder + `
for i in range(40):
    f = os.open("/spare/rw/f", os.O_CREAT | os.O_WRONLY)
    os.write(f, b"x" * (1 << 20))
    os.remove("/spare/rw/f")
    hold()
    os.close(f)`,
	"deleted, in a message on its way": `
import array
a, b = socket.socketpair()
for i in range(64):
    f = os.open("/spare/rw/f", os.O_CREAT | os.O_RDWR)
    os.write(f, b"x" * (1 << 20))
    os.remove("/spare/rw/f")
    socket.send_fds(a, [b"x"], [f])
    os.close(f)`,
	"long names in the folder itself": `
f = open("/spare/rw/f", "w")
f.close()
for i in range(20000): os.link("/spare/rw/f", "/spare/rw/" + "x" * 200 + str(i))`,
}

func TestLinux_DiskFloodIsStopped(t *testing.T) {
	for name, script := range floods {
		t.Run(name, func(t *testing.T) {
			e := python(t, script+"\ntime.sleep(25)", func(s *Spec) { writable(t, s); s.Limits.Disk = 8 << 20 })
			e.wantCause(t, KilledDisk)
			if e.Written > 512<<20 || e.Wall > 20*time.Second {
				t.Errorf("%d bytes after %v", e.Written, e.Wall)
			}
		})
	}
}

func TestLinux_DiskFloodThatEndsQuicklyIsSeen(t *testing.T) {
	for _, name := range []string{"one large file", "many sparse files", "behind closed doors"} {
		python(t, floods[name], func(s *Spec) { writable(t, s); s.Limits.Disk = 8 << 20 }).wantCause(t, KilledDisk)
	}
}

// The kernel itself refuses a file longer than the limit, before anyone looks.
func TestLinux_HugeSparseFileIsRefused(t *testing.T) {
	e := python(t, `
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
f = os.open("/spare/rw/f", os.O_CREAT | os.O_RDWR)
try: os.truncate(f, 1 << 40); print("made")
except OSError: print("ok")`, func(s *Spec) { writable(t, s); s.Limits.Disk = 8 << 20 })
	e.wantOK(t)
}

func TestLinux_NumberOfFilesIsBounded(t *testing.T) {
	e := python(t, `
for i in range(3000): open("/spare/rw/%d" % i, "w")
time.sleep(25)`, func(s *Spec) { writable(t, s); s.Limits.Inodes = 500 })
	e.wantCause(t, KilledDisk)
	python(t, `
for i in range(400): open("/spare/rw/%d" % i, "w")
time.sleep(0.6)
print("ok")`, func(s *Spec) { writable(t, s); s.Limits.Inodes = 500 }).wantOK(t)
}

// What any program does with files must not look like a flood.
func TestLinux_OrdinaryUseOfTheDiskIsNoFlood(t *testing.T) {
	python(t, `
import mmap, tempfile
for turn in range(40): # 40 MiB in all, but never more than 2 at once
    open("/spare/rw/f", "w").write("x" * (1 << 20))
    os.rename("/spare/rw/f", "/spare/rw/g")
for i in range(100): os.link("/spare/rw/g", "/spare/rw/%d" % i)
with tempfile.TemporaryFile(dir="/spare/rw") as f: # deleted, and open
    f.write(b"x" * (1 << 20))
    f.flush()
    m = mmap.mmap(f.fileno(), 0)
    shared = mmap.mmap(-1, 16 << 20)
    shared.write(b"x" * (16 << 20))
    memory = [os.memfd_create("m") for _ in range(4)]
    for m in memory: os.write(m, b"x" * (6 << 20))
    tmp = tempfile.TemporaryFile(dir="/tmp")
    tmp.write(b"x" * (8 << 20))
    tmp.flush()
    kept = mmap.mmap(tmp.fileno(), 0)
    time.sleep(1.2) # long enough for several counts
print("ok")`, func(s *Spec) { writable(t, s); s.Limits.Disk = 8 << 20 }).wantOK(t)
}

// A message on its way hides nothing as long as the volume loses nothing.
func TestLinux_MessagesWithFilesAreNoFlood(t *testing.T) {
	python(t, `
f = os.open("/spare/rw/f", os.O_CREAT | os.O_RDWR)
a, b = socket.socketpair()
socket.send_fds(a, [b"x"], [f])
time.sleep(1.2)
print("ok")`, func(s *Spec) { writable(t, s); s.Limits.Disk = 4 << 30 }).wantOK(t)
}

// The count follows no link: not even one that the program puts in a folder's place.
func TestDisk_CountStaysInside(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "f"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(outside, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(outside, 0o700) })
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	d := newDiskUse([]string{dir}, Limits{})
	if d.before.bytes != fileCost || d.before.files != 1 {
		t.Errorf("%+v", d.before)
	}
	if fd := openFolder(-100, filepath.Join(dir, "link")); fd >= 0 {
		t.Error("a link was entered")
	}
	if info, err := os.Stat(outside); err != nil || info.Mode().Perm() != 0o500 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestDisk_CountsFilesAndTheirSpace(t *testing.T) {
	dir := t.TempDir()
	d := newDiskUse([]string{dir}, Limits{})
	for _, name := range []string{"a/b/c", "a/d", strings.Repeat("x", 255)} {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, make([]byte, 10_000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "a/d"), filepath.Join(dir, "e")); err != nil {
		t.Fatal(err)
	}
	d.written()
	// Three files, a second name and two folders; file systems round up.
	if got := d.last; got.files != 6 || got.bytes < 3*10_000+3*fileCost || got.bytes > 3*16_384+3*fileCost {
		t.Errorf("%+v", got)
	}
}

func TestDisk_AlmostFullVolumeStopsWhoFilledIt(t *testing.T) {
	low := volume{dir: t.TempDir()}
	free := low.free()
	low.start, low.floor = tally{free.bytes + 1<<30, free.files}, tally{free.bytes + 1<<29, 0}
	for written, want := range map[int64]bool{100 << 20: false, 900 << 20: true} {
		d := diskUse{volumes: []volume{low}, last: tally{bytes: written}}
		if d.exceeded() != want {
			t.Errorf("of 1 GiB that is gone, it wrote %d MiB: to blame %t, want %t", written>>20, d.exceeded(), want)
		}
	}
}
