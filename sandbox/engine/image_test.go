package engine

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/spare-compute/spare/sandbox"
)

// busybox is a static program of many tools, which set-up installs.
var busybox = sync.OnceValues(func() ([]byte, error) { return os.ReadFile("/usr/bin/busybox") })

// file is one entry of an image's layer.
type file struct {
	name, text, link string
	mode             int64
	kind             byte
}

// layerOf packs files over a layer with busybox in it.
func layerOf(t testing.TB, files ...file) v1.Layer {
	t.Helper()
	box, err := busybox()
	if err != nil {
		t.Fatalf("%v (apt-get install busybox-static)", err)
	}
	all := append([]file{{name: "bin/busybox", text: string(box), mode: 0o755}}, files...)
	for _, tool := range strings.Fields("sh cat ls dd env id sleep true false tail mkdir chmod touch kill ps mount mknod nc echo test stat") {
		all = append(all, file{name: "bin/" + tool, link: "busybox", kind: tar.TypeSymlink})
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range all {
		if f.kind == 0 {
			f.kind = tar.TypeReg
		}
		h := &tar.Header{Name: f.name, Typeflag: f.kind, Linkname: f.link, Mode: f.mode, Size: int64(len(f.text))}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

// imageOf makes an image of busybox and some files, with its configuration changed.
func imageOf(t testing.TB, change func(*v1.ConfigFile), files ...file) *sandbox.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layerOf(t, files...))
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = runtime.GOARCH, "linux"
	config.Config.Entrypoint = []string{"/bin/echo", "the image's own entrypoint"}
	config.Config.User = "0"
	config.Config.WorkingDir = "/none"
	config.Config.Env = []string{"FROM_IMAGE=yes", "PATH=/bin"}
	if change != nil {
		change(config)
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return archived(t, img, config.Config.Env)
}

// archived is an image as package image hands it to an engine.
func archived(t testing.TB, img v1.Image, env []string) *sandbox.Image {
	t.Helper()
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag("spare.test/some/name:tag")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(ref, img, &b); err != nil {
		t.Fatal(err)
	}
	return &sandbox.Image{ID: id.String(), Env: env, Archive: opener(b.Bytes())}
}

func opener(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// entries unpacks an archive.
func entries(t testing.TB, raw []byte) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if all[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t testing.TB, img *sandbox.Image) []byte {
	t.Helper()
	r, err := img.Archive()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// repack writes an archive of files.
func repack(t testing.TB, b *bytes.Buffer, files map[string][]byte) {
	t.Helper()
	w := tar.NewWriter(b)
	for name, text := range files {
		if err := put(w, name, int64(len(text)), bytes.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestArchive_NamesAndAnnotationsAreLeftOut(t *testing.T) {
	img := imageOf(t, nil)
	var more bytes.Buffer
	w := tar.NewWriter(&more)
	for name, text := range entries(t, read(t, img)) {
		if err := put(w, name, int64(len(text)), bytes.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"index.json", "oci-layout", "repositories", "./index.json"} {
		if err := put(w, name, 2, strings.NewReader("{}")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := (&filter{id: img.ID, arch: runtime.GOARCH}).copy(&got, &more); err != nil {
		t.Fatal(err)
	}
	after := entries(t, got.Bytes())
	for _, name := range []string{"index.json", "oci-layout", "repositories"} {
		if _, there := after[name]; there {
			t.Errorf("%s is still there", name)
		}
	}
	if strings.Contains(string(after["manifest.json"]), "spare.test") {
		t.Errorf("%s", after["manifest.json"])
	}
	if len(after) != 3 {
		t.Errorf("%d entries", len(after))
	}
}

func TestArchive_RefusesWhatIsNotTheImage(t *testing.T) {
	img := imageOf(t, nil)
	whole := entries(t, read(t, img))
	other := imageOf(t, nil, file{name: "other", text: "x", mode: 0o644})
	configName := ""
	for name := range whole {
		if strings.Contains(name, strings.TrimPrefix(img.ID, "sha256:")) {
			configName = name
		}
	}
	for what, c := range map[string]struct {
		change func(map[string][]byte)
		id     string
		says   string
	}{
		"another image":            {func(map[string][]byte) {}, other.ID, "not " + other.ID},
		"a changed configuration":  {func(m map[string][]byte) { m[configName] = append(m[configName], ' ') }, img.ID, "another digest"},
		"no configuration":         {func(m map[string][]byte) { delete(m, configName) }, img.ID, "does not hold"},
		"no manifest":              {func(m map[string][]byte) { delete(m, "manifest.json") }, img.ID, "does not hold"},
		"two images":               {func(m map[string][]byte) { m["manifest.json"] = []byte(`[{},{}]`) }, img.ID, "one image"},
		"a manifest without sense": {func(m map[string][]byte) { m["manifest.json"] = []byte(`{`) }, img.ID, "one image"},
		"a way out":                {func(m map[string][]byte) { m["../x"] = nil }, img.ID, "outside"},
	} {
		files := map[string][]byte{}
		for k, v := range whole {
			files[k] = v
		}
		c.change(files)
		var b bytes.Buffer
		repack(t, &b, files)
		err := (&filter{id: c.id, arch: runtime.GOARCH}).copy(io.Discard, &b)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	cut := read(t, img)
	if err := (&filter{id: img.ID, arch: runtime.GOARCH}).copy(io.Discard, bytes.NewReader(cut[:len(cut)/2])); err == nil {
		t.Error("half an archive is an image")
	}
}

func TestArchive_RefusesImagesThatSteerEngines(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*v1.ConfigFile)
		says   string
	}{
		"a variable without a value, of the node's":   {func(f *v1.ConfigFile) { f.Config.Env = []string{"HOME"} }, "no value"},
		"every variable of the node's":                {func(f *v1.ConfigFile) { f.Config.Env = []string{"*"} }, "no value"},
		"a variable with a star":                      {func(f *v1.ConfigFile) { f.Config.Env = []string{"A*=b"} }, "no name"},
		"another processor":                           {func(f *v1.ConfigFile) { f.Architecture = "s390x" }, "s390x"},
		"another system":                              {func(f *v1.ConfigFile) { f.OS = "windows" }, "windows"},
		"a volume at /":                               {func(f *v1.ConfigFile) { f.Config.Volumes = map[string]struct{}{"/": {}} }, "volume"},
		"a volume that climbs":                        {func(f *v1.ConfigFile) { f.Config.Volumes = map[string]struct{}{"/a/../..": {}} }, "volume"},
		"a volume with options for the tmpfs over it": {func(f *v1.ConfigFile) { f.Config.Volumes = map[string]struct{}{"/a:rw,exec": {}} }, "volume"},
	} {
		img := imageOf(t, c.change)
		err := (&filter{id: img.ID, arch: runtime.GOARCH}).copy(io.Discard, bytes.NewReader(read(t, img)))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	deep := imageConfig{OS: "linux", Architecture: runtime.GOARCH}
	deep.RootFS.DiffIDs = make([]string, 10_000)
	if err := deep.check(runtime.GOARCH); err == nil || !strings.Contains(err.Error(), "10000 layers") {
		t.Errorf("ten thousand layers: %v", err)
	}
}

func TestImage_AnnotationsOfOneThatTheEngineHasAreRefused(t *testing.T) {
	account := map[string]any{
		"Id": strings.Repeat("a", 64), "Architecture": runtime.GOARCH, "Os": "linux", "RootFS": map[string]any{"Layers": []string{"sha256:x"}},
	}
	e := &engine{podman: true, about: about{arch: runtime.GOARCH}}
	try := func() error {
		raw, err := json.Marshal([]any{account})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = e.inspected(raw)
		return err
	}
	if err := try(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"io.podman.annotations.checkpoint.runtime.name", "run.oci.handler", "run.oci.hooks.stderr"} {
		account["Annotations"] = map[string]string{name: "krun"}
		if err := try(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzArchive holds the filter to its word: what it lets through has been checked.
func FuzzArchive(f *testing.F) {
	img, err := probeImage("amd64")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(read(f, img))
	f.Add([]byte("no archive"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := &filter{id: img.ID, arch: "amd64"}
		if c.copy(io.Discard, bytes.NewReader(raw)) == nil && (c.config == nil || !c.listed) {
			t.Error("an archive without the image passed")
		}
	})
}
