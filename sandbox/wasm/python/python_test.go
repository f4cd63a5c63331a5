package python

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// archive is what `make runtimes` has built.
func archive(t testing.TB) []byte {
	t.Helper()
	folder, err := Folder()
	if err != nil {
		t.Fatal(err)
	}
	a, err := Find(folder, filepath.FromSlash("../../../bin/runtimes"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(a.Path)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != a.Size || a.Name != Name || !a.Digest.Valid() {
		t.Fatalf("found %+v, which has %d bytes", a, len(b))
	}
	return b
}

func TestPython_UnpacksWhatItKnows(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "python")
	packed := archive(t)
	if err := Unpack(bytes.NewReader(packed), dir); err != nil {
		t.Fatal(err)
	}
	if err := Verify(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{Module, "lib/python311.zip", "lib/python3.11/json/decoder.pyc", "LICENSE.python.txt", "LICENSE.runno.txt", "NOTICE.txt"} {
		if info, err := os.Stat(filepath.Join(dir, filepath.FromSlash(name))); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Unpack(strings.NewReader("not read, since all is there"), dir); err != nil {
		t.Fatalf("a second time: %v", err)
	}
	if list, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(list) != 1 {
		t.Fatalf("beside it lies %v (%v)", list, err)
	}
}

func TestPython_HealsAFolderThatIsNotWhole(t *testing.T) {
	packed := archive(t)
	for what, damage := range map[string]func(dir string) error{
		"a file gone":    func(dir string) error { return os.Remove(filepath.Join(dir, "lib/python3.11/json/decoder.pyc")) },
		"a file cut off": func(dir string) error { return os.Truncate(filepath.Join(dir, Module), 1000) },
		"a byte changed": func(dir string) error {
			name := filepath.Join(dir, "lib/python3.11/random.pyc")
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			b[len(b)/2] ^= 1
			return os.WriteFile(name, b, 0o644)
		},
		"a file too many": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "lib/python3.11/os.pyc.py"), nil, 0o644)
		},
		"a link": func(dir string) error { return os.Symlink("/etc", filepath.Join(dir, "lib", "etc")) },
	} {
		t.Run(what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "python")
			if err := Unpack(bytes.NewReader(packed), dir); err != nil {
				t.Fatal(err)
			}
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			if Verify(dir) == nil {
				t.Fatal("it is taken for whole")
			}
			if err := Unpack(bytes.NewReader(packed), dir); err != nil {
				t.Fatal(err)
			}
			if err := Verify(dir); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// item is a file of the archive.
type item struct {
	tar.Header
	data []byte
}

func items(t testing.TB, packed []byte) (all []item) {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		data, readErr := io.ReadAll(tr)
		if err := errors.Join(err, readErr); err != nil {
			t.Fatal(err)
		}
		all = append(all, item{*h, data})
	}
}

// repacked is an archive of some files.
func repacked(t testing.TB, all []item) []byte {
	t.Helper()
	var out bytes.Buffer
	zw, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(zw)
	for _, i := range all {
		i.Size = int64(len(i.data))
		if err := errors.Join(tw.WriteHeader(&i.Header), errOf(tw.Write(i.data))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func errOf[T any](_ T, err error) error { return err }

func TestPython_RefusesEveryOtherArchive(t *testing.T) {
	packed := archive(t)
	all := items(t, packed)
	last := len(all) - 1
	changed := slices.Clone(all)
	changed[10].data = bytes.Clone(changed[10].data)
	changed[10].data[0] ^= 1
	before := func(h tar.Header) []byte { return repacked(t, slices.Insert(slices.Clone(all), 0, item{Header: h})) }
	for what, b := range map[string][]byte{
		"nothing":         nil,
		"no zstd":         []byte("hello"),
		"half":            packed[:len(packed)/2],
		"no files":        repacked(t, nil),
		"a byte changed":  repacked(t, changed),
		"a file missing":  repacked(t, all[:last]),
		"a file twice":    repacked(t, append(slices.Clone(all), all[0])),
		"too many files":  repacked(t, slices.Repeat(all[:5], 400)),
		"too much":        repacked(t, slices.Repeat(all[last:], 6)),
		"a link":          before(tar.Header{Name: "x", Typeflag: tar.TypeSymlink, Linkname: "/etc"}),
		"a path outside":  before(tar.Header{Name: "../x", Typeflag: tar.TypeReg}),
		"an absolute one": before(tar.Header{Name: "/tmp/spare-x", Typeflag: tar.TypeReg}),
	} {
		t.Run(what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "python")
			if err := Unpack(bytes.NewReader(b), dir); err == nil {
				t.Fatal("it is taken")
			}
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("it left something (%v)", err)
			}
			if list, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(list) != 0 {
				t.Fatalf("beside it lies %v (%v)", list, err)
			}
		})
	}
}

func TestPython_SaysWhereItLooked(t *testing.T) {
	if _, err := Find("/nowhere", t.TempDir()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "make runtimes") {
		t.Fatal(err)
	}
}
