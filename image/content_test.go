package image_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/image/imagetest"
)

// layout writes an image as OCI's layout.
func layout(t *testing.T, images ...*imagetest.Image) string {
	t.Helper()
	dir := t.TempDir()
	var list []any
	must(t, os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755))
	for _, im := range images {
		for d, b := range im.Blobs {
			must(t, os.WriteFile(filepath.Join(dir, "blobs", "sha256", string(d)), b, 0o644))
		}
		list = append(list, map[string]any{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:" + string(im.Digest), "size": len(im.Blobs[im.Digest])})
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": list})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "index.json"), index, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
	return dir
}

// saved is an image as `docker save` writes it: layers in folders of their own, the last
// a link to another, and names that mean nothing.
func saved(t *testing.T, layers ...[]byte) []byte {
	t.Helper()
	config := map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers"}}
	var ids, names []string
	var files []File
	for i, l := range layers {
		name := string(rune('a'+i)) + "/layer.tar"
		names = append(names, name)
		ids = append(ids, "sha256:"+string(spare.Sum(l)))
		if i > 0 && bytes.Equal(l, layers[i-1]) {
			files = append(files, File{Name: name, Kind: tar.TypeSymlink, Link: "../" + names[i-1]})
			continue
		}
		files = append(files, File{Name: name, Text: string(l)})
	}
	config["rootfs"].(map[string]any)["diff_ids"] = ids
	raw, err := json.Marshal(config)
	must(t, err)
	manifest, err := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{"x:1"}, "Layers": names}})
	must(t, err)
	return imagetest.Tar(t, append(files, File{Name: "config.json", Text: string(raw)}, File{Name: "manifest.json", Text: string(manifest)})...)
}

// take has an image from a path unpacked.
func take(t *testing.T, path string) (*image.Content, image.Image) {
	t.Helper()
	c, err := image.FromPath(t.Context(), path, t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	s, err := image.Open(t.TempDir(), image.Options{Quota: room, Platform: c.Platforms[0]})
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return c, ensure(t, s, "local/image@sha256:"+string(c.Digest), image.Unpacked, c)
}

func TestFromPath_TakesLayoutsAndArchivesOfThem(t *testing.T) {
	im := small(t, 2)
	dir := layout(t, im)
	c, got := take(t, dir)
	if c.Digest != im.Digest || got.ID != "sha256:"+string(im.Config) || len(c.Blobs) != 4 || c.Size() == 0 {
		t.Errorf("%+v %+v", c, got)
	}
	var files []File
	for _, name := range list(t, dir) {
		if !strings.HasSuffix(name, "/") {
			files = append(files, File{Name: "./" + name, Text: read(t, dir, name)})
		}
	}
	for name, archive := range map[string][]byte{
		"plain": imagetest.Tar(t, files...), "gzip": imagetest.Gzip(t, imagetest.Tar(t, files...)), "zstd": imagetest.Zstd(t, imagetest.Tar(t, files...)),
	} {
		path := filepath.Join(t.TempDir(), "image.tar")
		must(t, os.WriteFile(path, archive, 0o644))
		if c, _ := take(t, path); c.Digest != im.Digest {
			t.Errorf("%s: it became %s", name, c.Digest)
		}
	}
}

func TestFromPath_TakesWhatDockerSaves(t *testing.T) {
	layer := imagetest.Tar(t, File{Name: "f", Text: strings.Repeat("text ", 10_000)})
	path := filepath.Join(t.TempDir(), "saved.tar")
	must(t, os.WriteFile(path, saved(t, imagetest.Tar(t, File{Name: "g"}), layer, layer), 0o644))
	c, got := take(t, path)
	again, _ := take(t, path)
	if c.Digest != again.Digest {
		t.Error("the same archive became another image")
	}
	if c.Size() > 20_000 {
		t.Errorf("its layers are not compressed: %d bytes", c.Size())
	}
	if files := list(t, got.Folder); !slices.Equal(files, []string{"f", "g"}) {
		t.Errorf("it holds %q", files)
	}
}

func TestFromPath_TakesARootFileSystem(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "usr", "bin"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "usr", "bin", "tool"), []byte("#!"), 0o700))
	must(t, os.Link(filepath.Join(dir, "usr", "bin", "tool"), filepath.Join(dir, "usr", "bin", "other")))
	must(t, os.Symlink("usr/bin", filepath.Join(dir, "bin")))
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "leak")))
	when := time.Unix(1_600_000_000, 0)
	must(t, os.Chtimes(filepath.Join(dir, "usr", "bin", "tool"), when, when))
	c, got := take(t, dir)
	if files := list(t, got.Folder); !slices.Equal(files, []string{"bin -> usr/bin", "leak -> /etc/passwd", "usr/", "usr/bin/", "usr/bin/other", "usr/bin/tool"}) {
		t.Errorf("it holds %q", files)
	}
	info, err := os.Stat(filepath.Join(got.Folder, "usr", "bin", "other"))
	must(t, err)
	if info.Mode().Perm() != 0o755 || !info.ModTime().Equal(when) {
		t.Errorf("%v of %v", info.Mode(), info.ModTime())
	}
	again, _ := take(t, dir)
	if c.Digest != again.Digest {
		t.Error("the same folder became another image")
	}
}

