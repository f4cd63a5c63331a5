package attack

import (
	"time"

	"github.com/spare-compute/spare/sandbox"
)

// memoryLimit is little, so that an attack which gets three times as much does no harm.
const memoryLimit = 64 << 20

// hoards is an attack that holds memory, thrice the limit and more, and gets away with it if it
// is still there a second later. Its script fills what it calls held, in bytes.
func hoards(name, tries, walled, script string) Attack {
	return Attack{
		Name: name, Tries: tries, Walls: walls(walled),
		Script: "held = 0\n" + script + `
time.sleep(H["patience"])
return held > 2 * H["memory"] and "held %d MiB" % (held >> 20)`,
		// Time enough for a machine on which each page takes long.
		Load: &Load{Limits: sandbox.Limits{Memory: memoryLimit, Processes: 40, Wall: 30 * time.Second}},
	}
}

// sized marks an attack on memory that has a size of its own.
func sized(a Attack) Attack {
	a.Unshown = "the size of /tmp and /dev/shm is their mounts' own, which nothing switches off"
	return a
}

// swarms is an attack on the number of processes.
func swarms(name, tries, script string) Attack {
	return Attack{
		Name: name, Tries: tries, Walls: walls("resource limits, cgroup pids"), Script: script,
		Load: &Load{Limits: sandbox.Limits{Memory: 256 << 20, Processes: 40, Wall: 15 * time.Second}},
	}
}

// What stops a balloon: of memory that shows as some process's own, and of memory that does not.
const (
	visible = "cgroup memory, memory watch"
	hidden  = visible + ", resource limits"
)

