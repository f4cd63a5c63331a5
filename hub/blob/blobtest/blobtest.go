// Package blobtest is the conformance suite of blob stores: what every one of them must
// do, whatever it keeps its content in. Tests of a store call Run.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/blob"
)

// Store is what a blob store does.
type Store interface {
	Put(ctx context.Context, r io.Reader) (spare.Digest, int64, error)
	PutFile(ctx context.Context, path string) (spare.Digest, int64, error)
	Stat(d spare.Digest) (int64, error)
	Open(d spare.Digest, offset int64) (io.ReadCloser, int64, error)
	Path(d spare.Digest) string
	Partial(d spare.Digest, size int64) (blob.Writer, error)
	Sweep(ctx context.Context, keep map[spare.Digest]struct{}, olderThan time.Duration) (int, int64, error)
}

// Run checks a store; open gives an empty one for each test.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for name, test := range map[string]func(*testing.T, Store){
		"WhatIsPutIsReadBack":              whatIsPutIsReadBack,
		"ReadingStartsAtAnyOffset":         readingStartsAtAnyOffset,
		"AnUnknownBlobIsNotFound":          anUnknownBlobIsNotFound,
		"AFailedReaderLeavesNothing":       aFailedReaderLeavesNothing,
		"AnEndedContextStopsAPut":          anEndedContextStopsAPut,
		"AFileIsTakenIn":                   aFileIsTakenIn,
		"AFileWithTwoNamesIsCopied":        aFileWithTwoNamesIsCopied,
		"ALinkToABlobIsTheBlob":            aLinkToABlobIsTheBlob,
		"OnlyRegularFilesAreTakenIn":       onlyRegularFilesAreTakenIn,
		"EqualContentIsKeptOnce":           equalContentIsKeptOnce,
		"ManyMayPutTheSameAtOnce":          manyMayPutTheSameAtOnce,
		"AnUploadGoesOnWhereItStopped":     anUploadGoesOnWhereItStopped,
		"AnUploadMustMatchItsDigest":       anUploadMustMatchItsDigest,
		"AnUploadMayNotExceedItsSize":      anUploadMayNotExceedItsSize,
		"AnUploadCannotEndEarly":           anUploadCannotEndEarly,
		"AnUploadOfWhatIsHereNeedsNothing": anUploadOfWhatIsHereNeedsNothing,
		"TwoUploadsOfTheSameDoNotMix":      twoUploadsOfTheSameDoNotMix,
		"AnEmptyBlobIsABlob":               anEmptyBlobIsABlob,
		"ASweepTakesOnlyWhatNobodyNeeds":   aSweepTakesOnlyWhatNobodyNeeds,
		"ASweepSparesWhatIsPutAgain":       aSweepSparesWhatIsPutAgain,
		"ASweepSparesUploadsUnderWay":      aSweepSparesUploadsUnderWay,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func content(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}).Read(b)
	return b
}

func put(t *testing.T, s Store, b []byte) spare.Digest {
	t.Helper()
	d, n, err := s.Put(t.Context(), bytes.NewReader(b))
	if err != nil || n != int64(len(b)) || d != spare.Sum(b) {
		t.Fatalf("Put of %d bytes = %s, %d, %v", len(b), d.Short(), n, err)
	}
	return d
}

