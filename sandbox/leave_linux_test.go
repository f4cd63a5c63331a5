package sandbox

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestLinux_DaemonDoesNotOutliveIt(t *testing.T) {
	var dir string
	e := python(t, lockHolder+`
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: # a daemon's way: no terminal, no parent, no output
        for fd in [0, 1, 2]: os.close(fd)
        open("/spare/rw/ready", "w")
        while True: time.sleep(60)
    os._exit(0)
while not os.path.exists("/spare/rw/ready"): time.sleep(0.01)
print("ok")`, func(s *Spec) { dir = writable(t, s) })
	e.wantOK(t)
	if locked(t, dir) || e.Wall > 20*time.Second {
		t.Errorf("the daemon lived on: %v", e.Wall)
	}
}

func TestLinux_OrphansAreCollected(t *testing.T) {
	python(t, `
for _ in range(20):
    if os.fork() == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
    os.wait()
end = time.time() + 10
def others(): return [p for p in os.listdir("/proc") if p.isdigit() and p not in ("1", str(os.getpid()))]
while others() and time.time() < end: time.sleep(0.01) # a zombie would be listed
print(others() or "ok")`, nil).wantOK(t)
}

func TestLinux_ParentsDeathEndsAll(t *testing.T) {
	dir := t.TempDir()
	parent := exec.Command("/proc/self/exe")
	parent.Env = append(os.Environ(), orphanEnv+"="+dir)
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the program runs", func() bool { return locked(t, dir) })
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	eventually(t, "the program ends with its parent", func() bool { return !locked(t, dir) })
}

// traces counts what a run could leave on the machine.
type traces struct{ fds, mounts, processes, files, groups int }

// unheld counts the control groups for runs that no process holds: others may be at work.
func unheld(t *testing.T) (n int) {
	t.Helper()
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil
		}
		if !strings.HasPrefix(e.Name(), "spare-run-") {
			return nil
		}
		if dir, err := os.Open(path); err == nil {
			if syscall.Flock(int(dir.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil {
				n++
			}
			_ = dir.Close()
		}
		return filepath.SkipDir
	})
	return n
}

func traceAll(t *testing.T, tmp string) traces {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(tmp)
	if err != nil {
		t.Fatal(err)
	}
	n := traces{fds: len(fds), mounts: strings.Count(string(mounts), "\n"), files: len(files), groups: unheld(t)}
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range tasks {
		text, _ := os.ReadFile(file) // a thread may have ended
		n.processes += len(strings.Fields(string(text)))
	}
	return n
}

// settled waits until no child is left, nor a descriptor for one, and counts.
func settled(t *testing.T, tmp string) traces {
	t.Helper()
	eventually(t, "no process is left", func() bool {
		fds, _ := filepath.Glob("/proc/self/fd/*")
		for _, fd := range fds {
			if to, _ := os.Readlink(fd); strings.Contains(to, "pidfd") {
				return false
			}
		}
		return traceAll(t, tmp).processes == 0
	})
	return traceAll(t, tmp)
}

// asBefore waits until nothing is left of what began since.
func asBefore(t *testing.T, tmp string, before traces) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("before: %+v, now: %+v", before, traceAll(t, tmp))
		}
	}()
	eventually(t, "all is as before", func() bool {
		now := traceAll(t, tmp)
		now.groups = max(now.groups, before.groups) // what other tests left may go meanwhile
		return now == before
	})
}

func TestLinux_LeavesNothing(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	dir := t.TempDir()
	one := func() {
		r, err := linux{}.Run(t.Context(), Spec{
			Argv: []string{"sh", "-c", "sleep 600 & echo x > /tmp/x; exit 3"}, Stdout: &strings.Builder{},
			Mounts: []Mount{{Host: dir, Inner: "/spare/rw", Writable: true}},
			Limits: Limits{CPUs: 1},
		})
		if err != nil || r.ExitCode != 3 {
			t.Errorf("%+v, %v", r, err)
		}
	}
	sequential, parallel := 100, 12
	if os.Getenv("SPARE_LONG") != "" {
		sequential, parallel = 1000, 125
	}
	one() // what is set up once stays
	before := settled(t, tmp)
	began := time.Now()
	for range sequential {
		one()
	}
	t.Logf("%d runs after each other: %v each", sequential, time.Since(began)/time.Duration(sequential))
	began = time.Now()
	var working sync.WaitGroup
	for range 8 {
		working.Go(func() {
			for range parallel {
				one()
			}
		})
	}
	working.Wait()
	t.Logf("8 times %d runs at once: %v each", parallel, time.Since(began)/time.Duration(8*parallel))
	asBefore(t, tmp, before)
	t.Logf("before and after: %+v", before)
	for cpu, n := range shares.runs {
		if n != 0 {
			t.Errorf("processor %d is still counted for %d runs", cpu, n)
		}
	}
}

