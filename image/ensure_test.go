package image_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/image/imagetest"
)

// small is an image of n layers with a file of some KiB each.
func small(t testing.TB, n int) *imagetest.Image {
	t.Helper()
	var layers [][]byte
	for i := range n {
		layers = append(layers, imagetest.Gzip(t, imagetest.Tar(t, File{Name: fmt.Sprintf("d/f%d", i), Text: imagetest.Noise(20_000)}, File{Name: "same", Text: fmt.Sprint(i)})))
	}
	return imagetest.Make(t, imagetest.Options{}, layers...)
}

func TestEnsure_ASecondStartAsksNobody(t *testing.T) {
	im, dir := small(t, 3), t.TempDir()
	for _, form := range []image.Form{image.Unpacked, image.Packed} {
		first := ensure(t, open(t, dir, room), im.Ref(), form, im.Source())
		asked := im.Fetched()
		again := ensure(t, open(t, dir, room), im.Ref(), form, nil)
		if im.Fetched() != asked || again.ID != first.ID || again.Folder != first.Folder || !slices.Equal(again.Env, first.Env) {
			t.Errorf("%s: %+v, then %+v", form, first, again)
		}
	}
}

func TestEnsure_WantsADigest(t *testing.T) {
	s := open(t, t.TempDir(), room)
	if _, err := s.Ensure(t.Context(), "registry.test/image:latest", image.Unpacked, nil); err == nil || !strings.Contains(err.Error(), "names no digest") {
		t.Error(err)
	}
	if _, err := s.Ensure(t.Context(), small(t, 1).Ref(), image.Unpacked, nil); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
}

func TestEnsure_LayersAreSharedBetweenImages(t *testing.T) {
	base := imagetest.Gzip(t, imagetest.Tar(t, File{Name: "base", Text: imagetest.Noise(1 << 20)}))
	one := imagetest.Make(t, imagetest.Options{}, base, imagetest.Tar(t, File{Name: "one"}))
	two := imagetest.Make(t, imagetest.Options{}, base, imagetest.Tar(t, File{Name: "two"}))
	s := open(t, t.TempDir(), room)
	a := ensure(t, s, one.Ref(), image.Unpacked, one.Source())
	before := two.Fetched()
	b := ensure(t, s, two.Ref(), image.Unpacked, two.Source())
	if n := two.Fetched() - before; n != 3 { // manifest, configuration, one layer
		t.Errorf("%d parts were fetched", n)
	}
	ia, err := os.Stat(filepath.Join(a.Folder, "base"))
	must(t, err)
	ib, err := os.Stat(filepath.Join(b.Folder, "base"))
	must(t, err)
	if !os.SameFile(ia, ib) {
		t.Error("the base lies there twice")
	}
	if st, err := s.Stats(); err != nil || st.Layers != 3 || st.Images != 2 || st.Bytes > 2<<20 {
		t.Errorf("%+v %v", st, err)
	}
}

// What is dropped once it is unpacked does not take room twice.
func TestEnsure_UnpackedImagesKeepNoBlobs(t *testing.T) {
	im, dir := small(t, 3), t.TempDir()
	ensure(t, open(t, dir, room), im.Ref(), image.Unpacked, im.Source())
	for _, sub := range []string{"blobs", "partial", "tmp"} {
		if left := list(t, filepath.Join(dir, sub)); len(left) > 0 {
			t.Errorf("%s holds %q", sub, left)
		}
	}
}

