package guestbook

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spare-compute/spare"
)

// signer is a node's key.
type signer struct{ ed25519.PrivateKey }

func (s signer) PublicKey() ed25519.PublicKey { return s.Public().(ed25519.PublicKey) }
func (s signer) Sign(m []byte) []byte         { return ed25519.Sign(s.PrivateKey, m) }

func newSigner(seed byte) signer {
	return signer{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))}
}

var node = newSigner(1)

func open(t testing.TB, dir string) *Book {
	t.Helper()
	b, err := Open(dir, node)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// small opens a book whose files hold few entries.
func small(t testing.TB, dir string, keep int) *Book {
	t.Helper()
	b := &Book{dir: dir, id: node, limit: 2000, keep: keep, now: time.Now}
	if err := b.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// entry is as long as those that a node writes.
func entry(n int) Entry {
	start := time.Date(2026, 3, 1, 0, 0, n, 0, time.UTC)
	return Entry{
		Event: Ended, Hub: "attic", HubKey: spare.NodeID(spare.Sum([]byte("hub"))), Owner: "ann", Job: "holiday video",
		Attempt: spare.AttemptID(fmt.Sprintf("6a1f0c1e-0000-4000-8000-000000000000.%d.1", n)), Chunk: n,
		App: "video-transcoding@0.2", Revision: 3, Bundle: spare.Sum([]byte("bundle")), Publisher: string(spare.Sum([]byte("key"))),
		Signed: 1772323200, Runtime: "linux", Outcome: "succeeded", Start: &start, CPU: 12.25, Wall: 6.5, BytesIn: 1 << 20, BytesOut: 3 << 20,
	}
}

func write(t testing.TB, b *Book, n int) {
	t.Helper()
	for i := range n {
		if err := b.Append(entry(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t testing.TB, dir string) (all []Entry) {
	t.Helper()
	for e, err := range All(dir) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func whole(t testing.TB, dir string, entries int) Report {
	t.Helper()
	r, err := Verify(dir, node.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if r.Entries != entries {
		t.Errorf("%d entries, want %d", r.Entries, entries)
	}
	return r
}

// damaged wants Verify to name an entry.
func damaged(t testing.TB, dir string, seq uint64, what string) {
	t.Helper()
	_, err := Verify(dir, node.PublicKey())
	var d *Damage
	if !errors.As(err, &d) {
		t.Fatalf("verified as %v, want damage", err)
	}
	if d.Seq != seq || d.What != what {
		t.Errorf("names entry %d %s, want entry %d %s: %v", d.Seq, d.What, seq, what, err)
	}
	if seq > 0 && !strings.Contains(err.Error(), fmt.Sprint(seq)) {
		t.Errorf("the sentence %q does not name the entry", err)
	}
}

// change rewrites the lines of a book's only file.
func change(t testing.TB, dir string, f func(lines []string) []string) {
	t.Helper()
	path := filepath.Join(dir, fileName(1))
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := f(slices.Collect(strings.Lines(string(raw))))
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestBook_KeepsWhatIsWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "guestbook")
	b := open(t, dir)
	write(t, b, 3)
	got := read(t, dir)
	if len(got) != 3 {
		t.Fatalf("%d entries, want 3", len(got))
	}
	want := entry(2)
	want.Seq, want.Prev, want.At = 3, got[2].Prev, got[2].At
	if !equal(got[2], want) {
		t.Errorf("read %+v, want %+v", got[2], want)
	}
	if r := whole(t, dir, 3); r.First != 1 || r.Last != 3 || r.Unsealed != 0 {
		t.Errorf("report %+v", r)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Append(entry(9)); err == nil {
		t.Error("a closed book takes an entry")
	}
	write(t, open(t, dir), 2)
	whole(t, dir, 5)
}

func equal(a, b Entry) bool {
	if !a.At.Equal(b.At) || !a.Start.Equal(*b.Start) {
		return false
	}
	a.At, b.At, a.Start, b.Start = time.Time{}, time.Time{}, nil, nil
	return a == b
}

func TestBook_IsItsOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "guestbook")
	write(t, open(t, dir), 1)
	for _, name := range []string{fileName(1), headFile} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %04o", name, info.Mode().Perm())
		}
	}
}

func TestVerify_NamesTheFirstBadEntry(t *testing.T) {
	edit := func(i int, from, to string) func([]string) []string {
		return func(l []string) []string {
			l[i] = strings.Replace(l[i], from, to, 1)
			return l
		}
	}
	for _, c := range []struct {
		name   string
		change func([]string) []string
		seq    uint64
		what   string
	}{
		{"altered at the beginning", edit(0, `"ann"`, `"bob"`), 1, "altered"},
		{"altered in the middle", edit(4, `"cpu_seconds":12.25`, `"cpu_seconds":0.25`), 5, "altered"},
		{"altered at the end", edit(9, `"ann"`, `"bob"`), 10, "altered"},
		{"two altered", func(l []string) []string { return edit(7, "ann", "bob")(edit(3, "ann", "bob")(l)) }, 4, "altered"},
		{"its number altered", edit(4, `{"seq":5,`, `{"seq":7,`), 5, "altered"},
		{"its predecessor altered", edit(4, `"prev":"`, `"prev":"0`), 5, "altered"},
		{"not an entry any more", edit(4, `{`, ``), 5, "altered"},
		{"removed", func(l []string) []string { return slices.Delete(l, 4, 5) }, 5, "missing"},
		{"several removed", func(l []string) []string { return slices.Delete(l, 4, 8) }, 5, "missing"},
		{"removed at the beginning", func(l []string) []string { return l[1:] }, 1, "missing"},
		{"removed at the end", func(l []string) []string { return l[:8] }, 9, "missing"},
		{"all removed", func([]string) []string { return nil }, 1, "missing"},
		{"neighbours swapped", func(l []string) []string { l[4], l[5] = l[5], l[4]; return l }, 6, "moved"},
		{"moved to the end", func(l []string) []string { return append(slices.Delete(slices.Clone(l), 4, 5), l[4]) }, 6, "moved"},
		{"copied", func(l []string) []string { return slices.Insert(l, 7, l[4]) }, 5, "inserted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, open(t, dir), 10)
			change(t, dir, c.change)
			damaged(t, dir, c.seq, c.what)
		})
	}
}

// Whoever can write the files but has not the node's key can make a chain that fits, and
// is found by the head.
func TestVerify_FindsAChainThatWasWrittenAnew(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	write(t, open(t, dir), 10)
	forger := &Book{dir: other, id: node, limit: fileLimit, keep: keepFiles, now: time.Now}
	if err := forger.open(); err != nil {
		t.Fatal(err)
	}
	write(t, forger, 10)
	forged, err := os.ReadFile(filepath.Join(other, fileName(1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fileName(1)), forged, 0o600); err != nil {
		t.Fatal(err)
	}
	damaged(t, dir, 10, "altered")

	thief := newSigner(2)
	if err := (head{Version: 1, First: 1, FirstPrev: genesis(node), Last: 10, Hash: spare.Sum(nil)}).write(dir, thief); err != nil {
		t.Fatal(err)
	}
	damaged(t, dir, 0, "head")
	if err := os.Remove(filepath.Join(dir, headFile)); err != nil {
		t.Fatal(err)
	}
	damaged(t, dir, 0, "head")
}

func TestVerify_NoBook(t *testing.T) {
	if _, err := Verify(filepath.Join(t.TempDir(), "none"), node.PublicKey()); !errors.Is(err, ErrNoBook) {
		t.Errorf("no folder: %v", err)
	}
	dir := t.TempDir()
	open(t, dir)
	if _, err := Verify(dir, node.PublicKey()); !errors.Is(err, ErrNoBook) {
		t.Errorf("nothing written: %v", err)
	}
}

// crashed is what lies on disk when the node went down with the head behind the book.
func crashed(t *testing.T, entries, sealed int) string {
	t.Helper()
	dir := t.TempDir()
	b := open(t, dir)
	write(t, b, sealed)
	old, err := os.ReadFile(filepath.Join(dir, headFile))
	if err != nil {
		t.Fatal(err)
	}
	write(t, b, entries-sealed)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, headFile), old, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestBook_GoesOnAfterACrash(t *testing.T) {
	for _, sealed := range []int{0, 1, 4} {
		t.Run(fmt.Sprint("sealed ", sealed), func(t *testing.T) {
			dir := crashed(t, 5, sealed)
			if r := whole(t, dir, 5); r.Unsealed != 5-sealed {
				t.Errorf("report %+v", r)
			}
			write(t, open(t, dir), 1)
			whole(t, dir, 7)
			if e := read(t, dir)[5]; e.Event != Repaired || !strings.Contains(e.Message, fmt.Sprint(5-sealed)) {
				t.Errorf("what was not sealed is not told of: %+v", e)
			}
		})
	}
}

func TestBook_CutsOffHalfALine(t *testing.T) {
	for entries := range 3 {
		t.Run(fmt.Sprint("after ", entries), func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, dir)
			write(t, b, entries)
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(filepath.Join(dir, fileName(1)), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteString(`{"seq":3,"prev":"00`)
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			if entries > 0 {
				whole(t, dir, entries)
			}
			write(t, open(t, dir), 1)
			whole(t, dir, entries+2)
			if e := read(t, dir)[entries]; e.Event != Repaired || !strings.Contains(e.Message, "19 bytes") {
				t.Errorf("the repair is not told of: %+v", e)
			}
		})
	}
}

// A start of the node must not bless what somebody changed while it was off.
func TestBook_DamageOutlivesARestart(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func([]string) []string
		seq    uint64
		what   string
	}{
		{"altered at the end", func(l []string) []string { l[9] = strings.Replace(l[9], "ann", "bob", 1); return l }, 10, "altered"},
		{"removed at the end", func(l []string) []string { return l[:8] }, 9, "missing"},
		{"altered in the middle", func(l []string) []string { l[3] = strings.Replace(l[3], "ann", "bob", 1); return l }, 4, "altered"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			b := open(t, dir)
			write(t, b, 10)
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			change(t, dir, c.change)
			write(t, open(t, dir), 3)
			damaged(t, dir, c.seq, c.what)
		})
	}
	t.Run("everything removed", func(t *testing.T) {
		dir := t.TempDir()
		b := open(t, dir)
		write(t, b, 10)
		if err := errors.Join(b.Close(), os.Remove(filepath.Join(dir, fileName(1)))); err != nil {
			t.Fatal(err)
		}
		write(t, open(t, dir), 3)
		damaged(t, dir, 1, "missing")
	})
}

