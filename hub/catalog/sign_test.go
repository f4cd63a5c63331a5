package catalog_test

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/catalog"
	"github.com/spare-compute/spare/publisher"
)

func publisherKey(t *testing.T) *publisher.Key {
	t.Helper()
	k, err := publisher.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// signed is a shelf that knows publishers; key signs what comes with the hub.
func signedShelf(t *testing.T, key *publisher.Key, known ...*publisher.Key) shelf {
	t.Helper()
	s := newShelf(t)
	return s.as(t, key, known...)
}

// as is the same shelf after a restart of the hub.
func (s shelf) as(t *testing.T, key *publisher.Key, known ...*publisher.Key) shelf {
	t.Helper()
	s.Catalog = catalog.New(catalog.Config{
		Store: s.store, Blobs: s.blobs, Strategies: strategies{}, Work: t.TempDir(), Key: key,
		Publishers: func() (pins []publisher.Pin) {
			for _, k := range known {
				pins = append(pins, k.Public().Pin())
			}
			return pins
		},
	})
	return s
}

// folderOf lays a folder out on disk.
func folderOf(t *testing.T, f files) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range slices.Sorted(maps.Keys(f)) {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(f[name]), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// signFolder signs a folder as the command line does.
func signFolder(t *testing.T, k *publisher.Key, f files, change func(*publisher.Manifest)) []byte {
	t.Helper()
	app, err := catalog.Inspect(folderOf(t, f), spare.KindApp)
	if err != nil {
		t.Fatal(err)
	}
	m, err := publisher.Of(app)
	if err != nil {
		t.Fatal(err)
	}
	m.Revision, m.Issued, m.Expires = 1, time.Now(), time.Now().Add(time.Hour)
	if change != nil {
		change(&m)
	}
	raw, err := publisher.Sign(k, m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (s shelf) pushSigned(t *testing.T, f files, signed []byte) (catalog.Pushed, error) {
	t.Helper()
	return s.PushSigned(t.Context(), spare.KindApp, bytes.NewReader(tarOf(t, f)), "ada", signed)
}

func TestSign_WhatIsSignedIsWhatTheHubStores(t *testing.T) {
	k := publisherKey(t)
	s := signedShelf(t, nil, k)
	signed := signFolder(t, k, greyer, nil)
	p, err := s.pushSigned(t, greyer, signed)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.App.Signed, signed) {
		t.Error("the signature is not kept")
	}
	trust := publisher.Trust{}.Add(k.Public().Key)
	if _, v, err := trust.Judge(p.App, time.Now(), true); err != nil || v.Signer != k.ID() {
		t.Errorf("a node judges it %+v, %v", v, err)
	}
	back, err := s.Resolve(t.Context(), spare.KindApp, "greyer@0.1")
	if err != nil || !bytes.Equal(back.Signed, signed) {
		t.Errorf("read back %+v, %v", back, err)
	}
}

func TestSign_BadSignaturesAreRefusedAtThePush(t *testing.T) {
	k, stranger := publisherKey(t), publisherKey(t)
	other := greyer.with(files{"app/main.py": "evil"})
	forged := bytes.Clone(signFolder(t, k, greyer, nil))
	i := bytes.Index(forged, []byte(`"sig":"`)) + 10
	forged[i] ^= 1
	for name, c := range map[string]struct {
		signed []byte
		want   string
	}{
		"by a stranger":      {signFolder(t, stranger, greyer, nil), "spare-hub publisher add"},
		"of another folder":  {signFolder(t, k, other, nil), "bundle digest"},
		"forged":             {forged, "signature of greyer@0.1 is refused"},
		"nonsense":           {[]byte("hello"), "cannot be read"},
		"expired":            {signFolder(t, k, greyer, func(m *publisher.Manifest) { m.Issued, m.Expires = time.Unix(1, 0), time.Unix(2, 0) }), "expired"},
		"of another version": {signFolder(t, k, greyer, func(m *publisher.Manifest) { m.Version = "0.2" }), "version"},
		"other requirements": {signFolder(t, k, greyer, func(m *publisher.Manifest) { m.Needs.MinCPU = 99 }), "device_requirements"},
	} {
		t.Run(name, func(t *testing.T) {
			s := signedShelf(t, nil, k)
			_, err := s.pushSigned(t, greyer, c.signed)
			says(t, err, c.want)
			if apps, _ := s.List(t.Context(), spare.KindApp); len(apps) != 0 {
				t.Errorf("something of a refused push was kept: %v", apps)
			}
		})
	}
}

func TestSign_RevisionsRise(t *testing.T) {
	k := publisherKey(t)
	s := signedShelf(t, nil, k)
	at := func(revision uint64) func(*publisher.Manifest) {
		return func(m *publisher.Manifest) { m.Revision = revision }
	}
	first := signFolder(t, k, greyer, at(7))
	if _, err := s.pushSigned(t, greyer, first); err != nil {
		t.Fatal(err)
	}
	changed := greyer.with(files{"app/main.py": "other"})
	for _, revision := range []uint64{6, 7} {
		_, err := s.pushSigned(t, changed, signFolder(t, k, changed, at(revision)))
		says(t, err, "revision 7")
	}
	if _, err := s.pushSigned(t, greyer, first); err != nil {
		t.Errorf("the very same again: %v", err)
	}
	if _, err := s.pushSigned(t, changed, signFolder(t, k, changed, at(8))); err != nil {
		t.Error(err)
	}
}

func TestSign_UnsignedAppsOfVolunteersAreWarnedOf(t *testing.T) {
	k := publisherKey(t)
	s := signedShelf(t, nil, k)
	p, err := s.pushSigned(t, greyer, nil) // its template names pool lab
	if err != nil || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "pool lab") {
		t.Errorf("pushed with warnings %q, %v", p.Warnings, err)
	}
	if w, err := s.Unsigned(t.Context(), p.App); err != nil || !strings.Contains(w, "--sign") {
		t.Errorf("activation warns %q, %v", w, err)
	}
	if w := s.UnsignedIn(spare.Plan{App: p.App, Pool: "lab"}); w == "" {
		t.Error("a job's run does not warn")
	}
	if w := s.UnsignedIn(spare.Plan{App: p.App, Pool: catalog.DefaultPool}); w != "" {
		t.Errorf("a trusted pool's run warns %q", w)
	}
	p, err = s.pushSigned(t, greyer, signFolder(t, k, greyer, nil))
	if err != nil || len(p.Warnings) != 0 {
		t.Errorf("signed, pushed with warnings %q, %v", p.Warnings, err)
	}
	if w, err := s.Unsigned(t.Context(), p.App); err != nil || w != "" {
		t.Errorf("signed, activation warns %q, %v", w, err)
	}
	if p, err = s.pushSigned(t, greyer, nil); err != nil || len(p.Warnings) != 2 || !strings.Contains(p.Warnings[1], "was signed") {
		t.Errorf("unsigned after a signed one, pushed with warnings %q, %v", p.Warnings, err)
	}
}

func TestSign_AttachedToWhatIsStored(t *testing.T) {
	k := publisherKey(t)
	s := signedShelf(t, nil, k)
	s.push(t, greyer)
	if _, err := s.Activate(t.Context(), spare.KindApp, "greyer@0.1"); err != nil {
		t.Fatal(err)
	}
	other := greyer.with(files{"app/main.py": "evil"})
	_, err := s.Attach(t.Context(), spare.KindApp, "greyer@0.1", signFolder(t, k, other, nil))
	says(t, err, "bundle digest")
	signed := signFolder(t, k, greyer, nil)
	for range 2 {
		a, err := s.Attach(t.Context(), spare.KindApp, "greyer@0.1", signed)
		if err != nil || a.Revision != 2 || !a.Active || !bytes.Equal(a.Signed, signed) {
			t.Errorf("%+v, %v", a, err)
		}
	}
	_, err = s.Attach(t.Context(), spare.KindApp, "greyer@0.1", nil)
	says(t, err, "no signature")
}

// pictures names an image by a tag.
var pictures = files{
	"manifest.json": `{"name": "pictures", "version": "0.1", "entrypoint": "main.py", "platform_config": {"container": "example.org/opencv:4"}}`,
	"app/main.py":   "import cv2",
}

func TestSign_ImageIsThePublishersChoice(t *testing.T) {
	k := publisherKey(t)
	s := signedShelf(t, nil, k)
	f := pictures
	image := "example.org/opencv:4@sha256:" + string(spare.Sum([]byte("image")))
	at := func(name string) func(*publisher.Manifest) {
		return func(m *publisher.Manifest) { m.Environment.Image = name }
	}
	p, err := s.pushSigned(t, f, signFolder(t, k, f, at(image)))
	if err != nil || p.App.Environment.Image != image {
		t.Errorf("image %q, %v", p.App.Environment.Image, err)
	}
	_, err = s.pushSigned(t, f, signFolder(t, k, f, func(m *publisher.Manifest) {
		m.Environment.Image, m.Revision = strings.Replace(image, "opencv", "evil", 1), 2
	}))
	says(t, err, "environment")
}

// release is one of the hub with one App.
func release(f files) fstest.MapFS {
	m := fstest.MapFS{}
	for name, content := range f {
		m["greyer/"+name] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
	}
	return m
}

func (s shelf) greyer(t *testing.T) (spare.App, publisher.Manifest) {
	t.Helper()
	a, err := s.Resolve(t.Context(), spare.KindApp, "greyer@0.1")
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := publisher.Peek(a.Signed)
	if err != nil && len(a.Signed) > 0 {
		t.Fatal(err)
	}
	return a, m
}

func TestSign_OfficialAppsAreSignedByTheHubsOwnKey(t *testing.T) {
	k := publisherKey(t)
	s := signedShelf(t, k, k)
	trust := publisher.Trust{}.Add(k.Public().Key)
	judge := func(a spare.App) {
		t.Helper()
		next, _, err := trust.Judge(a, time.Now(), true)
		if err != nil {
			t.Errorf("a node judges revision %d: %v", a.Revision, err)
		}
		trust = next
	}
	register := func(f files) spare.App {
		t.Helper()
		if err := s.RegisterOfficial(t.Context(), release(f)); err != nil {
			t.Fatal(err)
		}
		a, _ := s.greyer(t)
		return a
	}
	first := register(greyer)
	judge(first)
	if again := register(greyer); again.Revision != 1 || !bytes.Equal(again.Signed, first.Signed) {
		t.Errorf("a second start signs anew: revision %d", again.Revision)
	}
	// A release with another content: jobs that pinned the one before go on.
	second := register(greyer.with(files{"app/main.py": "better"}))
	judge(second)
	judge(first)
	third := register(greyer.with(files{"app/main.py": "best"}))
	judge(third)
	judge(second)
	if _, _, err := trust.Judge(first, time.Now(), true); !errors.Is(err, publisher.ErrRolledBack) {
		t.Errorf("two releases back is judged %v", err)
	}
}

func TestSign_HubWithoutItsKeySignsNothing(t *testing.T) {
	k := publisherKey(t)
	s := signedShelf(t, k, k)
	s.ForgetKey()
	if err := s.RegisterOfficial(t.Context(), release(greyer)); err != nil {
		t.Fatal(err)
	}
	if a, _ := s.greyer(t); len(a.Signed) != 0 {
		t.Errorf("signed as %s", a.Signed)
	}
	// Whoever has the key gives the signature to what is stored.
	if _, err := s.Attach(t.Context(), spare.KindApp, "greyer@0.1", signFolder(t, k, greyer, nil)); err != nil {
		t.Error(err)
	}
	if err := s.as(t, nil, k).RegisterOfficial(t.Context(), release(greyer)); err != nil {
		t.Fatal(err)
	}
	if a, _ := s.greyer(t); len(a.Signed) == 0 {
		t.Error("the next start drops it")
	}
}

func TestSign_OfficialAppsAreSignedAnewWhenTheKeyWasRotated(t *testing.T) {
	first := publisherKey(t)
	s := signedShelf(t, first, first)
	if err := s.RegisterOfficial(t.Context(), release(greyer)); err != nil {
		t.Fatal(err)
	}
	a, before := s.greyer(t)
	second, err := first.Rotate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.as(t, second, second).RegisterOfficial(t.Context(), release(greyer)); err != nil {
		t.Fatal(err)
	}
	b, after := s.greyer(t)
	if b.Revision != a.Revision+1 || after.Revision <= before.Revision || b.Bundle != a.Bundle {
		t.Errorf("revision %d, signed %d after %d", b.Revision, after.Revision, before.Revision)
	}
	if _, v, err := (publisher.Trust{}).Add(first.Public().Key).Judge(b, time.Now(), true); err != nil || v.Signer != second.ID() {
		t.Errorf("a node that pinned the first key judges it %+v, %v", v, err)
	}
}
