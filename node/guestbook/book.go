package guestbook

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/disk"
)

const (
	fileLimit = 4 << 20 // bytes after which a new file is begun: some 6,000 entries
	keepFiles = 16      // the oldest go: the book takes 64 MiB at most
	fileEnd   = ".jsonl"
)

// A Book is open for writing, by one process. It is safe for concurrent use.
type Book struct {
	dir   string
	id    Signer
	limit int64 // bytes of a file
	keep  int   // files

	mu     sync.Mutex
	closed bool
	file   *os.File // the last one; nil before its first entry
	size   int64
	torn   bool     // what an entry that failed left behind size is still there
	files  []uint64 // by the number of their first entry, ascending
	head   head     // as it is on disk
	now    func() time.Time
}

// Open opens the book in a folder, and makes it if there is none. An end that a crash
// tore off is cut off; that, and any other damage that shows at the end, becomes an
// entry, and what it leaves stays there for Verify to find. Entries without the head that
// sealed them may be anybody's: the new head says so for good.
func Open(dir string, id Signer) (*Book, error) {
	b := &Book{dir: dir, id: id, limit: fileLimit, keep: keepFiles, now: time.Now}
	return b, b.open()
}

func (b *Book) open() error {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return fmt.Errorf("open the guest book: %w", err)
	}
	h, err := readHead(b.dir, b.id.PublicKey())
	lost := errors.Is(err, errNoHead) || errors.Is(err, errBadHead)
	if err != nil && !lost {
		return fmt.Errorf("open the guest book: %w", err)
	}
	fresh := head{Version: headVersion, First: 1, FirstPrev: genesis(b.id)}
	if lost {
		h = fresh
	}
	b.head = h
	if b.files, err = files(b.dir); err != nil {
		return fmt.Errorf("open the guest book: %w", err)
	}
	if err := b.forget(); err != nil {
		return fmt.Errorf("open the guest book: %w", err)
	}
	damage, err := b.recover(lost)
	if err != nil {
		return fmt.Errorf("open the guest book: %w", err)
	}
	if len(damage) == 0 {
		// A book that is just begun has a head, so that one without a head has lost it.
		if err := b.head.write(b.dir, b.id); err != nil {
			return fmt.Errorf("open the guest book: %w", err)
		}
		return nil
	}
	return b.Append(Entry{Event: Repaired, Message: strings.Join(damage, "; ")})
}

// genesis stands for the line before the first: books of two nodes share none.
func genesis(id Signer) spare.Digest {
	return spare.Sum(append([]byte("spare guest book\n"), id.PublicKey()...))
}

// files lists the book's files by the number of their first entry.
func files(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []uint64
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), fileEnd)
		if n, err := strconv.ParseUint(name, 10, 64); ok && err == nil && e.Type().IsRegular() && fileName(n) == e.Name() {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list, nil
}

func fileName(first uint64) string { return fmt.Sprintf("%016d%s", first, fileEnd) }

func (b *Book) path(first uint64) string { return filepath.Join(b.dir, fileName(first)) }

// forget removes files that lie before the book's beginning.
func (b *Book) forget() error {
	for len(b.files) > 1 && b.files[1] <= b.head.First {
		if err := os.Remove(b.path(b.files[0])); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		b.files = b.files[1:]
	}
	return nil
}

