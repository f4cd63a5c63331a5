package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
)

// The tests run real containers. What distributions ship when this is written has known
// flaws, so they speak for the owner and accept them; TestPodman_IsGated does not.
var podman = sync.OnceValue(func() *Runtime {
	return New(Config{Command: "podman", OCIRuntime: "runc", Instance: "tests of " + random(), AcceptKnownFlaws: true})
})

// theImage is loaded once, and forgotten by TestMain.
var theImage *sandbox.Image

func box(t testing.TB) *sandbox.Image {
	t.Helper()
	if theImage == nil {
		theImage = imageOf(t, nil)
	}
	return theImage
}

func TestMain(m *testing.M) {
	code := m.Run()
	ctx := context.Background()
	if theImage != nil {
		forget(ctx, podman(), theImage)
	}
	if img, err := probeImage(runtime.GOARCH); err == nil {
		forget(ctx, podman(), img)
	}
	os.Exit(code)
}

func forget(ctx context.Context, r *Runtime, img *sandbox.Image) {
	if err := r.Forget(ctx, img.ID); err != nil {
		fmt.Fprintln(os.Stderr, "an image stays:", err)
	}
}

// ended is what a run gave back.
type ended struct {
	sandbox.Result
	out string
}

// shell runs a script inside and fails the test if the sandbox does.
func shell(t testing.TB, script string, change func(*sandbox.Spec)) ended {
	t.Helper()
	var out bytes.Buffer
	s := sandbox.Spec{
		Image: box(t), Argv: []string{"sh", "-c", script}, Stdout: &out, Stderr: &out,
		Limits: sandbox.Limits{Wall: 60 * time.Second, Output: 1 << 20, Processes: 64, Memory: 256 << 20},
	}
	if change != nil {
		change(&s)
	}
	r, err := podman().Run(t.Context(), s)
	if err != nil {
		t.Fatalf("the sandbox failed: %v\n%s", err, out.Bytes())
	}
	return ended{r, out.String()}
}

func (e ended) wantOK(t testing.TB) {
	t.Helper()
	if e.Cause != sandbox.Exited || e.ExitCode != 0 || strings.TrimSpace(e.out) != "ok" {
		t.Fatalf("inside: %+v\n%s", e.Result, e.out)
	}
}

func (e ended) wantCause(t testing.TB, c sandbox.Cause) {
	t.Helper()
	if e.Cause != c {
		t.Fatalf("cause %q, want %q: %+v\n%.2000s", e.Cause, c, e.Result, e.out)
	}
}

func TestPodman_ProbeSeesItsWalls(t *testing.T) {
	c := podman().Probe(t.Context())
	if !c.OK || c.Runtime != "engine" || !strings.HasPrefix(c.Version, "podman ") || !strings.Contains(c.Version, "runc ") {
		t.Fatalf("%+v", c)
	}
	if !slices.Contains(c.Platforms, spare.PlatformContainer) || !slices.Equal(c.Features, []spare.Feature{spare.FeatureImage}) {
		t.Errorf("%+v", c)
	}
	for _, wall := range []string{"seccomp", "no capabilities", "network namespace", "own root", "cgroup memory", "cgroup pids", "cgroup cpu", "own user"} {
		if !slices.Contains(c.Walls, wall) {
			t.Errorf("no %s in %q", wall, c.Walls)
		}
	}
}

func TestPodman_IsGated(t *testing.T) {
	e := &engine{path: "podman", podman: true, ociRuntime: "runc"}
	if err := e.describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	known := e.flaws()
	c := New(Config{Command: "podman", OCIRuntime: "runc"}).Probe(t.Context())
	accepted := podman().Probe(t.Context())
	if len(known) == 0 { // a machine that is up to date
		if !c.OK || accepted.Reason != "" {
			t.Errorf("%+v, %+v", c, accepted)
		}
		return
	}
	if c.OK || !strings.Contains(c.Reason, known[0].ID) || !strings.Contains(c.Reason, "update it") {
		t.Errorf("%+v", c)
	}
	if !accepted.OK || !strings.Contains(accepted.Reason, "the owner accepts") || !strings.Contains(accepted.Reason, known[0].ID) {
		t.Errorf("%+v", accepted)
	}
}

func TestPodman_NothingOfTheImageButItsFilesCounts(t *testing.T) {
	e := shell(t, `echo "$FROM_IMAGE $PATH $HOME $(pwd) $MINE"; id -u; cat /etc/hostname`, func(s *sandbox.Spec) { s.Env = []string{"MINE=a\nb"} })
	if want := "yes /bin /tmp /tmp a\nb\n60999\nspare"; e.out != want {
		t.Errorf("%q, want %q", e.out, want)
	}
	e = shell(t, `echo "$FROM_IMAGE"`, func(s *sandbox.Spec) { s.Env = []string{"FROM_IMAGE=no"} })
	if e.out != "no\n" {
		t.Errorf("%q", e.out)
	}
}

