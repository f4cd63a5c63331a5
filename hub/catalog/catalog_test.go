package catalog_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/blob"
	"github.com/spare-compute/spare/hub/catalog"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/hub/store/sqlite"
)

// strategies are a few with settings like those of the built-in ones.
type strategies struct{}

var rules = map[spare.Kind]map[string]string{
	spare.KindPartitioner: {
		"passthrough": `{"type":"object","additionalProperties":false}`,
		"replicate": `{"type":"object","additionalProperties":false,"required":["num_replicas"],
			"properties":{"num_replicas":{"type":"integer","minimum":1,"maximum":10000}}}`,
		"free": ``,
	},
	spare.KindAssembler: {
		"passthrough": `{"type":"object","additionalProperties":false}`,
		"concat":      `{"type":"object","additionalProperties":false,"properties":{"format":{"enum":["text","csv","jsonl"]},"header":{"type":"boolean"}}}`,
	},
}

func (strategies) ConfigSchema(kind spare.Kind, name string) ([]byte, bool) {
	s, known := rules[kind][name]
	return []byte(s), known
}

func (strategies) Names(kind spare.Kind) []string { return slices.Collect(maps.Keys(rules[kind])) }

// shelf is a catalogue with its stores.
type shelf struct {
	*catalog.Catalog
	store store.Store
	blobs *blob.Disk
}

func newShelf(t testing.TB) shelf {
	t.Helper()
	blobs, err := blob.OpenDisk(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "hub.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return shelf{store: s, blobs: blobs, Catalog: catalog.New(catalog.Config{
		Store: s, Blobs: blobs, Strategies: strategies{}, Work: t.TempDir(),
	})}
}

// files are a folder: content by path.
type files map[string]string

func (f files) with(more files) files {
	merged := maps.Clone(f)
	maps.Copy(merged, more)
	return merged
}

