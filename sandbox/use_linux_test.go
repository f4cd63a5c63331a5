package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare/sandbox/first"
)

func writable(t testing.TB, s *Spec) string {
	dir := t.TempDir()
	s.Mounts = append(s.Mounts, Mount{Host: dir, Inner: "/spare/rw", Writable: true})
	return dir
}

func (e ended) wantCause(t testing.TB, c Cause) {
	t.Helper()
	if e.Cause != c {
		t.Fatalf("cause %q, want %q: %+v\n%.2000s", e.Cause, c, e.Result, e.out)
	}
}

func TestLinux_ForkBombIsBounded(t *testing.T) {
	e := python(t, `
n = 0
try:
    while n < 300: # so that a missing wall does no harm
        if os.fork() == 0: time.sleep(600)
        n += 1
except BlockingIOError: pass
print(n)`, func(s *Spec) { s.Limits.Processes = 40 })
	e.wantCause(t, Exited)
	if n, err := strconv.Atoi(strings.TrimSpace(e.out)); err != nil || n < 20 || n >= 40+first.OwnThreads {
		t.Errorf("%q processes with a limit of 40", e.out)
	}
}

func TestLinux_ForkBombInManyGenerationsEndsWithTheRun(t *testing.T) {
	e := python(t, `
def spawn(depth):
    for _ in range(4):
        try:
            if os.fork() == 0:
                if depth: spawn(depth - 1)
                time.sleep(600)
        except OSError: pass
spawn(3) # 340 at most, if nothing holds them
time.sleep(0.2)
print("ok")`, func(s *Spec) { s.Limits.Processes = 50 })
	e.wantOK(t)
}

func TestLinux_MemoryBalloonIsKilled(t *testing.T) {
	for name, script := range map[string]string{
		"one process": `
held = []
for _ in range(60): # 1.2 GiB, if nothing holds it
    held.append(b"x" * (20 << 20))
    time.sleep(0.02)`,
		"many processes": `
for _ in range(12):
    if os.fork() == 0:
        held = b"x" * (60 << 20)
        time.sleep(20)
time.sleep(20)`,
		"shared memory": `
import mmap
held = []
for _ in range(60):
    m = mmap.mmap(-1, 20 << 20)
    m.write(b"x" * (20 << 20))
    held.append(m)
    time.sleep(0.02)`,
	} {
		t.Run(name, func(t *testing.T) {
			e := python(t, script, func(s *Spec) { s.Limits.Memory = 200 << 20 })
			e.wantCause(t, KilledMemory)
			if e.Signal != "SIGKILL" || e.ExitCode != -1 || e.PeakMemory < 200<<20 {
				t.Errorf("%+v", e.Result)
			}
		})
	}
}

// Memory need not be mapped to be used. Without control groups it is looked for.
func TestLinux_MemoryThatIsNotMappedCounts(t *testing.T) {
	for name, script := range map[string]string{
		"memfd": `
for i in range(60):
    f = os.memfd_create("x")
    os.write(f, b"x" * (20 << 20))
    time.sleep(0.02)
    globals()["f%d" % i] = f`,
		"memfd as stdin": `
f = os.memfd_create("x")
os.dup2(f, 0)
os.close(f)
for _ in range(60):
    os.write(0, b"x" * (20 << 20))
    time.sleep(0.02)`,
		"memfd in threads with their own descriptors": holder + `
for _ in range(40):
    f = os.memfd_create("x")
    os.write(f, b"x" * (20 << 20))
    hold()
    os.close(f)
    time.sleep(0.02)`,
		"memfd when the first thread is gone": leaderless + `
held = []
def fill():
    for i in range(60):
        held.append(os.memfd_create("x"))
        os.write(held[-1], b"x" * (20 << 20))
        time.sleep(0.02)
leaderless(fill)`,
		"system V": `
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
for _ in range(60):
    at = libc.shmat(libc.shmget(0, 20 << 20, 0o600), None, 0)
    if at is None or at == ctypes.c_void_p(-1).value: sys.exit(9)
    ctypes.memset(at, 1, 20 << 20)
    libc.shmdt(ctypes.c_void_p(at))
    time.sleep(0.02)`,
	} {
		for _, walls := range [][]string{{"seccomp"}, {"seccomp", "cgroup memory"}} { // with seccomp there is no System V
			t.Run(fmt.Sprint(name, " without ", walls), func(t *testing.T) {
				e := pythonWithout(t, walls, script+"\ntime.sleep(20)", func(s *Spec) { s.Limits.Memory = 200 << 20 })
				e.wantCause(t, KilledMemory)
			})
		}
	}
}

