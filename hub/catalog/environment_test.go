package catalog_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/catalog"
)

func TestPush_SaysWhatTheAppNeedsAroundIt(t *testing.T) {
	for _, c := range []struct {
		name  string
		extra string
		files files
		want  spare.Environment
	}{
		{"pure Python", ``, files{"app/main.py": "import json, sys\nfrom helper import f\n", "app/helper.py": "import math\n"}, spare.Environment{Platform: "python"}},
		{"a package beside it", ``, files{"app/main.py": "from kit.part import f\n", "app/kit/part.py": "\n"}, spare.Environment{Platform: "python"}},
		{"an import from elsewhere", ``, files{"app/main.py": "def f():\n    import numpy as np\n"}, spare.Environment{Platform: "python", Native: true}},
		{"processes", ``, files{"app/main.py": "import subprocess\n"}, spare.Environment{Platform: "python", Native: true}},
		{"a library", ``, files{"app/main.py": "import fast\n", "app/fast.so": "x"}, spare.Environment{Platform: "python", Native: true}},
		{"a program", ``, files{"app/tool": "\x7fELF\x02\x01"}, spare.Environment{Platform: "python", Native: true}},
		{"tools", `"device_requirements":{"tools":["ffmpeg"]}`, nil, spare.Environment{Platform: "python", Native: true}},
		{"an image", `"platform":"docker","platform_config":{"container":"lab/cv:1"}`, nil, spare.Environment{Platform: "container", Image: "lab/cv:1@sha256:0"}},
		{"Python in an image, with a network", `"platform_config":{"container":"lab/cv:1","network":"outbound"}`, nil, spare.Environment{Platform: "python", Image: "lab/cv:1@sha256:0", Outbound: true}},
		{"equal bytes", `"platform_config":{"deterministic":true}`, nil, spare.Environment{Platform: "python", Runtime: "wasm", Deterministic: true}},
	} {
		s := newShelf(t)
		s.Catalog = catalog.New(catalog.Config{Store: s.store, Blobs: s.blobs, Strategies: strategies{}, Images: images{}, Work: t.TempDir()})
		manifest := `{"name":"x","version":"0.1","entrypoint":"main.py"`
		if c.extra != "" {
			manifest += "," + c.extra
		}
		p := s.push(t, app("x", "0.1").with(files{"manifest.json": manifest + "}"}).with(c.files))
		if p.App.Environment != c.want || len(p.Warnings) > 0 {
			t.Errorf("%s: %+v %q, want %+v", c.name, p.App.Environment, p.Warnings, c.want)
		}
	}
}

func TestPush_WasmTakesOnlyPurePython(t *testing.T) {
	s := newShelf(t)
	f := app("x", "0.1").with(files{"manifest.json": `{"name":"x","version":"0.1","entrypoint":"main.py","platform_config":{"runtime":"wasm"}}`, "app/main.py": "import numpy\n"})
	_, err := s.Push(t.Context(), spare.KindApp, strings.NewReader(string(tarOf(t, f))), "ada")
	says(t, err, "only pure Python", "imports numpy")
}

// images answers as a registry does; without a digest it is out of reach.
type images struct{ down bool }

func (i images) Pin(_ context.Context, ref, _, _ string) (string, bool, error) {
	if i.down {
		return "", false, errors.New("the registry does not answer")
	}
	return ref + "@sha256:0", false, nil
}

func TestActivate_PinsTheImageThatThePushCouldNot(t *testing.T) {
	s := newShelf(t)
	with := func(i images) {
		s.Catalog = catalog.New(catalog.Config{Store: s.store, Blobs: s.blobs, Strategies: strategies{}, Images: i, Work: t.TempDir()})
	}
	with(images{down: true})
	p := s.push(t, app("x", "0.1").with(files{"manifest.json": `{"name":"x","version":"0.1","entrypoint":"main.py","platform":"container","platform_config":{"container":"cv"}}`}))
	if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "does not answer") {
		t.Errorf("warnings %q", p.Warnings)
	}
	_, err := s.Activate(t.Context(), spare.KindApp, "x")
	says(t, err, "the registry does not answer")
	with(images{})
	s.activate(t, "x")
	got, err := s.ResolveActive(t.Context(), spare.KindApp, "x")
	if err != nil || got.Environment.Image != "cv@sha256:0" || got.Revision != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestHoldsSecret(t *testing.T) {
	for config, want := range map[string]bool{
		``: false, `{}`: false, `{"container":"cv:1","username":"ann","private_image":true,"gpus":[1]}`: false,
		`{"token":""}`: false, `{"token":null}`: false, `{"username":"ann","token":"x"}`: true, `{"TOKEN":"x"}`: true,
		`{"Registry-Password":"x"}`: true, `{"registry":{"auths":{"auth":"x"}}}`: true, `{"credentials":{"a":"b"}}`: true,
	} {
		if got := catalog.HoldsSecret(spare.App{Config: []byte(config)}); got != want {
			t.Errorf("%s: %v", config, got)
		}
	}
}
