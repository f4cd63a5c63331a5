package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/spare-compute/spare"
)

// maxArchiveEntries is how many files an archive of an image may hold: some dozen for
// each of its layers.
const maxArchiveEntries = 10_000

// FromPath takes an image from this machine: an archive that `docker save` or `podman
// save` wrote, in their own format or OCI's, a folder in OCI's layout, or a folder with
// the root file system of one. What has to be made on the way lies in the folder work
// until Close.
func FromPath(ctx context.Context, name, work string) (*Content, error) {
	dir, err := os.MkdirTemp(work, "image-")
	if err != nil {
		return nil, err
	}
	c, err := fromPath(ctx, name, dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read image %s: %w", name, err), os.RemoveAll(dir))
	}
	c.close = func() error { return os.RemoveAll(dir) }
	return c, nil
}

func fromPath(ctx context.Context, name, work string) (*Content, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case info.IsDir() && !missing(filepath.Join(name, "index.json")) && !missing(filepath.Join(name, "oci-layout")):
		return fromLayout(ctx, &shelf{folder: name})
	case info.IsDir():
		return fromFolder(ctx, name, work)
	}
	s, err := openArchive(ctx, name, work)
	switch {
	case err != nil:
		return nil, err
	case s.has("index.json") && s.has("oci-layout"):
		return fromLayout(ctx, s)
	case s.has("manifest.json"):
		return fromSaved(ctx, s, work)
	}
	return nil, refuse("it is an archive of something else: no index.json and no manifest.json is in it")
}

// shelf is the files of an archive or a folder, by name.
type shelf struct {
	folder string
	files  map[string]section
	links  map[string]string // symbolic links, which some tools write for layers that repeat
}

func (s *shelf) has(name string) bool { _, ok := s.files[name]; return ok }

// find is where a file lies. Names in documents come from strangers.
func (s *shelf) find(name string) (section, error) {
	name = path.Clean(name)
	if to, ok := s.links[name]; ok {
		name = path.Join(path.Dir(name), to)
	}
	if s.folder == "" {
		f, ok := s.files[name]
		if !ok {
			return f, fmt.Errorf("%.100q: %w", name, ErrNotFound)
		}
		return f, nil
	}
	root, err := os.OpenRoot(s.folder)
	if err != nil {
		return section{}, err
	}
	defer func() { _ = root.Close() }()
	info, err := root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() {
		return section{}, fmt.Errorf("%.100q: %w", name, ErrNotFound)
	}
	return section{path: filepath.Join(s.folder, filepath.FromSlash(name)), size: info.Size()}, nil
}

func (s *shelf) read(name string) ([]byte, error) {
	f, err := s.find(name)
	if err != nil {
		return nil, err
	}
	return f.document()
}

// inflate decompresses an archive, under the limits for a layer.
func inflate(ctx context.Context, w io.Writer, r io.Reader) error {
	u := &unpacker{ctx: ctx, lim: Limits{}.withDefaults()}
	plain, stop, err := decompress(counted{u, r})
	if err != nil {
		return err
	}
	defer stop()
	_, err = io.CopyBuffer(w, &plainTar{u: u, r: plain}, make([]byte, copyBuffer))
	return err
}

// openArchive notes where in a tar its files lie. One that is compressed is written out
// first.
func openArchive(ctx context.Context, name, work string) (*shelf, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	source := f
	defer func() { _ = source.Close() }()
	first := make([]byte, 4)
	_, _ = f.ReadAt(first, 0)
	if bytes.HasPrefix(first, []byte("\x1f\x8b")) || bytes.HasPrefix(first, []byte("\x28\xb5\x2f\xfd")) {
		out, err := os.Create(filepath.Join(work, "plain.tar"))
		if err != nil {
			return nil, err
		}
		defer func() { _ = out.Close() }()
		if err := inflate(ctx, out, f); err != nil {
			return nil, err
		}
		f = out
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	s := &shelf{files: map[string]section{}, links: map[string]string{}}
	t := tar.NewReader(f)
	for range maxArchiveEntries {
		h, err := t.Next()
		if err == io.EOF {
			return s, nil
		}
		if err != nil {
			return nil, refuse("it is no whole tar archive (%v)", err)
		}
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := f.Seek(0, io.SeekCurrent) // the reader keeps nothing ahead
			if err != nil {
				return nil, err
			}
			s.files[path.Clean(h.Name)] = section{path: f.Name(), offset: at, size: h.Size}
		case tar.TypeSymlink, tar.TypeLink:
			to := h.Linkname
			if h.Typeflag == tar.TypeLink {
				to = strings.Repeat("../", strings.Count(path.Clean(h.Name), "/")) + to
			}
			s.links[path.Clean(h.Name)] = to
		}
	}
	return nil, refuse("it holds more than %d files: is it an archive of an image, or of a file system? Unpack the latter, and name the folder", maxArchiveEntries)
}

// fromLayout takes an image in OCI's layout.
func fromLayout(ctx context.Context, s *shelf) (*Content, error) {
	raw, err := s.read("index.json")
	if err != nil {
		return nil, err
	}
	index, err := readDocument(raw)
	if err != nil {
		return nil, err
	}
	l := &laid{shelf: s, docs: map[spare.Digest][]byte{}}
	switch n := len(index.Manifests); {
	case n == 0:
		return nil, refuse("there is no image in it")
	case n == 1:
		b, err := index.Manifests[0].blob()
		if err != nil {
			return nil, err
		}
		return FromSource(ctx, b.Digest, l)
	}
	for _, m := range index.Manifests {
		if m.Platform == nil {
			return nil, refuse("it holds %d images; save the one that is meant alone", len(index.Manifests))
		}
	}
	d := spare.Sum(raw) // one image for several platforms
	l.docs[d] = raw
	return FromSource(ctx, d, l)
}

