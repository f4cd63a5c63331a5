package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/spare-compute/spare"
)

// source hands out content as a hub would and counts what it was asked.
type source struct {
	content []byte
	asked   []int64
	cut     int // break off after so many bytes, once
	err     error
}

func (s *source) fetch(_ context.Context, offset int64, w io.Writer) error {
	s.asked = append(s.asked, offset)
	rest := s.content[offset:]
	if s.cut > 0 {
		rest, s.cut = rest[:s.cut], 0
		_, err := w.Write(rest)
		return errors.Join(err, s.err, io.ErrUnexpectedEOF)
	}
	_, err := w.Write(rest)
	return err
}

func open(t *testing.T, dir string, quota int64) *Cache {
	t.Helper()
	c, err := Open(dir, quota)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = RemoveAll(dir) })
	return c
}

func get(t *testing.T, c *Cache, s *source) *Pin {
	t.Helper()
	p, err := c.Blob(t.Context(), spare.Sum(s.content), int64(len(s.content)), s.fetch)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func content(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7) ^ seed
	}
	return b
}

func TestCache_ResumesAtTheByteAlsoAfterARestart(t *testing.T) {
	dir := t.TempDir()
	s := &source{content: content(1000, 1), cut: 400}
	d := spare.Sum(s.content)
	if _, err := open(t, dir, 1<<20).Blob(t.Context(), d, 1000, s.fetch); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("a cut download gave %v", err)
	}
	p := get(t, open(t, dir, 1<<20), s)
	defer p.Release()
	if got, _ := os.ReadFile(p.Path()); !bytes.Equal(got, s.content) {
		t.Error("the blob is not what was sent")
	}
	if fmt.Sprint(s.asked) != "[0 400]" {
		t.Errorf("asked from offsets %v, want [0 400]", s.asked)
	}
}

func TestCache_HitAsksNothing(t *testing.T) {
	c := open(t, t.TempDir(), 1<<20)
	s := &source{content: content(10, 2)}
	get(t, c, s).Release()
	get(t, c, s).Release()
	if len(s.asked) != 1 {
		t.Errorf("asked %d times, want once", len(s.asked))
	}
}

func TestCache_DamagedBlobIsFetchedAgainAfterARestart(t *testing.T) {
	dir := t.TempDir()
	s := &source{content: content(500, 3)}
	p := get(t, open(t, dir, 1<<20), s)
	if err := os.Chmod(p.Path(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Path(), content(500, 4), 0o600); err != nil {
		t.Fatal(err)
	}
	p = get(t, open(t, dir, 1<<20), s)
	if got, _ := os.ReadFile(p.Path()); !bytes.Equal(got, s.content) {
		t.Error("a damaged blob was used")
	}
}

func TestCache_DamagedPartialIsStartedOver(t *testing.T) {
	dir := t.TempDir()
	s := &source{content: content(500, 5)}
	d := spare.Sum(s.content)
	c := open(t, dir, 1<<20)
	if err := os.WriteFile(filepath.Join(dir, "partial", string(d)), content(200, 6), 0o600); err != nil {
		t.Fatal(err)
	}
	get(t, c, s).Release()
	if fmt.Sprint(s.asked) != "[200 0]" {
		t.Errorf("asked from offsets %v, want [200 0]", s.asked)
	}
}

func TestCache_LiesAreNotTaken(t *testing.T) {
	for name, lie := range map[string][]byte{
		"other bytes": content(100, 8), "too few": content(99, 7), "too many": content(101, 7),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := open(t, dir, 1<<20)
			_, err := c.Blob(t.Context(), spare.Sum(content(100, 7)), 100, (&source{content: append(lie, lie...)[:len(lie)]}).fetch)
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("got %v, want ErrCorrupt", err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
			if s := c.Stats(); s.Bytes != 0 {
				t.Errorf("the cache counts %d bytes", s.Bytes)
			}
		})
	}
	if _, err := open(t, t.TempDir(), 1).Blob(t.Context(), "../../etc/passwd", 1, nil); err == nil {
		t.Error("a path was taken for a digest")
	}
}

func TestCache_LeastRecentlyUsedGoesFirstAndPinnedStays(t *testing.T) {
	c := open(t, t.TempDir(), 250)
	a, b, d := &source{content: content(100, 10)}, &source{content: content(100, 11)}, &source{content: content(100, 12)}
	get(t, c, a).Release()
	get(t, c, b).Release()
	pin := get(t, c, a) // used again, and held
	get(t, c, d).Release()
	if _, err := os.Stat(c.file(key{blob, spare.Sum(b.content)})); err == nil {
		t.Error("the least recently used blob is still there")
	}
	if _, err := os.Stat(pin.Path()); err != nil {
		t.Errorf("a blob in use was removed: %v", err)
	}
	big := &source{content: content(200, 13)}
	_, err := c.Blob(t.Context(), spare.Sum(big.content), 200, big.fetch)
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "prefs set disk") {
		t.Fatalf("got %v, want ErrFull with what to do", err)
	}
	pin.Release()
	get(t, c, big).Release()
	if s := c.Stats(); s.Bytes > 250 {
		t.Errorf("the cache holds %d bytes over its quota of 250", s.Bytes)
	}
}

