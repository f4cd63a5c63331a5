package wasm

import (
	"os"
	"path/filepath"
	"testing"

	experimentalsys "github.com/tetratelabs/wazero/experimental/sys"

	"github.com/spare-compute/spare/sandbox"
)

// folderWorld is a world of one writable folder.
func folderWorld(t *testing.T, rw string) *world {
	t.Helper()
	w, err := newWorld(orders{
		Mounts: []folder{{Host: raw(rw), Inner: "/rw", Writable: true}}, Tmp: t.TempDir(), Files: 10, Disk: 1 << 20,
	}, func(why sandbox.Cause) { t.Fatal(why) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, m := range w.mounts {
			_ = m.root.Close()
		}
	})
	return w
}

// A rename that replaces a file by itself frees nothing: by another name, where upper and
// lower case are one, or by a hard link that was there before.
func TestWorld_ARenameOntoItselfGivesBackNothing(t *testing.T) {
	rw := t.TempDir()
	w := folderWorld(t, rw)
	if err := os.WriteFile(filepath.Join(rw, "a"), make([]byte, 100_000), 0o644); err != nil {
		t.Fatal(err)
	}
	to := "A"
	_, err := os.Lstat(filepath.Join(rw, to))
	folds := err == nil
	if !folds {
		to = "b"
		if err := os.Link(filepath.Join(rw, "a"), filepath.Join(rw, to)); err != nil {
			t.Fatal(err)
		}
	}
	if errno := w.Rename("/rw/a", "/rw/"+to); errno != 0 {
		t.Fatal(errno)
	}
	if used := w.disk.used.Load(); used != 0 {
		t.Errorf("the file is still there, and %d bytes are counted", used)
	}
	if errno := w.Mkdir("/rw/dir", 0o755); errno != 0 {
		t.Fatal(errno)
	}
	if folds { // folders have no hard links
		if errno := w.Rename("/rw/dir", "/rw/DIR"); errno != 0 {
			t.Fatal(errno)
		}
	}
	if _, err := os.Stat(filepath.Join(rw, "dir")); err != nil || w.disk.used.Load() != fileCost {
		t.Errorf("%d bytes are counted for a folder (%v)", w.disk.used.Load(), err)
	}
}

func TestWorld_ARenameGivesBackWhatItReplaces(t *testing.T) {
	rw := t.TempDir()
	w := folderWorld(t, rw)
	for _, name := range []string{"/rw/a", "/rw/b"} {
		f, errno := w.OpenFile(name, experimentalsys.O_CREAT|experimentalsys.O_RDWR, 0o644)
		if errno != 0 {
			t.Fatal(errno)
		}
		if _, errno := f.Write(make([]byte, 10_000)); errno != 0 {
			t.Fatal(errno)
		}
		f.Close()
	}
	if errno := w.Rename("/rw/a", "/rw/b"); errno != 0 || w.disk.used.Load() != 10_000 {
		t.Errorf("%d bytes are counted, 10,000 are there (%v)", w.disk.used.Load(), errno)
	}
}
