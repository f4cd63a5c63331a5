package bundle

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
)

var app = map[string]string{"manifest.json": "{}", "app/main.py": "print(1)", "app/run.sh*": "#!/bin/sh", "app/lib/ä b.py": "", "a-b": "1", "a/b": "2"}

func TestPack_EqualFoldersGiveEqualBytes(t *testing.T) {
	var first, second bytes.Buffer
	m, err := Pack(folder(t, app), &first)
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t, app)
	if err := os.Chtimes(filepath.Join(dir, "app", "main.py"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := Pack(dir, &second); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the archives differ")
	}
	if m.Digest != spare.Sum(first.Bytes()) || m.Size != int64(first.Len()) || len(m.Files) != len(app) || m.Bytes != 21 {
		t.Errorf("%+v", m)
	}
	back := filepath.Join(t.TempDir(), "back")
	if err := Unpack(t.Context(), &first, back, Limits{}); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, back); !maps.Equal(got, app) {
		t.Errorf("unpacked %v", got)
	}
}

func TestPackResult_CompressesOnlyWhereItGains(t *testing.T) {
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"text":                {map[string]string{"a": strings.Repeat("text ", 10_000)}, true},
		"media":               {map[string]string{"a": string(noise), "log": "text text text text"}, false},
		"media, plain header": {map[string]string{"a": strings.Repeat("\x00", 100_000) + string(noise)}, false},
		"nothing":             {map[string]string{}, false},
	} {
		var b bytes.Buffer
		p, err := PackResult(t.Context(), folder(t, c.files), &b)
		if err != nil {
			t.Fatal(err)
		}
		if p.Compressed != c.want || p.Files != len(c.files) {
			t.Errorf("%s: %+v", name, p)
		}
		dir := t.TempDir()
		if err := Unpack(t.Context(), &b, dir, Limits{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := contents(t, dir); !maps.Equal(got, c.files) {
			t.Errorf("%s: unpacked %d files", name, len(got))
		}
	}
}

func TestPackResult_ContentIsOfTheFilesNotThePacking(t *testing.T) {
	content := func(files map[string]string) spare.Digest {
		p, err := PackResult(t.Context(), folder(t, files), &bytes.Buffer{})
		if err != nil {
			t.Fatal(err)
		}
		return p.Content
	}
	one := content(map[string]string{"a": "1", "b": "2"})
	if one != content(map[string]string{"a": "1", "b": "2"}) || !one.Valid() {
		t.Error("equal files, other digest")
	}
	for _, other := range []map[string]string{
		{"a": "1", "b": "3"}, {"a": "1", "c": "2"}, {"a": "1"}, {"a": "1", "b*": "2"}, {"a": "12", "b": ""}, {"x/a": "1", "x/b": "2"},
	} {
		if one == content(other) {
			t.Errorf("%v has the same digest", other)
		}
	}
}

func TestPackResult_StopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("preempted")
	cancel(why)
	if _, err := PackResult(ctx, folder(t, map[string]string{"a": "1"}), &bytes.Buffer{}); !errors.Is(err, why) {
		t.Error(err)
	}
}

func TestPack_RefusesLinksInAnAppsFolder(t *testing.T) {
	dir := folder(t, app)
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "app", "link")); err != nil {
		t.Fatal(err)
	}
	var refused *Refused
	if _, err := Pack(dir, &bytes.Buffer{}); !errors.As(err, &refused) || refused.Name != "app/link" {
		t.Error(err)
	}
}
