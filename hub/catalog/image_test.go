package catalog_test

import (
	"bytes"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/egress"
	"github.com/spare-compute/spare/hub/blob"
	"github.com/spare-compute/spare/hub/catalog"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/hub/store/sqlite"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/image/imagetest"
)

// newImages is a hub's images, in a store and blobs of their own.
func newImages(t *testing.T, rule egress.Rule) (*catalog.Shelf, store.Store, *blob.Disk) {
	t.Helper()
	st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "hub.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	blobs, err := blob.OpenDisk(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return catalog.NewShelf(catalog.ShelfConfig{
		Store: st, Apps: st, Blobs: blobs, Registries: image.NewRegistries(image.RegistryOptions{Rule: rule}),
	}), st, blobs
}

// send has an owner send all parts of an image.
func send(t *testing.T, s *catalog.Shelf, owner string, im *imagetest.Image) {
	t.Helper()
	for d, b := range im.Blobs {
		sendPart(t, s, owner, d, b)
	}
}

func sendPart(t *testing.T, s *catalog.Shelf, owner string, d spare.Digest, b []byte) {
	t.Helper()
	w, err := s.Begin(t.Context(), image.Blob{Digest: d, Size: int64(len(b))}, owner)
	if err == nil {
		_, err = w.Write(b[w.Offset():])
	}
	if err == nil {
		err = w.Commit()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func oneLayer(t *testing.T, text string) *imagetest.Image {
	t.Helper()
	return imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t, imagetest.File{Name: "f", Text: text}))
}

