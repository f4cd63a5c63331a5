package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
)

func TestUnpack_ReadsEveryForm(t *testing.T) {
	items := []item{
		{name: "./", kind: tar.TypeDir},
		{name: "./app/", kind: tar.TypeDir, mode: 0o700},
		{name: "./app/main.py", text: "print(1)"},
		{name: "run.sh", text: "#!/bin/sh", mode: 0o755},
		{name: "empty/", kind: tar.TypeDir},
		{name: "deep/er/f", text: "f"},
	}
	want := map[string]string{"app/main.py": "print(1)", "run.sh*": "#!/bin/sh", "deep/er/f": "f"}
	for form, pack := range forms {
		archive := pack(t, items)
		for way, r := range map[string]io.Reader{"memory": bytes.NewReader(archive), "stream": iotest.OneByteReader(bytes.NewReader(archive))} {
			dir := filepath.Join(t.TempDir(), "new")
			if err := Unpack(t.Context(), r, dir, Limits{}); err != nil {
				t.Errorf("%s from %s: %v", form, way, err)
				continue
			}
			if got := contents(t, dir); !maps.Equal(got, want) {
				t.Errorf("%s from %s: %v", form, way, got)
			}
			if info, err := os.Stat(filepath.Join(dir, "empty")); err != nil || !info.IsDir() {
				t.Errorf("%s from %s: the empty folder: %v", form, way, err)
			}
			if info, err := os.Stat(filepath.Join(dir, "app")); err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("%s from %s: the folder's mode: %v, %v", form, way, info, err)
			}
		}
	}
}

// refusedNames are bad names; each must be refused in every form.
var refusedNames = []string{
	"../x", "a/../../x", "a/..", "/etc/passwd", "//x", "a//b", "a/./b", ".", "..", `a\b`, `..\x`, "C:/x", "file:stream", "a\nb", "a\x7f",
	"bad\xff", strings.Repeat("n", 300), strings.Repeat("d/", 80) + "f", strings.Repeat(strings.Repeat("n", 100)+"/", 12) + "f",
	"dot.", "space ", "a./b", "CON", "con.txt", "a/NUL", "Aux.tar.gz", "lpt9", "COM¹", "prn .txt", "CONIN$",
}

func TestUnpack_RefusesAndLeavesNothing(t *testing.T) {
	cases := map[string][]item{
		"twice":            {{name: "a"}, {name: "a"}},
		"case":             {{name: "a/File"}, {name: "a/file"}},
		"case of a folder": {{name: "A/x"}, {name: "a/y"}},
		"file and folder":  {{name: "a"}, {name: "a/b"}},
		"folder and file":  {{name: "a/b"}, {name: "a"}},
		"symbolic link":    {{name: "l", kind: tar.TypeSymlink, link: "/etc/passwd"}},
		"link inside":      {{name: "l", kind: tar.TypeSymlink, link: "ok"}},
		"through a link":   {{name: "l", kind: tar.TypeSymlink, link: "/tmp"}, {name: "l/x", text: "x"}},
		"character device": {{name: "d", kind: tar.TypeChar}},
		"block device":     {{name: "d", kind: tar.TypeBlock}},
		"named pipe":       {{name: "p", kind: tar.TypeFifo}},
	}
	for _, name := range refusedNames {
		cases["name "+name] = []item{{name: name, text: "x"}}
	}
	for name, items := range cases {
		for form, pack := range forms {
			archive := pack(t, append([]item{{name: "ok", text: "1"}, {name: "sub/ok", text: "2"}}, items...))
			wantRefused(t, form+", "+name, bytes.NewReader(archive), Limits{})
		}
	}
	hard := makeTar(t, []item{{name: "ok"}, {name: "l", kind: tar.TypeLink, link: "ok"}})
	wantRefused(t, "hard link", bytes.NewReader(hard), Limits{})
}

