package storetest

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

func runCatalogue(t *testing.T, open func(*testing.T) store.Store) {
	t.Run("PushRaisesTheRevisionAndKeepsTheRest", func(t *testing.T) { pushRaisesRevision(t, open(t)) })
	t.Run("AppsAreListedByKindAndName", func(t *testing.T) { appsAreListed(t, open(t)) })
	t.Run("TemplatesSchemasPresets", func(t *testing.T) { templatesSchemasPresets(t, open(t)) })
	t.Run("AbsentThingsAreNotFound", func(t *testing.T) { absentIsNotFound(t, open(t)) })
}

func pushRaisesRevision(t *testing.T, s store.Store) {
	app := spare.App{
		Name: "transcode", Version: "0.1", Kind: spare.KindApp, Entrypoint: "main.py", Platform: spare.PlatformPython,
		Config: json.RawMessage(`{"a":1}`), Needs: spare.Requirements{MinCPU: 2, Tools: []string{"ffmpeg:libx265"}},
		Owner: "ann", Bundle: digest("one"), BundleSize: 7, Root: "app", CreatedAt: at(0), UpdatedAt: at(0),
	}
	first := must[spare.App](t)(s.PutApp(ctx, app))
	if first.Revision != 1 || first.ID == "" {
		t.Fatalf("first push: %+v", first)
	}
	ok(t, s.SetActive(ctx, spare.KindApp, "transcode", "0.1", true))
	again := app
	again.Bundle, again.CreatedAt, again.UpdatedAt = digest("two"), at(9), at(9)
	second := must[spare.App](t)(s.PutApp(ctx, again))
	want := again
	want.ID, want.CreatedAt, want.Active, want.Revision = first.ID, at(0), true, 2
	if !reflect.DeepEqual(second, want) {
		t.Errorf("second push returned %+v\nwant %+v", second, want)
	}
	if got := must[spare.App](t)(s.App(ctx, spare.KindApp, "transcode", "0.1")); !reflect.DeepEqual(got, want) {
		t.Errorf("stored %+v\nwant %+v", got, want)
	}
	ok(t, s.SetActive(ctx, spare.KindApp, "transcode", "0.1", false))
	if got := must[spare.App](t)(s.App(ctx, spare.KindApp, "transcode", "0.1")); got.Active || got.Revision != 2 {
		t.Errorf("after SetActive(false): %+v", got)
	}
}

func appsAreListed(t *testing.T, s store.Store) {
	for _, a := range []spare.App{
		{Name: "b", Version: "0.1", Kind: spare.KindApp},
		{Name: "a", Version: "0.2", Kind: spare.KindApp},
		{Name: "a", Version: "0.1", Kind: spare.KindApp},
		{Name: "a", Version: "0.1", Kind: spare.KindPartitioner},
	} {
		must[spare.App](t)(s.PutApp(ctx, a))
	}
	var tags []string
	for _, a := range must[[]spare.App](t)(s.Apps(ctx, spare.KindApp)) {
		tags = append(tags, a.Tag())
	}
	if want := []string{"a@0.1", "a@0.2", "b@0.1"}; !reflect.DeepEqual(tags, want) {
		t.Errorf("apps %v, want %v", tags, want)
	}
	if n := len(must[[]spare.App](t)(s.Apps(ctx, spare.KindAssembler))); n != 0 {
		t.Errorf("%d assemblers", n)
	}
}

