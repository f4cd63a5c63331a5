package guestbook

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"github.com/spare-compute/spare"
)

// ErrNoBook says that nothing was ever written here.
var ErrNoBook = errors.New("there is no guest book: nothing has run here yet, or somebody has removed it")

// A Report is what Verify found in a book that is whole.
type Report struct {
	Entries  int          `json:"entries"`
	First    uint64       `json:"first"`    // the oldest that is kept; earlier ones went by age
	Last     uint64       `json:"last"`     // the last that the node's key signed
	Hash     spare.Digest `json:"hash"`     // of that one: to compare with a copy elsewhere
	Unsealed int          `json:"unsealed"` // written after it: at this moment, or right before a crash
}

// A Damage says where a book is not what the node wrote.
type Damage struct {
	Seq    uint64 `json:"seq"`    // the first bad entry; 0: the head
	File   string `json:"file"`   // where it stands, or should
	Line   int    `json:"line"`   // in it, from 1; 0 if it stands nowhere
	What   string `json:"what"`   // altered, missing, moved, inserted, head
	Detail string `json:"detail"` // a sentence
}

func (d *Damage) Error() string {
	return "the guest book is not what this node wrote: " + d.Detail
}

// placed is a link and where its line stands.
type placed struct {
	link
	file string
	line int
}

// Verify holds a book against its head and every entry against the next. The error is a
// *Damage if the book was changed. It does not disturb a node that writes meanwhile.
func Verify(dir string, key ed25519.PublicKey) (r Report, err error) {
	for range 3 {
		before, _ := readHead(dir, key)
		r, err = verify(dir, key)
		var damage *Damage
		after, _ := readHead(dir, key)
		if !errors.As(err, &damage) || before.First == after.First {
			break
		}
		// The oldest entries went by age while they were read.
	}
	return r, err
}

func verify(dir string, key ed25519.PublicKey) (Report, error) {
	// The head first: entries that are written meanwhile come after it.
	h, headErr := readHead(dir, key)
	lines, err := readAll(dir, h.First)
	switch {
	case err != nil:
		return Report{}, err
	case errors.Is(headErr, errNoHead) && len(lines) == 0, headErr == nil && len(lines) == 0 && h.Last == 0:
		return Report{}, ErrNoBook
	case errors.Is(headErr, errNoHead), errors.Is(headErr, errBadHead):
		return Report{}, &Damage{File: headFile, What: "head", Detail: headErr.Error()}
	case headErr != nil:
		return Report{}, headErr
	}
	if err := check(h, lines); err != nil {
		return Report{}, err
	}
	if h.Lost > 0 {
		return Report{}, &Damage{File: headFile, What: "head", Detail: fmt.Sprintf(
			"its head was lost before entry %d was written, and nothing shows whether the entries before that one are what this node wrote", h.Lost)}
	}
	r := Report{Entries: len(lines), First: h.First, Last: h.Last, Hash: h.Hash}
	if n := len(lines); n > 0 && lines[n-1].seq > h.Last {
		r.Unsealed = int(lines[n-1].seq - h.Last)
	}
	return r, nil
}

// check walks the chain. lines are all that the files hold, in their order.
func check(h head, lines []placed) error {
	want, prev, last := h.First, bare(h.FirstPrev), bare(h.Hash)
	for i, l := range lines {
		var next placed
		if i+1 < len(lines) {
			next = lines[i+1]
		}
		follows := next.ok && next.prev == l.hash // what comes after vouches for it
		sealed := l.seq == h.Last && l.hash == last
		switch {
		case !l.ok:
			return l.damage(want, "altered", "entry %d was altered: it cannot be read as an entry", want)
		case l.seq != want && next.ok && next.seq == want+1 && !follows:
			return l.damage(want, "altered", "entry %d was altered: it calls itself %d", want, l.seq)
		case l.seq > want && has(lines[i+1:], want):
			return l.damage(l.seq, "moved", "entry %d was moved: it stands where entry %d should", l.seq, want)
		case l.seq > want:
			return l.damage(want, "missing", "%s missing", span(want, l.seq-1))
		case l.seq < want:
			return l.damage(l.seq, "inserted", "entry %d stands there again, where entry %d should", l.seq, want)
		case l.prev != prev && i > 0 && (follows || sealed):
			p := lines[i-1]
			return p.damage(p.seq, "altered", "entry %d was altered: it is not the one that entry %d names as the one before it", p.seq, l.seq)
		case l.prev != prev:
			return l.damage(l.seq, "altered", "entry %d was altered: it does not fit its place in the chain", l.seq)
		case l.seq == h.Last && !sealed:
			return l.damage(l.seq, "altered", "entry %d was altered, or some before it were written anew: it is not the last that the node signed", l.seq)
		}
		want, prev = l.seq+1, l.hash
	}
	if want <= h.Last {
		return &Damage{Seq: want, What: "missing", Detail: span(want, h.Last) + " missing at the end"}
	}
	return nil
}

