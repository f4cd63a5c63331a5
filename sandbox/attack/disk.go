package attack

import (
	"time"

	"github.com/spare-compute/spare/sandbox"
)

const diskLimit = 4 << 20

// fills is an attack that writes far more than it may to its writable folder, and gets
// away with it if it is still there when the watch must have seen it.
func fills(name, tries, walled, script string) Attack {
	return Attack{
		Name: name, Tries: tries, Walls: walls(walled),
		Script: script + `
time.sleep(H["patience"])
return "wrote all it wanted"`,
		Load: &Load{Limits: sandbox.Limits{Memory: 256 << 20, Processes: 40, Disk: diskLimit, Wall: 15 * time.Second}},
	}
}

const watch = "disk watch"

// leaderless does something in a thread of a process whose first thread has ended: that is
// the one by which the kernel tells of the process.
const leaderless = `
def leaderless(f):
    import threading
    r, w = os.pipe()
    if os.fork() == 0:
        def work():
            while b") Z " not in read("/proc/self/stat"): time.sleep(0.01)
            os.write(w, struct.pack("q", f()))
            time.sleep(20)
        threading.Thread(target=work).start()
        raw("exit", 0)
    os.close(w)
    said = os.read(r, 8)
    if not said: raise OSError(errno.EPERM, "the thread came to nothing")
    return struct.unpack("q", said)[0]
`

var disk = []Attack{
	fills("fill the disk with one file", "Writes one large file.", "disk watch, resource limits", `
with open(RW + "/f", "wb", 0) as f:
    for _ in range(64): f.write(b"x" * (1 << 20))`),
	fills("fill the disk with many files", "Writes many small files.", watch, `
for i in range(3000):
    with open(RW + "/%d" % i, "wb", 0) as f: f.write(b"x" * 4000)`),
	fills("use up inodes", "Makes empty files and folders without end.", watch, `
for i in range(1500):
    os.close(os.open(RW + "/%d" % i, os.O_CREAT | os.O_WRONLY))
    os.mkdir(RW + "/d%d" % i)`),
	fills("claim space by a sparse file", "Makes a file that claims a terabyte and takes none, until somebody copies it.", "disk watch, resource limits", `
fd = os.open(RW + "/f", os.O_CREAT | os.O_RDWR)
os.truncate(fd, 1 << 40)`),
	fills("fill the disk with deleted files", "Writes files that have no name any more but are held open.", watch, `
keep = []
for i in range(24):
    f = open(RW + "/gone", "wb", 0)
    os.unlink(RW + "/gone")
    f.write(b"x" * (3 << 20))
    keep.append(f)`),
	fills("fill the disk from a thread whose leader is gone", "Holds deleted files in a process whose first thread has ended, by which others see what it has open.", watch, leaderless+`
keep = []
def fill():
    for i in range(24):
        f = open(RW + "/gone", "wb", 0)
        os.unlink(RW + "/gone")
        keep.append((f, f.write(b"x" * (3 << 20))))
    return len(keep)
leaderless(fill)`),
	fills("fill the disk from threads with their own descriptors", "Holds deleted files in threads that do not share their process's open files.", watch, `
pause, stacks = ctypes.cast(libc.pause, ctypes.c_void_p), []
for i in range(12):
    f = os.open(RW + "/gone", os.O_CREAT | os.O_WRONLY)
    os.unlink(RW + "/gone")
    os.write(f, b"x" * (3 << 20))
    stacks.append(ctypes.create_string_buffer(64 << 10))
    top = ctypes.addressof(stacks[-1]) + (64 << 10) & ~15
    # CLONE_VM, _FS, _SIGHAND, _THREAD and _SYSVSEM, and not CLONE_FILES.
    if libc.clone(pause, ctypes.c_void_p(top), 0x50b00, None) < 0: raise OSError(ctypes.get_errno(), "clone")
    os.close(f)`),
	fills("reserve space", "Reserves space by fallocate, past the files' ends, where their sizes do not show it.", watch, `
for i in range(24):
    fd = os.open(RW + "/%d" % i, os.O_CREAT | os.O_RDWR)
    if libc.fallocate(fd, 1, ctypes.c_long(0), ctypes.c_long(3 << 20)) != 0: raise OSError(ctypes.get_errno(), "fallocate")`),
	fills("hide bytes in attributes", "Stores data in extended attributes of empty files.", watch, `
if not hasattr(os, "setxattr"): raise Absent("no attributes here")
for i in range(1500):
    os.close(os.open(RW + "/%d" % i, os.O_CREAT | os.O_WRONLY))
    os.setxattr(RW + "/%d" % i, "user.x", b"x" * 3000)`),
	fills("hide files behind a closed folder", "Takes the permissions off the folder that it fills.", watch, `
os.mkdir(RW + "/d")
for i in range(24):
    with open(RW + "/d/%d" % i, "wb", 0) as f: f.write(b"x" * (3 << 20))
os.chmod(RW + "/d", 0)`),
	fills("hide files deep in folders", "Fills a folder that lies deeper than the longest path reaches.", watch, `
os.chdir(RW)
for _ in range(700):
    os.mkdir("deeper-and-deeper")
    os.chdir("deeper-and-deeper")
for i in range(24):
    with open("%d" % i, "wb", 0) as f: f.write(b"x" * (3 << 20))`),
	fills("move files about while they are counted", "Moves what it wrote to and fro between two folders all the time.", watch, `
os.mkdir(RW + "/a"); os.mkdir(RW + "/z")
for i in range(24):
    with open(RW + "/a/%d" % i, "wb", 0) as f: f.write(b"x" * (3 << 20))
end = time.time() + H["patience"]
while time.time() < end:
    os.rename(RW + "/a", RW + "/z/a")
    os.rename(RW + "/z/a", RW + "/a")`),
}