func templatesSchemasPresets(t *testing.T, s store.Store) {
	tpl := spare.Template{
		ID: "video@v0.2", App: "transcode", Params: spare.Params{App: json.RawMessage(`{"x":1}`)},
		Source: &spare.DataPoint{Descriptor: "file"}, CreatedAt: at(0), UpdatedAt: at(0),
	}
	must[spare.Template](t)(s.PutTemplate(ctx, tpl))
	tpl.Description, tpl.CreatedAt, tpl.UpdatedAt = "new", at(5), at(5)
	got := must[spare.Template](t)(s.PutTemplate(ctx, tpl))
	tpl.CreatedAt = at(0)
	if !reflect.DeepEqual(got, tpl) {
		t.Errorf("put template %+v, want %+v", got, tpl)
	}
	if got := must[spare.Template](t)(s.Template(ctx, "video@v0.2")); !reflect.DeepEqual(got, tpl) {
		t.Errorf("template %+v, want %+v", got, tpl)
	}
	must[spare.Template](t)(s.PutTemplate(ctx, spare.Template{ID: "a"}))
	if all := must[[]spare.Template](t)(s.Templates(ctx)); len(all) != 2 || all[0].ID != "a" {
		t.Errorf("templates %+v", all)
	}

	nine := spare.Schema{ID: "video", Version: "9", Body: json.RawMessage(`{"type":"object"}`)}
	ok(t, s.PutSchema(ctx, nine))
	ok(t, s.PutSchema(ctx, spare.Schema{ID: "video", Version: "8", Body: json.RawMessage(`{}`)}))
	if got := must[spare.Schema](t)(s.Schema(ctx, "video", "9")); !reflect.DeepEqual(got, nine) {
		t.Errorf("schema %+v", got)
	}
	if all := must[[]spare.Schema](t)(s.Schemas(ctx)); len(all) != 2 || all[0].Version != "8" {
		t.Errorf("schemas %+v", all)
	}

	for _, data := range []string{`{"v":1}`, `{"v":2}`} {
		ok(t, s.PutPreset(ctx, spare.Preset{Template: "video@v0.2", ID: "web", Data: json.RawMessage(data)}))
	}
	ok(t, s.PutPreset(ctx, spare.Preset{Template: "video@v0.2", ID: "archive", Data: json.RawMessage(`{}`)}))
	ok(t, s.PutPreset(ctx, spare.Preset{Template: "other", ID: "web", Data: json.RawMessage(`{}`)}))
	all := must[[]spare.Preset](t)(s.Presets(ctx, "video@v0.2"))
	if len(all) != 2 || all[0].ID != "archive" || string(all[1].Data) != `{"v":2}` {
		t.Errorf("presets %+v", all)
	}
}

func absentIsNotFound(t *testing.T, s store.Store) {
	for name, call := range map[string]func() error{
		"App":       func() error { _, err := s.App(ctx, spare.KindApp, "x", "1"); return err },
		"SetActive": func() error { return s.SetActive(ctx, spare.KindApp, "x", "1", true) },
		"Template":  func() error { _, err := s.Template(ctx, "x"); return err },
		"Schema":    func() error { _, err := s.Schema(ctx, "x", "1"); return err },
		"Job":       func() error { _, err := s.Job(ctx, "x"); return err },
		"UpdateJob": func() error {
			_, err := s.UpdateJob(ctx, "x", func(*spare.Job) error { t.Error("change was called"); return nil })
			return err
		},
		"DeleteJob":     func() error { return s.DeleteJob(ctx, "x") },
		"ReplaceTasks":  func() error { return s.ReplaceTasks(ctx, "x", nil) },
		"AddTasks":      func() error { return s.AddTasks(ctx, someTasks("x", 0, 1)) },
		"Tasks":         func() error { _, err := s.Tasks(ctx, "x", 0, 0); return err },
		"CountAttempts": func() error { _, err := s.CountAttempts(ctx, "x"); return err },
		"CountTasks":    func() error { _, err := s.CountTasks(ctx, "x"); return err },
		"Attempts":      func() error { _, err := s.Attempts(ctx, "x"); return err },
		"Node":          func() error { _, err := s.Node(ctx, nodeID("x")); return err },
		"DeleteNode":    func() error { return s.DeleteNode(ctx, nodeID("x")) },
		"Enrol":         func() error { _, err := s.Enrol(ctx, digest("x"), spare.Node{ID: nodeID("x")}, at(0)); return err },
		"KeyByHash":     func() error { _, err := s.KeyByHash(ctx, digest("x")); return err },
	} {
		if err := call(); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", name, err)
		}
	}
}