func TestPodman_NothingOfTheNodesEnvironmentIsInside(t *testing.T) {
	t.Setenv("SPARE_SECRET", "of the node")
	t.Setenv("HTTP_PROXY", "http://user:password@proxy")
	e := shell(t, `env`, nil)
	for _, bad := range []string{"SPARE_SECRET", "password", "XDG_", "DBUS"} {
		if strings.Contains(e.out, bad) {
			t.Errorf("%s in %s", bad, e.out)
		}
	}
}

func TestPodman_SecretsAreInNoListOfProcesses(t *testing.T) {
	done := make(chan ended, 1)
	dir := t.TempDir()
	go func() {
		done <- shell(t, `touch /spare/rw/on; while ! test -e /spare/rw/off; do sleep 0.02; done; echo "$KEY"`, func(s *sandbox.Spec) {
			s.Env = []string{"KEY=very" + "-secret"}
			s.Mounts = append(s.Mounts, sandbox.Mount{Host: dir, Inner: "/spare/rw", Writable: true})
		})
	}()
	eventually(t, "it runs", func() bool { _, err := os.Stat(filepath.Join(dir, "on")); return err == nil })
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range lines {
		if text, _ := os.ReadFile(f); bytes.Contains(text, []byte("very"+"-secret")) {
			t.Errorf("%s: %q", f, text)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "off"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if e := <-done; e.out != "very-secret\n" {
		t.Errorf("%q", e.out)
	}
}

func TestPodman_WritesOnlyWhereItMay(t *testing.T) {
	ro := filepath.Join(t.TempDir(), `odd, "name"`)
	if err := os.Mkdir(ro, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(ro, "in"), []byte("input"), 0o600); err != nil {
		t.Fatal(err)
	}
	var rw string
	shell(t, `
for f in /x /bin/x /etc/x /dev/x /dev/mqueue/x /run/x /var/tmp/x /spare/ro/x /spare/ro/in /proc/sys/kernel/core_pattern /sys/x; do
  if (echo x > $f) 2>/dev/null; then echo "wrote $f"; fi
done
test "$(cat /spare/ro/in)" = input || echo unread
echo out > /spare/rw/out && mkdir /spare/rw/d && chmod 700 /spare/rw/d && echo tmp > /tmp/x && echo ok`, func(s *sandbox.Spec) {
		rw = writable(t, s)
		s.Mounts = append(s.Mounts, sandbox.Mount{Host: ro, Inner: "/spare/ro"})
	}).wantOK(t)
	if text, err := os.ReadFile(filepath.Join(rw, "out")); err != nil || string(text) != "out\n" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestPodman_ReachesNoNetworkAndNoDevice(t *testing.T) {
	shell(t, `
nc -w 1 127.0.0.1 22 </dev/null 2>/dev/null && echo "reached the machine"
nc -w 1 169.254.169.254 80 </dev/null 2>/dev/null && echo "reached metadata"
interfaces=$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ')
test "$interfaces" = lo || echo "interfaces: $interfaces"
mknod /tmp/d b 8 0 2>/dev/null && echo "made a device"
mount -t tmpfs x /tmp 2>/dev/null && echo "mounted"
ls /dev/kfd /dev/nvidia0 /dev/fuse 2>/dev/null
n=0; for p in /proc/[0-9]*; do n=$((n+1)); done
test $n -le 2 || echo "sees $n processes"
echo ok`, nil).wantOK(t)
}

// TestPodman_RefusesWhatTheLinuxRuntimeRefuses is about calls that engines' own filters
// allow, by their arguments too, and about files that they show.
func TestPodman_RefusesWhatTheLinuxRuntimeRefuses(t *testing.T) {
	shell(t, `
unshare -U true 2>/dev/null && echo "made a user namespace"
: > /tmp/f
chmod 755 /tmp/f || echo "no chmod"
chmod 4755 /tmp/f 2>/dev/null && echo "set the user id bit"
mkfifo /tmp/p || echo "no pipe"
sleep 30 & renice -n 5 -p $! || echo "no renice"
renice -n 5 -p 1 2>/dev/null && echo "slowed the first process"
renice -n 5 -u $(id -u) 2>/dev/null && echo "slowed a whole user"
kill %1
for d in block bus class dev devices firmware kernel module power fs/ext4; do
	test -z "$(ls /sys/$d 2>/dev/null)" || echo "sees /sys/$d"
done
for f in key-users keys diskstats partitions interrupts cmdline modules softirqs; do
	test -z "$(cat /proc/$f 2>/dev/null)" || echo "sees /proc/$f"
done
test -n "$(ls /sys/fs/cgroup)" || echo "no control groups"
test "$(ulimit -l)" = 64 || echo "locks $(ulimit -l)"
echo ok`, nil).wantOK(t)
}

func TestPodman_SaysHowItEnded(t *testing.T) {
	for script, want := range map[string]sandbox.Result{
		`exit 7`:                       {ExitCode: 7, Cause: sandbox.Exited},
		`exit 125`:                     {ExitCode: 125, Cause: sandbox.Exited},
		`exit 126`:                     {ExitCode: 126, Cause: sandbox.Exited},
		`exit 127`:                     {ExitCode: 127, Cause: sandbox.Exited},
		`no-such-tool`:                 {ExitCode: 127, Cause: sandbox.Exited},
		`kill -9 $$; kill $$; exit 3`:  {ExitCode: 3, Cause: sandbox.Exited},
		`sh -c 'kill -11 $$'; exit $?`: {ExitCode: -1, Cause: sandbox.KilledSignal, Signal: "SIGSEGV"},
		`sh -c 'kill -15 $$'; exit $?`: {ExitCode: 143, Cause: sandbox.Exited},
	} {
		if got := shell(t, script, nil); got.ExitCode != want.ExitCode || got.Cause != want.Cause || got.Signal != want.Signal {
			t.Errorf("%s: %+v, want %+v\n%s", script, got.Result, want, got.out)
		}
	}
}

func TestPodman_SaysWhatCannotStart(t *testing.T) {
	try := func(change func(*sandbox.Spec)) error {
		s := sandbox.Spec{Image: box(t), Argv: []string{"true"}}
		change(&s)
		_, err := podman().Run(t.Context(), s)
		return err
	}
	var noStart *sandbox.StartError
	err := try(func(s *sandbox.Spec) { s.Argv = []string{"no-such-program"} })
	if !errors.As(err, &noStart) || noStart.Program != "no-such-program" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing program: %v", err)
	}
	err = try(func(s *sandbox.Spec) { s.Argv = []string{"/etc/passwd"} })
	if !errors.As(err, &noStart) || !errors.Is(err, os.ErrPermission) {
		t.Errorf("no program: %v", err)
	}
	err = try(func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Host: "/no/such/folder", Inner: "/spare/x"}} })
	if !errors.Is(err, os.ErrNotExist) || errors.As(err, &noStart) {
		t.Errorf("missing mount: %v", err)
	}
	err = try(func(s *sandbox.Spec) { s.Dir = "/spare/none" })
	if err == nil || errors.As(err, &noStart) || !strings.Contains(err.Error(), "/spare/none") {
		t.Errorf("missing working folder: %v", err)
	}
	for what, change := range map[string]func(*sandbox.Spec){
		"no image":       func(s *sandbox.Spec) { s.Image = nil },
		"a name":         func(s *sandbox.Spec) { s.Image = &sandbox.Image{ID: "debian:latest"} },
		"an absent one":  func(s *sandbox.Spec) { s.Image = &sandbox.Image{ID: "sha256:" + strings.Repeat("0", 64)} },
		"a network":      func(s *sandbox.Spec) { s.Network = sandbox.Outbound },
		"determinism":    func(s *sandbox.Spec) { s.Deterministic = true },
		"a GPU":          func(s *sandbox.Spec) { s.GPUs = []string{"H200"} },
		"a name's star":  func(s *sandbox.Spec) { s.Env = []string{"HOM*=x"} },
		"a broken mount": func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Host: "/dev/null", Inner: "/spare/x"}} },
	} {
		if err := try(change); err == nil || errors.As(err, &noStart) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if left := containers(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestPodman_ImageIsLoadedOnceAndUnderNoName(t *testing.T) {
	img := imageOf(t, nil, file{name: "mine", text: random(), mode: 0o644})
	archive, loads := img.Archive, 0
	img.Archive = func() (io.ReadCloser, error) { loads++; return archive() }
	t.Cleanup(func() { forget(context.Background(), podman(), img) })
	for range 2 {
		if r, err := podman().Run(t.Context(), sandbox.Spec{Image: img, Argv: []string{"cat", "/mine"}}); err != nil || r.ExitCode != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	out, err := exec.Command("podman", "images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}").Output()
	if err != nil || loads != 1 || !strings.Contains(string(out), img.ID+" <none>") || strings.Contains(string(out), "spare.test") {
		t.Errorf("loaded %d times, %v:\n%s", loads, err, out)
	}
	// The owner clears the store; the next run brings the image again.
	if out, err := exec.Command("podman", "rmi", strings.TrimPrefix(img.ID, "sha256:")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := podman().Run(t.Context(), sandbox.Spec{Image: img, Argv: []string{"true"}}); err != nil || loads != 2 {
		t.Errorf("loaded %d times, %v", loads, err)
	}
}

func TestPodman_RefusesAnImageThatIsNotTheOneNamed(t *testing.T) {
	img := imageOf(t, nil, file{name: "a", text: "x", mode: 0o644})
	other := imageOf(t, nil, file{name: "b", text: "y", mode: 0o644})
	before := images(t)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	lie := &sandbox.Image{ID: other.ID, Archive: img.Archive}
	if _, err := podman().Run(t.Context(), sandbox.Spec{Image: lie, Argv: []string{"true"}}); err == nil || !strings.Contains(err.Error(), "not "+other.ID) {
		t.Errorf("%v", err)
	}
	// The right configuration over other layers.
	files := entries(t, read(t, img))
	for name, text := range entries(t, read(t, other)) {
		if strings.HasSuffix(name, ".tar.gz") {
			for mine := range files {
				if strings.HasSuffix(mine, ".tar.gz") {
					files[mine] = text
				}
			}
		}
	}
	var b bytes.Buffer
	repack(t, &b, files)
	swapped := &sandbox.Image{ID: img.ID, Archive: opener(b.Bytes())}
	if _, err := podman().Run(t.Context(), sandbox.Spec{Image: swapped, Argv: []string{"true"}}); err == nil {
		t.Error("layers were exchanged, and it ran")
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("files of what was refused stay: %v, %v", left, err)
	}
	if after := images(t); after != before {
		t.Errorf("images were %s, are %s", before, after)
	}
}

func images(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("podman", "images", "--all", "--no-trunc", "--format", "{{.ID}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestPodman_VolumesOfAnImageAreNoWayToWrite(t *testing.T) {
	img := imageOf(t, func(c *v1.ConfigFile) { c.Config.Volumes = map[string]struct{}{"/data": {}, "/bin": {}} })
	t.Cleanup(func() { forget(context.Background(), podman(), img) })
	shell(t, `(echo x > /data/x) 2>/dev/null && echo wrote; (echo x > /bin/x) 2>/dev/null && echo wrote; echo ok`, func(s *sandbox.Spec) { s.Image = img }).wantOK(t)
	if out, err := exec.Command("podman", "volume", "ls", "--quiet").Output(); err != nil || len(out) > 0 {
		t.Errorf("volumes: %q, %v", out, err)
	}
}

func TestPodman_SetuidProgramsOfAnImageGainNothing(t *testing.T) {
	boxBytes, err := busybox()
	if err != nil {
		t.Fatal(err)
	}
	img := imageOf(t, nil, file{name: "bin/su/busybox", text: string(boxBytes), mode: 0o4755})
	t.Cleanup(func() { forget(context.Background(), podman(), img) })
	shell(t, `test "$(/bin/su/busybox id -u)" = 60999 && echo ok`, func(s *sandbox.Spec) { s.Image = img }).wantOK(t)
}

func TestPodman_GroupsOfAnImageAreNotGiven(t *testing.T) {
	img := imageOf(t, nil, file{name: "etc/passwd", text: "evil:x:60999:60999::/:/bin/sh\n", mode: 0o644}, file{name: "etc/group", text: "disk:x:6:evil\nshadow:x:42:evil\n", mode: 0o644})
	t.Cleanup(func() { forget(context.Background(), podman(), img) })
	shell(t, `test "$(id -G)" = 60999 && echo ok`, func(s *sandbox.Spec) { s.Image = img }).wantOK(t)
}

// TestPodman_RefusesAnImageThatTakesTheNodesVariables is about images whose variables
// have no value, for which podman looked in its own environment (CVE-2026-57231).
func TestPodman_RefusesAnImageThatTakesTheNodesVariables(t *testing.T) {
	img := imageOf(t, func(c *v1.ConfigFile) { c.Config.Env = []string{"HOME", "*"} })
	before := images(t)
	_, err := podman().Run(t.Context(), sandbox.Spec{Image: img, Argv: []string{"env"}})
	if err == nil || !strings.Contains(err.Error(), "no value") {
		t.Errorf("%v", err)
	}
	if after := images(t); after != before {
		t.Errorf("images were %s, are %s", before, after)
	}
}
