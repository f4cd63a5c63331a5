// Package blob keeps the hub's content: inputs, chunks, results, App bundles, each under
// the SHA-256 of its bytes. It owns one folder on disk and the promise that what has a
// name there is whole: content is written aside, checked, flushed and only then renamed
// into place. It never looks into content and does not know who needs it; Sweep is told.
// The API, the gateway, the pipeline and the catalogue put and read blobs.
//
//	root/ab/cdef…          a blob, by the first two and the other 62 digits of its digest
//	root/partials/D.SIZE   the beginning of a blob somebody is sending; .SENDER behind it: one sender's
//	root/tmp/              what is being written; emptied at start
package blob

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol"
)

var _ protocol.BlobStore = (*Disk)(nil)

const (
	partialsDir = "partials"
	tmpDir      = "tmp"
	// maxPartialAge is how long the beginning of a blob waits for the rest over a restart.
	maxPartialAge = 48 * time.Hour
)

// Errors a caller must tell apart.
var (
	// ErrNotFound also matches fs.ErrNotExist.
	ErrNotFound error = notFoundError{}
	ErrFull           = protocol.ErrFull
	ErrMismatch       = protocol.ErrMismatch
)

type notFoundError struct{}

func (notFoundError) Error() string        { return "no such blob" }
func (notFoundError) Is(target error) bool { return target == fs.ErrNotExist }

// A fullError says which volume has no room, and what would help.
type fullError struct {
	root       string
	free, keep int64 // bytes
	err        error // what the system said, if it was the system
}

func (e *fullError) Error() string {
	if e.err != nil {
		return fmt.Sprintf("the disk of %s is full (%v): free space on it, then try again", e.root, e.err)
	}
	return fmt.Sprintf("the disk of %s is full: %d MiB are free and %d MiB must stay free; free space on it, then try again",
		e.root, e.free>>20, e.keep>>20)
}

func (e *fullError) Is(target error) bool { return target == ErrFull }
func (e *fullError) Unwrap() error        { return e.err }

// A Disk is a blob store in a folder. It is safe for concurrent use by one process.
type Disk struct {
	root    string
	minFree int64
	free    func(path string) (int64, error)

	// mu makes "is it there? then mark it fresh, else move it in" one step, and "is it
	// old? then remove it" another, so that a sweep cannot take what was just put again.
	mu       sync.Mutex
	partials map[string]struct{} // the partial files somebody writes now
}

// OpenDisk opens the store in root, making it if there is none, and clears away what a
// crash left half written. Writing stops with ErrFull where it would leave less than
// minFree bytes on the volume. Only one process may have a store open.
func OpenDisk(root string, minFree int64) (*Disk, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	d := &Disk{root: root, minFree: minFree, free: freeSpace, partials: map[string]struct{}{}}
	if err := os.RemoveAll(d.tmp()); err != nil {
		return nil, fmt.Errorf("open blob store %s: clear what was left half written: %w", root, err)
	}
	for _, dir := range []string{root, d.tmp(), filepath.Join(root, partialsDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open blob store: %w", err)
		}
	}
	if _, _, err := d.sweepPartials(maxPartialAge); err != nil {
		return nil, fmt.Errorf("open blob store %s: %w", root, err)
	}
	return d, nil
}

// Stat returns a blob's size.
func (d *Disk) Stat(digest spare.Digest) (int64, error) {
	if !digest.Valid() {
		return 0, fmt.Errorf("blob %.80q: %w", string(digest), ErrNotFound)
	}
	info, err := os.Lstat(d.Path(digest))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("blob %s: %w", digest.Short(), ErrNotFound)
	case err != nil:
		return 0, fmt.Errorf("look up blob %s: %w", digest.Short(), err)
	}
	return info.Size(), nil
}

// Open reads a blob from offset on and returns its whole size. The caller closes it; a
// blob that is open stays readable while it is swept.
func (d *Disk) Open(digest spare.Digest, offset int64) (io.ReadCloser, int64, error) {
	size, err := d.Stat(digest)
	if err != nil {
		return nil, 0, err
	}
	if offset < 0 || offset > size {
		return nil, 0, fmt.Errorf("blob %s: no byte %d in it, it has %d", digest.Short(), offset, size)
	}
	f, err := os.Open(d.Path(digest))
	switch {
	case errors.Is(err, fs.ErrNotExist): // swept in between
		return nil, 0, fmt.Errorf("blob %s: %w", digest.Short(), ErrNotFound)
	case err != nil:
		return nil, 0, fmt.Errorf("open blob %s: %w", digest.Short(), err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("open blob %s at %d: %w", digest.Short(), offset, err)
	}
	return f, size, nil
}

// Path is the file of a blob that the store holds, for reading on the spot. It is ""
// for what is no digest, and names no file where there is no such blob.
func (d *Disk) Path(digest spare.Digest) string {
	if !digest.Valid() {
		return ""
	}
	return filepath.Join(d.root, string(digest[:2]), string(digest[2:]))
}

func (d *Disk) tmp() string { return filepath.Join(d.root, tmpDir) }

// Room reports ErrFull if n more bytes would not leave minFree.
func (d *Disk) Room(n int64) error {
	if d.minFree <= 0 {
		return nil
	}
	free, err := d.free(d.root)
	if err != nil {
		return fmt.Errorf("ask how much space is free on %s: %w", d.root, err)
	}
	if free-n < d.minFree {
		return &fullError{root: d.root, free: free, keep: d.minFree}
	}
	return nil
}

// explain turns the system's "no space left" into ErrFull.
func (d *Disk) explain(doing string, err error) error {
	if outOfSpace(err) {
		return &fullError{root: d.root, err: err}
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// commit moves a checked and flushed file into place under its digest, or drops it if
// the blob is there already.
func (d *Disk) commit(file string, digest spare.Digest, size int64) error {
	dst := d.Path(digest)
	dir := filepath.Dir(dst)
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		if err := syncDir(d.root); err != nil {
			return d.explain("flush the blob store's folder", err)
		}
	case !errors.Is(err, fs.ErrExist):
		return d.explain("make a folder for blob "+digest.Short(), err)
	}
	if err := os.Chmod(file, 0o444); err != nil {
		return d.explain("protect blob "+digest.Short(), err)
	}
	if err := d.moveIn(file, dst, size); err != nil {
		_ = os.Chmod(file, 0o600) // who goes on with it later must be able to write
		return d.explain("store blob "+digest.Short(), err)
	}
	if err := syncDir(dir); err != nil {
		return d.explain("flush blob "+digest.Short(), err)
	}
	return nil
}

func (d *Disk) moveIn(file, dst string, size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if info, err := os.Lstat(dst); err == nil && info.Mode().IsRegular() && info.Size() == size {
		if err := os.Chtimes(dst, now, now); err != nil {
			return err
		}
		return os.Remove(file)
	}
	// The file may be older than the blob: its age counts from here.
	if err := os.Chtimes(file, now, now); err != nil {
		return err
	}
	return os.Rename(file, dst)
}