func read(t *testing.T, s Store, d spare.Digest, offset int64) []byte {
	t.Helper()
	r, _, err := s.Open(d, offset)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func absent(t *testing.T, s Store, d spare.Digest) {
	t.Helper()
	if _, err := s.Stat(d); !errors.Is(err, blob.ErrNotFound) {
		t.Fatalf("Stat = %v, want ErrNotFound", err)
	}
}

func begin(t *testing.T, s Store, d spare.Digest, size int) blob.Writer {
	t.Helper()
	w, err := s.Partial(d, int64(size))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func write(t *testing.T, w io.Writer, b []byte) {
	t.Helper()
	if n, err := w.Write(b); n != len(b) || err != nil {
		t.Fatalf("Write of %d bytes = %d, %v", len(b), n, err)
	}
}

func whatIsPutIsReadBack(t *testing.T, s Store) {
	for _, n := range []int{1, 4096, 3<<20 + 17} {
		b := content(n)
		d := put(t, s, b)
		if got := read(t, s, d, 0); !bytes.Equal(got, b) {
			t.Fatalf("%d bytes came back as %d others", n, len(got))
		}
		if size, err := s.Stat(d); size != int64(n) || err != nil {
			t.Fatalf("Stat = %d, %v", size, err)
		}
		if onDisk, err := os.ReadFile(s.Path(d)); err != nil || !bytes.Equal(onDisk, b) {
			t.Fatalf("Path does not lead to the content: %v", err)
		}
	}
}

func readingStartsAtAnyOffset(t *testing.T, s Store) {
	b := content(1000)
	d := put(t, s, b)
	for _, offset := range []int64{0, 1, 999, 1000} {
		if got := read(t, s, d, offset); !bytes.Equal(got, b[offset:]) {
			t.Fatalf("from %d: %d bytes, want %d", offset, len(got), 1000-offset)
		}
	}
	for _, offset := range []int64{-1, 1001} {
		if r, _, err := s.Open(d, offset); err == nil {
			r.Close()
			t.Fatalf("offset %d was taken", offset)
		}
	}
}

func anUnknownBlobIsNotFound(t *testing.T, s Store) {
	for _, d := range []spare.Digest{spare.Sum([]byte("never put")), "", "../../etc/passwd", spare.Digest("ab/" + string(make([]byte, 61)))} {
		absent(t, s, d)
		if _, _, err := s.Open(d, 0); !errors.Is(err, blob.ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("Open(%q) = %v, want ErrNotFound", d, err)
		}
	}
}

func aFailedReaderLeavesNothing(t *testing.T, s Store) {
	broken := errors.New("the line broke")
	b := content(700_000)
	_, _, err := s.Put(t.Context(), io.MultiReader(bytes.NewReader(b), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) {
		t.Fatalf("Put = %v, want the reader's error", err)
	}
	absent(t, s, spare.Sum(b))
}

func anEndedContextStopsAPut(t *testing.T, s Store) {
	ctx, cancel := context.WithCancel(t.Context())
	b := content(1 << 20)
	half := len(b) / 2
	stop := readerFunc(func([]byte) (int, error) { cancel(); return 0, nil })
	_, _, err := s.Put(ctx, io.MultiReader(bytes.NewReader(b[:half]), stop, bytes.NewReader(b[half:])))
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("Put = %v, want Canceled", err)
	}
	absent(t, s, spare.Sum(b))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func file(t *testing.T, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "input.mp4")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func aFileIsTakenIn(t *testing.T, s Store) {
	b := content(100_000)
	for range 2 { // the second time its content is here already
		path := file(t, b)
		d, n, err := s.PutFile(t.Context(), path)
		if err != nil || d != spare.Sum(b) || n != int64(len(b)) {
			t.Fatalf("PutFile = %s, %d, %v", d.Short(), n, err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("the file is still there: %v", err)
		}
		if !bytes.Equal(read(t, s, d, 0), b) {
			t.Fatal("the content differs")
		}
	}
}

func aFileWithTwoNamesIsCopied(t *testing.T, s Store) {
	b := content(10_000)
	path := file(t, b)
	other := path + ".other"
	if err := os.Link(path, other); err != nil {
		t.Fatal(err)
	}
	d, _, err := s.PutFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, []byte("changed afterwards"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, s, d, 0), b) {
		t.Fatal("the blob was changed through the file's other name")
	}
}

func aLinkToABlobIsTheBlob(t *testing.T, s Store) {
	b := content(10_000)
	d := put(t, s, b)
	before, err := os.Stat(s.Path(d))
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(filepath.Dir(s.Path(d)), "link")
	if err := os.Link(s.Path(d), link); err != nil {
		t.Fatal(err)
	}
	if got, n, err := s.PutFile(t.Context(), link); err != nil || got != d || n != int64(len(b)) {
		t.Fatalf("PutFile = %s, %d, %v", got.Short(), n, err)
	}
	after, err := os.Stat(s.Path(d))
	if err != nil || !os.SameFile(before, after) {
		t.Fatalf("the blob is another file now: %v", err)
	}
	if _, err := os.Lstat(link); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the link is still there: %v", err)
	}
}

func onlyRegularFilesAreTakenIn(t *testing.T, s Store) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file(t, []byte("x")), link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, link, filepath.Join(dir, "missing")} {
		if _, _, err := s.PutFile(t.Context(), path); err == nil {
			t.Fatalf("%s was taken in", path)
		}
	}
}

