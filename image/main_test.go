package image_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/egress"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/image/imagetest"
	"github.com/spare-compute/spare/sandbox"
)

// The test program runs itself again: as a process to kill, and as an ordinary user.
const (
	roleVar = "SPARE_IMAGE_TEST_ROLE"
	dirVar  = "SPARE_IMAGE_TEST_DIR"
	refVar  = "SPARE_IMAGE_TEST_REF"
)

var roles = map[string]func(dir, ref string) error{"puller": pullOnce}

func TestMain(m *testing.M) {
	sandbox.Init()
	if role, ok := roles[os.Getenv(roleVar)]; ok {
		if err := role(os.Getenv(dirVar), os.Getenv(refVar)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// loopback is the rule under which tests call their own registry.
var loopback = egress.Rule{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}

// onlyOne leaves the rest of loopback as closed as it is elsewhere.
var onlyOne = egress.Rule{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}

// registries calls the tests' registry.
func registries(opt image.RegistryOptions) *image.Registries {
	opt.Rule = loopback
	return image.NewRegistries(opt)
}

func source(t testing.TB, ref string) image.Source {
	t.Helper()
	r, err := image.ParseRef(ref)
	must(t, err)
	return registries(image.RegistryOptions{}).Source(r, image.Credential{})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const room = 1 << 30

// open opens a store in a folder of its own.
func open(t testing.TB, dir string, quota int64) *image.Store {
	t.Helper()
	s, err := image.Open(dir, image.Options{Quota: quota})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// ensure wants an image to come, and releases it at the test's end.
func ensure(t testing.TB, s *image.Store, ref string, form image.Form, from image.Source) image.Image {
	t.Helper()
	p, err := s.Ensure(t.Context(), ref, form, from)
	must(t, err)
	t.Cleanup(p.Release)
	return p.Image()
}

// refused wants an image to be refused, in words that hold want, and nothing of it kept.
func refused(t testing.TB, im *imagetest.Image, opt image.Options, form image.Form, want string) {
	t.Helper()
	if opt.Quota == 0 {
		opt.Quota = room
	}
	dir := t.TempDir()
	s, err := image.Open(dir, opt)
	must(t, err)
	defer s.Close()
	p, err := s.Ensure(t.Context(), im.Ref(), form, im.Source())
	var r *image.Refused
	if err == nil {
		p.Release()
		t.Fatalf("%s: it was taken", want)
	}
	if !errors.As(err, &r) || !strings.Contains(err.Error(), want) {
		t.Fatalf("want a refusal that says %q, got: %v", want, err)
	}
	for _, sub := range []string{"layers", "trees", "tmp"} {
		for _, name := range list(t, filepath.Join(dir, sub)) {
			if sub != "layers" { // a good layer of a bad image may stay
				t.Errorf("%s/%s is left", sub, name)
			}
		}
	}
}

// list names what is below a folder, links with their targets, folders with a slash.
func list(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		switch {
		case d.IsDir():
			rel += "/"
		case d.Type()&fs.ModeSymlink != 0:
			to, linkErr := os.Readlink(p)
			rel, err = rel+" -> "+to, linkErr
		}
		all = append(all, rel)
		return err
	})
	must(t, err)
	return all
}

func read(t testing.TB, parts ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	must(t, err)
	return string(b)
}

// pullOnce pulls an image from a registry and says where it is.
func pullOnce(dir, ref string) error {
	s, err := image.Open(dir, image.Options{Quota: 4 << 30})
	if err != nil {
		return err
	}
	r, err := image.ParseRef(ref)
	if err != nil {
		return err
	}
	p, err := s.Ensure(context.Background(), ref, image.Unpacked, registries(image.RegistryOptions{}).Source(r, image.Credential{}))
	if err != nil {
		return err
	}
	fmt.Println(p.Image().Folder)
	return nil
}

// arrived is how many bytes of an image's layers a store needs no more.
func arrived(dir string, im *imagetest.Image) (n int64) {
	for i, d := range im.Layers {
		if _, err := os.Stat(filepath.Join(dir, "layers", string(im.Plain[i])+".rec")); err == nil {
			n += int64(len(im.Blobs[d]))
			continue
		}
		for _, in := range []string{"blobs", "partial"} {
			if info, err := os.Stat(filepath.Join(dir, in, string(d))); err == nil {
				n += info.Size()
			}
		}
	}
	return n
}

func layersOf(im *imagetest.Image) (n int64) {
	for _, d := range im.Layers {
		n += int64(len(im.Blobs[d]))
	}
	return n
}

// askedOf is how many bytes of an image's layers a request asks for.
func askedOf(im *imagetest.Image, req *http.Request) int64 {
	_, hex, ok := strings.Cut(req.URL.Path, "/blobs/sha256:")
	d := spare.Digest(hex)
	if !ok || !slices.Contains(im.Layers, d) {
		return 0
	}
	var from int64
	_, _ = fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-", &from)
	return int64(len(im.Blobs[d])) - from
}
