package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// groups are this machine's. An ordinary user, or root in a container, may have none:
// then it is nil, and there is nothing real to test.
func groups(t *testing.T, f Feature) *Groups {
	t.Helper()
	g := Find()
	if why := g.Lacks(f); why != "" {
		if !strings.Contains(why, " ") {
			t.Errorf("it lacks %s and does not say why: %q", f, why)
		}
		t.Logf("control groups for %s cannot be used here: %s", f, why)
		return nil
	}
	return g
}

// only is what a machine with one version, or one feature, would have.
func only(g *Groups, keep func(tree) bool) *Groups {
	less := &Groups{lacks: g.lacks}
	for _, t := range g.trees {
		if keep(t) {
			less.trees = append(less.trees, t)
		}
	}
	return less
}

// freezers are the ways to freeze there are here: version 2's and version 1's.
func freezers(t *testing.T) map[string]*Groups {
	t.Helper()
	g := groups(t, Freezer)
	if g == nil {
		return nil
	}
	ways := map[string]*Groups{}
	for _, tr := range g.trees {
		if tr.has[Freezer] && tr.v2 {
			ways["version 2"] = only(g, func(o tree) bool { return o.base == tr.base })
			tr.kill = false
			ways["version 2 before Linux 5.14"] = &Groups{trees: []tree{tr}}
		}
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	h := host{make: mkdir, visit: tryVisit, uid: os.Geteuid()}
	for _, m := range parseMounts(string(mounts)) {
		if slices.Contains(m.has, "freezer") {
			tr, lacks := h.version1(m, ownGroups(string(own))["freezer"], Freezer)
			if len(lacks) > 0 {
				t.Fatal(lacks)
			}
			ways["version 1"] = &Groups{trees: []tree{tr}}
		}
	}
	return ways
}

// member starts a program in a new group.
func member(t *testing.T, g *Groups, l Limits, argv ...string) (*Group, *exec.Cmd) {
	t.Helper()
	group, err := g.New(l)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = group.Start(cmd.SysProcAttr, func() (int, error) {
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		return cmd.Process.Pid, nil
	})
	if err == nil {
		err = group.Share()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = group.Kill()
		_ = cmd.Wait()
		if err := group.Remove(); err != nil {
			t.Error(err)
		}
		for _, p := range group.places {
			if _, err := os.Stat(p.path); err == nil {
				t.Errorf("%s is left", p.path)
			}
		}
	})
	return group, cmd
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if poll(20*time.Second, func() (bool, error) { return ok(), nil }) != nil {
		t.Fatalf("%s: not within 20 s", what)
	}
}

func TestGroup_ProcessIsInItFromBirth(t *testing.T) {
	g := groups(t, Freezer)
	if g == nil {
		return
	}
	t.Log(g)
	group, cmd := member(t, g, Limits{}, "sleep", "600")
	for _, p := range group.places {
		text, err := p.read("cgroup.procs")
		if err != nil || strings.TrimSpace(text) != strconv.Itoa(cmd.Process.Pid) {
			t.Errorf("%s has the processes %q, want %d: %v", p.path, text, cmd.Process.Pid, err)
		}
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || strings.Contains(string(own), prefix) {
		t.Errorf("this process is in\n%s, %v", own, err)
	}
	for _, p := range group.places {
		tasks, _ := p.read("tasks")
		for task := range strings.FieldsSeq(tasks) {
			if _, err := os.Stat("/proc/self/task/" + task); err == nil {
				t.Errorf("thread %s of this process stays in %s", task, p.path)
			}
		}
	}
}

// sockets holds memory in messages: nothing of it is any process's own.
const sockets = `
import socket
pairs = []
for _ in range(450):
    for a in socket.socketpair():
        pairs.append(a)
for a in pairs:
    a.setblocking(False)
    try:
        while True: a.send(b"x" * 60000)
    except BlockingIOError: pass`

func TestGroup_MemoryBeyondItsLimitEndsTheProgram(t *testing.T) {
	g := groups(t, Memory)
	if g == nil {
		return
	}
	for name, script := range map[string]string{
		"its own":             `x = b"x" * (400 << 20)`,
		"a file in memory":    `import os; f = os.memfd_create("x"); [os.write(f, b"x" * (1 << 20)) for _ in range(400)]`,
		"shared, not mapped":  `f = open("/dev/shm/spare-test-flood", "wb"); import os; os.unlink(f.name); [f.write(b"x" * (1 << 20)) for _ in range(400)]`,
		"sent, not yet taken": sockets,
	} {
		t.Run(name, func(t *testing.T) {
			group, cmd := member(t, g, Limits{Memory: 100 << 20}, "python3", "-c", script)
			_ = cmd.Wait()
			ws, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if u := group.Usage(); ws.Signal() != syscall.SIGKILL || u.Killed == 0 {
				t.Errorf("%v, %+v", cmd.ProcessState, u)
			}
		})
	}
	group, cmd := member(t, g, Limits{Memory: 300 << 20}, "python3", "-c", `x = b"x" * (100 << 20)`)
	if err := cmd.Wait(); err != nil || group.Usage().Killed != 0 {
		t.Errorf("within its limit: %v, %+v", err, group.Usage())
	}
}

func TestGroup_MemoryIsCountedMappedOrNot(t *testing.T) {
	g := groups(t, Memory)
	if g == nil {
		return
	}
	group, _ := member(t, g, Limits{}, "python3", "-c", `
import os, time
f = os.memfd_create("x")
for _ in range(60): os.write(f, b"x" * (1 << 20))
x = b"x" * (40 << 20)
time.sleep(600)`)
	eventually(t, "100 MiB are counted", func() bool {
		m := group.Usage().Memory
		return m > 100<<20 && m < 150<<20
	})
}

// Files that a program reads or writes stay in memory as long as there is room. That must
// neither count as its own nor end it.
func TestGroup_CachedFilesAreNotItsMemory(t *testing.T) {
	g := groups(t, Memory)
	if g == nil {
		return
	}
	file := filepath.Join(t.TempDir(), "f")
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(file), &fs); err != nil || fs.Type == unix.TMPFS_MAGIC {
		t.Logf("%s is in memory: what is there is memory of whoever writes it (%v)", file, err)
		return
	}
	group, cmd := member(t, g, Limits{Memory: 100 << 20}, "dd", "if=/dev/zero", "of="+file, "bs=1M", "count=300", "status=none")
	if err := cmd.Wait(); err != nil || group.Usage().Killed != 0 || group.Usage().Memory > 20<<20 {
		t.Errorf("%v, %+v", err, group.Usage())
	}
}

