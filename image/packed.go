package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spare-compute/spare"
)

// pack has an image's blobs in place for an engine.
func (s *Store) pack(ctx context.Context, ref Ref, p plan, from Source) (*Pin, error) {
	packed := make([]packedLayer, len(p.layers))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce[0])
	for i := range p.layers {
		group.Go(func() (err error) {
			packed[i], err = s.packLayer(ctx, p, i, from)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := s.opt.Limits.check(packed); err != nil {
		return nil, err
	}
	id := p.config.Digest
	rec := record{head: head{ID: id, Refs: s.refs(p.docs, nil), Env: p.env, Packed: packed, Config: id}}
	if err := writeRecord(s.path(tmp), s.rec(packeds, id), rec); err != nil {
		return nil, diskError(s.dir, err)
	}
	s.setChecked(packeds + "/" + string(id))
	for _, d := range p.docs {
		s.dropBlob(d)
	}
	return s.keep(ref, Packed, id)
}

// check holds an image's layers against the limits together: engines keep each layer by
// itself, whatever others replace of it.
func (lim Limits) check(packed []packedLayer) error {
	var bytes int64
	var entries, words int
	for _, l := range packed {
		if l.bytes > lim.Bytes-bytes {
			return refuse("its layers unpack to more than %d MiB", lim.Bytes>>20)
		}
		bytes += l.bytes
		entries += l.entries
		words += l.words
	}
	switch {
	case entries > lim.Entries:
		return refuse("its layers hold more than %d files", lim.Entries)
	case words > lim.Names:
		return refuse("its layers' names and links have more than %d KiB", lim.Names>>10)
	}
	return nil
}

// packLayer has one blob in place and checks what is in it: the engine shall not be the
// first to find out.
func (s *Store) packLayer(ctx context.Context, p plan, i int, from Source) (packedLayer, error) {
	b := p.layers[i]
	unlock, err := s.one(ctx, blobs+"/"+string(b.Digest))
	if err != nil {
		return packedLayer{}, err
	}
	defer unlock()
	what := fmt.Sprintf("layer %d of %d", i+1, len(p.layers))
	if err := s.blob(ctx, b, what, from); err != nil {
		return packedLayer{}, err
	}
	l, err := s.inspect(ctx, b, p.diffIDs[i])
	if err != nil {
		return l, fmt.Errorf("%s: %w", what, err)
	}
	return l, nil
}

// inspect reads a layer through without unpacking it, and refuses what unpacking would, as
// far as that can be told without laying it out.
func (s *Store) inspect(ctx context.Context, b Blob, id spare.Digest) (packedLayer, error) {
	f, err := os.Open(s.path(blobs, string(b.Digest)))
	if err != nil {
		return packedLayer{}, err
	}
	defer func() { _ = f.Close() }()
	u := &unpacker{
		ctx: ctx, lim: s.opt.Limits, buf: make([]byte, copyBuffer),
		meter: meter{what: "a layer", most: s.opt.Limits.Bytes, reserve: func(int64) error { return nil }},
	}
	folders := map[string]bool{}
	plain, stop, err := decompress(counted{u, f})
	if err != nil {
		return packedLayer{}, err
	}
	defer stop()
	whole := &plainTar{u: u, r: plain, sum: sha256.New()}
	t := tar.NewReader(whole)
	for err == nil {
		var h *tar.Header
		if h, err = t.Next(); err == nil {
			err = u.look(h, folders)
		}
	}
	if err == io.EOF {
		err = u.bomb(u.bytes)
	}
	if err == nil {
		_, err = io.CopyBuffer(io.Discard, whole, u.buf)
	}
	if err != nil {
		return packedLayer{}, u.explain(err)
	}
	if got := digestOf(whole.sum.Sum(nil)); got != id {
		return packedLayer{}, fmt.Errorf("%w: uncompressed it has the digest %s and should have %s", ErrCorrupt, got.Short(), id.Short())
	}
	return packedLayer{Blob: b.Digest, DiffID: id, Plain: u.plain, bytes: u.bytes, entries: u.entries, words: u.words}, nil
}

// look refuses names that lead elsewhere and more than the limits allow, for engines too.
// folders are those seen so far: an engine makes those above a name by itself.
func (u *unpacker) look(h *tar.Header, folders map[string]bool) error {
	// What the entry before claims to hold has been read by now, as far as it is there.
	if err := u.bomb(u.bytes); err != nil {
		return err
	}
	name, err := clean(h.Name)
	if errors.Is(err, errRoot) {
		return u.count(h.Name)
	}
	if err != nil {
		return err
	}
	_, is, skip, err := mark(name)
	if err != nil || is || skip {
		return errors.Join(err, u.count(name))
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.lookFolders(name, folders)
	case tar.TypeReg, tar.TypeGNUSparse:
		if h.Size > u.lim.Bytes { // before it is rounded up
			return refuse("a layer unpacks to more than %d MiB", u.lim.Bytes>>20)
		}
		if err := u.take(max(block, roundUp(h.Size))); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := errors.Join(u.say(h.Linkname), u.take(block)); err != nil {
			return err
		}
	case tar.TypeLink:
		if _, bad := clean(h.Linkname); bad != nil {
			return &Refused{Name: name, Reason: fmt.Sprintf("is a hard link to %.200q, which is no file of an image", h.Linkname)}
		}
	case tar.TypeFifo:
	case tar.TypeXGlobalHeader:
		return u.count(name)
	case tar.TypeChar, tar.TypeBlock:
		// Left out where images are unpacked here; an engine would make it.
		return &Refused{Name: name, Reason: "is a device"}
	default:
		return &Refused{Name: h.Name, Reason: fmt.Sprintf("is of the unknown kind %q", h.Typeflag)}
	}
	dir, _ := split(name)
	return errors.Join(u.count(name), u.lookFolders(dir, folders))
}

// count counts an entry.
func (u *unpacker) count(name string) error {
	if u.entries++; u.entries > u.lim.Entries {
		return refuse("a layer holds more than %d files", u.lim.Entries)
	}
	return u.say(name)
}

// lookFolders counts a folder and those above it, each once.
func (u *unpacker) lookFolders(name string, folders map[string]bool) error {
	for name != "" && !folders[name] {
		if err := errors.Join(u.count(name), u.take(block)); err != nil {
			return err
		}
		folders[name] = true
		name, _ = split(name)
	}
	return nil
}

// wholePacked reads all blobs of a packed image through.
func (s *Store) wholePacked(h head) bool {
	parts := []spare.Digest{h.Config}
	for _, l := range h.Packed {
		parts = append(parts, l.Blob)
	}
	for _, d := range parts {
		path := s.path(blobs, string(d))
		if s.wasChecked(blobs+"/"+string(d)) && !missing(path) {
			continue
		}
		if got, err := digestFile(path); err != nil || got != d {
			return false
		}
		s.setChecked(blobs + "/" + string(d))
	}
	return true
}

// archive streams a packed image as `docker save` writes it, which every engine loads:
// the configuration as it is, so that the engine's id of the image is ours, and the
// layers uncompressed, since not every engine knows every compression. Equal images give
// equal bytes.
func (s *Store) archive(h head) (io.ReadCloser, error) {
	config, err := os.ReadFile(s.path(blobs, string(h.Config)))
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", h.ID.Short(), err)
	}
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(s.writeArchive(w, h, config)) }()
	return r, nil
}

