package disk_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/spare-compute/spare/disk"
)

func holds(t *testing.T, path, want string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil || string(raw) != want {
		t.Errorf("%s holds %q, %v; want %q", path, raw, err, want)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// alone wants the folder to hold one file: nothing is left behind.
func alone(t *testing.T, path string) {
	t.Helper()
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
}

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, text := range []string{"one", "", "another"} {
		if err := disk.Replace(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		holds(t, path, text)
	}
	alone(t, path)
}

func TestReplace_WhatCannotBeReplacedStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder")
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := disk.Replace(path, []byte("text")); err == nil {
		t.Error("a folder was replaced")
	}
	alone(t, path)
}

// A reader sees the one or the other, whole, and on Windows hinders nobody for long.
func TestReplace_WhileOthersRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	texts := [][]byte{bytes.Repeat([]byte("a"), 1<<16), bytes.Repeat([]byte("b"), 1<<16)}
	if err := disk.Replace(path, texts[0]); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if raw, err := os.ReadFile(path); err == nil && !bytes.Equal(raw, texts[0]) && !bytes.Equal(raw, texts[1]) {
					t.Errorf("half a file of %d bytes was read", len(raw))
					return
				}
			}
		})
	}
	for i := range 30 {
		if err := disk.Replace(path, texts[i%2]); err != nil {
			t.Error(err)
		}
	}
	close(done)
	readers.Wait()
}

func TestCreate_ReplacesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := disk.Create(path, []byte("mine")); err != nil {
		t.Fatal(err)
	}
	if err := disk.Create(path, []byte("yours")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created over a file: %v", err)
	}
	holds(t, path, "mine")
	alone(t, path)
}

func TestMove(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "new"), filepath.Join(dir, "file")
	if err := errors.Join(disk.Create(from, []byte("new")), disk.Create(to, []byte("old")), disk.Move(from, to)); err != nil {
		t.Fatal(err)
	}
	holds(t, to, "new")
	alone(t, to)
}

func TestKeepsModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if keeps, err := disk.KeepsModes(path); err != nil || !keeps {
		t.Errorf("%v, %v", keeps, err)
	}
	if _, err := disk.KeepsModes(filepath.Join(path, "gone", "file")); err == nil {
		t.Error("a folder that is not there keeps modes")
	}
}