func TestGroup_ProcessesBeyondItsLimitAreRefused(t *testing.T) {
	g := groups(t, Pids)
	if g == nil {
		return
	}
	_, cmd := member(t, g, Limits{Processes: 20}, "python3", "-c", `
import os, sys, time
n = 1
try:
    while n < 100:
        if os.fork() == 0:
            time.sleep(600)
        n += 1
except BlockingIOError: pass
sys.exit(n)`)
	_ = cmd.Wait()
	if n := cmd.ProcessState.ExitCode(); n != 20 {
		t.Errorf("%d processes with a limit of 20", n)
	}
}

// spin is a program of four busy processes, on one processor if it is told which.
const spin = `
import os, sys
if sys.argv[1:]: os.sched_setaffinity(0, {int(sys.argv[1])})
for _ in range(3):
    if os.fork() == 0: break
while True: pass`

func TestGroup_ProcessorTimeIsHeldToItsShare(t *testing.T) {
	g := groups(t, CPU)
	if g == nil {
		return
	}
	group, _ := member(t, g, Limits{CPUs: 0.2}, "python3", "-c", spin)
	eventually(t, "it runs", func() bool { return group.Usage().CPU > 100*time.Millisecond })
	start, before := time.Now(), group.Usage().CPU
	eventually(t, "it runs on", func() bool { return time.Since(start) > time.Second })
	share := float64(group.Usage().CPU-before) / float64(time.Since(start))
	stat, err := group.with(CPU).read("cpu.stat")
	if share > 0.35 || value(stat, "nr_throttled") == 0 { // else the machine had no more to give
		t.Errorf("it got %.2f of a core, with a limit of 0.2: %v\n%s", share, err, stat)
	}
}

func TestGroup_IdleYieldsToOthers(t *testing.T) {
	g := groups(t, CPU)
	if g == nil {
		return
	}
	last := strconv.Itoa(runtime.NumCPU() - 1) // on one processor, so that they compete
	spinning := func(l Limits) *Group {
		group, _ := member(t, g, l, "python3", "-c", spin, last)
		eventually(t, "all four run", func() bool { return len(group.Pids()) == 4 && group.Usage().CPU > 100*time.Millisecond })
		return group
	}
	idle, other := spinning(Limits{Idle: true}), spinning(Limits{})
	var took time.Duration
	for range 8 { // until both have settled on that processor
		before, beforeOther := idle.Usage().CPU, other.Usage().CPU
		eventually(t, "the other one runs", func() bool { return other.Usage().CPU-beforeOther > 500*time.Millisecond })
		if took = idle.Usage().CPU - before; took <= 100*time.Millisecond {
			return
		}
	}
	t.Errorf("the idle one took %v of the other's half second, again and again", took)
}

// counting is a program of nine processes, each of which counts in a file as fast as it
// can: any instruction they get shows.
const counting = `
import os, sys, mmap
f = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
os.truncate(f, 4096)
m = mmap.mmap(f, 4096)
for i in range(8):
    if os.fork() == 0: break
else: i = 8
n = 0
while True:
    n += 1
    m[8 * i:8 * i + 8] = n.to_bytes(8, "little")`