func TestEnsure_WhatIsDamagedHeals(t *testing.T) {
	glob := func(dir, pattern string) string {
		all, err := filepath.Glob(filepath.Join(dir, pattern))
		must(t, err)
		if len(all) == 0 {
			t.Fatalf("nothing is like %s", pattern)
		}
		return all[0]
	}
	for name, c := range map[string]struct {
		form    image.Form
		damage  func(dir string) error
		offline bool // what is left suffices
	}{
		"a file of the image is gone":     {image.Unpacked, func(d string) error { return os.Remove(glob(d, "trees/*/d/f0")) }, true},
		"a file of the image was changed": {image.Unpacked, func(d string) error { return os.WriteFile(glob(d, "trees/*/d/f0"), []byte("x"), 0o644) }, false},
		"same size, same time":            {image.Unpacked, func(d string) error { return flip(glob(d, "trees/*/d/f0")) }, false},
		"a file of a layer is gone": {image.Unpacked, func(d string) error {
			return errors.Join(os.Remove(glob(d, "layers/*/d/f0")), os.Remove(glob(d, "trees/*.rec")))
		}, false},
		"a layer is gone": {image.Unpacked, func(d string) error {
			return errors.Join(os.RemoveAll(glob(d, "layers/*/")), os.Remove(glob(d, "trees/*.rec")))
		}, false},
		"something was put in": {image.Unpacked, func(d string) error { return os.WriteFile(filepath.Join(glob(d, "trees/*/d"), "more"), nil, 0o644) }, true},
		"a file became a link": {image.Unpacked, func(d string) error {
			f := glob(d, "trees/*/d/f0")
			return errors.Join(os.Remove(f), os.Symlink("/etc/passwd", f))
		}, true},
		"the record is gone":    {image.Unpacked, func(d string) error { return os.Remove(glob(d, "trees/*.rec")) }, false},
		"the record is cut":     {image.Unpacked, func(d string) error { return os.Truncate(glob(d, "trees/*.rec"), 400) }, true},
		"the record is garbage": {image.Unpacked, func(d string) error { return os.WriteFile(glob(d, "trees/*.rec"), []byte("\x00"), 0o600) }, false},
		"a layer's record is garbage": {image.Unpacked, func(d string) error {
			return errors.Join(os.WriteFile(glob(d, "layers/*.rec"), []byte("{}\n"), 0o600), os.RemoveAll(glob(d, "trees/*/")))
		}, false},
		"the image's folder is gone": {image.Unpacked, func(d string) error { return os.RemoveAll(glob(d, "trees/*/")) }, true},
		"a blob is gone":             {image.Packed, func(d string) error { return os.Remove(glob(d, "blobs/*")) }, false},
		"a blob was cut": {image.Packed, func(d string) error {
			return chmodThen(glob(d, "blobs/*"), func(p string) error { return os.Truncate(p, 10) })
		}, false},
		"a packed image's record is empty": {image.Packed, func(d string) error { return os.Truncate(glob(d, "packed/*.rec"), 0) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			im, dir := small(t, 1), t.TempDir()
			p, err := open(t, dir, room).Ensure(t.Context(), im.Ref(), c.form, im.Source())
			must(t, err)
			want := list(t, filepath.Join(dir, "trees"))
			p.Release()
			must(t, c.damage(dir))
			from := im.Source()
			if c.offline {
				// What led to the image is asked for again, the layers are not.
				from = image.Fetch(func(ctx context.Context, d spare.Digest, offset int64, w io.Writer) error {
					if slices.Contains(im.Layers, d) {
						return errors.New("a layer was asked for")
					}
					return im.Fetch(ctx, d, offset, w)
				})
			}
			got := ensure(t, open(t, dir, room), im.Ref(), c.form, from)
			if c.form == image.Packed {
				r, err := got.Archive()
				must(t, err)
				_, err = io.Copy(io.Discard, r)
				must(t, err)
				return
			}
			if have := list(t, filepath.Join(dir, "trees")); !slices.Equal(have, want) {
				t.Errorf("it holds %q\nwant %q", have, want)
			}
			if text := read(t, got.Folder, "d/f0"); len(text) != 20_000 || text == strings.Repeat("x", 20_000) {
				t.Errorf("it holds %.20q…", text)
			}
		})
	}
}

func chmodThen(path string, then func(string) error) error {
	return errors.Join(os.Chmod(path, 0o600), then(path))
}

