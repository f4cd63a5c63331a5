package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/spare-compute/spare"
)

// made is an image of layers that are not compressed, as its Source.
type made struct {
	ref   string
	blobs map[spare.Digest][]byte
}

func (m made) get(_ context.Context, d spare.Digest, offset int64, w io.Writer) error {
	_, err := w.Write(m.blobs[d][offset:])
	return err
}

func imageOf(t testing.TB, layers ...[]byte) made {
	t.Helper()
	m := made{blobs: map[spare.Digest][]byte{}}
	put := func(b []byte) map[string]any {
		d := spare.Sum(b)
		m.blobs[d] = b
		return map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha256:" + string(d), "size": len(b)}
	}
	doc := func(v any) []byte {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	var list, ids []any
	for _, l := range layers {
		list, ids = append(list, put(l)), append(ids, "sha256:"+string(spare.Sum(l)))
	}
	config := put(doc(map[string]any{"os": "linux", "architecture": runtime.GOARCH, "rootfs": map[string]any{"diff_ids": ids}}))
	config["mediaType"] = "application/vnd.oci.image.config.v1+json"
	raw := doc(map[string]any{"schemaVersion": 2, "config": config, "layers": list})
	put(raw)
	m.ref = "registry.test/image@sha256:" + string(spare.Sum(raw))
	return m
}

// layerOf is a layer of entries; a file's content is size zeros.
func layerOf(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeros{}, h.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// linked is a file of so many bytes with so many more names.
func linked(t testing.TB, size int64, names int) []byte {
	t.Helper()
	entries := []tar.Header{{Name: "big", Size: size}}
	for i := range names {
		entries = append(entries, tar.Header{Name: fmt.Sprintf("name%d", i), Typeflag: tar.TypeLink, Linkname: "big"})
	}
	return layerOf(t, entries...)
}

func store(t testing.TB, opt Options) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// onDisk is how many bytes of files lie below a folder, those with several names once.
func onDisk(t testing.TB, dir string) (n int64) {
	t.Helper()
	seen := map[inode]bool{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if id, several := inodeOf(info); several && seen[id] {
			return nil
		} else if several {
			seen[id] = true
		}
		n += info.Size()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// File systems have a most for one file's names, past which a copy stands in for a link.
func TestAttack_NamesBeyondWhatLinksAllowTakeNoMoreThanTheQuota(t *testing.T) {
	im := imageOf(t, linked(t, 4<<20, 40))
	for name, c := range map[string]struct {
		opt    Options
		why    func(error) bool
		atMost int64
	}{
		"the quota": {Options{Quota: 48 << 20}, func(err error) bool { return errors.Is(err, ErrFull) }, 48 << 20},
		"the limit": {Options{Quota: 1 << 30, Limits: Limits{Bytes: 16 << 20}}, func(err error) bool { return errors.As(err, new(*Refused)) }, 32 << 20},
	} {
		s := store(t, c.opt)
		var most int64
		copies := 0
		s.link = func(_ *os.Root, from, to string) error {
			if copies++; copies%4 == 0 {
				most = max(most, onDisk(t, s.dir))
			}
			return &os.LinkError{Op: "link", Old: from, New: to, Err: tooManyLinks}
		}
		if p, err := s.Ensure(t.Context(), im.ref, Unpacked, Fetch(im.get)); err == nil || !c.why(err) {
			t.Errorf("%s: %v, %v", name, p, err)
		}
		if most > c.atMost {
			t.Errorf("%s: %d MiB lay on the disk, %d are allowed", name, most>>20, c.atMost>>20)
		}
		if s.inflight != 0 {
			t.Errorf("%s: %d bytes stay reserved", name, s.inflight)
		}
	}
}

func Test_CopiesStandInForLinksAndForNothingElse(t *testing.T) {
	im := imageOf(t, linked(t, 1<<20, 3))
	s := store(t, Options{Quota: 1 << 30})
	s.link = func(_ *os.Root, from, to string) error {
		return &os.LinkError{Op: "link", Old: from, New: to, Err: syscall.EIO}
	}
	if _, err := s.Ensure(t.Context(), im.ref, Unpacked, Fetch(im.get)); !errors.Is(err, syscall.EIO) {
		t.Errorf("a disk that fails: %v", err)
	}
	s.link = func(_ *os.Root, from, to string) error {
		return &os.LinkError{Op: "link", Old: from, New: to, Err: tooManyLinks}
	}
	p, err := s.Ensure(t.Context(), im.ref, Unpacked, Fetch(im.get))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	if files, err := os.ReadDir(p.Image().Folder); err != nil || len(files) != 4 {
		t.Errorf("%d files, %v", len(files), err)
	}
	if st, err := s.Stats(); err != nil || st.Bytes < 5<<20 {
		t.Errorf("%+v, %v: copies do not count", st, err)
	}
}

func TestAttack_AnnouncedSizesDoNotSwitchTheQuotaOff(t *testing.T) {
	for size, ok := range map[int64]bool{-1: false, 0: true, 1 << 40: true, 1 << 45: false, math.MaxInt64: false} {
		d := descriptor{Digest: "sha256:" + strings.Repeat("0", 64), Size: size}
		if _, err := d.blob(); err == nil != ok {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	s := store(t, Options{Quota: 1 << 20})
	if err := s.reserve(1<<19, "a layer"); err != nil {
		t.Fatal(err)
	}
	for _, more := range []int64{1 << 20, math.MaxInt64 - 1<<18, math.MaxInt64} {
		if err := s.reserve(more, "a layer"); !errors.Is(err, ErrFull) {
			t.Errorf("%d bytes: %v", more, err)
		}
	}
	s.settle(1 << 19)
}

func TestAttack_NamesAndLinksTakeBoundedMemory(t *testing.T) {
	long := strings.Repeat(strings.Repeat("x", 240)+"/", 8)
	links := func(layer, n int) []byte {
		entries := make([]tar.Header, n)
		for i := range entries {
			entries[i] = tar.Header{Name: fmt.Sprintf("l%d-%d", layer, i), Typeflag: tar.TypeSymlink, Linkname: long}
		}
		return layerOf(t, entries...)
	}
	copied := []tar.Header{{Name: "first", Typeflag: tar.TypeSymlink, Linkname: long}}
	for i := range 400 {
		copied = append(copied, tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeLink, Linkname: "first"})
	}
	for name, c := range map[string]struct {
		layers [][]byte
		want   string
	}{
		"one layer":            {[][]byte{links(0, 400)}, "a layer's names and links have more than 640 KiB"},
		"several layers":       {[][]byte{links(0, 150), links(1, 150), links(2, 150)}, "its layers' names and links have more than 640 KiB"},
		"links to a long link": {[][]byte{layerOf(t, copied...)}, "a layer's names and links have more than 640 KiB"},
	} {
		s := store(t, Options{Quota: 1 << 30, Limits: Limits{Names: 640 << 10}})
		im := imageOf(t, c.layers...)
		if _, err := s.Ensure(t.Context(), im.ref, Unpacked, Fetch(im.get)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A record that cannot be written, on a full disk above all, must not leave a folder that
// the next try stumbles over.
func TestEnsure_WhatAFailedTryLeftIsNotInTheWay(t *testing.T) {
	im := imageOf(t, linked(t, 1<<10, 1))
	for _, in := range []string{layers, trees} {
		s := store(t, Options{Quota: 1 << 30})
		// Another call is under way, so that nothing is cleared in between.
		leave, err := s.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		plan, err := s.plan(t.Context(), mustRef(t, im.ref).Digest, Fetch(im.get))
		if err != nil {
			t.Fatal(err)
		}
		id := plan.config.Digest
		if in == layers {
			id = plan.diffIDs[0]
		}
		blocked := s.path(in, string(id)+recEnding)
		if err := os.MkdirAll(filepath.Join(blocked, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := s.unpackAll(t.Context(), mustRef(t, im.ref), plan, Fetch(im.get)); err == nil {
			t.Fatalf("%s: a record was written over a folder", in)
		}
		if !missing(s.path(in, string(id))) {
			t.Errorf("%s: a folder without a record is left", in)
		}
		// As a crash leaves it, if the folder could not be removed either.
		if err := errors.Join(os.RemoveAll(blocked), os.MkdirAll(s.path(in, string(id), "left"), 0o700)); err != nil {
			t.Fatal(err)
		}
		p, err := s.unpackAll(t.Context(), mustRef(t, im.ref), plan, Fetch(im.get))
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else {
			p.Release()
		}
		leave()
	}
}

func mustRef(t testing.TB, text string) Ref {
	t.Helper()
	r, err := ParseRef(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