func TestCache_OrderOfUseSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 250)
	a, b, d := &source{content: content(100, 14)}, &source{content: content(100, 15)}, &source{content: content(100, 16)}
	get(t, c, a).Release()
	get(t, c, b).Release()
	get(t, c, a).Release()
	c = open(t, dir, 250)
	get(t, c, d).Release()
	if _, err := os.Stat(c.file(key{blob, spare.Sum(a.content)})); err != nil {
		t.Error("the blob used last went before the other")
	}
}

func TestCache_FullDiskSaysSoAndGivesUpTheRestFirst(t *testing.T) {
	c := open(t, t.TempDir(), 1<<20)
	idle := &source{content: content(100, 17)}
	get(t, c, idle).Release()
	s := &source{content: content(100, 18), cut: 50, err: syscall.ENOSPC}
	get(t, c, s).Release()
	if _, err := os.Stat(c.file(key{blob, spare.Sum(idle.content)})); err == nil {
		t.Error("the disk was full and an unused blob stayed")
	}
	full := func(context.Context, int64, io.Writer) error { return syscall.ENOSPC }
	_, err := c.Blob(t.Context(), spare.Sum(nil), 5, full)
	if !errors.Is(err, ErrFull) || !DiskFull(err) || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("got %v", err)
	}
}

func TestCache_ManyAskingForOneBlobFetchItOnce(t *testing.T) {
	c := open(t, t.TempDir(), 1<<20)
	body := content(1000, 19)
	var fetches atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			p, err := c.Blob(t.Context(), spare.Sum(body), 1000, func(_ context.Context, _ int64, w io.Writer) error {
				fetches.Add(1)
				_, err := w.Write(body)
				return err
			})
			if err != nil {
				t.Error(err)
				return
			}
			p.Release()
		})
	}
	wg.Wait()
	if n := fetches.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

func unpackTwo(_ context.Context, archive, dir string) error {
	raw, err := os.ReadFile(archive)
	if err != nil {
		return err
	}
	return errors.Join(
		os.MkdirAll(filepath.Join(dir, "app"), 0o700),
		os.WriteFile(filepath.Join(dir, "app", "main.py"), raw, 0o600),
		os.WriteFile(filepath.Join(dir, "run.sh"), []byte("#!"), 0o700),
	)
}

func getApp(t *testing.T, c *Cache, s *source, unpack Unpack) *Pin {
	t.Helper()
	p, err := c.App(t.Context(), spare.Sum(s.content), int64(len(s.content)), s.fetch, unpack)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCache_AppIsUnpackedOnceAndReadOnly(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 1<<20)
	s := &source{content: content(100, 20)}
	unpacked := 0
	unpack := func(ctx context.Context, archive, dir string) error { unpacked++; return unpackTwo(ctx, archive, dir) }
	getApp(t, c, s, unpack).Release()
	getApp(t, c, s, unpack).Release()
	p := getApp(t, open(t, dir, 1<<20), s, unpack)
	defer p.Release()
	if unpacked != 1 || len(s.asked) != 1 {
		t.Errorf("unpacked %d times, fetched %d times; want once", unpacked, len(s.asked))
	}
	for name, want := range map[string]os.FileMode{"": 0o555, "app": 0o555, "app/main.py": 0o444, "run.sh": 0o555} {
		info, err := os.Stat(filepath.Join(p.Path(), name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%q has mode %v (%v), want %v", name, info.Mode().Perm(), err, want)
		}
	}
}

func TestCache_HalfWrittenAppIsHealed(t *testing.T) {
	for name, damage := range map[string]func(app string) error{
		"folder without record": func(app string) error { return os.Remove(app + ".json") },
		"record without folder": func(app string) error { return RemoveAll(app) },
		"half a record":         func(app string) error { return os.Truncate(app+".json", 10) },
		"half a file": func(app string) error {
			return errors.Join(os.Chmod(app+"/app/main.py", 0o600), os.Truncate(app+"/app/main.py", 3))
		},
		"one file too many": func(app string) error {
			return errors.Join(os.Chmod(app, 0o700), os.WriteFile(app+"/extra", nil, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := open(t, dir, 1<<20)
			s := &source{content: content(100, 21)}
			p := getApp(t, c, s, unpackTwo)
			if err := damage(p.Path()); err != nil {
				t.Fatal(err)
			}
			p = getApp(t, open(t, dir, 1<<20), s, unpackTwo)
			if got, _ := os.ReadFile(filepath.Join(p.Path(), "app", "main.py")); !bytes.Equal(got, s.content) {
				t.Error("the App was not healed")
			}
			if _, err := os.Stat(filepath.Join(p.Path(), "extra")); err == nil {
				t.Error("a file that is not the App's stayed")
			}
		})
	}
}

func TestCache_BadBundleLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 1<<20)
	s := &source{content: content(100, 22)}
	_, err := c.App(t.Context(), spare.Sum(s.content), 100, s.fetch, func(_ context.Context, _, dir string) error {
		return errors.Join(os.WriteFile(filepath.Join(dir, "half"), nil, 0o600), errors.New("path ../x leaves the folder"))
	})
	if !errors.Is(err, ErrUnpack) || !strings.Contains(err.Error(), "../x") {
		t.Fatalf("got %v", err)
	}
	for _, sub := range []string{"apps", "tmp"} {
		if left, _ := os.ReadDir(filepath.Join(dir, sub)); len(left) != 0 {
			t.Errorf("left in %s: %v", sub, left)
		}
	}
}
