package apps_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/spare-compute/spare/apps"
)

func object(t *testing.T, name string) map[string]any {
	t.Helper()
	raw, err := apps.FS.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var o map[string]any
	if err := json.Unmarshal(raw, &o); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return o
}

func compile(t *testing.T, app string) *jsonschema.Schema {
	t.Helper()
	raw, err := json.Marshal(object(t, app+"/schema.json")["schema"])
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestApps_BelongTogether(t *testing.T) {
	folders, err := fs.ReadDir(apps.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	if len(folders) != 3 {
		t.Errorf("%d Apps, want 3", len(folders))
	}
	for _, f := range folders {
		app := f.Name()
		manifest, template, schema := object(t, app+"/manifest.json"), object(t, app+"/template.json"), object(t, app+"/schema.json")
		if _, err := fs.Stat(apps.FS, path.Join(app, "app", manifest["entrypoint"].(string))); err != nil {
			t.Errorf("%s: %v", app, err)
		}
		if template["app"] != manifest["name"].(string)+"@"+manifest["version"].(string) {
			t.Errorf("%s: the template is for %v", app, template["app"])
		}
		if template["schema_id"] != schema["id"] || template["schema_version"] != schema["version"] {
			t.Errorf("%s: the template names schema %v version %v", app, template["schema_id"], template["schema_version"])
		}
	}
}

func TestApps_PresetsAreValid(t *testing.T) {
	presets, err := fs.Glob(apps.FS, "*/presets/*.json")
	if err != nil || len(presets) < 6 {
		t.Fatalf("%d presets, %v", len(presets), err)
	}
	for _, p := range presets {
		o := object(t, p)
		if o["id"] != strings.TrimSuffix(path.Base(p), ".json") {
			t.Errorf("%s has id %v", p, o["id"])
		}
		app, _, _ := strings.Cut(p, "/")
		if err := compile(t, app).Validate(o["data"]); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestTranscodingSchema_TakesTheContractsTree(t *testing.T) {
	schema := compile(t, "video-transcoding")
	const full = `{"output_code_template":"","output_template":"{{.job_name}}_{{.name}}","outputs":[{"name":"a","output_type":"mp4","output_params":{
	  "aspect":{"cropping":{"top":0,"bottom":0,"left":0,"right":0},"orientation":{"flip":"","rotation":""},"padding":{"fill_color":"#000000","final_aspect_ratio":""},
	    "resolution":{"aspect_ratio":"","avoid_upscaling":true,"height":"custom","custom_height":360}},
	  "audio":{"audio_codec":"AAC","audio_bitrate":"160k","audio_channel":"2.0","audio_sample_rate":"48khz"},
	  "video":{"codec":"libx264","codec_params":{"preset":"slow","profile":"high","tune":"film","level":"4.1"},"frame_rate":{"fps":"","up_mode":"avoid"},
	    "bitrate":{"rate_control_mode":"variable_bitrate","avg_bitrate":"2000k","min_bitrate":"1000k","max_bitrate":"4000k","buffer_size":"8000k"}}}}]}`
	valid := func(text string) error {
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(doc)
	}
	if err := valid(full); err != nil {
		t.Error(err)
	}
	for _, c := range []struct{ old, new string }{
		{`"output_type":"mp4"`, `"output_type":"hls"`},
		{`"libx264"`, `"libx266"`},
		{`"top":0`, `"top":-1`},
		{`"tune":"film"`, `"tuna":"film"`},
		{`"2000k"`, `"fast"`},
		{`"#000000"`, `"black"`},
		{`"custom_height":360`, `"custom_height":1`},
		{`"output_code_template":""`, `"output_code_template":"x"`},
	} {
		changed := strings.Replace(full, c.old, c.new, 1)
		if changed == full {
			t.Fatalf("%s is not in the tree", c.old)
		}
		if valid(changed) == nil {
			t.Errorf("%s was taken", c.new)
		}
	}
}

func TestNaming_UnderstandsTheTemplateSubset(t *testing.T) {
	output := map[string]any{"name": "web 720p", "output_type": "mp4", "output_params": map[string]any{
		"video":  map[string]any{"codec": "libx264", "bitrate": map[string]any{"avg_bitrate": "2000k"}},
		"aspect": map[string]any{"resolution": map[string]any{"custom_height": 360}},
	}}
	for _, c := range []struct{ template, want string }{
		{"", "My_job_web_720p"},
		{"{{.job_name}}_{{.output_type}}_{{.output_params.Video.Codec}}", "My_job_MP4_libx264"},
		{"{{.output_params.Aspect.Resolution.CustomHeight}}p", "360p"},
		{"{{ .output_params.Video.Bitrate.AvgBitrate }}", "2000k"},
		{"{{if .name}}a{{else}}b{{end}}", "a"},
		{"{{if .output_params.Audio}}a{{else if .name}}c{{else}}b{{end}}", "c"},
		{"x {{- if .name -}}  y {{end}}", "xy"},
		{"../../{{.name}}/..", "web_720p"},
		{"{{.nothing}}", "error: there is no .nothing"},
		{"{{if .name}}a", "error: an {{if}} has no {{end}}"},
		{"{{end}}", "error: {{end}} without {{if}}"},
		{"{{printf .name}}", "error: {{printf .name}} is not understood"},
		{"{{.name", "error: '{{.name' has an unmatched brace"},
		{"...", "output"},
	} {
		raw, err := json.Marshal([]any{c.template, "My job", output})
		if err != nil {
			t.Fatal(err)
		}
		const call = "import json, sys, naming\ntry:\n  print(naming.file_name(*json.loads(sys.argv[1])))\nexcept naming.BadTemplate as e:\n  print('error:', e)"
		cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-B", "-c", call, string(raw))
		cmd.Dir = "video-transcoding/app"
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %s", c.template, out)
		}
		if got := strings.TrimSpace(string(out)); got != c.want && (!strings.HasPrefix(c.want, "error") || !strings.HasPrefix(got, c.want)) {
			t.Errorf("%q: got %q, want %q", c.template, got, c.want)
		}
	}
}

func TestSubtitles_MadeOfPicturesAreRefusedNotLost(t *testing.T) {
	ask := func(params string) string {
		const call = "import sys, json, sound\ntry:\n  print(sound.titles([{'index': 3, 'codec_name': 'hdmv_pgs_subtitle'}], json.loads(sys.argv[1])))\nexcept ValueError as e:\n  print('error:', e)"
		cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-B", "-c", call, params)
		cmd.Dir = "video-transcoding/app"
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s", out)
		}
		return string(out)
	}
	if got := ask(`{}`); !strings.HasPrefix(got, "error: subtitle track 3 (hdmv_pgs_subtitle) is made of pictures") {
		t.Errorf("kept: %s", got)
	}
	if got := ask(`{"subtitles": "drop"}`); !strings.Contains(got, "is left out") {
		t.Errorf("dropped without a word: %s", got)
	}
}

func TestHelloWorld_ChangesTheCase(t *testing.T) {
	task := t.TempDir()
	if err := os.WriteFile(filepath.Join(task, "data.bin"), []byte("Hello, wörld\r\nbye\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]string{"upper": "HELLO, WÖRLD\r\nBYE\n", "lower": "hello, wörld\r\nbye\n", "title": "Hello, Wörld\r\nBye\n"} {
		dir, _, err := runApp(t, "hello-world", task, map[string]any{"case": kind}, 0)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "hello_world_processed.txt"))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", kind, got, err)
		}
	}
	if _, _, err := runApp(t, "hello-world", task, map[string]any{"case": "camel"}, 0); err == nil || !strings.Contains(err.Error(), "give one of upper, lower, title") {
		t.Errorf("camel: %v", err)
	}
}

func TestMontecarlo_EqualSeedsGiveEqualResults(t *testing.T) {
	throw := func(chunk int) (text string, pi float64) {
		dir, _, err := runApp(t, "montecarlo", t.TempDir(), map[string]any{"samples": 50_000, "seed": 7}, chunk)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(filepath.Join(dir, "result.json"))
		if err != nil {
			t.Fatal(err)
		}
		var r struct{ Pi float64 }
		if err := json.Unmarshal(raw, &r); err != nil {
			t.Fatal(err)
		}
		return string(raw), r.Pi
	}
	first, pi := throw(3)
	again, _ := throw(3)
	other, _ := throw(4)
	if first != again || first == other {
		t.Errorf("chunk 3 gave %s and %s, chunk 4 %s", first, again, other)
	}
	if math.Abs(pi-math.Pi) > 0.05 {
		t.Errorf("pi is %f", pi)
	}
}
