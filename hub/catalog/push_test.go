package catalog_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/bundle"
	"github.com/spare-compute/spare/hub/catalog"
)

func TestPush_TakesEveryKindOfArchive(t *testing.T) {
	nested := files{}
	for name, content := range greyer {
		nested["greyer-main/"+name] = content
	}
	plain := tarOf(t, greyer)
	var first spare.Digest
	for name, archive := range map[string][]byte{
		"tar": plain, "tar.gz": compressed(t, plain, gz), "tar.zst": compressed(t, plain, zst), "zip": zipOf(t, greyer),
		"tar with one folder": tarOf(t, nested), "zip with one folder": zipOf(t, nested),
		"zip from a Mac": zipOf(t, nested.with(files{"__MACOSX/._x": "junk"})),
	} {
		s := newShelf(t)
		p, err := s.Push(t.Context(), spare.KindApp, bytes.NewReader(archive), "ada")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if p.App.Tag() != "greyer@0.1" || p.App.Root != "app" || p.App.Owner != "ada" || p.App.Active || len(p.Templates) != 1 || len(p.Presets) != 2 || len(p.Warnings) != 0 {
			t.Errorf("%s: %+v", name, p)
		}
		if first == "" {
			first = p.App.Bundle
		}
		if p.App.Bundle != first {
			t.Errorf("%s: the same content has another digest", name)
		}
	}
}

