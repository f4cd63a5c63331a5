package attack

import (
	"time"

	"github.com/spare-compute/spare/sandbox"
)

// outlasts is an attack on the end of a run.
func outlasts(name, tries, walled string, l sandbox.Limits, script string) Attack {
	if l.Memory == 0 {
		l.Memory = 256 << 20
	}
	if l.Wall == 0 {
		l.Wall = 15 * time.Second
	}
	l.Processes = 40
	return Attack{Name: name, Tries: tries, Walls: walls(walled), Script: script, Load: &Load{Limits: l}}
}

// unshown marks an attack whose wall is the first process itself.
func unshown(a Attack, why string) Attack {
	a.Walls, a.Unshown = nil, why
	return a
}

// cancelled is an attack on the end of a run that is cancelled.
func cancelled(a Attack) Attack {
	a.Load.Cancel = true
	return a
}

// holds says that the program runs, by a lock that the host looks at afterwards.
const holds = `
def hold():
    f = open(RW + "/lock", "w")
    fcntl.flock(f, fcntl.LOCK_EX)
    open(RW + "/ready", "w").close()
    return f
def ready():
    end = time.time() + 5
    while not os.path.exists(RW + "/ready") and time.time() < end: time.sleep(0.01)
`

// Little time, on the wall and of processors.
var (
	short = sandbox.Limits{Wall: 700 * time.Millisecond}
	busy  = sandbox.Limits{CPU: 400 * time.Millisecond, Wall: 30 * time.Second}
)

const ended = "the pid namespace's end takes every process with it, and without it nothing would be bounded"

var outlast = []Attack{
	outlasts("sleep past its time", "Sleeps on when its time is over.", "wall time", short, `
time.sleep(LONG)
return "slept on"`),
	outlasts("work past its time", "Uses more processor time than it may.", "cpu time", busy, `
while burnt() < BUSY: pass
return "worked on"`),
	outlasts("work past its time in children", "Uses its processor time in children that are gone before anybody looks.", "cpu time", busy, `
while burnt() < BUSY:
    if os.fork() == 0:
        until = time.process_time() + 0.03
        while time.process_time() < until: pass
        os._exit(0)
    os.wait()
return "worked on"`),
	outlasts("ignore every signal", "Ignores every signal that can be ignored when its time is over.", "wall time", short, `
for s in range(1, 65):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
time.sleep(LONG)
return "lived on"`),
	outlasts("stop instead of ending", "Stops itself and its children, since what is stopped cannot run to its end.", "wall time", short, `
stopped = os.fork()
if stopped == 0: os.kill(os.getpid(), signal.SIGSTOP)
if os.fork() == 0: # so that it does end where nothing else ends it
    time.sleep(LONG)
    for p in [stopped, os.getppid()]: os.kill(p, signal.SIGCONT)
    os._exit(0)
end = time.monotonic() + LONG - 1
os.kill(os.getpid(), signal.SIGSTOP)
return time.monotonic() > end and "lived on"`),
	cancelled(unshown(outlasts("ignore SIGTERM", "Ignores the request to end when it is cancelled.", "", sandbox.Limits{}, holds+`
signal.signal(signal.SIGTERM, signal.SIG_IGN)
f = hold()
time.sleep(LONG)
return "lived on"`), "the first process kills all that is left after the grace")),
	unshown(outlasts("daemon by double fork", "Leaves a process without parent, session and output.", "", sandbox.Limits{}, holds+`
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        f = hold()
        for fd in range(3): os.close(fd)
        time.sleep(20)
    os._exit(0)
ready()
return None`), ended),
	unshown(outlasts("daemon by nohup", "Leaves a process that ignores hang-ups, in the background of a shell.", "", sandbox.Limits{}, holds+`
import subprocess
subprocess.Popen(["sh", "-c", "nohup setsid flock -x '%s/lock' sh -c 'touch %s/ready; sleep 20' >/dev/null 2>&1 &" % (RW, RW)])
ready()
return None`), ended),
	unshown(outlasts("daemon that keeps the output open", "Leaves a process that holds the output's pipe, so that its reader waits on.", "", sandbox.Limits{}, holds+`
if os.fork() == 0:
    os.setsid()
    f = hold()
    time.sleep(20)
    os._exit(0)
ready()
return None`), ended),
	unshown(outlasts("siblings instead of children", "Makes processes that are children of the first process, not its own.", "", sandbox.Limits{}, holds+`
pid = raw("clone", 0x8000 | signal.SIGCHLD, 0, 0, 0, 0) # CLONE_PARENT
if pid == 0:
    f = hold()
    time.sleep(20)
    os._exit(0)
ready()
return None`), ended),
	unshown(outlasts("multiply faster than it is killed", "Lets every process make its successor and end, so that no list of them is ever true.", "", short, holds+`
f = hold()
for _ in range(8):
    if os.fork() == 0:
        end = time.monotonic() + 8
        while time.monotonic() < end:
            try:
                if os.fork(): os._exit(0)
            except OSError: pass
        os._exit(0)
time.sleep(LONG)
return "lived on"`), ended),
	outlasts("print without end", "Fills the log of whoever listens.", "output cap", sandbox.Limits{Wall: time.Second, Output: 64 << 10}, `
end = time.monotonic() + LONG
while time.monotonic() < end: os.write(1, b"all work and no play\n" * 200)
return "printed on"`),
	outlasts("print a line without end", "Prints a line that never ends, for whoever reads by lines.", "output cap", sandbox.Limits{Wall: time.Second, Output: 64 << 10}, `
end = time.monotonic() + LONG
while time.monotonic() < end: os.write(2, b"x" * 4096)
return "printed on"`),
	outlasts("dump core", "Crashes, so that its memory is written to a file or given to the host's core handler.", "resource limits", sandbox.Limits{}, `
os.chdir(RW)
soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
if os.fork() == 0: os.abort()
status = os.wait()[1]
return os.WCOREDUMP(status) and "dumped"`),
}
