// Package imagetest makes OCI images, and a registry on loopback that serves them and
// misbehaves on request. It is called by tests alone.
package imagetest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/image"
)

// A File is an entry of a layer; the zero kind is a plain file.
type File struct {
	Name string
	Kind byte // as in tar
	Text string
	Link string
	Mode int64
	Time time.Time
}

// Dir is a folder.
func Dir(name string) File { return File{Name: name, Kind: tar.TypeDir, Mode: 0o755} }

// Tar is a layer as it is before it is compressed.
func Tar(tb testing.TB, files ...File) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Typeflag: f.Kind, Size: int64(len(f.Text)), Linkname: f.Link, Mode: f.Mode, ModTime: f.Time}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1_700_000_000, 0)
		}
		must(tb, w.WriteHeader(h))
		_, err := io.WriteString(w, f.Text)
		must(tb, err)
	}
	must(tb, w.Close())
	return b.Bytes()
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// Gzip and Zstd compress a layer.
func Gzip(tb testing.TB, b []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	must(tb, err)
	must(tb, w.Close())
	return out.Bytes()
}

// Zstd compresses a layer.
func Zstd(tb testing.TB, b []byte, opts ...zstd.EOption) []byte {
	tb.Helper()
	w, err := zstd.NewWriter(nil, opts...)
	must(tb, err)
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// Busybox is a layer with a whole little system, statically linked.
func Busybox(tb testing.TB) []byte {
	tb.Helper()
	program, err := os.ReadFile("/bin/busybox")
	must(tb, err)
	files := []File{Dir("bin"), Dir("tmp"), Dir("etc"), {Name: "bin/busybox", Text: string(program), Mode: 0o755}, {Name: "etc/motd", Text: "hello from the image\n"}}
	for _, name := range []string{"sh", "cat", "echo", "ls", "id"} {
		files = append(files, File{Name: "bin/" + name, Kind: tar.TypeSymlink, Link: "busybox"})
	}
	return Tar(tb, files...)
}

// Noise is bytes that do not compress.
func Noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return string(b)
}

// An Image is made and can be fetched: it is a Source.
type Image struct {
	Digest spare.Digest // of the manifest or index
	Config spare.Digest
	Layers []spare.Digest // of the blobs
	Plain  []spare.Digest // of the layers uncompressed
	Blobs  map[spare.Digest][]byte

	mu      sync.Mutex
	fetched int
}

// Options of an image; zero values are the ordinary ones.
type Options struct {
	Arch      string
	Env       []string
	LayerType string               // media type of all layers
	Change    func(map[string]any) // of the manifest, before it is written
	DiffIDs   []spare.Digest       // in place of the right ones
}

// Make makes an image of layers, which may be compressed.
func Make(tb testing.TB, opt Options, layers ...[]byte) *Image {
	tb.Helper()
	im := &Image{Blobs: map[spare.Digest][]byte{}}
	var list []any
	ids := []string{}
	for _, l := range layers {
		d := im.add(l)
		im.Layers = append(im.Layers, d)
		kind := opt.LayerType
		if kind == "" {
			kind = "application/vnd.oci.image.layer.v1.tar+gzip"
		}
		list = append(list, map[string]any{"mediaType": kind, "digest": "sha256:" + string(d), "size": len(l)})
		im.Plain = append(im.Plain, spare.Sum(plain(tb, l)))
		ids = append(ids, "sha256:"+string(im.Plain[len(im.Plain)-1]))
	}
	for i, d := range opt.DiffIDs {
		ids[i] = "sha256:" + string(d)
	}
	arch := opt.Arch
	if arch == "" {
		arch = runtime.GOARCH
	}
	config, err := json.Marshal(map[string]any{
		"architecture": arch, "os": "linux", "config": map[string]any{"Env": opt.Env, "Entrypoint": []string{"/not/ours"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
	must(tb, err)
	im.Config = im.add(config)
	m := map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:" + string(im.Config), "size": len(config)},
		"layers": list,
	}
	if opt.Change != nil {
		opt.Change(m)
	}
	raw, err := json.Marshal(m)
	must(tb, err)
	im.Digest = im.add(raw)
	return im
}

// Index joins images for several platforms.
func Index(tb testing.TB, images map[string]*Image) *Image {
	tb.Helper()
	index := &Image{Blobs: map[spare.Digest][]byte{}}
	var list []any
	for arch, im := range images {
		maps.Copy(index.Blobs, im.Blobs)
		list = append(list, map[string]any{
			"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:" + string(im.Digest),
			"size": len(im.Blobs[im.Digest]), "platform": map[string]any{"os": "linux", "architecture": arch},
		})
	}
	raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": list})
	must(tb, err)
	index.Digest = index.add(raw)
	return index
}

func (im *Image) add(b []byte) spare.Digest {
	d := spare.Sum(b)
	im.Blobs[d] = b
	return d
}

// Ref is the image's name with its digest.
func (im *Image) Ref() string { return "registry.test/image@sha256:" + string(im.Digest) }

// Fetched is how often anything was asked for.
func (im *Image) Fetched() int {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.fetched
}

// Fetch gives a blob, as a hub does.
func (im *Image) Fetch(_ context.Context, d spare.Digest, offset int64, w io.Writer) error {
	im.mu.Lock()
	im.fetched++
	im.mu.Unlock()
	b, ok := im.Blobs[d]
	if !ok || offset > int64(len(b)) {
		return fmt.Errorf("blob %s: %w", d.Short(), image.ErrNotFound)
	}
	_, err := w.Write(b[offset:])
	return err
}

// Source is the image as a hub gives it.
func (im *Image) Source() image.Source { return image.Fetch(im.Fetch) }

// plain decompresses a layer, or takes it as it is if it is damaged on purpose.
func plain(tb testing.TB, b []byte) []byte {
	tb.Helper()
	if bytes.HasPrefix(b, []byte("\x1f\x8b")) {
		r, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return b
		}
		if out, err := io.ReadAll(r); err == nil {
			return out
		}
		return b
	}
	if bytes.HasPrefix(b, []byte("\x28\xb5\x2f\xfd")) {
		r, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(4<<30))
		must(tb, err)
		defer r.Close()
		if out, err := r.DecodeAll(b, nil); err == nil {
			return out
		}
	}
	return b
}