func equalContentIsKeptOnce(t *testing.T, s Store) {
	b := content(5000)
	if first, second := put(t, s, b), put(t, s, b); first != second {
		t.Fatalf("%s and %s", first, second)
	}
	if n, bytes, err := s.Sweep(t.Context(), nil, 0); n != 1 || bytes != 5000 || err != nil {
		t.Fatalf("Sweep = %d, %d, %v, want the one blob", n, bytes, err)
	}
}

func manyMayPutTheSameAtOnce(t *testing.T, s Store) {
	b := content(300_000)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			var d spare.Digest
			var err error
			switch i % 3 {
			case 0:
				d, _, err = s.Put(t.Context(), bytes.NewReader(b))
			case 1:
				d, _, err = s.PutFile(t.Context(), file(t, b))
			case 2:
				var w blob.Writer
				if w, err = s.Partial(spare.Sum(b), int64(len(b))); err == nil {
					_, err = w.Write(b[w.Offset():])
					err = errors.Join(err, w.Commit(), w.Close())
				}
				d = spare.Sum(b)
			}
			if err != nil || d != spare.Sum(b) {
				t.Errorf("put %d = %s, %v", i, d.Short(), err)
			}
		})
	}
	wg.Wait()
	if !bytes.Equal(read(t, s, spare.Sum(b), 0), b) {
		t.Fatal("the content differs")
	}
}