// flip changes a byte behind the back of sizes and times.
func flip(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, 100)
	_, writeErr := f.WriteAt([]byte{b[0] ^ 1}, 100)
	return errors.Join(err, writeErr, f.Close(), os.Chtimes(path, info.ModTime(), info.ModTime()))
}

func TestEnsure_ManyCallersAtOnceFetchOnce(t *testing.T) {
	im, dir := small(t, 4), t.TempDir()
	stores := []*image.Store{open(t, dir, room), open(t, dir, room)} // as two processes have it
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			p, err := stores[i%2].Ensure(t.Context(), im.Ref(), image.Unpacked, im.Source())
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Release()
			if len(list(t, p.Image().Folder)) != 6 {
				t.Errorf("it holds %q", list(t, p.Image().Folder))
			}
		})
	}
	wg.Wait()
	if n := im.Fetched(); n != 6 {
		t.Errorf("%d parts were fetched, want 6", n)
	}
}

func TestEnsure_EndsWithItsContext(t *testing.T) {
	im, why := small(t, 2), errors.New("the owner is back")
	ctx, cancel := context.WithCancelCause(t.Context())
	dir := t.TempDir()
	_, err := open(t, dir, room).Ensure(ctx, im.Ref(), image.Unpacked, image.Fetch(func(ctx context.Context, d spare.Digest, offset int64, w io.Writer) error {
		if !slices.Contains(im.Layers, d) {
			return im.Fetch(ctx, d, offset, w)
		}
		_, _ = w.Write(im.Blobs[d][:1000])
		cancel(why)
		<-ctx.Done()
		return context.Cause(ctx)
	}))
	if !errors.Is(err, why) {
		t.Fatal(err)
	}
	if parts := list(t, filepath.Join(dir, "partial")); len(parts) == 0 {
		t.Error("the beginnings are lost")
	}
	// They are gone on with.
	asked := map[spare.Digest]int64{}
	var mu sync.Mutex
	ensure(t, open(t, dir, room), im.Ref(), image.Unpacked, image.Fetch(func(ctx context.Context, d spare.Digest, offset int64, w io.Writer) error {
		mu.Lock()
		asked[d] = max(asked[d], offset)
		mu.Unlock()
		return im.Fetch(ctx, d, offset, w)
	}))
	if len(asked) != 2 {
		t.Errorf("%d parts were asked for, want the 2 layers alone", len(asked))
	}
	if o := max(asked[im.Layers[0]], asked[im.Layers[1]]); o != 1000 {
		t.Errorf("it goes on at %d, want 1000", o)
	}
}

func TestQuota_LeastRecentlyUsedGoesFirstAndWhatIsInUseStays(t *testing.T) {
	const one, quota = 4 << 20, 13 << 20
	make4 := func() *imagetest.Image {
		return imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t, File{Name: "f", Text: imagetest.Noise(one - 64<<10)}))
	}
	// A blob and its files lie there together for a moment.
	a, b, c, d := make4(), make4(), make4(), make4()
	dir := t.TempDir()
	s := open(t, dir, quota)
	pinned, err := s.Ensure(t.Context(), a.Ref(), image.Unpacked, a.Source())
	must(t, err)
	for _, im := range []*imagetest.Image{b, c, d} {
		p, err := s.Ensure(t.Context(), im.Ref(), image.Unpacked, im.Source())
		must(t, err)
		p.Release()
		if st, err := s.Stats(); err != nil || st.Bytes > quota {
			t.Errorf("%+v %v", st, err)
		}
	}
	if text := read(t, pinned.Image().Folder, "f"); len(text) != one-64<<10 {
		t.Error("what is in use was removed")
	}
	// d was used last, then released; b and c had to go.
	for im, want := range map[*imagetest.Image]bool{a: true, b: false, c: false, d: true} {
		p, err := s.Ensure(t.Context(), im.Ref(), image.Unpacked, nil)
		if (err == nil) != want {
			t.Errorf("there: %v, want %v", err, want)
		}
		if err == nil {
			p.Release()
		}
	}
	other, err := open(t, dir, quota).Ensure(t.Context(), d.Ref(), image.Unpacked, nil) // another process
	must(t, err)
	_, err = s.Ensure(t.Context(), b.Ref(), image.Unpacked, b.Source())
	if !errors.Is(err, image.ErrFull) || !strings.Contains(err.Error(), "images may take 13 MiB") {
		t.Errorf("with all in use: %v", err)
	}
	other.Release()
	pinned.Release()
	p, err := s.Ensure(t.Context(), b.Ref(), image.Unpacked, b.Source())
	must(t, err)
	p.Release()
	must(t, s.SetQuota(t.Context(), 0))
	if st, err := s.Stats(); err != nil || st.Bytes != 0 {
		t.Errorf("with a quota of nothing: %+v %v", st, err)
	}
}

