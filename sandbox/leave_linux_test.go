package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
def zombie(pid):
    try: return open("/proc/%s/stat" % pid).read().split(")")[-1].split()[0] == "Z"
    except OSError: return False # collected
def zombies(): return [p for p in os.listdir("/proc") if p.isdigit() and zombie(p)]
while zombies() and time.time() < end: time.sleep(0.01)
print(zombies() or "ok")`, nil).wantOK(t)
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
type traces struct{ fds, mounts, processes, files int }

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
	n := traces{fds: len(fds), mounts: strings.Count(string(mounts), "\n"), files: len(files)}
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
	one() // what is set up once stays
	before := settled(t, tmp)
	for range 200 {
		one()
	}
	for range 10 {
		var parallel sync.WaitGroup
		for range 8 {
			parallel.Go(one)
		}
		parallel.Wait()
	}
	eventually(t, fmt.Sprintf("all is as before, %+v", before), func() bool { return traceAll(t, tmp) == before })
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
	eventually(t, fmt.Sprintf("all is as before, %+v", before), func() bool { return traceAll(t, tmp) == before })
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
	b.Run("spare", func(b *testing.B) {
		for b.Loop() {
			if r, err := (linux{}).Run(b.Context(), Spec{Argv: program}); err != nil || r.ExitCode != 0 {
				b.Fatal(r, err)
			}
		}
	})
	b.Run("bubblewrap", command(append(bubblewrap, program...)...))
}