func (s *Store) writeArchive(w io.Writer, h head, config []byte) error {
	type one struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	im := one{Config: string(h.ID) + ".json", Layers: []string{}}
	for _, l := range h.Packed {
		im.Layers = append(im.Layers, string(l.DiffID)+".tar")
	}
	manifest, err := json.Marshal([]one{im})
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	put := func(name string, size int64, content []byte) error {
		err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)})
		if err == nil {
			_, err = t.Write(content)
		}
		return err
	}
	if err := errors.Join(put("manifest.json", int64(len(manifest)), manifest), put(im.Config, int64(len(config)), config)); err != nil {
		return err
	}
	done := map[spare.Digest]bool{}
	for _, l := range h.Packed {
		if done[l.DiffID] {
			continue
		}
		done[l.DiffID] = true
		if err := put(string(l.DiffID)+".tar", l.Plain, nil); err != nil {
			return err
		}
		if err := s.writeLayer(t, l); err != nil {
			return fmt.Errorf("layer %s: %w", l.DiffID.Short(), err)
		}
	}
	return t.Close()
}

func (s *Store) writeLayer(w io.Writer, l packedLayer) error {
	f, err := os.Open(s.path(blobs, string(l.Blob)))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	plain, stop, err := decompress(f)
	if err != nil {
		return err
	}
	defer stop()
	_, err = io.CopyBuffer(w, plain, make([]byte, copyBuffer))
	return err
}