func TestQuota_RoomThatIsShortIsUsedOneLayerAtATime(t *testing.T) {
	var layers [][]byte
	for i := range 6 {
		layers = append(layers, imagetest.Tar(t, File{Name: fmt.Sprint(i), Text: imagetest.Noise(3 << 20)}))
	}
	im := imagetest.Make(t, imagetest.Options{}, layers...)
	got := ensure(t, open(t, t.TempDir(), 22<<20), im.Ref(), image.Unpacked, im.Source()) // 18 MiB and one blob
	if len(list(t, got.Folder)) != 6 {
		t.Errorf("it holds %q", list(t, got.Folder))
	}
}

func Test_ARunThatStartsWhileRoomIsMadeIsNotPulledAway(t *testing.T) {
	var images []*imagetest.Image
	for range 4 {
		images = append(images, imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t, File{Name: "f", Text: imagetest.Noise(1 << 20)})))
	}
	dir := t.TempDir()
	var wg sync.WaitGroup
	deadline := time.Now().Add(time.Second)
	for i := range 3 {
		s := open(t, dir, 7<<20)
		wg.Go(func() {
			for n := i; time.Now().Before(deadline); n++ {
				im := images[n%len(images)]
				p, err := s.Ensure(t.Context(), im.Ref(), image.Unpacked, im.Source())
				if err != nil {
					if !errors.Is(err, image.ErrFull) {
						t.Error(err)
					}
					continue
				}
				if b, err := os.ReadFile(filepath.Join(p.Image().Folder, "f")); err != nil || len(b) != 1<<20 {
					t.Errorf("%d bytes, %v", len(b), err)
				}
				p.Release()
			}
		})
	}
	wg.Wait()
}

func TestPacked_IsWhatDockerSaves(t *testing.T) {
	im := imagetest.Make(t, imagetest.Options{},
		imagetest.Gzip(t, imagetest.Tar(t, File{Name: "a", Text: "1"})), imagetest.Zstd(t, imagetest.Tar(t, File{Name: "b", Text: "2"})),
		imagetest.Gzip(t, imagetest.Tar(t, File{Name: "a", Text: "1"})))
	got := ensure(t, open(t, t.TempDir(), room), im.Ref(), image.Packed, im.Source())
	var first []byte
	for range 2 {
		r, err := got.Archive()
		must(t, err)
		b, err := io.ReadAll(r)
		must(t, err)
		must(t, r.Close())
		if first != nil && !slices.Equal(first, b) {
			t.Error("two archives of one image differ")
		}
		first = b
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	must(t, os.WriteFile(file, first, 0o644))
	c, err := image.FromPath(t.Context(), file, t.TempDir())
	must(t, err)
	defer c.Close()
	s := open(t, t.TempDir(), room)
	back := ensure(t, s, "local/x@sha256:"+string(c.Digest), image.Unpacked, c)
	if back.ID != got.ID || read(t, back.Folder, "a")+read(t, back.Folder, "b") != "12" {
		t.Errorf("%+v became %+v", got, back)
	}
}
