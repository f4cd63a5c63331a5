package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/image/imagetest"
	"github.com/spare-compute/spare/sandbox"
)

// The whole suite runs twice where it can: as root, and executed again by
// TestAsOrdinaryUser as a user who owns nothing.
const (
	ordinaryUser = 12345
	cacheVar     = "SPARE_TEST_CACHE"
)

func TestAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		return // this is it
	}
	dir, err := os.MkdirTemp("", "spare-user-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	program, home := filepath.Join(dir, "suite"), filepath.Join(dir, "home")
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	for _, err := range []error{
		os.WriteFile(program, self, 0o755), os.Chmod(dir, 0o755), os.Mkdir(home, 0o700), os.Chown(home, ordinaryUser, ordinaryUser),
		// What the tests of images made by debootstrap need, where a user reaches it.
		os.Link(debian(t), filepath.Join(dir, "python.tar")),
	} {
		must(t, err)
	}
	// Whose files they are makes no difference to the network and to documents.
	args := []string{"-test.timeout=8m", "-test.skip=^(TestRegistry_|TestFromPath_|TestAttack_Bombs|TestAttack_Manifests|Fuzz)"}
	if run := os.Getenv("SPARE_TEST_RUN"); run != "" { // to look into one test
		args = append(args, "-test.run="+run)
	}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "TMPDIR="+home, "HOME="+home, cacheVar+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryUser, Gid: ordinaryUser}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("as an ordinary user: %v\n%s", err, out)
	}
	if !bytes.Contains(out, []byte("PASS")) {
		t.Fatalf("as an ordinary user nothing ran:\n%s", out)
	}
	t.Logf("as an ordinary user:\n%s", out)
}

// debian is the archive of a small Debian with Python, made by debootstrap once and kept.
func debian(t testing.TB) string {
	t.Helper()
	if kept := filepath.Join(os.Getenv(cacheVar), "python.tar"); os.Getenv(cacheVar) != "" {
		if _, err := os.Stat(kept); err == nil {
			return kept
		}
	}
	cmd := exec.CommandContext(t.Context(), "../scripts/test-image.sh", "python", "python3-minimal")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	return strings.TrimSpace(string(out))
}

// run runs a program in an image.
func run(t testing.TB, im image.Image, argv ...string) string {
	t.Helper()
	rt := sandbox.Default()[0]
	inside := sandbox.Image(im)
	var out bytes.Buffer
	r, err := rt.Run(t.Context(), sandbox.Spec{
		Image: &inside, Argv: argv, Stdout: &out, Stderr: &out,
		Limits: sandbox.Limits{Wall: 30 * time.Second, Output: 1 << 20, Memory: 1 << 30, Processes: 64},
	})
	must(t, err)
	if r.Cause != sandbox.Exited || r.ExitCode != 0 {
		t.Fatalf("%q: %+v\n%s", argv, r, out.Bytes())
	}
	return out.String()
}

func TestRuns_ABusyboxInTheSandbox(t *testing.T) {
	im := imagetest.Make(t, imagetest.Options{Env: []string{"PATH=/bin", "FROM_IMAGE=yes"}},
		imagetest.Gzip(t, imagetest.Busybox(t)),
		imagetest.Tar(t, File{Name: "su", Text: "#!/bin/sh\nid -u\n", Mode: 0o4755}, File{Name: "escape", Kind: '2', Link: "/../../../../etc/hostname"}))
	dir := t.TempDir()
	got := ensure(t, open(t, dir, room), im.Ref(), image.Unpacked, im.Source())
	out := run(t, got, "sh", "-c", "cat /etc/motd; echo $FROM_IMAGE; ls /; /su; (echo x > /etc/motd) 2>/dev/null || echo read-only")
	for _, want := range []string{"hello from the image", "yes", "bin", "read-only"} {
		if !strings.Contains(out, want) {
			t.Errorf("inside it says\n%s, which lacks %q", out, want)
		}
	}
	if strings.Contains(out, "\n0\n") || strings.Contains(out, "home") {
		t.Errorf("inside it says\n%s", out)
	}
	// What ran left the image as it was.
	ensure(t, open(t, dir, room), im.Ref(), image.Unpacked, nil)
}

func TestRuns_ADebianMadeByDebootstrap(t *testing.T) {
	layer, err := os.ReadFile(debian(t))
	must(t, err)
	im := imagetest.Make(t, imagetest.Options{}, layer,
		imagetest.Tar(t, File{Name: "app/main.py", Text: "import sys, os\nprint(sys.version_info[0], sum(range(10)), os.listdir('/app'))\n"}))
	r := imagetest.Serve(t)
	ref := r.Put("lab/python:3", im)
	dir := t.TempDir()
	start := time.Now()
	got := ensure(t, open(t, dir, room), ref, image.Unpacked, source(t, ref))
	t.Logf("pulled and unpacked in %v", time.Since(start))
	if out := run(t, got, "python3", "-B", "/app/main.py"); strings.TrimSpace(out) != "3 45 ['main.py']" {
		t.Errorf("inside it says %s", out)
	}
	if out := run(t, got, "sh", "-c", "cat /etc/os-release"); !strings.Contains(out, "Debian") {
		t.Errorf("inside it says %s", out)
	}
	r.Asked()
	start = time.Now()
	again := ensure(t, open(t, dir, room), ref, image.Unpacked, source(t, ref))
	t.Logf("checked at the next start in %v", time.Since(start))
	if asked := r.Asked(); len(asked) > 0 || again.Folder != got.Folder {
		t.Errorf("the second start asked %q", asked)
	}
}

