package guestbook

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Without the head that sealed them, entries may be anybody's. A new head is no blessing,
// however often the node starts.
func TestBook_LostHeadIsDamageForGood(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, head, lines string){
		"removed": func(t *testing.T, head, _ string) {
			if err := os.Remove(head); err != nil {
				t.Fatal(err)
			}
		},
		"removed, and lines written anew": func(t *testing.T, head, lines string) {
			forged := t.TempDir()
			write(t, open(t, forged), 4)
			raw, err := os.ReadFile(filepath.Join(forged, fileName(1)))
			raw = bytes.ReplaceAll(raw, []byte("ann"), []byte("bob"))
			if err := errors.Join(err, os.Remove(head), os.WriteFile(lines, raw[:bytes.IndexByte(raw, '\n')+1], 0o600)); err != nil {
				t.Fatal(err)
			}
		},
		"removed, and half a line left": func(t *testing.T, head, lines string) {
			if err := errors.Join(os.Remove(head), os.WriteFile(lines, []byte(`{"seq":1,`), 0o600)); err != nil {
				t.Fatal(err)
			}
		},
		"another node's": func(t *testing.T, head, _ string) {
			other := t.TempDir()
			if b, err := Open(other, newSigner(2)); err != nil || b.Close() != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(filepath.Join(other, headFile))
			if err := errors.Join(err, os.WriteFile(head, raw, 0o600)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, dir)
			write(t, b, 10)
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			lose(t, filepath.Join(dir, headFile), filepath.Join(dir, fileName(1)))
			for range 2 {
				b := open(t, dir)
				write(t, b, 2)
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
				damaged(t, dir, 0, "head")
			}
			told := false
			for _, e := range read(t, dir) {
				told = told || e.Event == Repaired && strings.Contains(e.Message, "head")
			}
			if !told {
				t.Error("no entry tells of the lost head")
			}
		})
	}
}

// The owner may end the book. What begins then is another, and says so by its beginning.
func TestBook_FolderThatWasRemovedBeginsAnew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "guestbook")
	b := open(t, dir)
	write(t, b, 10)
	if err := errors.Join(b.Close(), os.RemoveAll(dir)); err != nil {
		t.Fatal(err)
	}
	write(t, open(t, dir), 2)
	if r := whole(t, dir, 2); r.First != 1 {
		t.Errorf("%+v", r)
	}
}

// A head that cannot be written fails the entry, which stands there unsealed: the next
// one seals it, or the next start does and says so.
func TestBook_HeadThatCannotBeWritten(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, dir)
			write(t, b, 3)
			path := filepath.Join(dir, headFile)
			head, err := os.ReadFile(path)
			if err := errors.Join(err, os.Remove(path), os.MkdirAll(filepath.Join(path, "in the way"), 0o700)); err != nil {
				t.Fatal(err)
			}
			if err := b.Append(entry(3)); err == nil {
				t.Error("an entry that nothing seals was written without an error")
			}
			if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, head, 0o600)); err != nil {
				t.Fatal(err)
			}
			if r := whole(t, dir, 4); r.Unsealed != 1 {
				t.Errorf("%+v", r)
			}
			if !restart {
				write(t, b, 1)
				whole(t, dir, 5)
				return
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			write(t, open(t, dir), 1)
			whole(t, dir, 6)
			if e := read(t, dir)[4]; e.Event != Repaired || !strings.Contains(e.Message, "not sealed") {
				t.Errorf("the entry that was not sealed is not told of: %+v", e)
			}
		})
	}
}