func TestLinux_FailedStartsLeaveNothing(t *testing.T) {
	tmp := t.TempDir()
	specs := []Spec{
		{Argv: []string{"no-such-program"}, Stdout: &strings.Builder{}},
		{Argv: []string{"true"}, Dir: "/none", Stdout: &strings.Builder{}},
		{Argv: []string{"true"}, Mounts: []Mount{{Host: tmp, Inner: "/spare/a"}, {Host: "/none", Inner: "/spare/b"}}},
	}
	try := func() {
		for _, s := range specs {
			if _, err := (linux{}).Run(t.Context(), s); err == nil {
				t.Fatalf("%+v: started", s)
			}
		}
	}
	try()
	before := settled(t, tmp)
	for range 5 {
		try()
	}
	asBefore(t, tmp, before)
}

// bubblewrap with the same walls, as far as it has them.
var bubblewrap = strings.Fields("bwrap --unshare-all --unshare-user --disable-userns --uid 1000 --gid 1000 --hostname spare --new-session --die-with-parent " +
	"--clearenv --setenv PATH /usr/bin --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 " +
	"--ro-bind-try /etc/ld.so.cache /etc/ld.so.cache --ro-bind-try /etc/alternatives /etc/alternatives --ro-bind-try /etc/localtime /etc/localtime " +
	"--ro-bind-try /etc/mime.types /etc/mime.types --ro-bind-try /etc/ssl/certs /etc/ssl/certs --ro-bind-try /etc/ssl/openssl.cnf /etc/ssl/openssl.cnf " +
	"--ro-bind-try /etc/fonts /etc/fonts --proc /proc --dev /dev --tmpfs /tmp --tmpfs /dev/shm --remount-ro /")

// BenchmarkStart compares a program that does nothing: bare, here, and in bubblewrap.
func BenchmarkStart(b *testing.B) {
	command := func(argv ...string) func(b *testing.B) {
		return func(b *testing.B) {
			for b.Loop() {
				cmd := exec.Command(argv[0], argv[1:]...)
				cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	program := []string{"/usr/bin/python3", "-c", "pass"}
	b.Run("bare", command(program...))
	inside := func(l linux) func(b *testing.B) {
		return func(b *testing.B) {
			for b.Loop() {
				if r, err := l.Run(b.Context(), Spec{Argv: program}); err != nil || r.ExitCode != 0 {
					b.Fatal(r, err)
				}
			}
		}
	}
	b.Run("spare", inside(linux{}))
	b.Run("spare without control groups", inside(linux{without: slices.Collect(maps.Values(groupWalls))}))
	b.Run("bubblewrap", command(append(bubblewrap, program...)...))
}

// BenchmarkWork compares the processor time of a program that computes: bare and here,
// as Apps run. What the machine does meanwhile counts less for the least of many than for
// the mean, so that is reported too.
func BenchmarkWork(b *testing.B) {
	program := []string{"/usr/bin/python3", "-c", `
import time
d = {}
for i in range(2_000_000): d[i & 1023] = d.get(i & 511, 0) + i
print(time.process_time())`}
	report := func(b *testing.B, run func() string) {
		least := 0.0
		for b.Loop() {
			took, err := strconv.ParseFloat(strings.TrimSpace(run()), 64)
			if err != nil {
				b.Fatal(err)
			}
			if least == 0 || took < least {
				least = took
			}
		}
		b.ReportMetric(least*1e3, "least-ms")
	}
	b.Run("bare", func(b *testing.B) {
		report(b, func() string {
			out, err := exec.Command(program[0], program[1:]...).Output()
			if err != nil {
				b.Fatal(err)
			}
			return string(out)
		})
	})
	b.Run("spare", func(b *testing.B) {
		report(b, func() string {
			var out strings.Builder
			s := Spec{Argv: program, Stdout: &out, Limits: Limits{CPUs: 1, Memory: 1 << 30, Wall: time.Minute}}
			if r, err := (linux{}).Run(b.Context(), s); err != nil || r.ExitCode != 0 {
				b.Fatal(r, err)
			}
			return out.String()
		})
	})
}