func anUploadGoesOnWhereItStopped(t *testing.T, s Store) {
	b := content(500_000)
	d := spare.Sum(b)
	for _, end := range []int{1, 200_000, 500_000} {
		w := begin(t, s, d, len(b))
		write(t, w, b[w.Offset():end])
		absent(t, s, d)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		w = begin(t, s, d, len(b))
		if w.Offset() != int64(end) {
			t.Fatalf("goes on at %d, want %d", w.Offset(), end)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	w := begin(t, s, d, len(b))
	if err := errors.Join(w.Commit(), w.Close()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, s, d, 0), b) {
		t.Fatal("the content differs")
	}
}

func anUploadMustMatchItsDigest(t *testing.T, s Store) {
	b := content(1000)
	d := spare.Sum(b)
	w := begin(t, s, d, len(b))
	write(t, w, content(1001)[:1000])
	if err := w.Commit(); !errors.Is(err, blob.ErrMismatch) {
		t.Fatalf("Commit = %v, want ErrMismatch", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	absent(t, s, d)
	w = begin(t, s, d, len(b))
	if w.Offset() != 0 {
		t.Fatalf("goes on at %d of wrong content", w.Offset())
	}
	write(t, w, b)
	if err := errors.Join(w.Commit(), w.Close()); err != nil {
		t.Fatal(err)
	}
}

func anUploadMayNotExceedItsSize(t *testing.T, s Store) {
	b := content(1000)
	w := begin(t, s, spare.Sum(b), 999)
	defer w.Close()
	if _, err := w.Write(b); !errors.Is(err, blob.ErrMismatch) {
		t.Fatalf("Write = %v, want ErrMismatch", err)
	}
	if _, err := s.Partial(spare.Sum(b), -1); !errors.Is(err, blob.ErrMismatch) {
		t.Fatalf("a blob of -1 bytes: %v, want ErrMismatch", err)
	}
	if _, err := s.Partial("../x", 1); !errors.Is(err, blob.ErrMismatch) {
		t.Fatalf("a digest that is none: %v, want ErrMismatch", err)
	}
}

func anUploadCannotEndEarly(t *testing.T, s Store) {
	b := content(1000)
	w := begin(t, s, spare.Sum(b), len(b))
	write(t, w, b[:999])
	if err := w.Commit(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("Commit = %v, want ErrUnexpectedEOF", err)
	}
	write(t, w, b[999:]) // it was early, not wrong
	if err := errors.Join(w.Commit(), w.Close()); err != nil {
		t.Fatal(err)
	}
}

func anUploadOfWhatIsHereNeedsNothing(t *testing.T, s Store) {
	b := content(1000)
	d := put(t, s, b)
	w := begin(t, s, d, len(b))
	if w.Offset() != 1000 {
		t.Fatalf("Offset = %d, want all of it", w.Offset())
	}
	if err := errors.Join(w.Commit(), w.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Partial(d, 999); !errors.Is(err, blob.ErrMismatch) {
		t.Fatalf("another size: %v, want ErrMismatch", err)
	}
}

func twoUploadsOfTheSameDoNotMix(t *testing.T, s Store) {
	b := content(1000)
	d := spare.Sum(b)
	one, two := begin(t, s, d, len(b)), begin(t, s, d, len(b))
	write(t, one, b[:600])
	write(t, two, b[:300])
	write(t, two, b[300:])
	write(t, one, b[600:])
	if err := errors.Join(two.Commit(), one.Commit(), one.Close(), two.Close()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, s, d, 0), b) {
		t.Fatal("the content differs")
	}
}

func anEmptyBlobIsABlob(t *testing.T, s Store) {
	d := put(t, s, nil)
	if got := read(t, s, d, 0); len(got) != 0 {
		t.Fatalf("%d bytes of nothing", len(got))
	}
	if _, _, err := s.Sweep(t.Context(), nil, 0); err != nil {
		t.Fatal(err)
	}
	w := begin(t, s, d, 0)
	if err := errors.Join(w.Commit(), w.Close()); err != nil {
		t.Fatal(err)
	}
	if size, err := s.Stat(d); size != 0 || err != nil {
		t.Fatalf("Stat = %d, %v", size, err)
	}
}

func aSweepTakesOnlyWhatNobodyNeeds(t *testing.T, s Store) {
	needed, unneeded := put(t, s, content(100)), put(t, s, content(200))
	keep := map[spare.Digest]struct{}{needed: {}}
	if n, freed, err := s.Sweep(t.Context(), keep, time.Hour); n != 0 || freed != 0 || err != nil {
		t.Fatalf("fresh blobs: Sweep = %d, %d, %v", n, freed, err)
	}
	if n, freed, err := s.Sweep(t.Context(), keep, 0); n != 1 || freed != 200 || err != nil {
		t.Fatalf("Sweep = %d, %d, %v", n, freed, err)
	}
	absent(t, s, unneeded)
	if !bytes.Equal(read(t, s, needed, 0), content(100)) {
		t.Fatal("a needed blob was touched")
	}
}

func aSweepSparesWhatIsPutAgain(t *testing.T, s Store) {
	b := content(400)
	d := put(t, s, b)
	old := time.Now().Add(-2 * time.Hour)
	for name, again := range map[string]func(){
		"Put": func() { put(t, s, b) },
		"PutFile": func() {
			path := file(t, b)
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.PutFile(t.Context(), path); err != nil {
				t.Fatal(err)
			}
		},
		"Partial": func() {
			w := begin(t, s, d, len(b))
			if err := errors.Join(w.Commit(), w.Close()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		if err := os.Chtimes(s.Path(d), old, old); err != nil {
			t.Fatal(err)
		}
		again()
		if n, _, err := s.Sweep(t.Context(), nil, time.Hour); n != 0 || err != nil {
			t.Fatalf("%s: Sweep = %d, %v, want the blob spared", name, n, err)
		}
	}
}

func aSweepSparesUploadsUnderWay(t *testing.T, s Store) {
	b := content(1000)
	w := begin(t, s, spare.Sum(b), len(b))
	write(t, w, b[:500])
	if _, _, err := s.Sweep(t.Context(), nil, 0); err != nil {
		t.Fatal(err)
	}
	write(t, w, b[500:])
	if err := errors.Join(w.Commit(), w.Close()); err != nil {
		t.Fatal(err)
	}
	stopped := begin(t, s, spare.Sum(content(2000)), 2000)
	write(t, stopped, content(2000)[:10])
	if err := stopped.Close(); err != nil {
		t.Fatal(err)
	}
	if _, freed, err := s.Sweep(t.Context(), nil, 0); freed != 1010 || err != nil {
		t.Fatalf("Sweep freed %d, %v, want the blob and the stopped upload", freed, err)
	}
}