// large is an image of many layers, made as it is asked for: nothing of it need fit in
// memory twice.
func large(t testing.TB, layers int, each int64) *imagetest.Image {
	t.Helper()
	var all [][]byte
	for i := range layers {
		files := []File{imagetest.Dir(fmt.Sprintf("data/%d", i))}
		if i == 0 {
			files = append([]File{imagetest.Dir("bin"), {Name: "bin/busybox", Text: read(t, "/bin/busybox"), Mode: 0o755}, {Name: "bin/sh", Kind: '2', Link: "busybox"}}, files...)
		}
		// A large file and many small ones, half of it compressible.
		noise := imagetest.Noise(int(each / 4))
		files = append(files, File{Name: fmt.Sprintf("data/%d/large", i), Text: noise + strings.Repeat("0123456789abcdef", int(each/4/16))})
		for n := range int(each / 2 / 16384) {
			files = append(files, File{Name: fmt.Sprintf("data/%d/small%d", i, n), Text: imagetest.Noise(16384)})
		}
		all = append(all, imagetest.Gzip(t, imagetest.Tar(t, files...)))
	}
	return imagetest.Make(t, imagetest.Options{Env: []string{"PATH=/bin"}}, all...)
}

func init() { roles["runner"], roles["small disk"] = pullAndRun, fillSmallDisk }

// A disk of 24 MiB is mounted where only the test's child sees it.
func Test_AFullDiskBreaksNothing(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"=small disk", dirVar+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func fillSmallDisk(dir, _ string) error {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		return fmt.Errorf("mount a small disk: %w", err)
	}
	t := &testing.T{}
	s, err := image.Open(filepath.Join(dir, "images"), image.Options{Quota: room})
	if err != nil {
		return err
	}
	pull := func(size int) error {
		im := imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t, File{Name: "f", Text: imagetest.Noise(size)}))
		p, err := s.Ensure(context.Background(), im.Ref(), image.Unpacked, im.Source())
		if err == nil {
			p.Release()
		}
		return err
	}
	if err := pull(4 << 20); err != nil {
		return err
	}
	for _, size := range []int{40 << 20, 12 << 20} { // the blob does not fit, then its files do not
		if err := pull(size); !errors.Is(err, image.ErrFull) || !strings.Contains(err.Error(), "free some space") {
			return fmt.Errorf("an image of %d MiB: %w", size>>20, err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, "images", "tmp")); err != nil || len(left) > 0 {
		return fmt.Errorf("left in tmp: %v, %w", left, err)
	}
	return pull(10 << 20) // what is not used any more makes room
}

// BenchmarkEnsure_Warm is what an image that is there costs each run.
func BenchmarkEnsure_Warm(b *testing.B) {
	im := imagetest.Make(b, imagetest.Options{}, imagetest.Gzip(b, imagetest.Busybox(b)))
	s := open(b, b.TempDir(), room)
	ref := im.Ref()
	for b.Loop() {
		p, err := s.Ensure(b.Context(), ref, image.Unpacked, im.Source())
		must(b, err)
		p.Release()
	}
}

// pullAndRun is a node that pulls an image, runs it and says so.
func pullAndRun(dir, ref string) error {
	s, err := image.Open(dir, image.Options{Quota: quotaOf(os.Getenv(quotaVar))})
	if err != nil {
		return err
	}
	r, err := image.ParseRef(ref)
	if err != nil {
		return err
	}
	start := time.Now()
	p, err := s.Ensure(context.Background(), ref, image.Unpacked, registries(image.RegistryOptions{}).Source(r, image.Credential{}))
	if err != nil {
		return err
	}
	defer p.Release()
	there := time.Since(start)
	inside := sandbox.Image(p.Image())
	var out bytes.Buffer
	res, err := sandbox.Default()[0].Run(context.Background(), sandbox.Spec{
		Image: &inside, Argv: []string{"sh", "-c", "busybox ls /data | busybox wc -l"}, Stdout: &out, Stderr: &out,
		Limits: sandbox.Limits{Wall: time.Minute, Output: 1 << 20, Processes: 64},
	})
	if err != nil || res.ExitCode != 0 {
		return fmt.Errorf("%w: %+v %s", err, res, out.Bytes())
	}
	st, err := s.Stats()
	fmt.Printf("%s layers, there after %v, %d MiB\n", strings.TrimSpace(out.String()), there.Round(time.Millisecond), st.Bytes>>20)
	return err
}

