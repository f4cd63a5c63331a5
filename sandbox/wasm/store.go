package wasm

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/cpu"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
)

// A store keeps compiled modules, each in a folder:
//
//	module.wasm   the module's outline (see outline.go); its own bytes until it is compiled
//	code/…        the machine code, as wazero keeps it; nothing where it interprets
//	sum           the checksums of both, written before the folder gets its name
//
// A folder is whole or not there: it is made under another name. Its checksums are
// looked at by each helper before it trusts the code, and a folder that does not hold
// what they say is thrown away and made anew.
type store struct {
	folder  string
	room    int64
	compile compiler

	mu   sync.Mutex
	busy map[string]chan struct{} // full while an entry is made here; others wait for it
}

// A compiler fills code/ from module.wasm, within what a run may take, and says how much
// of the run's time it spent.
type compiler func(ctx context.Context, entry string, run sandbox.Spec) (spent time.Duration, err error)

// storeVersion changes when entries of an older program must not be used: with what is
// told to wazero about compiling.
const storeVersion = 1

// wazeroVersion is go.mod's, which a test compares: machine code of another is made anew.
const wazeroVersion = "v1.12.0"

const (
	moduleFile = "module.wasm"
	codeFolder = "code"
	sumFile    = "sum"
	newPrefix  = "new-"
)

// key names a module's entry. Machine code is for one processor: two machines may share
// a folder, and a disk may move into another machine.
func key(m module) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%d\n%s\n%s\n%s/%s\n%v\n%v\n", storeVersion, wazeroVersion, m.digest, runtime.GOOS, runtime.GOARCH, cpu.X86, cpu.ARM64)
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// get returns the folder of a module, compiling it first, for the run, if need be.
func (s *store) get(ctx context.Context, m module, run sandbox.Spec) (entry string, spent time.Duration, err error) {
	entry = filepath.Join(s.folder, key(m))
	if s.touch(entry) {
		return entry, 0, nil
	}
	making := s.making(entry)
	select {
	case making <- struct{}{}:
		defer func() { <-making }()
	case <-ctx.Done(): // the run that makes it may be paused
		return entry, 0, context.Cause(ctx)
	}
	if s.touch(entry) { // made while this one waited
		return entry, 0, nil
	}
	spent, err = s.make(ctx, m, entry, run)
	return entry, spent, err
}

// touch reports whether there is an entry, and notes that it is in use.
func (s *store) touch(entry string) bool {
	if _, err := os.Lstat(filepath.Join(entry, sumFile)); err != nil {
		return false
	}
	now := time.Now()
	_ = os.Chtimes(entry, now, now) // only says which one to throw away first
	return true
}

func (s *store) making(entry string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy == nil {
		s.busy = map[string]chan struct{}{}
	}
	making := s.busy[entry]
	if making == nil {
		making = make(chan struct{}, 1)
		s.busy[entry] = making
	}
	return making
}

// make compiles a module into an entry. Another process may make the same one at the
// same time: what is there first, stays.
func (s *store) make(ctx context.Context, m module, entry string, run sandbox.Spec) (spent time.Duration, err error) {
	if err := os.MkdirAll(s.folder, 0o700); err != nil {
		return spent, fmt.Errorf("make the folder for compiled modules: %w", err)
	}
	s.sweep()
	work, err := os.MkdirTemp(s.folder, newPrefix+pidPrefix())
	if err != nil {
		return spent, fmt.Errorf("make the folder for compiled modules: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	made := filepath.Join(work, "made") // another runtime gives this one to its own user
	if err := os.Mkdir(made, 0o700); err != nil {
		return spent, err
	}
	if err := copyModule(m, filepath.Join(made, moduleFile)); err != nil {
		return spent, err
	}
	if spent, err = s.compile(ctx, made, run); err != nil {
		return spent, err
	}
	final := filepath.Join(work, "final")
	if err := seal(made, final); err != nil {
		return spent, fmt.Errorf("keep the compiled module: %w", err)
	}
	if s.touch(entry) { // another process was first
		return spent, nil
	}
	if _, err := os.Lstat(entry); err == nil {
		s.drop(entry) // it has no sum
	}
	if err := os.Rename(final, entry); err != nil && !s.touch(entry) {
		return spent, fmt.Errorf("keep the compiled module: %w", err)
	}
	return spent, nil
}

func copyModule(m module, to string) error {
	from, err := m.open()
	if err != nil {
		return err
	}
	defer from.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, sum), io.LimitReader(from, maxModule))
	if got := spare.Digest(hex.EncodeToString(sum.Sum(nil))); err == nil && got != m.digest {
		// What is kept under a digest is run by all who name that digest.
		err = fmt.Errorf("the module is not what it was: its digest is %s and not %s", got, m.digest)
	}
	return errors.Join(err, out.Close())
}

// maxCode bounds what a compiled module takes.
const maxCode = 1 << 30

