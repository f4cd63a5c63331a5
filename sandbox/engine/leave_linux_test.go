package engine

import (
	"bytes"
	"context"
	"fmt"
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

	"github.com/spare-compute/spare/sandbox"
)

// userEnv marks the suite executed again as a user who owns nothing.
const userEnv = "SPARE_TEST_ENGINE_USER"

// TestPodman_AsOrdinaryUserOffersNothingUnlimited looks at podman as a user without
// rights: it serves with every wall that must stand, or says why not.
func TestPodman_AsOrdinaryUserOffersNothingUnlimited(t *testing.T) {
	if os.Getenv(userEnv) != "" {
		c := New(Config{Command: "podman", OCIRuntime: "runc", AcceptKnownFlaws: true}).Probe(t.Context())
		if c.OK && (!slices.Contains(c.Walls, "user namespace") || !strings.Contains(c.Version, "rootless")) || !c.OK && c.Reason == "" {
			t.Errorf("%+v", c)
		}
		if !c.OK && !strings.Contains(c.Reason, "version 2") && !strings.Contains(c.Reason, "subuid") {
			t.Errorf("the reason says not what to do: %s", c.Reason)
		}
		return
	}
	const user = 12345
	dir := t.TempDir()
	program := filepath.Join(dir, "suite")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(dir, "home")
	for _, err := range []error{
		os.WriteFile(program, self, 0o755), os.Mkdir(home, 0o700), os.Chown(home, user, user), os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Dir = home
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "XDG_RUNTIME_DIR=" + home, userEnv + "=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Fatalf("as an ordinary user: %v\n%s", err, out)
	}
	endPause(t, home)
}

// endPause ends the process that podman leaves for each ordinary user: it keeps the
// user's namespace.
func endPause(t *testing.T, runDir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(runDir, "libpod", "tmp", "pause.pid"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, _ := os.ReadFile(f)
		if p, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && p > 1 {
			_ = syscall.Kill(p, syscall.SIGKILL)
			eventually(t, "podman's process is gone", func() bool { return !alive(p) })
		}
	}
}

// eventually polls until ok, without a fixed wait.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// containers are the names of those with the label of the tests.
func containers(t testing.TB) []string {
	t.Helper()
	out, err := exec.Command("podman", "ps", "--all", "--filter", "label="+labelInstance+"="+podman().instance(), "--format", "{{.Names}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

func TestPodman_LeavesNothing(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	cgroups := func() int {
		found, _ := filepath.Glob("/sys/fs/cgroup/memory/libpod*/*")
		return len(found)
	}
	mounts := func() int {
		text, _ := os.ReadFile("/proc/self/mountinfo")
		return strings.Count(string(text), "\n")
	}
	one := func() {
		r, err := podman().Run(t.Context(), sandbox.Spec{Image: box(t), Argv: []string{"sh", "-c", "sleep 600 & exit 3"}})
		if err != nil || r.ExitCode != 3 {
			t.Errorf("%+v, %v", r, err)
		}
	}
	one()
	groupsBefore, mountsBefore := cgroups(), mounts()
	for range 3 {
		var parallel sync.WaitGroup
		for range 4 {
			parallel.Go(one)
		}
		parallel.Wait()
	}
	if left := containers(t); len(left) > 0 {
		t.Errorf("containers: %q", left)
	}
	files, err := os.ReadDir(tmp)
	if err != nil || len(files) > 0 {
		t.Errorf("files: %v, %v", files, err)
	}
	eventually(t, "groups and mounts are as before", func() bool { return cgroups() <= groupsBefore && mounts() <= mountsBefore })
}

func TestPodman_OrphansOfThisNodeAreRemoved(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	h, err := podman().hold(t.Context(), podman().mustEngine(t), box(t))
	if err != nil {
		t.Fatal(err)
	}
	start := func(instance, process string, pid int) string {
		out, err := exec.Command("podman", "--runtime", "runc", "run", "--detach", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
			"--label", labelInstance+"="+instance, "--label", labelProcess+"="+process, "--label", fmt.Sprintf("%s=%d", labelPID, pid),
			"--entrypoint", "", h.Ref, "/bin/sleep", "600").Output()
		if err != nil {
			t.Fatal(err)
		}
		id := strings.TrimSpace(string(out))
		t.Cleanup(func() { podman().mustEngine(t).remove(context.Background(), id) })
		return id
	}
	ours := podman().instance()
	orphan := start(ours, "earlier", gone.Process.Pid)
	taken := start(ours, "earlier", 1) // its process's number is another's by now
	own := start(ours, podman().token, os.Getpid())
	other := start("another-node", "earlier", gone.Process.Pid)
	if n, err := podman().Clean(t.Context()); n != 2 || err != nil {
		t.Errorf("%d removed, %v", n, err)
	}
	out, err := exec.Command("podman", "ps", "--all", "--no-trunc", "--format", "{{.ID}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]bool{orphan: false, taken: false, own: true, other: true} {
		if got := strings.Contains(string(out), id); got != want {
			t.Errorf("%s is there: %t", id, got)
		}
	}
}

func (r *Runtime) mustEngine(t testing.TB) *engine {
	t.Helper()
	e, err := r.engine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// BenchmarkStart compares a program that does nothing: bare, and in a container.
func BenchmarkStart(b *testing.B) {
	p50 := func(b *testing.B, one func() error) {
		var took []time.Duration
		for b.Loop() {
			start := time.Now()
			if err := one(); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2])/1e6, "p50-ms")
	}
	b.Run("bare", func(b *testing.B) {
		p50(b, func() error { return exec.Command("/usr/bin/busybox", "true").Run() })
	})
	b.Run("podman", func(b *testing.B) {
		p50(b, func() error {
			_, err := podman().Run(b.Context(), sandbox.Spec{Image: box(b), Argv: []string{"true"}})
			return err
		})
	})
	b.Run("podman run --rm", func(b *testing.B) {
		h, err := podman().hold(b.Context(), podman().mustEngine(b), box(b))
		if err != nil {
			b.Fatal(err)
		}
		p50(b, func() error {
			return exec.Command("podman", "--runtime", "runc", "run", "--rm", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
				"--entrypoint", "", h.Ref, "true").Run()
		})
	})
}
