package catalog_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/catalog"
)

func TestParseManifest_BothErasSayTheSame(t *testing.T) {
	older := `{"id": "grey", "version": "0.1rev3", "entrypoint": "main.py", "input_type": "image", "output_type": "image",
		"platform": "python", "platform_config": {}, "public": true, "owner": "bytes"}`
	newer := `{"Name": "grey", "Version": "0.1rev3", "Entrypoint": "main.py", "inputType": "image", "OutputType": "image",
		"platformConfig": {}, "isPublic": true, "Description": null}`
	for _, raw := range []string{older, newer} {
		app, warnings, err := catalog.ParseManifest([]byte(raw))
		if err != nil || len(warnings) != 0 {
			t.Fatalf("%v, %v", warnings, err)
		}
		if app.Tag() != "grey@0.1rev3" || app.Entrypoint != "main.py" || app.Platform != spare.PlatformPython ||
			!app.Public || app.InputType != "image" || app.OutputType != "image" || app.Owner != "" {
			t.Errorf("%+v", app)
		}
	}
}

func TestParseManifest_ReadsWhatADeviceMustOffer(t *testing.T) {
	for _, raw := range []string{
		`{"name":"a","version":0.5,"entrypoint":"x/main.py","device_requirements":{"min_cpu":2,"min_memory":1.5,"gpu":["Tesla T4"],"min_disk":3,"tools":["ffmpeg:libx265"],"os":["Linux"],"arch":"amd64"}}`,
		`{"name":"a","version":"0.5","entrypoint":"x/main.py","deviceRequirements":{"minCpu":"2","minMemory":"1.5","gpu":"Tesla T4","minDisk":3,"tools":"ffmpeg:libx265","os":["linux"],"arch":["amd64"]}}`,
	} {
		app, _, err := catalog.ParseManifest([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		n := app.Needs
		if app.Version != "0.5" || n.MinCPU != 2 || n.MinMemory != 1.5 || n.MinDisk != 3 || len(n.GPU) != 1 || n.GPU[0] != "Tesla T4" ||
			n.Tools[0] != "ffmpeg:libx265" || n.OS[0] != "linux" || n.Arch[0] != "amd64" {
			t.Errorf("%+v", app)
		}
	}
}

func TestParseManifest_UnknownKeysAndWhatCannotRunYetAreWarnings(t *testing.T) {
	for raw, word := range map[string]string{
		`"colour": "blue"`:                                              "manifest.json.colour is not known",
		`"device_requirements": {"min_ram": 2}`:                         "manifest.json.device_requirements.min_ram is not known",
		`"platform": "docker"`:                                          "names no image",
		`"platform": "wasm"`:                                            "no .wasm module",
		`"platform_config": {"secrets": ["MY_KEY"]}`:                    "nothing hands secrets to Apps yet",
		`"platform_config": {"container":"","secrets":[]}, "x_y": true`: "manifest.json.x_y",
	} {
		_, warnings, err := catalog.ParseManifest([]byte(`{"name":"a","version":"0.1","entrypoint":"main.py",` + raw + `}`))
		if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], word) {
			t.Errorf("%s: %q, %v, want one warning with %q", raw, warnings, err, word)
		}
	}
}

func TestParseManifest_NamesTheFieldThatIsWrong(t *testing.T) {
	good := map[string]string{"name": `"a"`, "version": `"0.1"`, "entrypoint": `"main.py"`}
	for _, test := range []struct{ key, value, path, word string }{
		{"name", `null`, "manifest.json.name", "missing"},
		{"name", `7`, "manifest.json.name", "not a text"},
		{"name", `"a b"`, "manifest.json.name", "letters, digits"},
		{"name", `"` + strings.Repeat("x", 65) + `"`, "manifest.json.name", "at most 64"},
		{"version", `""`, "manifest.json.version", "missing"},
		{"version", `"v1"`, "manifest.json.version", "0.1rev3"},
		{"version", `1`, "manifest.json.version", "0.1rev3"},
		{"entrypoint", `null`, "manifest.json.entrypoint", "missing"},
		{"entrypoint", `"../main.py"`, "manifest.json.entrypoint", "inside"},
		{"entrypoint", `"/bin/sh"`, "manifest.json.entrypoint", "inside"},
		{"entrypoint", `"a\\b"`, "manifest.json.entrypoint", "inside"},
		{"platform", `"java"`, "manifest.json.platform", "one of python"},
		{"type", `"mapper"`, "manifest.json.type", "partitioner"},
		{"public", `"maybe"`, "manifest.json.public", "true or false"},
		{"platform_config", `{"network":["example.org"]}`, "manifest.json.platform_config.network", "one of none, outbound"},
		{"platform_config", `{"runtime":"vm"}`, "manifest.json.platform_config.runtime", "one of linux"},
		{"platform_config", `[]`, "manifest.json.platform_config", "not an object"},
		{"device_requirements", `{"min_cpu": -1}`, "manifest.json.device_requirements.min_cpu", "at least 0"},
		{"device_requirements", `{"min_cpu": 1.5}`, "manifest.json.device_requirements.min_cpu", "whole number"},
		{"device_requirements", `{"min_memory": "much"}`, "manifest.json.device_requirements.min_memory", "number"},
		{"device_requirements", `{"gpu": 3}`, "manifest.json.device_requirements.gpu", "list of texts"},
		{"device_requirements", `{"tools": ["rm -rf"]}`, "manifest.json.device_requirements.tools", "ffmpeg:libx265"},
		{"device_requirements", `{"os": ["beos"]}`, "manifest.json.device_requirements.os", "linux"},
		{"Name", `"b"`, "manifest.json.Name", "given twice"},
	} {
		fields := []string{`"` + test.key + `":` + test.value}
		for key, value := range good {
			if key != test.key {
				fields = append(fields, `"`+key+`":`+value)
			}
		}
		_, _, err := catalog.ParseManifest([]byte("{" + strings.Join(fields, ",") + "}"))
		var field *catalog.FieldError
		if !errors.As(err, &field) || field.Path != test.path || !strings.Contains(err.Error(), test.word) {
			t.Errorf("%s %s: %v, want %q at %s", test.key, test.value, err, test.word, test.path)
		}
	}
	for _, raw := range []string{"", "[]", "{", `"x"`, "null", `{"name":"a"} trailing`} {
		if _, _, err := catalog.ParseManifest([]byte(raw)); err == nil {
			t.Errorf("%q was taken", raw)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"name":"a","version":"0.1","entrypoint":"main.py","device_requirements":{"min_cpu":2}}`))
	f.Add([]byte(`{"id":"a","version":0.1,"Entrypoint":"app/x.sh","platform":"docker","platform_config":{"secrets":["A"]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		app, _, err := catalog.ParseManifest(raw)
		if err != nil {
			return
		}
		if _, err := spare.ParseTag(app.Tag()); err != nil {
			t.Fatalf("%q gives an App with the tag %q: %v", raw, app.Tag(), err)
		}
		if app.Entrypoint == "" || strings.HasPrefix(app.Entrypoint, "/") || strings.Contains(app.Entrypoint, "..") && strings.Contains(app.Entrypoint, "../") {
			t.Fatalf("entrypoint %q", app.Entrypoint)
		}
	})
}
