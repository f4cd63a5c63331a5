package image

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// FuzzUnpack gives unpack any bytes. Whatever they are, nothing lies outside of its
// folder, nothing in it is but plain files, folders and links, and what a record says is
// what is there, also when it is read again.
func FuzzUnpack(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o1777},
		{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o4755},
		{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../../x"},
		{Name: "h", Typeflag: tar.TypeLink, Linkname: "d/f"},
		{Name: "low", Typeflag: tar.TypeLink, Linkname: "below"},
		{Name: ".wh.gone"},
		{Name: "d/.wh..wh..opq"},
		{Name: "null", Typeflag: tar.TypeChar},
		{Name: "l", Typeflag: tar.TypeDir},
		{Name: "l/x", Typeflag: tar.TypeReg},
	} {
		if err := w.WriteHeader(&h); err != nil {
			f.Fatal(err)
		}
	}
	_ = w.Close()
	f.Add(b.Bytes())
	f.Add([]byte("\x1f\x8b\x08"))
	f.Add([]byte("\x28\xb5\x2f\xfd\x00"))
	lim := Limits{Bytes: 1 << 20, Entries: 100}.withDefaults()
	f.Fuzz(func(t *testing.T, layer []byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "in")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		rec, err := unpack(t.Context(), bytes.NewReader(layer), dir, lim, func(int64) error { return nil })
		if outside, listErr := os.ReadDir(top); listErr != nil || len(outside) != 1 {
			t.Fatalf("outside lies %v (%v)", outside, listErr)
		}
		if err != nil {
			return
		}
		err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err == nil && info.Mode()&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
				t.Errorf("%s is %v", p, info.Mode())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := verify(dir, rec.entries, true); err != nil {
			t.Fatalf("it is not what its record says: %v", err)
		}
		raw, err := rec.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeRecord(raw)
		if err != nil || !slices.Equal(again.entries, rec.entries) {
			t.Fatalf("the record came back as %v (%v)", again.entries, err)
		}
		_, _ = join(2, func(i int) (record, error) { return []record{rec, again}[i], nil }, lim)
	})
}

// FuzzDocuments gives manifests and configurations any bytes.
func FuzzDocuments(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:00","size":1},"layers":[]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"platform":{"os":"linux","architecture":"amd64"}}]}`))
	f.Add([]byte(`{"architecture":"amd64","os":"linux","rootfs":{"diff_ids":[]}}`))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		if d, err := readDocument(raw); err == nil {
			_, _ = d.choose(platform{OS: "linux", Arch: "arm64"})
			if d.Config != nil {
				_, _, _ = d.parts()
			}
		}
		_, _ = readSettings(raw, 0)
	})
}

// FuzzRecord gives a record's reader any bytes: a disk may hold anything.
func FuzzRecord(f *testing.F) {
	raw, err := record{head: head{ID: digestOf(make([]byte, 32))}, entries: []entry{{name: "a", kind: file, size: 3}}}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(_ *testing.T, raw []byte) { _, _ = decodeRecord(raw) })
}
