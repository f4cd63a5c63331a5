package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/bundle"
)

// packed is a bundle of so many files, each of this many zeros.
func packed(t *testing.T, files, size int) *source {
	t.Helper()
	dir := t.TempDir()
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i)), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := bundle.Pack(dir, &b); err != nil {
		t.Fatal(err)
	}
	return &source{content: b.Bytes()}
}

// unbundle unpacks as a node does.
func unbundle(ctx context.Context, path, dir string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return bundle.Unpack(ctx, f, dir, bundle.Limits{Files: 200_000, Bytes: 8 << 30})
}

func (c *Cache) rest(t *testing.T) (left []string) {
	t.Helper()
	for _, sub := range []string{"apps", "tmp"} {
		entries, err := os.ReadDir(c.path(sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			left = append(left, sub+"/"+e.Name())
		}
	}
	return left
}

func TestCache_AnAppIsUnpackedIntoTheRoomThereIs(t *testing.T) {
	for name, s := range map[string]*source{"one large file": packed(t, 1, 8<<20), "many empty ones": packed(t, 600, 0)} {
		c := open(t, t.TempDir(), 2<<20)
		_, err := c.App(t.Context(), spare.Sum(s.content), int64(len(s.content)), s.fetch, unbundle)
		if !errors.Is(err, ErrFull) {
			t.Errorf("%s: %v, want ErrFull", name, err)
		}
		if left := c.rest(t); len(left) > 0 {
			t.Errorf("%s left %v", name, left)
		}
	}
}

func TestCache_WhatWasUsedLongAgoMakesWayForAnApp(t *testing.T) {
	c := open(t, t.TempDir(), 9<<20)
	old, recent := &source{content: content(2<<20, 1)}, &source{content: content(1<<20, 2)}
	get(t, c, old).Release()
	get(t, c, recent).Release()
	p := getApp(t, c, packed(t, 1, 7<<20), unbundle)
	defer p.Release()
	if info, err := os.Stat(filepath.Join(p.Path(), "f0")); err != nil || info.Size() != 7<<20 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := os.Stat(c.file(key{blob, spare.Sum(old.content)})); err == nil {
		t.Error("the blob used longest ago is still there")
	}
	if _, err := os.Stat(c.file(key{blob, spare.Sum(recent.content)})); err != nil {
		t.Error("the blob used last made way too")
	}
	if s := c.Stats(); s.Bytes > s.Quota {
		t.Errorf("%d bytes are over the quota of %d", s.Bytes, s.Quota)
	}
}

func TestCache_EmptyFilesAndFoldersTakeRoomToo(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 1<<30)
	s := &source{content: content(100, 3)}
	getApp(t, c, s, func(_ context.Context, _, dir string) error {
		for i := range 50 {
			at := filepath.Join(dir, fmt.Sprint(i))
			if err := errors.Join(os.Mkdir(at, 0o700), os.WriteFile(at+".txt", nil, 0o600)); err != nil {
				return err
			}
		}
		return nil
	}).Release()
	const want = 100 + (50+50+1)*4096
	if got := c.Stats().Bytes; got != want {
		t.Errorf("the cache counts %d bytes, want %d", got, want)
	}
	if got := open(t, dir, 1<<30).Stats().Bytes; got != want {
		t.Errorf("after a restart it counts %d bytes, want %d", got, want)
	}
}

func TestCache_SizesThatNothingHasAreRefused(t *testing.T) {
	c := open(t, t.TempDir(), math.MaxInt64)
	kept := &source{content: content(100, 4)}
	get(t, c, kept).Release()
	asked := func(context.Context, int64, io.Writer) error { t.Error("the hub was asked"); return nil }
	d := spare.Sum([]byte("x"))
	for _, size := range []int64{-1, math.MinInt64, 1<<50 + 1, math.MaxInt64} {
		if _, err := c.Blob(t.Context(), d, size, asked); !errors.Is(err, ErrCorrupt) {
			t.Errorf("a blob of %d bytes: %v", size, err)
		}
		if _, err := c.App(t.Context(), d, size, asked, unbundle); !errors.Is(err, ErrCorrupt) {
			t.Errorf("a bundle of %d bytes: %v", size, err)
		}
	}
	if c.SetQuota(1 << 20); c.Stats().Bytes != 100 {
		t.Errorf("the cache counts %d bytes", c.Stats().Bytes)
	}
}

// Whoever asks the cache for something does not wait while a large folder is removed.
func TestCache_WhatGoesIsRemovedOutsideTheLock(t *testing.T) {
	c := open(t, t.TempDir(), 1<<30)
	p := getApp(t, c, packed(t, 3, 10), unbundle)
	p.Release()
	c.mu.Lock()
	c.quota = 0
	c.evict(0)
	if _, err := os.Stat(p.Path()); err == nil || c.total != 0 {
		t.Errorf("the App still counts: %d bytes, %v", c.total, err)
	}
	if left := c.rest(t); len(left) != len(c.aside) || len(left) == 0 {
		t.Errorf("set aside is %v, there is %v", c.aside, left)
	}
	c.unlock()
	if left := c.rest(t); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}