// A process is known by its first thread, whose memory is all of its threads' until it ends.
func TestLinux_MemoryCountsWhenTheFirstThreadIsGone(t *testing.T) {
	for name, use := range map[string]string{
		"shared": "held = mmap.mmap(-1, 400 << 20); held.write(b'x' * (400 << 20))",
		"own":    "held = b'x' * (400 << 20)",
	} {
		t.Run(name, func(t *testing.T) {
			script := fmt.Sprintf("%s\nimport mmap\ndef fill():\n    global held\n    %s\nleaderless(fill)\ntime.sleep(20)", leaderless, use)
			e := pythonWithout(t, []string{"cgroup memory"}, script, func(s *Spec) { s.Limits.Memory = 200 << 20 })
			e.wantCause(t, KilledMemory)
		})
	}
}

func TestLinux_MemorySharedByForkCountsOnce(t *testing.T) {
	python(t, `
import gc
gc.freeze()
held = b"x" * (100 << 20)
for _ in range(4):
    if os.fork() == 0:
        time.sleep(0.5)
        os._exit(0)
for _ in range(4): os.wait()
print("ok")`, func(s *Spec) { s.Limits.Memory = 200 << 20 }).wantOK(t)
}

func TestLinux_TemporaryFilesAreBounded(t *testing.T) {
	python(t, denied+`
def fill(dir):
    with open(dir + "/big", "wb") as f:
        for _ in range(400): f.write(b"x" * (1 << 20))
denied("/tmp", fill, "/tmp")
os.remove("/tmp/big")
denied("/dev/shm", fill, "/dev/shm")
finish()`, func(s *Spec) { s.Limits.Memory = 300 << 20 }).wantOK(t)
}

func TestLinux_EndlessOutputIsCut(t *testing.T) {
	e := python(t, `
while True: os.write(1, b"x" * 4096)`, func(s *Spec) { s.Limits.Output, s.Limits.Wall = 50_000, time.Second })
	e.wantCause(t, KilledTime)
	if len(e.out) != 50_000 || !e.OutputTruncated {
		t.Errorf("%d bytes came, truncated %t", len(e.out), e.OutputTruncated)
	}
	e = python(t, `os.write(1, b"x" * 50_000)`, func(s *Spec) { s.Limits.Output = 50_000 })
	if len(e.out) != 50_000 || e.OutputTruncated {
		t.Errorf("%d bytes came, truncated %t", len(e.out), e.OutputTruncated)
	}
}

// ownTimeUsed is the processor time of this process.
func ownTimeUsed(t testing.TB) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A flood of output is for nobody: it must not keep the machine busy.
func TestLinux_EndlessOutputCostsLittle(t *testing.T) {
	before := ownTimeUsed(t)
	e := python(t, `
x = b"x" * 65536
while True: os.write(1, x)`, func(s *Spec) { s.Limits.Output, s.Limits.Wall = 1000, 2*time.Second })
	e.wantCause(t, KilledTime)
	if total := e.CPU + ownTimeUsed(t) - before; total > 600*time.Millisecond {
		t.Errorf("it took %v of the processors in 2 s", total)
	}
}

func TestLinux_WallTimeEndsAProgramThatIgnoresSignals(t *testing.T) {
	e := python(t, `
import signal
for s in range(1, 65):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: time.sleep(60)`, func(s *Spec) { s.Limits.Wall = 300 * time.Millisecond })
	e.wantCause(t, KilledTime)
	if e.Wall < 300*time.Millisecond || e.Wall > 10*time.Second {
		t.Errorf("ended after %v", e.Wall)
	}
}

func TestLinux_ProcessorTimeOfAllProcessesCounts(t *testing.T) {
	e := python(t, `
for _ in range(3):
    if os.fork() == 0: break
while True: pass`, func(s *Spec) { s.Limits.CPU = time.Second })
	e.wantCause(t, KilledTime)
	if e.CPU < time.Second || e.CPU > 5*time.Second {
		t.Errorf("it got %v", e.CPU)
	}
	// Also where each child is gone before anyone looks at it.
	e = python(t, `
while True:
    if os.fork() == 0:
        end = time.process_time() + 0.03
        while time.process_time() < end: pass
        os._exit(0)
    os.wait()`, func(s *Spec) { s.Limits.CPU = time.Second })
	e.wantCause(t, KilledTime)
}

