package catalog_test

import (
	"slices"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/apps"
	"github.com/spare-compute/spare/hub/catalog"
)

// anything knows every strategy and takes all settings.
type anything struct{}

func (anything) ConfigSchema(spare.Kind, string) ([]byte, bool) { return nil, true }
func (anything) Names(spare.Kind) []string                      { return nil }

func TestOfficial_EveryAppRegistersAndEveryPresetPlans(t *testing.T) {
	s := newShelf(t)
	c := catalog.New(catalog.Config{Store: s.store, Blobs: s.blobs, Strategies: anything{}, Work: t.TempDir()})
	for range 2 {
		if err := c.RegisterOfficial(t.Context(), apps.FS); err != nil {
			t.Fatal(err)
		}
	}
	list, err := c.List(t.Context(), spare.KindApp)
	if err != nil || len(list) < 3 {
		t.Fatalf("%v, %v", list, err)
	}
	for _, a := range list {
		if !a.Active || a.Revision != 1 {
			t.Errorf("%+v", a)
		}
	}
	templates, err := c.Templates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tpl := range templates {
		presets, err := c.Presets(t.Context(), tpl.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range presets {
			if _, err := c.Plan(t.Context(), spare.Job{Template: tpl.ID, Params: spare.Params{Preset: p.ID}}); err != nil {
				t.Errorf("template %s, preset %s: %v", tpl.ID, p.ID, err)
			}
		}
	}
}

func TestOfficial_ATranscodeNeedsItsEncoder(t *testing.T) {
	s := newShelf(t)
	c := catalog.New(catalog.Config{Store: s.store, Blobs: s.blobs, Strategies: anything{}, Work: t.TempDir()})
	if err := c.RegisterOfficial(t.Context(), apps.FS); err != nil {
		t.Fatal(err)
	}
	for preset, tool := range map[string]string{"web-720p": "ffmpeg:libx264", "archive-x265": "ffmpeg:libx265"} {
		plan, err := c.Plan(t.Context(), spare.Job{Template: "video-transcoding@v0.2", Params: spare.Params{Preset: preset}})
		if err != nil || !slices.Contains(plan.Needs.Tools, tool) {
			t.Errorf("%s: needs %v, %v, want %s", preset, plan.Needs.Tools, err, tool)
		}
	}
	for params, want := range map[string][2]string{
		`{"outputs":[{"output_params":{"video":{"codec":"h265"}}}]}`:                  {"params.app.outputs[0].output_params.video.codec", `use one of "libx264", "libx265", "libvpx-vp9"`},
		`{"outputs":[{"output_params":{"video":{"bitrate":{"crf":99}}}}]}`:            {"params.app.outputs[0].output_params.video.bitrate.crf", "from 0 to 63"},
		`{"outputs":[{"output_params":{"aspect":{"resolution":{"heigth":"720p"}}}}]}`: {"params.app.outputs[0].output_params.aspect.resolution.heigth", `did you mean "height"?`},
		`{"outputs":[]}`: {"params.app.outputs", "at least 1"},
	} {
		_, err := c.Plan(t.Context(), spare.Job{Template: "video-transcoding@v0.2", Params: spare.Params{App: []byte(params)}})
		if err == nil {
			t.Errorf("%s was planned", params)
			continue
		}
		wrong(t, err, want[0], want[1])
	}
}

func BenchmarkRegisterOfficial_NothingChanged(b *testing.B) {
	s := newShelf(b)
	c := catalog.New(catalog.Config{Store: s.store, Blobs: s.blobs, Strategies: anything{}, Work: b.TempDir()})
	for b.Loop() {
		if err := c.RegisterOfficial(b.Context(), apps.FS); err != nil {
			b.Fatal(err)
		}
	}
}
