package sandbox

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare/sandbox/cgroup"
	"github.com/spare-compute/spare/sandbox/first"
)

// limit is a wall that ends or slows a program, and what shows that it does.
type limit struct {
	wall   string
	also   []string // walls that would hold it too
	script string
	change func(*Spec)
	holds  func(ended) bool
}

func (l limit) prove(t *testing.T) {
	t.Helper()
	if e := pythonWithout(t, l.also, l.script, l.change); !l.holds(e) {
		t.Errorf("with it: %+v\n%.300s", e.Result, e.out)
	}
	if e := pythonWithout(t, append([]string{l.wall}, l.also...), l.script, l.change); l.holds(e) {
		t.Errorf("without it: %+v\n%.300s; the test shows nothing", e.Result, e.out)
	}
}

func TestWall_WallTimeEndsASleeper(t *testing.T) {
	limit{
		wall: wallWallTime, script: `time.sleep(1)`, change: func(s *Spec) { s.Limits.Wall = 300 * time.Millisecond },
		holds: func(e ended) bool { return e.Cause == KilledTime },
	}.prove(t)
}

func TestWall_OutputCapCutsAFlood(t *testing.T) {
	limit{
		wall: wallOutputCap, script: `print("x" * 100_000)`, change: func(s *Spec) { s.Limits.Output = 1000 },
		holds: func(e ended) bool { return len(e.out) == 1000 && e.OutputTruncated },
	}.prove(t)
}

func TestWall_DiskWatchEndsAFlood(t *testing.T) {
	limit{
		wall:   wallDiskWatch,
		script: `for i in range(32): open("/spare/rw/%d" % i, "w").write("x" * (1 << 20))`,
		change: func(s *Spec) {
			s.Mounts = []Mount{{Host: mustTemp(t), Inner: "/spare/rw", Writable: true}}
			s.Limits.Disk = 8 << 20
		},
		holds: func(e ended) bool { return e.Cause == KilledDisk },
	}.prove(t)
}

func mustTemp(t *testing.T) string {
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestWall_CPUTimeEndsASpinner(t *testing.T) {
	limit{
		wall: first.WallCPUTime, also: []string{first.WallLimits}, script: `
end = time.process_time() + 2
while time.process_time() < end: pass`, change: func(s *Spec) { s.Limits.CPU = time.Second },
		holds: func(e ended) bool { return e.Cause == KilledTime },
	}.prove(t)
}

// groupWall proves a wall where this machine has the control groups for it.
func groupWall(t *testing.T, f cgroup.Feature, l limit) {
	t.Helper()
	if why := (linux{}).groups().Lacks(f); why != "" {
		t.Logf("no control groups here: %s", why)
		return
	}
	l.wall = groupWalls[f]
	l.prove(t)
}

// The kernel's own memory for a program is nothing that a look at processes would measure.
func TestWall_ControlGroupHoldsMemoryOfTheKernels(t *testing.T) {
	groupWall(t, cgroup.Memory, limit{
		also: []string{first.WallMemoryWatch}, // which guesses at it, if the program runs long enough to be looked at
		script: `
pairs = []
for _ in range(480):
    a, b = socket.socketpair()
    a.setblocking(False)
    try:
        while True: a.send(b"x" * 60000)
    except BlockingIOError: pass
    pairs.append((a, b))
print("ok")`,
		change: func(s *Spec) { s.Limits.Memory = 40 << 20 },
		holds:  func(e ended) bool { return e.Cause == KilledMemory && e.PeakMemory >= 40<<20 },
	})
}

func TestWall_ControlGroupHoldsTheNumberOfProcesses(t *testing.T) {
	groupWall(t, cgroup.Pids, limit{
		also: []string{first.WallLimits},
		script: `
n = 0
try:
    while n < 200:
        if os.fork() == 0: time.sleep(600)
        n += 1
except BlockingIOError: pass
print("grew to", n)`,
		change: func(s *Spec) { s.Limits.Processes = 40 },
		holds:  func(e ended) bool { return e.Cause == Exited && !strings.Contains(e.out, "to 200") },
	})
}

func TestWall_ControlGroupHoldsPartsOfACore(t *testing.T) {
	if why := (linux{}).groups().Lacks(cgroup.CPU); why != "" {
		t.Logf("no control groups here: %s", why)
		return
	}
	e := python(t, `
for _ in range(3):
    if os.fork() == 0: break
end = time.time() + 1.5
while time.time() < end: pass`, func(s *Spec) { s.Limits.CPUs = 0.2 })
	if e.CPU > e.Wall*3/10 {
		t.Errorf("%v of the processor in %v, with a limit of 0.2 cores", e.CPU, e.Wall)
	}
}

// What the kernel kills for memory is told as that, whichever process it chose.
func TestLinux_ChildKilledForMemoryEndsTheRun(t *testing.T) {
	if why := (linux{}).groups().Lacks(cgroup.Memory); why != "" {
		t.Logf("no control groups here: %s", why)
		return
	}
	e := python(t, `
if os.fork() == 0:
    held = b"x" * (300 << 20)
os.wait()
print("the child is gone")
time.sleep(20)`, func(s *Spec) { s.Limits.Memory = 100 << 20 })
	e.wantCause(t, KilledMemory)
	if e.Wall > 15*time.Second {
		t.Errorf("it went on for %v", e.Wall)
	}
}

func TestLinux_WithoutAnyControlGroupItRunsAllTheSame(t *testing.T) {
	none := []string{"cgroup memory", "cgroup pids", "cgroup cpu", "cgroup io", "freezer"}
	walls, lacks := linux{without: none}.limitWalls()
	if len(lacks) != len(none) || len(walls) != 3 {
		t.Errorf("%v, %v", walls, lacks)
	}
	pythonWithout(t, none, `print("ok")`, nil).wantOK(t)
}

func TestEnvironment_ImagesVariablesComeBelowTheSpecs(t *testing.T) {
	got := strings.Join(environment(Spec{
		Env:   []string{"A=spec", "B="},
		Image: &Image{Env: []string{"A=image", "B=image", "C=image", "PATH=/opt/bin:/bin", "odd", "LANG=de"}},
	}), " ")
	if got != "A=spec B= C=image PATH=/opt/bin:/bin LANG=de HOME=/tmp" {
		t.Error(got)
	}
	if got := strings.Join(environment(Spec{Image: &Image{}}), " "); !strings.Contains(got, "PATH=/usr/local/sbin:") {
		t.Error(got)
	}
	if got := strings.Join(environment(Spec{}), " "); got != "PATH=/usr/local/bin:/usr/bin:/bin HOME=/tmp LANG=C.UTF-8" {
		t.Error(got)
	}
}

// However busy the machine: what yields to all others must still end when it is told to.
func TestLinux_IdleProgramEndsAtOnceOnABusyMachine(t *testing.T) {
	busy := start(t, linux{}, counting(8), nil)
	idle := start(t, linux{}, counting(8), func(s *Spec) { s.Limits.Nice, s.Limits.CPUs = true, 0.2 })
	busy.all(t, 8)
	idle.has(t, "n")
	began := time.Now()
	idle.cancel(nil)
	(<-idle.ended).wantCause(t, KilledCancel)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}