func TestBook_IsBounded(t *testing.T) {
	dir := t.TempDir()
	b := small(t, dir, 4)
	write(t, b, 50)
	have, err := files(dir)
	if err != nil || len(have) != 4 {
		t.Fatalf("files %v, %v; want 4", have, err)
	}
	all := read(t, dir)
	r := whole(t, dir, len(all))
	if r.First != all[0].Seq || r.First == 1 || r.Last != 50 {
		t.Errorf("report %+v, the first entry is %d", r, all[0].Seq)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, small(t, dir, 4), 20)
	if r = whole(t, dir, len(read(t, dir))); r.Last != 70 {
		t.Errorf("report %+v", r)
	}
	// What did not go by age is missed.
	have, err = files(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, fileName(have[0]))); err != nil {
		t.Fatal(err)
	}
	damaged(t, dir, have[0], "missing")
}

func TestBook_FileThatShouldHaveGoneGoesAtTheNextStart(t *testing.T) {
	dir := t.TempDir()
	b := small(t, dir, 3)
	write(t, b, 6)
	first := filepath.Join(dir, fileName(1))
	kept, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	write(t, b, 10)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(first, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	small(t, dir, 3)
	if exists(first) {
		t.Error("it is still there")
	}
	whole(t, dir, len(read(t, dir)))
}

func TestBook_NewFileThatWasNeverWrittenDoesNoHarm(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	write(t, b, 3)
	if err := errors.Join(b.Close(), os.WriteFile(filepath.Join(dir, fileName(4)), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	whole(t, dir, 3)
	write(t, open(t, dir), 2)
	whole(t, dir, 5)
}

func TestBook_ManyWritersAndReaders(t *testing.T) {
	dir := t.TempDir()
	b := small(t, dir, 1000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 25 {
				if err := b.Append(entry(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for range 20 {
				if _, err := Verify(dir, node.PublicKey()); err != nil && !errors.Is(err, ErrNoBook) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	whole(t, dir, 200)
}

func TestEntry_StrangersTextIsBoundedAndHarmless(t *testing.T) {
	dir := t.TempDir()
	e := entry(1)
	e.Owner = "\x1b[31mred\nline\u009b" + strings.Repeat("ä", 10_000)
	e.Message, e.Hub = strings.Repeat("\xff", 100_000), "\"},{"
	if err := open(t, dir).Append(e); err != nil {
		t.Fatal(err)
	}
	got := read(t, dir)[0]
	if strings.ContainsAny(got.Owner, "\x1b\n\u009b") || len(got.Owner) > maxText+8 || len(got.Message) > maxText+8 {
		t.Errorf("kept as %q", got.Owner)
	}
	whole(t, dir, 1)
}

func TestBook_NewerFormIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, headFile), []byte(`{"version":99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, node); err == nil || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("opened: %v", err)
	}
}

func BenchmarkVerify10kEntries(b *testing.B) {
	dir := b.TempDir()
	fill(b, dir, 10_000)
	for b.Loop() {
		if _, err := Verify(dir, node.PublicKey()); err != nil {
			b.Fatal(err)
		}
	}
}

// fill writes a book as Append would, without waiting for the disk at every entry.
func fill(tb testing.TB, dir string, entries int) {
	tb.Helper()
	h := head{Version: headVersion, First: 1, FirstPrev: genesis(node)}
	var out bytes.Buffer
	flush := func(first uint64) {
		if err := os.WriteFile(filepath.Join(dir, fileName(first)), out.Bytes(), 0o600); err != nil {
			tb.Fatal(err)
		}
		out.Reset()
	}
	first := uint64(1)
	for i := range entries {
		e := entry(i)
		e.Seq, e.Prev, e.At = h.Last+1, h.before(), time.Now().UTC()
		line, err := e.line()
		if err != nil {
			tb.Fatal(err)
		}
		if out.Len()+len(line) > fileLimit {
			flush(first)
			first = e.Seq
		}
		out.Write(append(line, '\n'))
		h.Last, h.Hash = e.Seq, linkOf(line).digest()
	}
	flush(first)
	if err := h.write(dir, node); err != nil {
		tb.Fatal(err)
	}
}

func BenchmarkAppend(b *testing.B) {
	book := open(b, b.TempDir())
	for b.Loop() {
		if err := book.Append(entry(1)); err != nil {
			b.Fatal(err)
		}
	}
}