// A process whose parent does not care leaves its time to nobody. Only a control group
// counts it.
func TestLinux_ProcessorTimeOfForgottenChildrenCounts(t *testing.T) {
	if why := (linux{}).groups().Lacks("cpu"); why != "" {
		t.Logf("not without control groups: %s", why)
		return
	}
	e := python(t, `
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        end = time.process_time() + 0.03
        while time.process_time() < end: pass
        os._exit(0)
    try: os.wait()
    except ChildProcessError: pass`, func(s *Spec) { s.Limits.CPU = time.Second })
	e.wantCause(t, KilledTime)
	if e.CPU < time.Second || e.CPU > 3*time.Second {
		t.Errorf("it got %v", e.CPU)
	}
}

func TestLinux_CancelEndsIt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir := t.TempDir()
	go func() {
		for ctx.Err() == nil && !locked(t, dir) {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	r, err := linux{}.Run(ctx, Spec{
		Argv:   []string{"python3", "-c", lockHolder + "import time\ntime.sleep(600)"},
		Mounts: []Mount{{Host: dir, Inner: "/spare/rw", Writable: true}}, Limits: Limits{Wall: 30 * time.Second},
	})
	if err != nil || r.Cause != KilledCancel {
		t.Fatalf("%+v, %v", r, err)
	}
	if locked(t, dir) {
		t.Error("it lives")
	}
	if _, err := (linux{}).Run(ctx, Spec{Argv: []string{"true"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context starts nothing: %v", err)
	}
}

func TestLinux_WhatWasThereIsNotCounted(t *testing.T) {
	e := python(t, `open("/spare/rw/new", "w").write("x" * 100_000); print("ok")`, func(s *Spec) {
		dir := writable(t, s)
		if err := os.WriteFile(filepath.Join(dir, "old"), make([]byte, 9<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		s.Limits.Disk = 8 << 20
	})
	e.wantOK(t)
	if e.Written < 100_000 || e.Written > 200_000 {
		t.Errorf("%d bytes", e.Written)
	}
}

func TestLinux_OpenFilesCoreAndPriorityAreLimited(t *testing.T) {
	python(t, denied+`
import resource
files = []
try:
    while len(files) < 1000: files.append(os.dup(0))
except OSError: pass
if len(files) >= 100: bad.append("%d files" % len(files))
for f in files: os.close(f)
def raise_limit(): resource.setrlimit(resource.RLIMIT_NPROC, (5000, 5000))
try: raise_limit(); bad.append("raised its limit")
except ValueError: pass
if resource.getrlimit(resource.RLIMIT_CORE) != (0, 0): bad.append("core")
if os.sched_getscheduler(0) != os.SCHED_IDLE or os.getpriority(os.PRIO_PROCESS, 0) != 19: bad.append("priority")
if len(os.sched_getaffinity(0)) != 1: bad.append("processors %r" % os.sched_getaffinity(0))
if open("/proc/self/oom_score_adj").read().strip() != "1000": bad.append("oom")
denied("oom", lambda: os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"-1000"))
finish()`, func(s *Spec) { s.Limits.Files, s.Limits.Nice, s.Limits.CPUs = 100, true, 0.5 }).wantOK(t)
}

func TestLinux_SaysHowItEnded(t *testing.T) {
	for script, want := range map[string]Result{
		`sys.exit(7)`:               {ExitCode: 7, Cause: Exited},
		`os.kill(os.getpid(), 11)`:  {ExitCode: -1, Cause: KilledSignal, Signal: "SIGSEGV"},
		`os.abort()`:                {ExitCode: -1, Cause: KilledSignal, Signal: "SIGABRT"},
		`os.kill(os.getpid(), 9)`:   {ExitCode: -1, Cause: KilledSignal, Signal: "SIGKILL"},
		signalFirst + `sys.exit(3)`: {ExitCode: 3, Cause: Exited},
	} {
		if got := python(t, script, nil); got.ExitCode != want.ExitCode || got.Cause != want.Cause || got.Signal != want.Signal {
			t.Errorf("%s: %+v, want %+v", script, got.Result, want)
		}
	}
	e := python(t, `
end = time.process_time() + 0.2
while time.process_time() < end: pass
held = b"x" * (50 << 20)`, nil)
	if e.CPU < 200*time.Millisecond || e.CPU > 5*time.Second || e.PeakMemory < 50<<20 || e.PeakMemory > 300<<20 || e.Wall < e.CPU/4 {
		t.Errorf("%+v", e.Result)
	}
}

func TestLinux_OrderOfOneWriterIsKept(t *testing.T) {
	var both, out, errs bytes.Buffer
	script := "echo 1; echo 2 >&2; echo 3; echo 4 >&2"
	if _, err := (linux{}).Run(t.Context(), Spec{Argv: []string{"sh", "-c", script}, Stdout: &both, Stderr: &both}); err != nil {
		t.Fatal(err)
	}
	if both.String() != "1\n2\n3\n4\n" {
		t.Errorf("%q", both.String())
	}
	if _, err := (linux{}).Run(t.Context(), Spec{Argv: []string{"sh", "-c", script}, Stdout: &out, Stderr: &errs}); err != nil {
		t.Fatal(err)
	}
	if out.String() != "1\n3\n" || errs.String() != "2\n4\n" {
		t.Errorf("%q, %q", out.String(), errs.String())
	}
}

func TestLinux_SaysWhatCannotStart(t *testing.T) {
	var noStart *StartError
	_, err := linux{}.Run(t.Context(), Spec{Argv: []string{"no-such-program"}})
	if !errors.As(err, &noStart) || noStart.Program != "no-such-program" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing program: %v", err)
	}
	_, err = linux{}.Run(t.Context(), Spec{Argv: []string{"/etc/passwd"}})
	if !errors.As(err, &noStart) || !errors.Is(err, os.ErrPermission) {
		t.Errorf("no program: %v", err)
	}
	_, err = linux{}.Run(t.Context(), Spec{Argv: []string{"true"}, Mounts: []Mount{{Host: "/no/such/folder", Inner: "/spare/x"}}})
	if !errors.Is(err, os.ErrNotExist) || errors.As(err, &noStart) {
		t.Errorf("missing mount: %v", err)
	}
	_, err = linux{}.Run(t.Context(), Spec{Argv: []string{"true"}, Dir: "/spare/none"})
	if err == nil || errors.As(err, &noStart) {
		t.Errorf("missing working folder: %v", err)
	}
}

func TestLinux_ProbeAndTools(t *testing.T) {
	rt, found := Choose(t.Context())
	if rt == nil || len(found) != 1 || !found[0].OK || len(found[0].Platforms) != 2 || found[0].Version == "" || found[0].Reason != "" {
		t.Fatalf("%v, %+v", rt, found)
	}
	out, err := ProbeTool(t.Context(), rt, "ffmpeg", "-hide_banner", "-encoders")
	if err != nil || !strings.Contains(string(out), "libx264") {
		t.Errorf("%.200s, %v", out, err)
	}
	if out, err := ProbeTool(t.Context(), rt, "sh", "-c", "echo why >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "code 3: why") {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := ProbeTool(t.Context(), rt, "no-such-tool"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestExplain_NamesTheSwitch(t *testing.T) {
	for file, c := range map[string]struct{ value, want string }{
		"user/max_user_namespaces":                     {"0\n", "user.max_user_namespaces"},
		"kernel/unprivileged_userns_clone":             {"0\n", "kernel.unprivileged_userns_clone"},
		"kernel/apparmor_restrict_unprivileged_userns": {"1\n", "AppArmor"},
		"kernel/something_else":                        {"1\n", "inside a container"},
	} {
		err := explain(fstest.MapFS{file: {Data: []byte(c.value)}}, unix.EPERM)
		if !strings.Contains(err.Error(), c.want) || !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v", file, err)
		}
	}
	if err := explain(fstest.MapFS{}, unix.ENOSYS); !strings.Contains(err.Error(), "5.12") {
		t.Error(err)
	}
	if err := explain(fstest.MapFS{}, errors.New("mount /proc: operation not permitted")); !strings.Contains(err.Error(), "unmasked /proc") {
		t.Error(err)
	}
}
