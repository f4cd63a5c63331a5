package guestbook

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// A line counts as an entry only if it begins as the book writes them.
func FuzzLink(f *testing.F) {
	e := entry(1)
	e.Seq, e.Prev = 7, genesis(node)
	line, err := e.line()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Add([]byte(`{"seq":`))
	f.Add([]byte(`{"seq":99999999999999999999,"prev":"`))
	f.Fuzz(func(t *testing.T, line []byte) {
		l := linkOf(line)
		if l.ok && !bytes.HasPrefix(bytes.ToLower(line), fmt.Appendf(nil, `{"seq":`)) {
			t.Errorf("%q is read as entry %d", line, l.seq)
		}
	})
}

// Whatever lies in the folder, the book opens and goes on, or says why not, and what was
// changed is found.
func FuzzBook(f *testing.F) {
	dir := f.TempDir()
	write(f, open(f, dir), 3)
	whole, err := os.ReadFile(filepath.Join(dir, fileName(1)))
	if err != nil {
		f.Fatal(err)
	}
	head, err := os.ReadFile(filepath.Join(dir, headFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-20])
	f.Add([]byte("\n\n"))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		for name, raw := range map[string][]byte{fileName(1): content, headFile: head} {
			if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, before := Verify(dir, node.PublicKey())
		if before == nil && !bytes.HasPrefix(content, whole) {
			t.Fatalf("verified although it is not what was written: %q", content)
		}
		b := open(t, dir)
		if err := b.Append(entry(4)); err != nil {
			t.Fatal(err)
		}
		if _, after := Verify(dir, node.PublicKey()); (before == nil) != (after == nil) {
			t.Fatalf("verified %v, and after a start %v", before, after)
		}
		for _, err := range All(dir) {
			_ = err
		}
	})
}