// count starts it, and returns a look at its counters once all of them run.
func count(t *testing.T, g *Groups) (*Group, *exec.Cmd, func() string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "n")
	group, cmd := member(t, g, Limits{}, "python3", "-c", counting, file)
	counters := func() string {
		b, _ := os.ReadFile(file)
		return string(b[:min(len(b), 72)])
	}
	eventually(t, "all nine run", func() bool {
		c := counters()
		return c != "" && !strings.Contains(c, strings.Repeat("\x00", 8))
	})
	return group, cmd, counters
}

func TestGroup_FrozenGetsNoProcessorTime(t *testing.T) {
	for name, g := range freezers(t) {
		t.Run(name, func(t *testing.T) {
			group, _, counters := count(t, g)
			for range 5 {
				if err := group.Freeze(); err != nil {
					t.Fatal(err)
				}
				before := counters()
				pause()
				if counters() != before {
					t.Error("frozen, it went on")
				}
				if err := group.Thaw(); err != nil {
					t.Fatal(err)
				}
				eventually(t, "it goes on", func() bool { return counters() != before })
			}
		})
	}
}

// pause lets other processes run for a moment: that nothing happens takes time to see.
func pause() {
	pid, err := syscall.ForkExec("/bin/sleep", []string{"sleep", "0.05"}, nil)
	if err == nil {
		_, _ = syscall.Wait4(pid, nil, 0, nil)
	}
}

// A frozen run that is ended must not get to do anything more: not even see that time
// has passed.
func TestGroup_FrozenIsKilledAsItIs(t *testing.T) {
	for name, g := range freezers(t) {
		t.Run(name, func(t *testing.T) {
			group, cmd, counters := count(t, g)
			if err := group.Freeze(); err != nil {
				t.Fatal(err)
			}
			before := counters()
			if err := group.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			eventually(t, "all are gone", func() bool { return len(group.Pids()) == 0 })
			if counters() != before {
				t.Error("it went on between the kill and its end")
			}
		})
	}
}

func TestGroup_KillEndsAForkBomb(t *testing.T) {
	ways := freezers(t)
	if g := Find(); g.Lacks(Pids) == "" {
		ways["no freezer"] = g.Without(Freezer, Memory, CPU)
	}
	for name, g := range ways {
		t.Run(name, func(t *testing.T) {
			group, cmd := member(t, g, Limits{Processes: 60}, "python3", "-c", `
import os, resource
resource.setrlimit(resource.RLIMIT_CPU, (10, 10)) # so that a defect does no lasting harm
n = 0
while n < 60:
    n += 1
    try:
        if os.fork() == 0: n = 0 if os.getpid() % 7 else 60
    except OSError: pass
    if len(os.listdir("/proc")) > 1500: break`)
			eventually(t, "it grows", func() bool { return len(group.Pids()) > 20 })
			if err := group.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			eventually(t, "all are gone", func() bool { return len(group.Pids()) == 0 })
		})
	}
}

// A process that crashes leaves its groups, and a frozen program in them.
func TestGroups_CleanTakesAwayWhatCrashedProcessesLeft(t *testing.T) {
	ways := freezers(t)
	ways["all"] = Find()
	for name, g := range ways {
		t.Run(name, func(t *testing.T) {
			held, _ := member(t, g, Limits{}, "sleep", "600")
			lost, cmd := member(t, g, Limits{}, "sleep", "600")
			if err := lost.Freeze(); err != nil {
				t.Fatal(err)
			}
			for _, p := range lost.places {
				if err := p.dir.Close(); err != nil { // and with it goes the lock, as when a process ends
					t.Fatal(err)
				}
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = cmd.Wait()
			}()
			g.Clean()
			<-ended
			for _, p := range lost.places {
				if _, err := os.Stat(p.path); !os.IsNotExist(err) {
					t.Errorf("%s is left: %v", p.path, err)
				}
			}
			if len(held.Pids()) != 1 {
				t.Error("a living process's group was taken")
			}
		})
	}
}

// A process that cleans up may meet a group that is just being made.
func TestGroups_CleaningAndMakingAtOnceLosesNothing(t *testing.T) {
	g := groups(t, Freezer)
	if g == nil {
		return
	}
	stop := make(chan struct{})
	cleaned := make(chan struct{})
	go func() {
		defer close(cleaned)
		for {
			select {
			case <-stop:
				return
			default:
				g.Clean()
			}
		}
	}()
	for range 50 {
		group, err := g.New(Limits{Processes: 10})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range group.places {
			if _, err := os.Stat(p.path); err != nil {
				t.Error(err)
			}
		}
		if err := group.Remove(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	<-cleaned
}