// wantRefused unpacks into an empty folder and into a new one, and wants both as before.
func wantRefused(t *testing.T, what string, archive *bytes.Reader, lim Limits) {
	t.Helper()
	parent := t.TempDir()
	empty := filepath.Join(parent, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{empty, filepath.Join(parent, "new")} {
		if _, err := archive.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		var refused *Refused
		if err := Unpack(t.Context(), archive, dir, lim); !errors.As(err, &refused) {
			t.Errorf("%s: not refused: %v", what, err)
		}
	}
	if got := contents(t, parent); len(got) != 0 {
		t.Errorf("%s: left %v", what, got)
	}
	if left, _ := os.ReadDir(parent); len(left) != 1 {
		t.Errorf("%s: left %v", what, left)
	}
	if left, _ := os.ReadDir(empty); len(left) != 0 {
		t.Errorf("%s: left %v", what, left)
	}
}

func TestUnpack_RefusesBombs(t *testing.T) {
	zeros := item{name: "zeros", text: strings.Repeat("\x00", 66<<20)}
	many := make([]item, 0, 200)
	for i := range 200 {
		many = append(many, item{name: "f" + strings.Repeat("x", i%50) + string(rune('a'+i/50))})
	}
	folders := []item{}
	for i := range extraFolders + 200 {
		folders = append(folders, item{name: "d" + strconv.Itoa(i), kind: tar.TypeDir})
	}
	wantRefused(t, "folders", bytes.NewReader(makeTar(t, folders)), Limits{Files: 100})
	for form, pack := range forms {
		wantRefused(t, form+", bytes", bytes.NewReader(pack(t, []item{{name: "f", text: strings.Repeat("x", 1001)}})), Limits{Bytes: 1000})
		wantRefused(t, form+", files", bytes.NewReader(pack(t, many)), Limits{Files: 199})
		if form != "tar" {
			wantRefused(t, form+", ratio", bytes.NewReader(pack(t, []item{zeros})), Limits{Ratio: 10})
		}
	}
}

func TestUnpack_BelievesNoDeclaredSize(t *testing.T) {
	archive := makeZip(t, []item{{name: "f", text: strings.Repeat("x", 5000)}})
	// The uncompressed size in the list of contents, 24 bytes after its signature.
	at := bytes.Index(archive, []byte("PK\x01\x02"))
	binary.LittleEndian.PutUint32(archive[at+24:], 10)
	wantRefused(t, "zip that lies", bytes.NewReader(archive), Limits{Bytes: 1000})

	sparse := makeTar(t, []item{{name: "f", text: "x"}})
	copy(sparse[124:136], "77777777777\x00") // 8 GiB, of which one block is there
	sum := 0
	copy(sparse[148:156], "        ")
	for _, b := range sparse[:512] {
		sum += int(b)
	}
	copy(sparse[148:156], []byte(octal(sum)))
	wantRefused(t, "tar that lies", bytes.NewReader(sparse), Limits{})
}

func octal(n int) string {
	s := ""
	for range 6 {
		s = string(rune('0'+n%8)) + s
		n /= 8
	}
	return s + "\x00 "
}

func TestUnpack_RefusesWhatIsNoArchive(t *testing.T) {
	good := makeTar(t, []item{{name: "f", text: strings.Repeat("text", 10_000)}})
	for what, archive := range map[string][]byte{
		"empty":               {},
		"text":                []byte("hello"),
		"much text":           bytes.Repeat([]byte("hello "), 1000),
		"xz":                  []byte("\xfd7zXZ\x00..."),
		"cut off tar":         good[:2000],
		"cut off gzip":        gzipped(t, good)[:40],
		"cut off zstd":        zstded(t, good)[:40],
		"cut off zip":         makeZip(t, []item{{name: "f", text: "text"}})[:60],
		"damaged gzip":        append(gzipped(t, good)[:20], bytes.Repeat([]byte{7}, 100)...),
		"damaged zstd":        append(zstded(t, good)[:20], bytes.Repeat([]byte{7}, 100)...),
		"zstd of text":        zstded(t, []byte("hello")),
		"zstd, huge window":   hugeWindow(t),
		"encrypted zip":       encrypted(t),
		"zip of other method": otherMethod(t),
	} {
		wantRefused(t, what, bytes.NewReader(archive), Limits{})
	}
}

// hugeWindow is a frame that asks for 512 MiB of window.
func hugeWindow(t testing.TB) []byte {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(zstd.MaxWindowSize))
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(makeTar(t, []item{{name: "f", text: strings.Repeat("x", 1<<20)}}))
	for _, err := range []error{err, w.Flush(), w.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func encrypted(t testing.TB) []byte {
	archive := makeZip(t, []item{{name: "f", text: "text"}})
	archive[bytes.Index(archive, []byte("PK\x01\x02"))+8] |= 1
	return archive
}

func otherMethod(t testing.TB) []byte {
	archive := makeZip(t, []item{{name: "f", text: "text"}})
	archive[bytes.Index(archive, []byte("PK\x01\x02"))+10] = 14 // LZMA
	return archive
}

func TestUnpack_WantsAnEmptyFolder(t *testing.T) {
	dir := folder(t, map[string]string{"mine": "1"})
	err := Unpack(t.Context(), bytes.NewReader(makeTar(t, []item{{name: "f"}})), dir, Limits{})
	var refused *Refused
	if err == nil || errors.As(err, &refused) {
		t.Error(err)
	}
	if got := contents(t, dir); !maps.Equal(got, map[string]string{"mine": "1"}) {
		t.Errorf("the folder holds %v", got)
	}
}

func TestUnpack_ErrorsOfTheReaderAreNotTheArchives(t *testing.T) {
	archive := makeTar(t, []item{{name: "f", text: strings.Repeat("x", 100_000)}})
	cut := errors.New("the line is cut")
	dir := t.TempDir()
	var refused *Refused
	err := Unpack(t.Context(), io.MultiReader(bytes.NewReader(archive[:50_000]), iotest.ErrReader(cut)), dir, Limits{})
	if !errors.Is(err, cut) || errors.As(err, &refused) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Unpack(ctx, bytes.NewReader(archive), dir, Limits{}); !errors.Is(err, context.Canceled) || errors.As(err, &refused) {
		t.Error(err)
	}
	if got := contents(t, dir); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

func TestUnpack_LeavesNoTemporaryFile(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	archive := makeZip(t, []item{{name: "f", text: "x"}})
	for _, end := range []int{len(archive), len(archive) - 5} {
		_ = Unpack(t.Context(), io.MultiReader(bytes.NewReader(archive[:end])), t.TempDir(), Limits{})
	}
	if left, _ := os.ReadDir(tmp); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestUnpack_ZipWithGarbageInFront(t *testing.T) {
	// A self-extracting archive is no zip to Spare: what is run is not what is read.
	archive := append([]byte("#!/bin/sh\n"), makeZip(t, []item{{name: "f"}})...)
	wantRefused(t, "zip behind a script", bytes.NewReader(archive), Limits{})
}

func FuzzUnpack(f *testing.F) {
	items := []item{{name: "a/", kind: tar.TypeDir}, {name: "a/b", text: "text"}, {name: "c", text: "more text", mode: 0o755}}
	for _, pack := range forms {
		f.Add(pack(f, items))
		f.Add(pack(f, []item{{name: "../x", text: "x"}, {name: "l", kind: tar.TypeSymlink, link: "/etc"}}))
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "dir")
		err := Unpack(t.Context(), bytes.NewReader(archive), dir, Limits{Files: 100, Bytes: 1 << 20})
		left, readErr := os.ReadDir(parent)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if err != nil {
			if len(left) != 0 {
				t.Fatalf("refused (%v) and left %v", err, left)
			}
			return
		}
		if len(left) != 1 {
			t.Fatalf("left %v beside its folder", left)
		}
		// What came in may go out: all of it is within the rules.
		if _, err := CollectResults(dir, Limits{Files: 100, Bytes: 1 << 20}); err != nil {
			t.Fatalf("unpacked, but: %v", err)
		}
	})
}

func FuzzNames(f *testing.F) {
	for _, name := range refusedNames {
		f.Add(name)
	}
	f.Add("a/b c/ä.txt")
	f.Fuzz(func(t *testing.T, name string) {
		clean, err := newNames(Limits{}.withDefaults()).add(name, false)
		if err == nil && (!filepath.IsLocal(filepath.FromSlash(clean)) || strings.ContainsAny(clean, "\x00\\:")) {
			t.Errorf("%q is taken as %q", name, clean)
		}
	})
}

func TestUnpack_TakesNoMoreOfTheDiskThanThereIsForIt(t *testing.T) {
	items := []item{{name: "a/b/f", text: strings.Repeat("x", 5000)}, {name: "empty"}}
	const takes = 2*4096 + 8192 + 4096 // two folders, a file of two blocks, an empty one
	for form, pack := range forms {
		archive := pack(t, items)
		if err := Unpack(Within(t.Context(), takes), bytes.NewReader(archive), t.TempDir(), Limits{}); err != nil {
			t.Errorf("%s: %v", form, err)
		}
		dir := t.TempDir()
		err := Unpack(Within(t.Context(), takes-1), bytes.NewReader(archive), dir, Limits{})
		if !errors.Is(err, ErrNoRoom) || errors.As(err, new(*Refused)) {
			t.Errorf("%s: %v, want ErrNoRoom", form, err)
		}
		if left := contents(t, dir); len(left) > 0 {
			t.Errorf("%s left %v", form, left)
		}
	}
}
