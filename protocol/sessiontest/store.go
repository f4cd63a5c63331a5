package sessiontest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol"
)

// A Store keeps blobs in a folder, and the beginnings of others. It can be told to
// run out of space.
type Store struct {
	root *os.Root

	mu       sync.Mutex
	room     int64 // bytes that may still be written; below 0, any number
	partials int   // calls of Partial
}

// NewStore is an empty store that goes with the test.
func NewStore(t *testing.T) *Store {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	must(t, err)
	t.Cleanup(func() { root.Close() })
	must(t, root.Mkdir("partial", 0o700))
	return &Store{root: root, room: -1}
}

// Room says how many more bytes fit.
func (s *Store) Room(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room = n
}

// Partials is how often Partial was called.
func (s *Store) Partials() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.partials
}

// take says how many of n bytes fit.
func (s *Store) take(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.room < 0 {
		return n
	}
	n = int(min(int64(n), s.room))
	s.room -= int64(n)
	return n
}

// Add stores b under its digest.
func (s *Store) Add(t *testing.T, b []byte) spare.Digest {
	t.Helper()
	d := spare.Sum(b)
	s.AddAs(t, d, b)
	return d
}

// AddAs stores b under a digest that may be wrong.
func (s *Store) AddAs(t *testing.T, d spare.Digest, b []byte) {
	t.Helper()
	must(t, s.root.WriteFile(string(d), b, 0o600))
}

// Begin keeps b as the beginning of a blob.
func (s *Store) Begin(t *testing.T, d spare.Digest, size int64, b []byte) {
	t.Helper()
	must(t, s.root.WriteFile(partialName(d, size), b, 0o600))
}

// Content is a stored blob, or nil.
func (s *Store) Content(t *testing.T, d spare.Digest) []byte {
	t.Helper()
	b, err := s.root.ReadFile(string(d))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	must(t, err)
	if b == nil {
		b = []byte{}
	}
	return b
}

func partialName(d spare.Digest, size int64) string { return fmt.Sprintf("partial/%s.%d", d, size) }

// Stat implements protocol.BlobStore.
func (s *Store) Stat(d spare.Digest) (int64, error) {
	if !d.Valid() {
		return 0, protocol.ErrNotFound
	}
	info, err := s.root.Stat(string(d))
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Open implements protocol.BlobStore.
func (s *Store) Open(d spare.Digest, offset int64) (io.ReadCloser, int64, error) {
	size, err := s.Stat(d)
	if err != nil {
		return nil, 0, err
	}
	f, err := s.root.Open(string(d))
	if err != nil {
		return nil, 0, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, size, nil
}

// Partial implements protocol.BlobStore.
func (s *Store) Partial(d spare.Digest, size int64) (protocol.PartialWriter, error) {
	s.mu.Lock()
	s.partials++
	full := s.room == 0
	s.mu.Unlock()
	if full {
		return nil, fmt.Errorf("blob %s: %w", d.Short(), protocol.ErrFull)
	}
	f, err := s.root.OpenFile(partialName(d, size), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	w := &writer{store: s, digest: d, size: size, file: f, sum: sha256.New()}
	if w.offset, err = io.Copy(w.sum, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return w, nil
}

type writer struct {
	store  *Store
	digest spare.Digest
	size   int64
	file   *os.File
	sum    hash.Hash
	offset int64
}

func (w *writer) Offset() int64 { return w.offset }

func (w *writer) Write(b []byte) (int, error) {
	fits := w.store.take(len(b))
	n, err := w.file.Write(b[:fits])
	w.sum.Write(b[:n])
	w.offset += int64(n)
	if err == nil && n < len(b) {
		err = fmt.Errorf("blob %s: %w", w.digest.Short(), protocol.ErrFull)
	}
	return n, err
}

func (w *writer) Commit() error {
	if w.offset != w.size {
		return fmt.Errorf("commit with %d of %d bytes", w.offset, w.size)
	}
	if hex.EncodeToString(w.sum.Sum(nil)) != string(w.digest) {
		return errors.Join(protocol.ErrMismatch, w.store.root.Remove(partialName(w.digest, w.size)))
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	return w.store.root.Rename(partialName(w.digest, w.size), string(w.digest))
}

func (w *writer) Close() error { return w.file.Close() }
