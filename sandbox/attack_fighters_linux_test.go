package sandbox_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/attack"
	"github.com/spare-compute/spare/sandbox/engine"
	"github.com/spare-compute/spare/sandbox/wasm"
	"github.com/spare-compute/spare/sandbox/wasm/wasmtest"
)

// A fighter is a column that runs here.
type fighter struct {
	attack.Column
	runtime sandbox.Runtime
	image   *sandbox.Image
	without func(walls ...string) sandbox.Runtime // nil where walls cannot be switched off
	open    bool                                  // walls are switched off
	bare    bool                                  // there is no sandbox at all, and so no folders inside
}

// user is who runs here, as columns call it.
func user() string {
	if os.Getuid() == 0 {
		return "root"
	}
	return "user"
}

// fighters are the columns that run as this user.
func (f *field) fighters(t *testing.T) []fighter {
	t.Helper()
	var all []fighter
	for _, c := range attack.Columns() {
		if c.User != user() || c.Long && os.Getenv(longEnv) == "" || !chosen(c) {
			continue
		}
		one := fighter{Column: c, runtime: sandbox.WithoutWalls()}
		switch c.Kind {
		case attack.Linux:
			one.without = sandbox.WithoutWalls
		case attack.Container:
			one.image = &sandbox.Image{ID: "sha256:" + strings.Repeat("0", 64), Folder: shared("image")}
		case attack.Engine:
			podman := engine.New(engine.Config{Command: "podman", OCIRuntime: "runc", Instance: f.dir, AcceptKnownFlaws: true})
			one.runtime, one.image = podman, f.archive(t, shared("image"))
			t.Cleanup(func() { f.forget(t, podman, one.image) })
		case attack.Wasm:
			one.runtime = wasm.New(wasm.Config{
				Program: wasmtest.Helper(t), Python: wasmtest.Python(t), Cache: wasmtest.Cache(t), Inside: sandbox.WithoutWalls(),
			})
		case attack.Podman:
			one.runtime = podman(f.loaded(t))
		case attack.Bwrap:
			one.runtime = bubblewrap()
		default:
			continue
		}
		all = append(all, one)
	}
	return all
}

// chosen reports whether a column is to run.
func chosen(c attack.Column) bool {
	return *columns == "" || slices.Contains(strings.Split(*columns, ","), string(c.Kind))
}

// shared is a folder of what the arena's users share.
func shared(name string) string { return filepath.Join(os.Getenv(sharedEnv), name) }

// layPrograms lays programs that give rights to whoever runs them where nothing keeps
// these from them.
func layPrograms(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	capable := filepath.Join(dir, "capable")
	copyProgram(t, "/usr/bin/python3", filepath.Join(dir, "setuid"), 0o755|os.ModeSetuid|os.ModeSetgid)
	copyProgram(t, "/usr/bin/python3", capable, 0o755)
	if os.Getuid() != 0 {
		return
	}
	// struct vfs_cap_data, version 2: CAP_NET_RAW, at once in effect.
	raw := "\x01\x00\x00\x02\x00\x20\x00\x00" + strings.Repeat("\x00", 12)
	if err := unix.Setxattr(capable, "security.capability", []byte(raw), 0); err != nil {
		t.Fatal(err)
	}
}

// layImage lays the files of an image with Python where all users of the arena read them.
func layImage(t *testing.T, dir string) {
	t.Helper()
	kept, err := attack.Debian(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "--recursive", "--no-dereference", "--preserve=mode", kept, dir).CombinedOutput(); err != nil {
		t.Fatalf("copy the image's files: %v: %s", err, out)
	}
}

// archive is an image's files as an archive for engines.
func (f *field) archive(t *testing.T, root string) *sandbox.Image {
	t.Helper()
	file := filepath.Join(f.dir, "layer-"+filepath.Base(root)+".tar")
	if out, err := exec.Command("tar", "--create", "--numeric-owner", "--file", file, "--directory", root, ".").CombinedOutput(); err != nil {
		t.Fatalf("pack the image: %v: %s", err, out)
	}
	layer, err := tarball.LayerFromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return &sandbox.Image{ID: id.String(), Archive: func() (io.ReadCloser, error) { return saved(img) }}
}

// linked is an image like the column's, with one tool and a link to the host in the
// mounts' place.
func (f *field) linked(t *testing.T, c fighter) *sandbox.Image {
	t.Helper()
	root := filepath.Join(f.dir, "linked-"+string(c.Kind))
	for _, err := range []error{
		os.MkdirAll(filepath.Join(root, "bin"), 0o755), os.Symlink(f.bait.Open, filepath.Join(root, "spare")),
		os.Symlink("busybox", filepath.Join(root, "bin", "sh")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	copyProgram(t, filepath.Join(shared("image"), "bin", "busybox"), filepath.Join(root, "bin", "busybox"), 0o755)
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	if c.Kind == attack.Container {
		return &sandbox.Image{ID: c.image.ID, Folder: root}
	}
	img := f.archive(t, root)
	if podman, ok := c.runtime.(*engine.Runtime); ok {
		t.Cleanup(func() { f.forget(t, podman, img) })
	}
	return img
}

func (f *field) forget(t *testing.T, r *engine.Runtime, img *sandbox.Image) {
	t.Helper()
	if err := r.Forget(context.Background(), img.ID); err != nil {
		t.Errorf("the image stays with the engine: %v", err)
	}
}

// saved is an image as `docker save` writes it.
func saved(img v1.Image) (io.ReadCloser, error) {
	tag, err := name.NewTag("spare.test/attacks:1")
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(tarball.Write(tag, img, w)) }()
	return r, nil
}

// loaded has podman load the image, and returns what it is known by.
func (f *field) loaded(t *testing.T) string {
	t.Helper()
	img := f.archive(t, shared("image"))
	in, err := img.Archive()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("podman", "load", "--quiet")
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("podman load: %v: %s", err, out)
	}
	id := strings.TrimPrefix(img.ID, "sha256:")
	t.Cleanup(func() {
		if out, err := exec.Command("podman", "rmi", "--force", id).CombinedOutput(); err != nil {
			t.Errorf("podman rmi: %v: %s", err, out)
		}
	})
	return id
}