// seal copies what the compiling helper left, plain files only, and writes their sums.
// The copy is this process's own, whoever the helper ran as.
func seal(from, to string) error {
	root, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer root.Close()
	left := int64(maxCode)
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, filepath.FromSlash(name))
		switch {
		case d.IsDir():
			return os.Mkdir(target, 0o700)
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is no plain file", name)
		}
		in, err := root.Open(filepath.FromSlash(name))
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		n, err := io.Copy(out, io.LimitReader(in, left))
		if left -= n; left == 0 {
			err = errors.New("it is too large")
		}
		return errors.Join(err, out.Sync(), out.Close())
	})
	if err != nil {
		return err
	}
	sums, err := sumsOf(to)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, sumFile), sums, 0o600)
}

// whole checks an entry against its sums. It runs in the helper. What the sums guard
// against is a disk that lost or changed something: nobody but the owner of the folder
// writes to it.
func whole(entry string) error {
	want, err := os.ReadFile(filepath.Join(entry, sumFile))
	if err != nil {
		return err
	}
	sums, err := sumsOf(entry)
	if err == nil && !bytes.Equal(sums, want) {
		err = errors.New("its checksums are wrong")
	}
	return err
}

// sumsOf is one checksum for each file of an entry, in the order of their names.
func sumsOf(entry string) (sums []byte, err error) {
	err = filepath.WalkDir(entry, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || name == filepath.Join(entry, sumFile) {
			return err
		}
		sum, err := fileSum(name)
		sums = binary.LittleEndian.AppendUint32(sums, sum)
		return err
	})
	return sums, err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// fileSum is the checksum of a file, machine code left out that wazero checks itself.
func fileSum(name string) (uint32, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	sum, buf := crc32.New(castagnoli), make([]byte, 256<<10)
	from, to := machineCode(f, info.Size())
	for _, part := range [][2]int64{{0, from}, {to, info.Size()}} {
		// Not io.Copy: it would choose a small buffer.
		r := io.NewSectionReader(f, part[0], part[1]-part[0])
		if _, err := io.CopyBuffer(sum, struct{ io.Reader }{r}, buf); err != nil {
			return 0, err
		}
	}
	return sum.Sum32(), nil
}

// machineCode finds the part of wazero's file that wazero has a checksum for: the code
// itself. In front of it stand a mark, wazero's version, the functions' places in the
// code and its length; all these are ours to check, or a call would go to a wrong place.
// In a file that is not like this, it finds nothing.
func machineCode(f io.ReaderAt, size int64) (from, to int64) {
	const mark = "WAZEVO"
	head := make([]byte, len(mark)+1+255+4)
	n, _ := f.ReadAt(head, 0)
	head = head[:n]
	if !bytes.HasPrefix(head, []byte(mark)) || len(head) <= len(mark) {
		return size, size
	}
	functions := len(mark) + 1 + int(head[len(mark)])
	if functions+4 > len(head) {
		return size, size
	}
	length := int64(functions) + 4 + 8*int64(binary.LittleEndian.Uint32(head[functions:]))
	var text [8]byte
	if _, err := f.ReadAt(text[:], length); err != nil {
		return size, size
	}
	from = length + int64(len(text))
	code := binary.LittleEndian.Uint64(text[:])
	if code > uint64(size-from) {
		return size, size
	}
	return from, from + int64(code)
}

// drop removes an entry. It is renamed first: no half of it is ever found.
func (s *store) drop(entry string) {
	gone, err := os.MkdirTemp(s.folder, newPrefix+pidPrefix())
	if err != nil {
		return
	}
	_ = os.Rename(entry, filepath.Join(gone, "dropped"))
	_ = os.RemoveAll(gone)
}

// staleAfter is when a folder in the making is no longer in use, whoever has the number
// of the process by now.
const staleAfter = 24 * time.Hour

// sweep removes what a killed process left, and the entries longest out of use, until
// those that stay fit into three quarters of the room.
func (s *store) sweep() {
	list, err := os.ReadDir(s.folder)
	if err != nil {
		return
	}
	type kept struct {
		name string
		used time.Time
		size int64
	}
	var all []kept
	var sum int64
	for _, d := range list {
		info, err := d.Info()
		if err != nil {
			continue
		}
		name := filepath.Join(s.folder, d.Name())
		if of, ok := strings.CutPrefix(d.Name(), newPrefix); ok {
			if abandoned(of) || time.Since(info.ModTime()) > staleAfter {
				_ = os.RemoveAll(name)
			}
			continue
		}
		k := kept{name, info.ModTime(), folderSize(name)}
		sum += k.size
		all = append(all, k)
	}
	if sum <= s.room {
		return
	}
	slices.SortFunc(all, func(a, b kept) int { return cmp.Compare(a.used.UnixNano(), b.used.UnixNano()) })
	for _, k := range all {
		if sum <= s.room/4*3 {
			return
		}
		s.drop(k.name)
		sum -= k.size
	}
}

func folderSize(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	return sum
}
