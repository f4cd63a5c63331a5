package sandbox

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// What Apps are made of must work behind the filter of system calls and Landlock's rules.
func TestLinux_RunsWhatAppsAreMadeOf(t *testing.T) {
	for name, argv := range map[string][]string{
		"processes": {"python3", "-c", `
import multiprocessing, concurrent.futures as cf, subprocess, signal, os
with multiprocessing.Pool(4) as p: assert p.map(abs, range(-9, 0)) == list(range(9, 0, -1))
for kind in [cf.ThreadPoolExecutor, cf.ProcessPoolExecutor]:
    with kind(4) as e: assert sum(e.map(abs, [-1, -2])) == 3
m = multiprocessing.Manager(); d = m.dict(); d[1] = 2; assert d[1] == 2; m.shutdown()
from multiprocessing import shared_memory
s = shared_memory.SharedMemory(create=True, size=1 << 20); s.buf[0] = 7; s.close(); s.unlink()
q = multiprocessing.get_context("spawn").Queue(); q.put(1); assert q.get() == 1
assert subprocess.run(["sh", "-c", "kill -TERM $$"]).returncode == -signal.SIGTERM
os.nice(1); os.sched_setaffinity(0, os.sched_getaffinity(0)); os.setpriority(os.PRIO_PROCESS, 0, 9)
`},
		"events": {"python3", "-c", `
import asyncio, socket, select, threading, time, queue
async def main():
    p = await asyncio.create_subprocess_exec("echo", "x", stdout=asyncio.subprocess.PIPE)
    assert (await p.communicate())[0] == b"x\n"
    s = await asyncio.start_unix_server(lambda r, w: w.close(), "/tmp/s")
    r, w = await asyncio.open_unix_connection("/tmp/s"); assert await r.read() == b""; s.close()
    await asyncio.to_thread(time.sleep, 0.01)
asyncio.run(main())
a, b = socket.socketpair(); a.send(b"x"); assert b.recv(1) == b"x"
p = select.epoll(); p.register(a, select.EPOLLIN)
socket.getaddrinfo("localhost", 80); socket.if_nameindex()
t = [threading.Thread(target=queue.Queue().put, args=(1,)) for _ in range(20)]
[x.start() for x in t]; [x.join() for x in t]
`},
		"files": {"python3", "-c", `
import os, mmap, tempfile, shutil, sqlite3, fcntl, ctypes, stat, zipfile, lzma, resource
d = tempfile.mkdtemp(); f = open(d + "/a", "w+b"); f.truncate(1 << 20); f.write(b"x"); f.flush(); os.fsync(f.fileno()); os.sync()
m = mmap.mmap(f.fileno(), 4096); m.flush(); os.posix_fallocate(f.fileno(), 0, 8192); fcntl.flock(f, fcntl.LOCK_EX); fcntl.lockf(f, fcntl.LOCK_UN)
os.chmod(d + "/a", 0o750); os.utime(d + "/a"); os.link(d + "/a", d + "/b"); os.symlink("b", d + "/c"); os.mkfifo(d + "/p")
os.mkdir(d + "/e"); os.rename(d + "/b", d + "/e/b"); shutil.copy2(d + "/a", "/dev/shm/a"); shutil.move("/dev/shm/a", d + "/moved")
os.copy_file_range(f.fileno(), os.open(d + "/to", os.O_CREAT | os.O_RDWR), 100); os.sendfile(os.open(d + "/sent", os.O_CREAT | os.O_WRONLY), f.fileno(), 0, 100)
shutil.copytree("/usr/lib/python3/dist-packages" if os.path.isdir("/usr/lib/python3/dist-packages") else "/usr/lib/python3", d + "/tree", symlinks=True)
c = sqlite3.connect(d + "/db"); c.execute("pragma journal_mode=wal"); c.execute("create table t(x)"); c.commit(); c.close()
fd = os.memfd_create("x"); os.write(fd, b"x")
open("/proc/self/comm", "w").write("me"); open("/dev/null", "w").write("x"); shutil.rmtree(d)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
`},
		"shell":  {"bash", "-c", `set -e; diff <(echo a | sort) <(echo a); x=$(ls -la / | wc -l); [ $x -gt 3 ]; ls -R /etc >/dev/null; echo "x" | tee /tmp/t | cat >/dev/null; timeout 5 true; nice true; tar c -C /tmp t | tar x -C /dev/shm; env | sort >/dev/null; (sleep 60 & kill $!); df /tmp >/dev/null; ps >/dev/null || true; find /usr/bin -newer /tmp/none 2>/dev/null || true`},
		"ffmpeg": {"ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc=d=0.4:s=320x240", "-c:v", "libx264", "-threads", "4", "-y", "/tmp/x.mp4"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			r, err := linux{}.Run(t.Context(), Spec{
				Argv: argv, Stdout: &out, Stderr: &out, Limits: Limits{Wall: time.Minute, Memory: 1 << 30, Processes: 256, Output: 1 << 16},
			})
			if err != nil || r.ExitCode != 0 || r.Cause != Exited || strings.Contains(out.String(), "not permitted") {
				t.Errorf("%+v, %v\n%s", r, err, out.String())
			}
		})
	}
}