// recover finds the book's end and holds it against the head. What it returns is for an
// entry of its own.
func (b *Book) recover(lost bool) (damage []string, err error) {
	links, torn, err := b.tail()
	if err != nil {
		return nil, err
	}
	unsealed := lost && (len(links) > 0 || torn > 0 || exists(filepath.Join(b.dir, headFile)))
	if unsealed {
		damage = append(damage, "the head was missing or not this node's")
	}
	if torn > 0 {
		damage = append(damage, fmt.Sprintf("the last entry was cut off after %d bytes", torn))
	}
	sealed := b.head.Last
	i := slices.IndexFunc(links, func(l link) bool { return l.ok && l.seq == sealed })
	switch {
	case lost, i >= 0 && links[i].digest() == b.head.Hash && chained(links[i:]), b.follows(links):
		b.adopt(links)
	case i >= 0:
		damage = append(damage, fmt.Sprintf("entry %d or what follows it is not what was written", sealed))
	case sealed > 0:
		damage = append(damage, fmt.Sprintf("the last entries up to %d are missing", sealed))
	case len(links) > 0:
		damage = append(damage, "its first entries are not what was written")
	}
	if unsealed {
		b.head.Lost = b.head.Last + 1 // the entry that this is for
	}
	if n := b.head.Last - sealed; n > 0 && !lost {
		damage = append(damage, fmt.Sprintf("entries that were written and not sealed when the node stopped: %d", n))
	}
	return damage, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// follows reports whether a file begins right after the head.
func (b *Book) follows(links []link) bool {
	return len(links) > 0 && links[0].seq == b.head.Last+1 && links[0].prev == bare(b.head.before()) && chained(links)
}

// before is what the entry after the head names as the one before it.
func (h head) before() spare.Digest {
	if h.Last == 0 {
		return h.FirstPrev
	}
	return h.Hash
}

// adopt takes the last of the links for the book's end.
func (b *Book) adopt(links []link) {
	n := len(links)
	if n == 0 {
		return
	}
	b.head.Last, b.head.Hash = links[n-1].seq, links[n-1].digest()
	if !links[n-1].ok {
		b.head.Last = b.files[len(b.files)-1] + uint64(n) - 1
	}
}

func chained(links []link) bool {
	for i, l := range links {
		if !l.ok || (i > 0 && (l.prev != links[i-1].hash || l.seq != links[i-1].seq+1)) {
			return false
		}
	}
	return true
}

// tail reads the last file that holds an entry, cuts off half a line at its end, and
// leaves it open.
func (b *Book) tail() (links []link, torn int, err error) {
	for len(b.files) > 0 {
		last := len(b.files) - 1
		name := b.path(b.files[last])
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, 0, err
		}
		end := bytes.LastIndexByte(raw, '\n') + 1
		torn += len(raw) - end
		if end == 0 { // begun, and nothing written
			if err := os.Remove(name); err != nil {
				return nil, 0, err
			}
			b.files = b.files[:last]
			continue
		}
		if len(raw) > end {
			if err := os.Truncate(name, int64(end)); err != nil {
				return nil, 0, err
			}
		}
		if b.file, err = os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
			return nil, 0, err
		}
		b.size = int64(end)
		for line := range bytes.Lines(raw[:end]) {
			links = append(links, linkOf(line[:len(line)-1]))
		}
		return links, torn, nil
	}
	return nil, torn, nil
}

// Append writes an entry; its number, predecessor and time are filled in. When it
// returns without an error, the entry is on disk.
func (b *Book) Append(e Entry) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.append(e); err != nil {
		return fmt.Errorf("write to the guest book: %w", err)
	}
	return nil
}

func (b *Book) append(e Entry) error {
	if b.closed {
		return fs.ErrClosed
	}
	if err := b.mend(); err != nil {
		return err
	}
	next := b.head
	e.Seq, e.Prev, e.At = next.Last+1, next.before(), b.now().UTC()
	line, err := e.line()
	if err != nil {
		return err
	}
	if err := b.turn(e.Seq, int64(len(line))); err != nil {
		return err
	}
	n, err := b.file.Write(append(line, '\n'))
	if err == nil {
		err = b.file.Sync()
	}
	if err != nil {
		b.torn = true
		return errors.Join(err, b.mend())
	}
	b.size += int64(n)
	next.Last, next.Hash = e.Seq, linkOf(line).digest()
	b.head = next
	var old []uint64
	if n := len(b.files) - b.keep; n > 0 {
		oldest, err := firstOf(b.path(b.files[n]))
		if err != nil {
			return err
		}
		b.head.First, b.head.FirstPrev = oldest.seq, spare.Digest(hex.EncodeToString(oldest.prev[:]))
		old, b.files = b.files[:n], b.files[n:]
	}
	if err := b.head.write(b.dir, b.id); err != nil {
		return err
	}
	for _, first := range old { // one that a crash leaves goes at the next start
		if err := os.Remove(b.path(first)); err != nil {
			return err
		}
	}
	return nil
}

// mend cuts off what an entry that failed left: half a line would spoil the next one. It
// goes by the file's name, as Windows cuts nothing off that is open for appending.
func (b *Book) mend() error {
	if !b.torn {
		return nil
	}
	err := os.Truncate(b.path(b.files[len(b.files)-1]), b.size)
	b.torn = err != nil // then it is tried again before the next entry, and at the next start
	return err
}

// turn begins a new file when the last one is full.
func (b *Book) turn(seq uint64, more int64) error {
	if b.file != nil && b.size+more <= b.limit {
		return nil
	}
	if b.file != nil {
		if err := b.file.Close(); err != nil {
			return err
		}
		b.file = nil
	}
	f, err := os.OpenFile(b.path(seq), os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	b.file, b.size, b.files = f, 0, append(b.files, seq)
	return disk.SyncDir(b.dir)
}

func firstOf(path string) (link, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return link{}, err
	}
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	l := linkOf(line)
	if !l.ok {
		return l, fmt.Errorf("%s does not begin with an entry", path)
	}
	return l, nil
}

// Close lets go of the book.
func (b *Book) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.file == nil {
		return nil
	}
	err := b.file.Close()
	b.file = nil
	return err
}