func TestShelf_ANameMeansWhatTheHubHasOrElseTheRegistry(t *testing.T) {
	loopback := egress.Rule{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	s, _, _ := newImages(t, loopback)
	r := imagetest.Serve(t)
	remote, local := oneLayer(t, "remote"), oneLayer(t, "local")
	pinned := r.Put("tools/video:1", remote)
	name := r.Host + "/tools/video:1"

	pin := func(ref string) (string, bool) {
		t.Helper()
		got, onHub, err := s.Pin(t.Context(), ref, "", "")
		if err != nil {
			t.Fatal(err)
		}
		return got, onHub
	}
	if got, onHub := pin(name); got != name+"@sha256:"+string(remote.Digest) || onHub {
		t.Errorf("from the registry: %s %v", got, onHub)
	}
	if got, onHub := pin(pinned); got != pinned || onHub {
		t.Errorf("pinned: %s %v", got, onHub)
	}
	send(t, s, "ann", local)
	if _, err := s.Put(t.Context(), name, local.Digest, "ann"); err != nil {
		t.Fatal(err)
	}
	r.Asked()
	if got, onHub := pin(name); got != name+"@sha256:"+string(local.Digest) || !onHub {
		t.Errorf("on the hub: %s %v", got, onHub)
	}
	if asked := r.Asked(); len(asked) > 0 {
		t.Errorf("the registry was asked %q", asked)
	}
	if _, onHub := pin("other.test/name@sha256:" + string(local.Digest)); !onHub {
		t.Error("the same image under another name is not found on the hub")
	}
	parts, err := s.Parts(t.Context(), name+"@sha256:"+string(local.Digest))
	if err != nil || len(parts) != 3 || !slices.Contains(parts, local.Layers[0]) {
		t.Errorf("parts %v, %v", parts, err)
	}
	if _, err := s.Parts(t.Context(), pinned); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

func TestShelf_WhatCannotBeResolvedSaysWhatToDo(t *testing.T) {
	r := imagetest.Serve(t)
	s, _, _ := newImages(t, egress.Rule{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	for ref, want := range map[string]string{
		r.Host + "/no/such:1":     "check the name",
		"127.0.0.1:1/tools:1":     "reaches no registry",
		"127.0.0.9:5000/tools:1":  "is a loopback address",
		"169.254.169.254/tools:1": "metadata",
		"10.0.0.1:5000/x:1":       "private address",
	} {
		_, _, err := s.Pin(t.Context(), ref, "", "")
		var refused *catalog.Refused
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "spare image push "+ref+" ARCHIVE") {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, _, err := s.Pin(t.Context(), "no name", "", ""); err == nil {
		t.Error("no name was taken")
	}
}

func TestShelf_AnImageThatAnActiveAppNeedsStays(t *testing.T) {
	s, st, _ := newImages(t, egress.Rule{})
	im := oneLayer(t, "one")
	send(t, s, "ann", im)
	for _, name := range []string{"registry.test/a:1", "registry.test/b:1"} {
		if _, err := s.Put(t.Context(), name, im.Digest, "ann"); err != nil {
			t.Fatal(err)
		}
	}
	app := spare.App{Name: "app", Version: "1", Kind: spare.KindApp, Active: true, ImageOnHub: true}
	app.Environment.Image = "registry.test/a:1@sha256:" + string(im.Digest)
	if _, err := st.PutApp(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), "registry.test/a:1", "ann", false); err != nil {
		t.Errorf("it stays under its other name: %v", err)
	}
	_, err := s.Remove(t.Context(), "registry.test/b:1", "ann", false)
	if !errors.Is(err, store.ErrConflict) || !strings.Contains(err.Error(), "app@1") {
		t.Error(err)
	}
	if err := st.SetActive(t.Context(), spare.KindApp, "app", "1", false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), "registry.test/b:1", "ann", false); err != nil {
		t.Error(err)
	}
}

func TestShelf_NamesOfOneDigestDoNotVouchForEachOther(t *testing.T) {
	s, st, _ := newImages(t, egress.Rule{})
	im := oneLayer(t, "one")
	send(t, s, "ann", im)
	for _, name := range []string{"registry.test/a:1", "registry.test/a:2"} {
		if _, err := s.Put(t.Context(), name, im.Digest, "ann"); err != nil {
			t.Fatal(err)
		}
	}
	app := spare.App{Name: "app", Version: "1", Kind: spare.KindApp, Active: true, ImageOnHub: true}
	app.Environment.Image = "registry.test/a:1@sha256:" + string(im.Digest)
	if _, err := st.PutApp(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	_, err := s.Remove(t.Context(), "registry.test/a@sha256:"+string(im.Digest), "ann", false)
	if !errors.Is(err, store.ErrConflict) || !strings.Contains(err.Error(), "app@1") {
		t.Error(err)
	}
	if all, err := s.List(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("%d of two names are left, %v", len(all), err)
	}
}

// A result of somebody else is a blob like a part of an image. Who knows its digest is
// not told that it is here, and gets it into no image.
func TestShelf_WhatOthersHaveIsNoPartOfMyImage(t *testing.T) {
	s, _, blobs := newImages(t, egress.Rule{})
	im := oneLayer(t, "what ann's job made")
	layer := im.Layers[0]
	if _, _, err := blobs.Put(t.Context(), bytes.NewReader(im.Blobs[layer])); err != nil {
		t.Fatal(err)
	}
	for d, b := range im.Blobs {
		if d != layer {
			sendPart(t, s, "bob", d, b)
		}
	}
	part := image.Blob{Digest: layer, Size: int64(len(im.Blobs[layer]))}
	for _, p := range []image.Blob{part, {Digest: layer, Size: part.Size + 1}} {
		if missing, err := s.Missing(t.Context(), []image.Blob{p}, "bob"); err != nil || len(missing) != 1 {
			t.Errorf("of %v bob is told %v, %v", p, missing, err)
		}
		w, err := s.Begin(t.Context(), p, "bob")
		if err != nil || w.Offset() != 0 {
			t.Fatalf("bob's transfer of %v begins at %v, %v", p, w, err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Put(t.Context(), "registry.test/stolen:1", im.Digest, "bob"); err == nil || !strings.Contains(err.Error(), "not here") {
		t.Errorf("bob's image: %v", err)
	}
	w, err := s.Begin(t.Context(), part, "bob")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, part.Size)); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("other bytes are taken for it: %v", err)
	}
	// Who has the bytes sends them, and they are kept once.
	sendPart(t, s, "bob", layer, im.Blobs[layer])
	if missing, err := s.Missing(t.Context(), []image.Blob{part}, "bob"); err != nil || len(missing) != 0 {
		t.Errorf("bob is told %v, %v", missing, err)
	}
	if missing, err := s.Missing(t.Context(), []image.Blob{part}, "eve"); err != nil || len(missing) != 1 {
		t.Errorf("eve is told %v, %v", missing, err)
	}
	if _, err := s.Put(t.Context(), "registry.test/mine:1", im.Digest, "bob"); err != nil {
		t.Error(err)
	}
	// What is in an image is for all who may use images.
	if missing, err := s.Missing(t.Context(), []image.Blob{part}, "eve"); err != nil || len(missing) != 0 {
		t.Errorf("eve is told %v, %v", missing, err)
	}
}

func TestShelf_TwoWhoSendOnePartDoNotMeet(t *testing.T) {
	s, _, _ := newImages(t, egress.Rule{})
	im := oneLayer(t, "one")
	d := im.Layers[0]
	p := image.Blob{Digest: d, Size: int64(len(im.Blobs[d]))}
	begin := func(owner string, at int64) blob.Writer {
		t.Helper()
		w, err := s.Begin(t.Context(), p, owner)
		if err != nil || w.Offset() != at {
			t.Fatalf("%s goes on at %v, %v; want %d", owner, w, err, at)
		}
		return w
	}
	w := begin("ann", 0)
	if _, err := w.Write(im.Blobs[d][:100]); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_ = begin("bob", 0).Close()
	w = begin("ann", 100)
	if _, err := w.Write(im.Blobs[d][100:]); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil { // the hub ends before it is looked at
		t.Fatal(err)
	}
	_ = begin("ann", p.Size).Close()
	if missing, err := s.Missing(t.Context(), []image.Blob{p}, "ann"); err != nil || len(missing) != 0 {
		t.Errorf("ann is told %v, %v", missing, err)
	}
}