func TestFromPath_RefusesWhatIsNoImage(t *testing.T) {
	write := func(name string, content []byte) string {
		path := filepath.Join(t.TempDir(), name)
		must(t, os.WriteFile(path, content, 0o644))
		return path
	}
	odd := t.TempDir()
	must(t, os.WriteFile(filepath.Join(odd, ".wh.x"), nil, 0o644))
	var many []File
	for i := range 10_001 {
		many = append(many, File{Name: strings.Repeat("x", 1+i%200) + string(rune('a'+i/200))})
	}
	two := saved(t, imagetest.Tar(t, File{Name: "f"}))
	two = bytes.Replace(two, []byte(`"Layers":["a/layer.tar"]`), []byte(`"Layers":["../ayer.tar"]`), 1)
	for want, path := range map[string]string{
		"no index.json and no manifest": write("x.tar", imagetest.Tar(t, File{Name: "bin/sh"})),
		"no whole tar":                  write("x.tar", []byte(strings.Repeat("no tar at all ", 100))),
		"there is no file in it":        t.TempDir(),
		"give it another name":          odd,
		"it holds 2 images":             layout(t, small(t, 1), small(t, 1)),
		"Unpack the latter":             write("x.tar", imagetest.Tar(t, many...)),
		"no such":                       write("x.tar", two),
	} {
		work := t.TempDir()
		if _, err := image.FromPath(t.Context(), path, work); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		if left := list(t, work); len(left) > 0 {
			t.Errorf("%s: %q is left", want, left)
		}
	}
}

func TestFromSource_TakesOnlyThePlatformsThatAreWanted(t *testing.T) {
	build := func(arch string) *imagetest.Image {
		return imagetest.Make(t, imagetest.Options{Arch: arch}, imagetest.Tar(t, File{Name: arch}))
	}
	index := imagetest.Index(t, map[string]*imagetest.Image{"amd64": build("amd64"), "arm64": build("arm64"), "s390x": build("s390x")})
	all, err := image.FromSource(t.Context(), index.Digest, index.Source())
	must(t, err)
	if len(all.Platforms) != 3 || len(all.Blobs) != 10 || !all.Document(index.Digest) {
		t.Errorf("%+v", all)
	}
	some, err := image.FromSource(t.Context(), index.Digest, index.Source(), "linux/arm64")
	must(t, err)
	if !slices.Equal(some.Platforms, []string{"linux/arm64"}) || len(some.Blobs) != 4 {
		t.Errorf("%+v", some)
	}
	var refused *image.Refused
	if _, err := image.FromSource(t.Context(), index.Digest, index.Source(), "linux/riscv64"); !errors.As(err, &refused) {
		t.Error(err)
	}
	// What an index names and nobody has is left out, as long as something is there.
	for _, m := range some.Blobs[:3] {
		delete(index.Blobs, m.Digest)
	}
	rest, err := image.FromSource(t.Context(), index.Digest, index.Source())
	must(t, err)
	if len(rest.Platforms) != 2 {
		t.Errorf("%+v", rest)
	}
}