func tarOf(t *testing.T, f files) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(f[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipOf(t *testing.T, f files) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, content := range f {
		w, err := z.Create(name)
		if err == nil {
			_, err = io.WriteString(w, content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func compressed(t *testing.T, b []byte, to func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := to(&out)
	if err == nil {
		_, err = w.Write(b)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func gz(w io.Writer) (io.WriteCloser, error)  { return gzip.NewWriter(w), nil }
func zst(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }

// greyer is a small App with everything that hangs on one.
var greyer = files{
	"manifest.json": `{"name":"greyer","version":"0.1","entrypoint":"main.py","public":true,"device_requirements":{"min_cpu":2,"tools":["ffmpeg"]}}`,
	"app/main.py":   `print("grey")`,
	"template.json": `{"id":"greyer@v1","partitioner":"replicate","partitioning_strategy_config":{"num_replicas":4},"assembler":"concat",
		"params":{"app":{"depth":8,"look":{"tone":"cold"}},"assembler":{"format":"jsonl"}},"config":{"taskTimeout":60},
		"scheduling_strategy_config":{"pool":"lab"}}`,
	"schema.json": `{"type":"object","additionalProperties":false,"required":["mode"],"properties":{
		"mode":{"enum":["fast","good"]},"depth":{"type":"integer","minimum":1,"maximum":16},
		"look":{"type":"object","additionalProperties":false,"properties":{"tone":{"type":"string"},"grain":{"type":"number","minimum":0}}},
		"codec":{"type":"string","enum":["libx264","libx265"],"x-spare-tool":"ffmpeg:{}"},
		"list":{"type":"array","items":{"type":"integer"}}}}`,
	"presets/quick.json": `{"description":"Fast.","data":{"mode":"fast","look":{"grain":1},"list":[1,2]}}`,
	"presets/best.json":  `{"id":"best","data":{"mode":"good"}}`,
}

func (s shelf) push(t *testing.T, f files) catalog.Pushed {
	t.Helper()
	p, err := s.Push(t.Context(), spare.KindApp, bytes.NewReader(tarOf(t, f)), "ada")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// shelved is a shelf on which greyer is active.
func shelved(t *testing.T) shelf {
	t.Helper()
	s := newShelf(t)
	s.push(t, greyer)
	s.activate(t, "greyer")
	return s
}

func (s shelf) activate(t *testing.T, tag string) {
	t.Helper()
	if _, err := s.Activate(t.Context(), spare.KindApp, tag); err != nil {
		t.Fatal(err)
	}
}

func says(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one that says %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func app(name, version string) files {
	return files{
		"manifest.json": `{"name":"` + name + `","version":"` + version + `","entrypoint":"main.py"}`,
		"app/main.py":   `print("` + version + `")`,
	}
}

func TestResolve_AMissingPartMeansTheHighest(t *testing.T) {
	s := newShelf(t)
	for _, v := range []string{"0.1", "0.10", "0.2", "1.0", "1.2rev3", "1.2"} {
		s.push(t, app("tool", v))
	}
	for tag, want := range map[string]string{
		"tool": "1.2rev3", "tool@0": "0.10", "tool@0.1": "0.1", "tool@1": "1.2rev3", "tool@1.2": "1.2", "tool@1.2rev3": "1.2rev3",
	} {
		if got, err := s.Resolve(t.Context(), spare.KindApp, tag); err != nil || got.Version != want {
			t.Errorf("%s is %s, %v, want %s", tag, got.Version, err, want)
		}
	}
}

func TestResolve_OnlyActiveVersionsTakeJobs(t *testing.T) {
	s := newShelf(t)
	for _, v := range []string{"0.1", "0.2", "0.3"} {
		s.push(t, app("tool", v))
	}
	_, err := s.ResolveActive(t.Context(), spare.KindApp, "tool")
	says(t, err, "tool@0.3", "not active", "activate it first")
	s.activate(t, "tool@0.1")
	s.activate(t, "tool@0.2")
	if got, err := s.ResolveActive(t.Context(), spare.KindApp, "tool"); err != nil || got.Version != "0.2" {
		t.Errorf("%s, %v", got.Version, err)
	}
	_, err = s.ResolveActive(t.Context(), spare.KindApp, "tool@0.3")
	says(t, err, "tool@0.3", "not active")
	if _, err := s.Deactivate(t.Context(), spare.KindApp, "tool@0.2"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.ResolveActive(t.Context(), spare.KindApp, "tool"); err != nil || got.Version != "0.1" {
		t.Errorf("%s, %v", got.Version, err)
	}
}

func TestResolve_SuggestsTheNearestName(t *testing.T) {
	s := newShelf(t)
	s.push(t, app("video-transcoding", "0.1"))
	for tag, word := range map[string]string{
		"video-trancoding":      `did you mean "video-transcoding"?`,
		"vidoe-transcoding@0.1": `did you mean "video-transcoding"?`,
		"video":                 `did you mean "video-transcoding"?`,
		"weather":               "push it first",
		"video-transcoding@0.2": "its versions are 0.1",
	} {
		_, err := s.Resolve(t.Context(), spare.KindApp, tag)
		says(t, err, word)
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%v does not match ErrNotFound", err)
		}
	}
	_, err := s.Resolve(t.Context(), spare.KindApp, "video-transcoding@v0.1")
	says(t, err, "name@1.2")
}

func TestActivate_WhatNothingRunsIsRefused(t *testing.T) {
	for extra, word := range map[string]string{
		`"platform":"docker"`:                                         "names no image",
		`"platform":"wasm"`:                                           "no .wasm module",
		`"platform_config":{"container":"python:3"}`:                  "looks up no images",
		`"platform_config":{"secrets":["A"]}`:                         "secrets",
		`"device_requirements":{"gpu":["T4"]}`:                        "only an image gets",
		`"platform":"wasm","platform_config":{"container":"a"},"x":1`: "runs in no image",
		`"platform_config":{"deterministic":true,"runtime":"linux"}`:  "cannot promise",
		`"platform_config":{"runtime":"wasm","network":"outbound"}`:   "neither images nor a network",
	} {
		s := newShelf(t)
		p := s.push(t, app("boxed", "0.1").with(files{"manifest.json": `{"name":"boxed","version":"0.1","entrypoint":"main.py",` + extra + `}`}))
		if len(p.Warnings) == 0 {
			t.Errorf("%s: pushed without a warning", extra)
		}
		_, err := s.Activate(t.Context(), spare.KindApp, "boxed")
		says(t, err, "boxed@0.1", word)
	}
}

func TestDownload_GivesTheBundleBack(t *testing.T) {
	s := shelved(t)
	a, r, err := s.Download(t.Context(), spare.KindApp, "greyer")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil || spare.Sum(b) != a.Bundle || int64(len(b)) != a.BundleSize {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	// What came back can be pushed again, and is the same.
	p, err := s.Push(t.Context(), spare.KindApp, bytes.NewReader(b), "ada")
	if err != nil || p.App.Bundle != a.Bundle || p.App.Revision != 2 {
		t.Fatalf("%+v, %v", p.App, err)
	}
}

func TestList_IsByNameAndVersion(t *testing.T) {
	s := newShelf(t)
	for _, tag := range []string{"b@0.2", "a@0.10", "b@0.1", "a@0.9"} {
		name, version, _ := strings.Cut(tag, "@")
		s.push(t, app(name, version))
	}
	list, err := s.List(t.Context(), spare.KindApp)
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	for _, a := range list {
		tags = append(tags, a.Tag())
	}
	if !slices.Equal(tags, []string{"a@0.9", "a@0.10", "b@0.1", "b@0.2"}) {
		t.Error(tags)
	}
}

// object decodes settings for comparison.
func object(t *testing.T, raw json.RawMessage) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return m
}