func (p placed) damage(seq uint64, what, format string, args ...any) error {
	return &Damage{
		Seq: seq, File: p.file, Line: p.line, What: what,
		Detail: fmt.Sprintf(format, args...) + fmt.Sprintf(" (%s, line %d)", p.file, p.line),
	}
}

func span(from, to uint64) string {
	if from == to {
		return fmt.Sprintf("entry %d is", from)
	}
	return fmt.Sprintf("entries %d to %d are", from, to)
}

func has(lines []placed, seq uint64) bool {
	for _, l := range lines {
		if l.ok && l.seq == seq {
			return true
		}
	}
	return false
}

// chunk is how many lines one goroutine hashes at a time.
const chunk = 512

// readAll reads the links of all files that reach to entry from or beyond it. Half a
// line at the very end is being written, or was when the machine went down.
func readAll(dir string, from uint64) (all []placed, err error) {
	var raws [][]byte
	err = eachFile(dir, from, func(name string, raw []byte, last bool) error {
		n := bytes.Count(raw, []byte("\n"))
		all, raws = slices.Grow(all, n), slices.Grow(raws, n)
		n = 0
		for line := range bytes.Lines(raw) {
			n++
			text, whole := bytes.CutSuffix(line, []byte("\n"))
			if !whole && last {
				break
			}
			all, raws = append(all, placed{file: name, line: n}), append(raws, text)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// Every line has a hash of its own, whatever stands before it.
	var wg sync.WaitGroup
	room := make(chan struct{}, runtime.GOMAXPROCS(0))
	for at := 0; at < len(raws); at += chunk {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			for i := at; i < min(at+chunk, len(raws)); i++ {
				all[i].link = linkOf(raws[i])
			}
		})
	}
	wg.Wait()
	return all, nil
}

// eachFile reads the files of a book, oldest first.
func eachFile(dir string, from uint64, visit func(name string, raw []byte, last bool) error) error {
	list, err := files(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the guest book: %w", err)
	}
	for len(list) > 1 && list[1] <= from {
		list = list[1:]
	}
	for i, first := range list {
		raw, err := os.ReadFile(filepath.Join(dir, fileName(first)))
		if errors.Is(err, fs.ErrNotExist) && i == 0 && len(list) > 1 {
			continue // went by age at this moment
		}
		if err == nil {
			err = visit(fileName(first), raw, i == len(list)-1)
		}
		if err != nil {
			return fmt.Errorf("read the guest book: %w", err)
		}
	}
	return nil
}

// All reads the book's entries, oldest first, without verifying them. A line that is no
// entry comes as an error that names it, and the next one follows.
func All(dir string) iter.Seq2[Entry, error] {
	stop := errors.New("enough")
	return func(yield func(Entry, error) bool) {
		err := eachFile(dir, 0, func(name string, raw []byte, last bool) error {
			n := 0
			for line := range bytes.Lines(raw) {
				n++
				text, whole := bytes.CutSuffix(line, []byte("\n"))
				if !whole && last {
					break
				}
				e, err := parse(text)
				if err != nil {
					err = fmt.Errorf("%s, line %d is no entry: %w", name, n, err)
				}
				if !yield(e, err) {
					return stop
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, stop) {
			yield(Entry{}, err)
		}
	}
}