// laid is a Source in OCI's layout.
type laid struct {
	*shelf
	docs map[spare.Digest][]byte
}

func (l *laid) source(d spare.Digest) (*local, error) {
	if _, ok := l.docs[d]; ok {
		return &local{docs: l.docs}, nil
	}
	f, err := l.find("blobs/sha256/" + string(d))
	return &local{blobs: map[spare.Digest]section{d: f}}, err
}

// Manifest implements Source.
func (l *laid) Manifest(ctx context.Context, d spare.Digest) ([]byte, error) {
	s, err := l.source(d)
	if err != nil {
		return nil, err
	}
	return s.Manifest(ctx, d)
}

// Blob implements Source.
func (l *laid) Blob(ctx context.Context, b Blob, offset int64, w io.Writer) error {
	s, err := l.source(b.Digest)
	if err != nil {
		return err
	}
	return s.Blob(ctx, b, offset, w)
}

// fromSaved takes what `docker save` wrote: layers that are not compressed, and no
// manifest with their digests. They are compressed here, the same way every time.
func fromSaved(ctx context.Context, s *shelf, work string) (*Content, error) {
	raw, err := s.read("manifest.json")
	if err != nil {
		return nil, err
	}
	var saved []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(raw, &saved); err != nil {
		return nil, refuse("its manifest.json is not valid (%v)", err)
	}
	if len(saved) != 1 {
		return nil, refuse("it holds %d images; save the one that is meant alone", len(saved))
	}
	config, err := s.read(saved[0].Config)
	if err != nil {
		return nil, err
	}
	if len(saved[0].Layers) > maxLayers {
		return nil, refuse("it has %d layers; %d are the most", len(saved[0].Layers), maxLayers)
	}
	a := newAssembly(work)
	for _, name := range saved[0].Layers {
		layer, err := s.find(name)
		if err != nil {
			return nil, err
		}
		if err := a.layer(ctx, layer); err != nil {
			return nil, fmt.Errorf("layer %.100q: %w", name, err)
		}
	}
	return a.finish(ctx, config)
}

// assembly makes an image of layers and a configuration.
type assembly struct {
	work   string
	from   *local
	layers []descriptor
}

func newAssembly(work string) *assembly {
	return &assembly{work: work, from: &local{docs: map[spare.Digest][]byte{}, blobs: map[spare.Digest]section{}}}
}

// layer takes one that may be compressed already.
func (a *assembly) layer(ctx context.Context, s section) error {
	r, c, err := s.open()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	first := make([]byte, 4)
	n, _ := r.(*io.SectionReader).ReadAt(first, 0)
	kind := types.MediaType("")
	switch first = first[:n]; {
	case bytes.HasPrefix(first, []byte("\x1f\x8b")):
		kind = types.OCILayer
	case bytes.HasPrefix(first, []byte("\x28\xb5\x2f\xfd")):
		kind = types.OCILayerZStd
	}
	if kind == "" {
		return a.compress(ctx, func(w io.Writer) error {
			_, err := io.CopyBuffer(w, r, make([]byte, copyBuffer))
			return err
		})
	}
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, r, make([]byte, copyBuffer)); err != nil {
		return err
	}
	a.put(kind, digestOf(sum.Sum(nil)), s)
	return nil
}

func (a *assembly) put(kind types.MediaType, d spare.Digest, s section) {
	a.from.blobs[d] = s
	a.layers = append(a.layers, descriptor{MediaType: kind, Digest: "sha256:" + string(d), Size: s.size})
}

// compress makes a layer of a tar that write writes.
func (a *assembly) compress(ctx context.Context, write func(io.Writer) error) error {
	f, err := os.CreateTemp(a.work, "layer-")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	out := &counting{w: io.MultiWriter(f, sum), ctx: ctx}
	// One at a time: what comes out must not depend on how many cores there are.
	z, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	if err := errors.Join(write(z), z.Close(), f.Close()); err != nil {
		return err
	}
	a.put(types.OCILayerZStd, digestOf(sum.Sum(nil)), section{path: f.Name(), size: out.n})
	return nil
}

type counting struct {
	ctx context.Context
	w   io.Writer
	n   int64
}

func (c *counting) Write(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// finish writes the manifest.
func (a *assembly) finish(ctx context.Context, config []byte) (*Content, error) {
	if _, err := readSettings(config, len(a.layers)); err != nil {
		return nil, err
	}
	d := spare.Sum(config)
	a.from.docs[d] = config
	raw, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": types.OCIManifestSchema1,
		"config": descriptor{MediaType: types.OCIConfigJSON, Digest: "sha256:" + string(d), Size: int64(len(config))},
		"layers": a.layers,
	})
	if err != nil {
		return nil, err
	}
	d = spare.Sum(raw)
	a.from.docs[d] = raw
	return FromSource(ctx, d, a.from)
}

// fromFolder takes a root file system as an image of one layer.
func fromFolder(ctx context.Context, dir, work string) (*Content, error) {
	a := newAssembly(work)
	sum := sha256.New()
	err := a.compress(ctx, func(w io.Writer) error { return writeFolder(dir, io.MultiWriter(w, sum)) })
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + string(digestOf(sum.Sum(nil)))}},
	})
	if err != nil {
		return nil, err
	}
	return a.finish(ctx, config)
}