const quotaVar = "SPARE_IMAGE_TEST_QUOTA"

func quotaOf(text string) (n int64) { _, _ = fmt.Sscan(text, &n); return n }

// An image of many layers is pulled, cut three times by killing the node, gone on with,
// unpacked and run; the next start asks nobody. SPARE_LONG=1 does it with 1 GiB.
func TestRuns_ALargeImageThatIsInterruptedThreeTimes(t *testing.T) {
	const layers = 12
	each := int64(2 << 20)
	if os.Getenv("SPARE_LONG") != "" {
		each = 1 << 30 / layers
	}
	im, r := large(t, layers, each), imagetest.Serve(t)
	ref := r.Put("lab/large:1", im)
	var packed int64
	for _, b := range im.Blobs {
		packed += int64(len(b))
	}
	quota := 2*layers*each + 64<<20
	dir := t.TempDir()
	counted := &moved{}
	var asked atomic.Int64
	r.Fault(func(w http.ResponseWriter, req *http.Request) bool {
		asked.Add(askedOf(im, req))
		r.Inner().ServeHTTP(counted.writer(w), req)
		return true
	})
	node := func() (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), roleVar+"=runner", dirVar+"="+dir, refVar+"="+ref, quotaVar+"="+fmt.Sprint(quota))
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		return cmd, &out
	}
	for i := range int64(3) {
		cmd, _ := node()
		reached := counted.at(packed * (i + 1) / 4)
		must(t, cmd.Start())
		select {
		case <-reached:
		case <-time.After(2 * time.Minute):
			t.Fatal("the transfer stands still")
		}
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
	}
	here := arrived(dir, im)
	if each > 64<<20 && here < packed/2 { // of a small one most is still in the network's buffers
		t.Errorf("after three kills %d of %d bytes are kept", here, packed)
	}
	asked.Store(0)
	start := time.Now()
	cmd, out := node()
	if err := cmd.Run(); err != nil || !strings.HasPrefix(out.String(), "12 layers") {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%d MiB packed; after three kills the rest, unpacking and a run took %v: %s", packed>>20, time.Since(start).Round(time.Millisecond), strings.TrimSpace(out.String()))
	if n := asked.Load(); n != layersOf(im)-here {
		t.Errorf("%d bytes were asked for, of %d with %d here", n, layersOf(im), here)
	}
	r.Asked()
	start = time.Now()
	cmd, out = node()
	if err := cmd.Run(); err != nil || !strings.HasPrefix(out.String(), "12 layers") {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("the next start took %v: %s", time.Since(start).Round(time.Millisecond), strings.TrimSpace(out.String()))
	if asked := r.Asked(); len(asked) > 0 {
		t.Errorf("the second start asked %q", asked)
	}
	// The quota holds when another image comes, and the older one makes room.
	s := open(t, dir, layers*each+each*3)
	other := imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t, File{Name: "f", Text: imagetest.Noise(int(each * 2))}))
	ensure(t, s, other.Ref(), image.Unpacked, other.Source())
	if st, err := s.Stats(); err != nil || st.Bytes > st.Quota {
		t.Errorf("%+v %v", st, err)
	}
}

func TestPacked_PodmanLoadsIt(t *testing.T) {
	if os.Getuid() != 0 {
		return // an engine of root's is tried, once
	}
	im := imagetest.Make(t, imagetest.Options{Env: []string{"A=1"}}, imagetest.Gzip(t, imagetest.Busybox(t)), imagetest.Zstd(t, imagetest.Tar(t, File{Name: "top", Text: "top"})))
	got := ensure(t, open(t, t.TempDir(), room), im.Ref(), image.Packed, im.Source())
	archive, err := got.Archive()
	must(t, err)
	defer archive.Close()
	store := t.TempDir()
	podman := func(in io.Reader, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "podman", append([]string{"--root", filepath.Join(store, "root"), "--runroot", filepath.Join(store, "run"), "--storage-driver", "vfs"}, args...)...)
		cmd.Stdin = in
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("podman %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	podman(archive, "load")
	if id := podman(nil, "image", "inspect", "--format", "{{.Id}}", strings.TrimPrefix(got.ID, "sha256:")); "sha256:"+strings.TrimSpace(id) != got.ID {
		t.Errorf("podman knows it as %s, we as %s", id, got.ID)
	}
	saved := filepath.Join(t.TempDir(), "saved.tar")
	for _, format := range []string{"docker-archive", "oci-archive"} {
		_ = os.Remove(saved)
		podman(nil, "save", "--format", format, "-o", saved, strings.TrimPrefix(got.ID, "sha256:"))
		c, back := take(t, saved)
		if text := read(t, back.Folder, "top"); text != "top" || len(c.Blobs) != 4 {
			t.Errorf("%s: %q, %d parts", format, text, len(c.Blobs))
		}
	}
}
