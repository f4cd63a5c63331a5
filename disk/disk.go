// Package disk writes the small files that must outlive a power cut: a file is replaced
// as a whole or not at all, and when a call returns without an error, content and name
// are durable. It knows nothing of what the files mean. The hub, the node and publishers'
// keys keep their records with it.
package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// Replace puts a file with this content in the place of whatever is called path. Only
// its owner may read it.
func Replace(path string, raw []byte) error {
	name, err := beside(path, raw)
	if err != nil {
		return err
	}
	if err := rename(name, path); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return SyncDir(filepath.Dir(path))
}

// Create is Replace for a name that is not taken: where it is, the error is fs.ErrExist.
func Create(path string, raw []byte) error {
	name, err := beside(path, raw)
	if err != nil {
		return err
	}
	err = os.Link(name, path)
	if err != nil && !errors.Is(err, fs.ErrExist) { // a file system without links
		if _, err = os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			err = rename(name, path)
		} else if err == nil {
			err = fs.ErrExist
		}
	}
	if e := os.Remove(name); !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Move renames a file within its folder, over another if there is one.
func Move(from, to string) error {
	if err := rename(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// beside writes a file of a name of its own into the folder of path.
func beside(path string, raw []byte) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// rename puts a file over another. Windows refuses that while somebody reads the other
// one, which takes a moment.
func rename(from, to string) error {
	err := os.Rename(from, to)
	for range 40 {
		if err == nil || runtime.GOOS != "windows" {
			break
		}
		time.Sleep(5 * time.Millisecond)
		err = os.Rename(from, to)
	}
	return err
}

// SyncDir makes new names in a folder durable. Windows needs and allows no such call, and
// some file systems know none.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// KeepsModes reports whether a file beside path can be its owner's alone. On a stick that
// other systems read too, it cannot: every file there shows one and the same mode.
func KeepsModes(path string) (bool, error) {
	if runtime.GOOS == "windows" {
		return true, nil // rights are inherited there, and not modes
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	name, err := beside(path, nil)
	if err != nil {
		return false, err
	}
	info, err := os.Stat(name)
	if err := errors.Join(err, os.Remove(name)); err != nil {
		return false, err
	}
	return info.Mode().Perm()&0o077 == 0, nil
}
