// Package python is CPython for WebAssembly as Spare hands it out: one archive, built by
// `make runtimes`, that a hub serves by its digest and a node unpacks. It owns what is in
// the archive, down to the last byte: every file's checksum is part of this program, so
// that a hub cannot slip in another interpreter. It runs nothing. Package wasm runs what
// Unpack left; hub and node find, serve and fetch the archive.
package python

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/spare-compute/spare"
)

// What the archive is.
const (
	Version = "3.11.3"
	Name    = "python-" + Version + "-wasi"
	File    = Name + ".tar.zst" // the archive's own name

	Module = "python.wasm" // the interpreter, in the unpacked folder
	Lib    = "lib"         // its library, beside it: what belongs into lib of PYTHONHOME
)

// What is in it: the sums of the interpreter and of the whole folder, as treeDigest makes
// it, and the sizes of the two files that Check looks at.
const (
	moduleDigest spare.Digest = "c20f33b9fc1199933e1ff43491a614b9ea59c62145e4c1cfb0a619b8f29bd10c"
	wholeDigest  spare.Digest = "87724606521e52ac8e14c505d03103e68f4b62f6907d29659c52b0055a899f84"
	moduleSize                = 12379347
	startZip                  = Lib + "/python311.zip" // what CPython imports to start
	startZipSize              = 22444

	maxFiles = 1000
	maxBytes = 64 << 20
)

// ModuleDigest names the interpreter.
func ModuleDigest() spare.Digest { return moduleDigest }

// Archive is one that was found.
type Archive struct {
	Path    string
	Name    string
	Version string
	Digest  spare.Digest
	Size    int64 // bytes
}

// Find looks for the archive in folders, in their order.
func Find(folders ...string) (Archive, error) {
	for _, dir := range folders {
		name := filepath.Join(dir, File)
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Archive{}, fmt.Errorf("open the Python runtime: %w", err)
		}
		defer f.Close()
		sum := sha256.New()
		n, err := io.Copy(sum, f)
		if err != nil {
			return Archive{}, fmt.Errorf("read the Python runtime: %w", err)
		}
		return Archive{Path: name, Name: Name, Version: Version, Digest: digest(sum.Sum(nil)), Size: n}, nil
	}
	return Archive{}, fmt.Errorf("no %s in %q: `make runtimes` builds it into bin/runtimes: %w", File, folders, fs.ErrNotExist)
}

// Folder is where `make runtimes` keeps what it has built for this user, so that it is
// built once on a machine.
func Folder() (string, error) {
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "spare", "runtimes"), err
}

// Check says in a sentence what is wrong with an unpacked folder, by a look at it only:
// Verify reads all of it.
func Check(dir string) error {
	for name, size := range map[string]int64{Module: moduleSize, startZip: startZipSize} {
		info, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(name)))
		if err == nil && (!info.Mode().IsRegular() || info.Size() != size) {
			err = errors.New(name + " is not the file that belongs there")
		}
		if err != nil {
			return fmt.Errorf("the Python runtime in %s is not whole, unpack it again: %w", dir, err)
		}
	}
	return nil
}

// Verify compares an unpacked folder with what belongs there, byte by byte.
func Verify(dir string) error {
	if err := Check(dir); err != nil {
		return err
	}
	got, err := treeDigest(dir)
	if err == nil && got != wholeDigest {
		err = errors.New("its files are not those that belong there")
	}
	if err != nil {
		return fmt.Errorf("the Python runtime in %s is damaged, unpack it again: %w", dir, err)
	}
	return nil
}

// treeDigest is one digest for the names and contents of all files in a folder.
func treeDigest(dir string) (spare.Digest, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	all := sha256.New()
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is no plain file", name)
		}
		f, err := root.Open(filepath.FromSlash(name))
		if err != nil {
			return err
		}
		defer f.Close()
		one := sha256.New()
		if _, err := io.Copy(one, f); err != nil {
			return err
		}
		fmt.Fprintf(all, "%x %s\n", one.Sum(nil), name)
		return nil
	})
	return digest(all.Sum(nil)), err
}

// Unpack fills a folder from the archive. The folder is whole or not there: one that is
// whole already stays, and one that is not is replaced.
func Unpack(archive io.Reader, dir string) error {
	if Verify(dir) == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("unpack the Python runtime: %w", err)
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "unpack-")
	if err != nil {
		return fmt.Errorf("unpack the Python runtime: %w", err)
	}
	defer os.RemoveAll(work)
	made := filepath.Join(work, "made")
	if err := unpack(archive, made); err != nil {
		return fmt.Errorf("unpack the Python runtime: %w", err)
	}
	settle(made)
	if err := os.Rename(dir, filepath.Join(work, "old")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace the Python runtime: %w", err)
	}
	if err := os.Rename(made, dir); err != nil && Verify(dir) != nil { // else another process was first
		return fmt.Errorf("unpack the Python runtime: %w", err)
	}
	settle(filepath.Dir(dir))
	return nil
}

// unpack takes plain files only, and none that would lie elsewhere.
func unpack(archive io.Reader, dir string) error {
	const window = 64 << 20
	z, err := zstd.NewReader(archive, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(window))
	if err != nil {
		return err
	}
	defer z.Close()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	t, left := tar.NewReader(z), int64(maxBytes)
	for range maxFiles {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return verifyNew(dir)
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		if left -= h.Size; left < 0 || h.Typeflag != tar.TypeReg {
			return fmt.Errorf("it is not the Python runtime %s: %q does not belong there", Version, h.Name)
		}
		if err := write(root, filepath.FromSlash(h.Name), t); err != nil {
			return err
		}
	}
	return errors.New("the archive holds too many files")
}

func verifyNew(dir string) error {
	got, err := treeDigest(dir)
	if err == nil && got != wholeDigest {
		err = fmt.Errorf("it is not the Python runtime %s that this version of Spare knows: its content is %s and not %s", Version, got, wholeDigest)
	}
	return err
}

func write(root *os.Root, name string, from io.Reader) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Sync(), f.Close())
}

// settle writes a folder itself to the disk. Where that cannot be done, or a power cut
// comes sooner, Verify finds out at the next start.
func settle(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	_ = f.Sync()
	_ = f.Close()
}

func digest(sum []byte) spare.Digest { return spare.Digest(hex.EncodeToString(sum)) }