var memory = []Attack{
	hoards("balloon in one process", "Fills memory of its own.", visible, `
hoard = []
for _ in range(24):
    hoard.append(b"x" * (8 << 20))
    held += 8 << 20`),
	hoards("balloon in many processes", "Fills a little memory in each of many processes.", visible, `
hoarders = []
r, w = os.pipe()
os.set_blocking(r, False)
for _ in range(8):
    pid = os.fork()
    if pid == 0:
        hoard = b"x" * (24 << 20)
        os.write(w, b"x")
        time.sleep(20)
        os._exit(0)
    hoarders.append(pid)
count(r, 8) # they hold it all
held = sum(24 << 20 for pid in hoarders if os.waitpid(pid, os.WNOHANG)[0] == 0)`),
	hoards("balloon in shared mappings", "Fills memory that processes share.", visible, `
hoard = []
for _ in range(24):
    m = mmap.mmap(-1, 8 << 20)
    m.write(b"x" * (8 << 20))
    hoard.append(m)
    held += 8 << 20`),
	hoards("balloon in a process whose leader is gone", "Fills shared memory in a process whose first thread has ended, by which others see how much it has.", visible, leaderless+`
hoard = []
def fill():
    for _ in range(24):
        m = mmap.mmap(-1, 8 << 20)
        m.write(b"x" * (8 << 20))
        hoard.append(m)
    return len(hoard) * (8 << 20)
held = leaderless(fill)`),
	hoards("balloon in memory files", "Fills files made by memfd_create, which no process maps.", hidden, `
for i in range(24):
    fd = raw("memfd_create", b"hoard", 0)
    held += os.write(fd, b"x" * (8 << 20))`),
	sized(hoards("balloon in /dev/shm", "Fills files in /dev/shm.", visible, `
for i in range(24):
    with open("/dev/shm/%d" % i, "wb", 0) as f: held += f.write(b"x" * (8 << 20))`)),
	sized(hoards("balloon in /tmp", "Fills files in /tmp.", visible, `
for i in range(24):
    with open("/tmp/%d" % i, "wb", 0) as f: held += f.write(b"x" * (8 << 20))`)),
	sized(hoards("balloon in deleted files", "Fills files of /tmp that have no name any more.", visible, `
keep = []
for i in range(24):
    f = open("/tmp/gone", "wb", 0)
    os.unlink("/tmp/gone")
    held += f.write(b"x" * (8 << 20))
    keep.append(f)`)),
	hoards("balloon in pipes", "Leaves what it writes in pipes, where it is the kernel's memory.", hidden, `
if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 1000: raise Absent("too few descriptors for it")
tally_r, tally_w = os.pipe()
for _ in range(24):
    if os.fork() == 0:
        total = 0
        try:
            for _ in range(490):
                r, w = os.pipe()
                os.set_blocking(w, False)
                try:
                    while True: total += os.write(w, b"x" * 4096)
                except BlockingIOError: pass
        except OSError: pass
        os.write(tally_w, struct.pack("q", total))
        time.sleep(20)
        os._exit(0)
for _ in range(24): held += struct.unpack("q", os.read(tally_r, 8))[0]`),
	hoards("balloon in sockets", "Leaves what it sends in sockets, where it is the kernel's memory.", hidden, `
if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 1000: raise Absent("too few descriptors for it")
tally_r, tally_w = os.pipe()
for _ in range(4):
    if os.fork() == 0:
        total, hoard = 0, []
        try:
            while total < 48 << 20:
                a, b = socket.socketpair()
                a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                a.setblocking(False)
                hoard.append((a, b))
                try:
                    while total < 48 << 20: total += a.send(b"x" * 65536)
                except BlockingIOError: pass
        except OSError: pass
        os.write(tally_w, struct.pack("q", total))
        time.sleep(20)
        os._exit(0)
for _ in range(4): held += struct.unpack("q", os.read(tally_r, 8))[0]`),
	hoards("balloon in segments", "Fills System V shared memory that no process has attached any more.", hidden+", seccomp", `
libc.shmat.restype = ctypes.c_void_p
for _ in range(24):
    shm = raw("shmget", 0, 8 << 20, 0o1600)
    at = libc.shmat(shm, None, 0)
    if at == ctypes.c_void_p(-1).value: raise OSError(ctypes.get_errno(), "shmat")
    ctypes.memset(at, 120, 8 << 20)
    libc.shmdt(ctypes.c_void_p(at))
    held += 8 << 20`),
	hoards("balloon in message queues", "Fills System V message queues.", hidden+", seccomp", `
message = ctypes.create_string_buffer(struct.pack("l", 1) + b"x" * 8000)
try:
    while held < 192 << 20:
        q = libc.msgget(0, 0o1600)
        if q < 0: break
        while libc.msgsnd(q, message, 8000, 0o4000) == 0: held += 8000
except OSError: pass`),
	hoards("balloon in page tables", "Reads one byte in each two megabytes of a vast mapping: the tables for it take memory that is no process's own.", hidden, `
m = mmap.mmap(-1, 72 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, prot=mmap.PROT_READ)
m.madvise(15) # MADV_NOHUGEPAGE
for at in range(0, 72 << 30, 2 << 20):
    m[at]
    held += 4096`),
	{
		Name: "lock memory", Tries: "Locks memory, so that the host cannot swap it out.",
		Walls: walls("resource limits"),
		Script: `
m = mmap.mmap(-1, 1 << 20)
if libc.mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(m))), ctypes.c_size_t(1 << 20)) != 0: raise OSError(ctypes.get_errno(), "mlock")
return "locked 1 MiB"`,
	},
	swarms("fork bomb", "Makes processes without end.", `
made = 0
try:
    while made < 150:
        if os.fork() == 0: time.sleep(20); os._exit(0)
        made += 1
except OSError: pass
return made > 80 and "made %d processes" % made`),
	swarms("fork bomb in generations", "Lets every process make more, and the first ones end.", `
r, w = os.pipe()
os.set_blocking(r, False)
def spawn(depth):
    for _ in range(3):
        try:
            if os.fork() == 0:
                os.write(w, b"x")
                if depth: spawn(depth - 1)
                time.sleep(8)
                os._exit(0)
        except OSError: pass
spawn(3) # 120 at most, if nothing holds them
made = count(r, 100)
return made > 80 and "made %d processes" % made`),
	swarms("bomb of threads", "Makes threads without end.", `
import threading
threading.stack_size(64 << 10)
made = 0
try:
    while made < 150:
        threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
        made += 1
except RuntimeError: pass
report("bomb of threads", "succeeded" if made > 80 else "refused", "made %d threads" % made)
os._exit(0)`),
	swarms("bomb of zombies", "Leaves ended processes uncollected until the table is full.", `
made = 0
try:
    while made < 150:
        if os.fork() == 0: os._exit(0)
        made += 1
except OSError: pass
return made > 80 and "left %d zombies" % made`),
	{
		Name: "use up descriptors", Tries: "Opens files without end.",
		Walls: walls("resource limits"),
		Script: `
made = 0
try:
    while made < 1000:
        os.dup(0)
        made += 1
except OSError: pass
return made > 200 and "opened %d" % made`,
		Load: &Load{Limits: sandbox.Limits{Memory: 256 << 20, Processes: 40, Files: 100, Wall: 15 * time.Second}},
	},
}