func TestPush_TheBundleHoldsTheFolder(t *testing.T) {
	s := newShelf(t)
	p := s.push(t, greyer)
	r, _, err := s.blobs.Open(p.App.Bundle, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dir := t.TempDir()
	if err := bundle.Unpack(t.Context(), r, dir, bundle.Limits{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range greyer {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestPush_TheProgramMayLieBesideTheManifest(t *testing.T) {
	s := newShelf(t)
	p := s.push(t, files{"manifest.json": `{"name":"flat","version":"0.1","entrypoint":"run.sh"}`, "run.sh": "true"})
	if p.App.Root != "." {
		t.Errorf("%+v", p.App)
	}
}

func TestPush_AgainRaisesTheRevision(t *testing.T) {
	s := shelved(t)
	p := s.push(t, greyer.with(files{"app/main.py": "other"}))
	if p.App.Revision != 2 || !p.App.Active {
		t.Errorf("%+v", p.App)
	}
	p = s.push(t, app("greyer", "0.2"))
	if p.App.Revision != 1 || p.App.Active {
		t.Errorf("%+v", p.App)
	}
}

func TestPush_TwoSpellingsOfAVersionAreOne(t *testing.T) {
	s := newShelf(t)
	s.push(t, app("tool", "0.2.rev33"))
	p := s.push(t, app("tool", "0.2rev33"))
	if p.App.Version != "0.2.rev33" || p.App.Revision != 2 || len(p.Warnings) != 1 {
		t.Errorf("%+v, %v", p.App, p.Warnings)
	}
}

func TestPush_BelongsToWhoPushedItFirst(t *testing.T) {
	s := shelved(t)
	_, err := s.Push(t.Context(), spare.KindApp, bytes.NewReader(tarOf(t, app("greyer", "0.9"))), "eve")
	says(t, err, `App "greyer" belongs to ada`)
	if !errors.Is(err, catalog.ErrForbidden) {
		t.Errorf("%v does not match ErrForbidden", err)
	}
	thief := app("other", "0.1").with(files{"template.json": greyer["template.json"]})
	_, err = s.Push(t.Context(), spare.KindApp, bytes.NewReader(tarOf(t, thief)), "eve")
	says(t, err, `template "greyer@v1" belongs to ada`)
	if apps, _ := s.List(t.Context(), spare.KindApp); len(apps) != 1 {
		t.Errorf("something of a refused push was kept: %v", apps)
	}
}

func TestPush_NothingIsKeptIfAnyOfItIsWrong(t *testing.T) {
	for name, test := range map[string]struct {
		change files
		words  []string
	}{
		"no program":           {files{"manifest.json": strings.Replace(greyer["manifest.json"], "main.py", "start.py", 1)}, []string{"manifest.json.entrypoint", "app/start.py"}},
		"a folder as program":  {files{"manifest.json": strings.Replace(greyer["manifest.json"], `"main.py"`, `"sub"`, 1), "app/sub/x": ""}, []string{"app/sub"}},
		"a broken manifest":    {files{"manifest.json": "{"}, []string{"manifest.json", "no valid JSON"}},
		"a broken template":    {files{"template.json": "{]"}, []string{"template.json", "no valid JSON"}},
		"an unknown strategy":  {files{"template.json": `{"id":"x","partitioner":"replicat","assembler":"concat"}`}, []string{"template x", `"replicate"`}},
		"two of one template":  {files{"templates/b.json": greyer["template.json"]}, []string{"templates/b.json", "twice"}},
		"a template elsewhere": {files{"templates/b.json": `{"id":"b","app":"elsewhere","partitioner":"free","assembler":"concat"}`}, []string{"template b", `no App "elsewhere"`}},
		"a broken schema":      {files{"schema.json": `{"type":"nothing"}`}, []string{"schema.json", "schema.type"}},
		"a broken preset":      {files{"presets/bad.json": `{"data":{"mode":"slow"}}`}, []string{"preset bad", `"slow" is not allowed`}},
		"a preset of nothing":  {files{"presets/bad.json": `{"template":"nosuch","data":{}}`}, []string{"presets/bad.template", `"nosuch"`}},
		"a large manifest":     {files{"manifest.json": strings.Repeat(" ", 2<<20)}, []string{"manifest.json", "larger"}},
		"an engine as an App":  {files{"manifest.json": `{"name":"e","version":"0.1","entrypoint":"main.py","type":"assembler"}`}, []string{"manifest.json.type", "folder of a assembler"}},
	} {
		s := newShelf(t)
		_, err := s.Push(t.Context(), spare.KindApp, bytes.NewReader(tarOf(t, greyer.with(test.change))), "ada")
		if err == nil {
			t.Errorf("%s was pushed", name)
			continue
		}
		says(t, err, test.words...)
		apps, _ := s.List(t.Context(), spare.KindApp)
		templates, _ := s.Templates(t.Context())
		schemas, _ := s.Schemas(t.Context())
		if len(apps)+len(templates)+len(schemas) != 0 {
			t.Errorf("%s: kept %v, %v, %v", name, apps, templates, schemas)
		}
	}
}

func TestPush_HostileArchivesAreRefused(t *testing.T) {
	entry := func(h tar.Header, content string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		h.Size = int64(len(content))
		if err := errors.Join(w.WriteHeader(&h), second(io.WriteString(w, content)), w.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for name, archive := range map[string][]byte{
		"empty":            nil,
		"no archive":       []byte("hello, this is no archive at all, only a text"),
		"no manifest":      tarOf(t, files{"readme.txt": "x"}),
		"two folders":      tarOf(t, files{"a/manifest.json": "{}", "b/manifest.json": "{}"}),
		"a way out":        entry(tar.Header{Name: "../evil", Mode: 0o644}, "x"),
		"an absolute name": entry(tar.Header{Name: "/etc/evil", Mode: 0o644}, "x"),
		"a link":           entry(tar.Header{Name: "manifest.json", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, ""),
		"a device":         entry(tar.Header{Name: "manifest.json", Typeflag: tar.TypeChar}, ""),
		"a cut archive":    compressed(t, tarOf(t, greyer), gz)[:100],
	} {
		s := newShelf(t)
		_, err := s.Push(t.Context(), spare.KindApp, bytes.NewReader(archive), "ada")
		var refused *catalog.Refused
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
}

func second(_ int, err error) error { return err }

func TestPush_LeavesNoScratchBehind(t *testing.T) {
	s := newShelf(t)
	work := t.TempDir()
	c := catalog.New(catalog.Config{Store: s.store, Blobs: s.blobs, Strategies: strategies{}, Work: work})
	for _, archive := range [][]byte{tarOf(t, greyer), []byte("junk")} {
		_, _ = c.Push(t.Context(), spare.KindApp, bytes.NewReader(archive), "ada")
	}
	left, err := os.ReadDir(work)
	if err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

func TestPush_EnginesSayWhatTheyAre(t *testing.T) {
	s := newShelf(t)
	engine := func(typ string) *bytes.Reader {
		return bytes.NewReader(tarOf(t, app("cutter", "0.1").with(files{"manifest.json": `{"name":"cutter","version":"0.1","entrypoint":"main.py"` + typ + `}`})))
	}
	p, err := s.Push(t.Context(), "", engine(`,"type":"partitioner"`), "ada")
	if err != nil || p.App.Kind != spare.KindPartitioner {
		t.Errorf("%+v, %v", p.App, err)
	}
	if p, err = s.Push(t.Context(), spare.KindAssembler, engine(""), "ada"); err != nil || p.App.Kind != spare.KindAssembler {
		t.Errorf("%+v, %v", p.App, err)
	}
	_, err = s.Push(t.Context(), "", engine(""), "ada")
	wrong(t, err, "manifest.json.type", "use one of partitioner, assembler")
	if _, err = s.Push(t.Context(), spare.KindApp, engine(`,"type":"app"`), "ada"); err != nil {
		t.Error(err)
	}
	for _, kind := range []spare.Kind{spare.KindApp, spare.KindPartitioner, spare.KindAssembler} {
		if list, err := s.List(t.Context(), kind); err != nil || len(list) != 1 {
			t.Errorf("%s: %v, %v", kind, list, err)
		}
	}
}

func official(more files) fstest.MapFS {
	m := fstest.MapFS{"README.md": {Data: []byte("no App")}, "notes/x.txt": {Data: []byte("no App either")}}
	for name, content := range greyer.with(more) {
		m["greyer/"+name] = &fstest.MapFile{Data: []byte(content), Mode: 0o444}
	}
	return m
}

func TestRegisterOfficial_PushesOnlyWhatDiffers(t *testing.T) {
	s := newShelf(t)
	register := func(more files) spare.App {
		t.Helper()
		if err := s.RegisterOfficial(t.Context(), official(more)); err != nil {
			t.Fatal(err)
		}
		a, err := s.Resolve(t.Context(), spare.KindApp, "greyer")
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := register(nil)
	if !a.Active || a.Owner != catalog.Official || a.Revision != 1 {
		t.Errorf("%+v", a)
	}
	if plan, err := s.Plan(t.Context(), job(`{"preset":"quick"}`)); err != nil || plan.App.Revision != 1 {
		t.Errorf("%+v, %v", plan, err)
	}
	if a = register(nil); a.Revision != 1 {
		t.Errorf("the same content was pushed again: %+v", a)
	}
	if _, err := s.Deactivate(t.Context(), spare.KindApp, "greyer"); err != nil {
		t.Fatal(err)
	}
	if a = register(nil); a.Active {
		t.Error("what an operator switched off is on again after a restart")
	}
	if a = register(files{"app/main.py": "better"}); a.Revision != 2 {
		t.Errorf("other content was not pushed: %+v", a)
	}
	_, err := s.Push(t.Context(), spare.KindApp, bytes.NewReader(tarOf(t, greyer)), "ada")
	says(t, err, "belongs to spare")
}

func TestRegisterOfficial_SaysWhichIsWrong(t *testing.T) {
	err := newShelf(t).RegisterOfficial(t.Context(), official(files{"schema.json": "{"}))
	says(t, err, "official App greyer", "schema.json")
}
