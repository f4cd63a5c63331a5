package catalog_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/spare-compute/spare"
)

// withSchema is a shelf with an active App "it" of this schema, and its template "it".
func withSchema(t *testing.T, schema string) shelf {
	t.Helper()
	s := newShelf(t)
	s.push(t, app("it", "0.1").with(files{
		"template.json": `{"id":"it","partitioner":"passthrough","assembler":"passthrough"}`, "schema.json": schema,
	}))
	s.activate(t, "it")
	return s
}

func (s shelf) plan(t *testing.T, params string) (spare.Plan, error) {
	t.Helper()
	return s.Plan(t.Context(), spare.Job{Template: "it", Params: spare.Params{App: []byte(params)}})
}

func TestTools_AreFoundWhereverASchemaPutsThem(t *testing.T) {
	for name, test := range map[string]struct {
		schema string
		tools  map[string]string // by parameters
	}{
		"nested in objects and lists": {
			`{"properties":{"outputs":{"type":"array","items":{"properties":{"video":{"properties":{"codec":{"type":"string","x-spare-tool":"ffmpeg:{}"}}}}}}}}`,
			map[string]string{
				`{"outputs":[{"video":{"codec":"libx265"}},{"video":{"codec":"libx264"}},{"video":{"codec":"libx265"}}]}`: "ffmpeg:libx264 ffmpeg:libx265",
				`{"outputs":[{"video":{"codec":""}},{"video":{}},{}]}`:                                                    "",
				`{}`: "",
			},
		},
		"behind a reference": {
			`{"$defs":{"codec":{"type":"string","x-spare-tool":"ffmpeg:{}"},"video":{"properties":{"codec":{"$ref":"#/$defs/codec"}}}},"properties":{"video":{"$ref":"#/$defs/video"}}}`,
			map[string]string{`{"video":{"codec":"libvpx-vp9"}}`: "ffmpeg:libvpx-vp9"},
		},
		"in draft-07": {
			`{"$schema":"http://json-schema.org/draft-07/schema#","$id":"db://some-inputs","definitions":{"c":{"x-spare-tool":"ffmpeg:{}"}},
				"properties":{"list":{"items":[{"$ref":"#/definitions/c"},{"type":"integer"}],"additionalItems":{"x-spare-tool":"rest:{}"}}}}`,
			map[string]string{`{"list":["libx264",7,"a"]}`: "ffmpeg:libx264 rest:a"},
		},
		"in the form that fits": {
			`{"oneOf":[
				{"properties":{"mode":{"const":"fast"},"engine":{"x-spare-tool":"quick"}},"required":["mode"]},
				{"properties":{"mode":{"const":"good"},"engine":{"x-spare-tool":"slow:{}"}},"required":["mode"]}]}`,
			map[string]string{`{"mode":"good","engine":"e"}`: "slow:e", `{"mode":"fast","engine":"e"}`: "quick", `{"mode":"good"}`: ""},
		},
		"in allOf, anyOf and if": {
			`{"allOf":[{"properties":{"a":{"x-spare-tool":"a:{}"}}}],"anyOf":[{"properties":{"b":{"type":"string","x-spare-tool":"b"}}},{"properties":{"b":{"type":"number","x-spare-tool":"n"}}}],
				"if":{"properties":{"c":{"const":1}},"required":["c"]},"then":{"properties":{"d":{"x-spare-tool":"then"}}},"else":{"properties":{"d":{"x-spare-tool":"else"}}}}`,
			map[string]string{`{"a":"x","b":"s","c":1,"d":0}`: "a:x b then", `{"b":3,"c":2,"d":0}`: "else n"},
		},
		"by value": {
			`{"properties":{"sound":{"enum":["AAC","opus","none",true],"x-spare-tool":{"AAC":"ffmpeg:aac","opus":"ffmpeg:libopus","none":""}}}}`,
			map[string]string{`{"sound":"AAC"}`: "ffmpeg:aac", `{"sound":"none"}`: "", `{"sound":true}`: ""},
		},
		"from the default of what is not given": {
			`{"$defs":{"v":{"default":{},"properties":{"codec":{"default":"libx264","x-spare-tool":"ffmpeg:{}"}}}},"properties":{"video":{"$ref":"#/$defs/v"}}}`,
			map[string]string{`{}`: "ffmpeg:libx264", `{"video":{}}`: "ffmpeg:libx264", `{"video":{"codec":"libx265"}}`: "ffmpeg:libx265"},
		},
		"in a schema that refers to itself": {
			`{"properties":{"tool":{"x-spare-tool":"t:{}"},"inner":{"$ref":"#"}}}`,
			map[string]string{`{"tool":"a","inner":{"tool":"b","inner":{"tool":"c"}}}`: "t:a t:b t:c"},
		},
		"by patterns and for other fields": {
			`{"patternProperties":{"^x_":{"x-spare-tool":"x:{}"}},"additionalProperties":{"x-spare-tool":"other:{}"}}`,
			map[string]string{`{"x_1":"a","y":"b"}`: "other:b x:a"},
		},
		"never of what is no tool": {
			`{"properties":{"c":{"x-spare-tool":"ffmpeg:{}"},"on":{"x-spare-tool":"gpu"}}}`,
			map[string]string{`{"c":"a b; rm","on":false}`: "", `{"c":{"x":1},"on":null}`: "", `{"c":5,"on":true}`: "ffmpeg:5 gpu"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := withSchema(t, test.schema)
			for params, want := range test.tools {
				plan, err := s.plan(t, params)
				if err != nil {
					t.Errorf("%s: %v", params, err)
				} else if got := strings.Join(plan.Needs.Tools, " "); got != want {
					t.Errorf("%s needs %q, want %q", params, got, want)
				}
			}
		})
	}
}

func TestSchema_FormsAreExplainedByTheOneThatIsMeant(t *testing.T) {
	s := withSchema(t, `{"properties":{"rate":{"oneOf":[
		{"type":"object","additionalProperties":false,"required":["mode","crf"],"properties":{"mode":{"const":"quality"},"crf":{"type":"integer","maximum":51}}},
		{"type":"object","additionalProperties":false,"required":["mode","target"],"properties":{"mode":{"const":"constant"},"target":{"type":"string"}}}]},
		"size":{"anyOf":[{"type":"integer","minimum":2},{"enum":["half","full"]}]}}}`)
	for params, want := range map[string][2]string{
		`{"rate":{"mode":"quality","crf":99}}`:                   {"params.app.rate.crf", "99 is too large; it must be at most 51"},
		`{"rate":{"mode":"constant"}}`:                           {"params.app.rate.target", "required"},
		`{"rate":{"mode":"variable"}}`:                           {"params.app.rate.mode", `use one of "constant", "quality"`},
		`{"rate":{"mode":"constant","target":"2k","tarjet":""}}`: {"params.app.rate.tarjet", `did you mean "target"?`},
		`{"size":1}`: {"params.app.size", ""},
	} {
		_, err := s.plan(t, params)
		if err == nil {
			t.Errorf("%s was planned", params)
			continue
		}
		wrong(t, err, want[0], want[1])
	}
}

func TestSchema_EveryKindOfRuleSpeaksInASentence(t *testing.T) {
	s := withSchema(t, `{"properties":{
		"name":{"type":"string","minLength":2,"maxLength":4,"pattern":"^[a-z]+$"},
		"list":{"type":"array","minItems":1,"maxItems":2,"uniqueItems":true},
		"step":{"type":"number","multipleOf":0.5,"exclusiveMinimum":0,"exclusiveMaximum":2},
		"when":{"type":"string","format":"date"},
		"any":{"type":["string","null"]},
		"map":{"type":"object","propertyNames":{"pattern":"^k"},"minProperties":1,"maxProperties":2},
		"never":false,
		"pair":{"type":"object","dependentRequired":{"a":["b"]}},
		"not":{"not":{"const":3}}}}`)
	for params, word := range map[string]string{
		`{"name":"a"}`:                   "params.app.name: it has 1 characters; at least 2 are needed",
		`{"name":"abcde"}`:               "at most 4 are allowed",
		`{"name":"AB"}`:                  `"AB" does not match the pattern ^[a-z]+$`,
		`{"list":[]}`:                    "params.app.list: it has 0 entries; at least 1 are needed",
		`{"list":[1,2,3]}`:               "at most 2 are allowed",
		`{"list":[1,1]}`:                 "entries 0 and 1 are equal",
		`{"step":0.7}`:                   "0.7 is no multiple of 0.5",
		`{"step":0}`:                     "0 is too small; it must be above 0 and below 2",
		`{"step":2.0}`:                   "2 is too large",
		`{"when":"tomorrow"}`:            `"tomorrow" is no valid date`,
		`{"any":1}`:                      "it is a number, but must be null or a string",
		`{"map":{"x":1}}`:                `"x" may not be the name of a field here`,
		`{"map":{}}`:                     "it has 0 fields",
		`{"map":{"k1":1,"k2":2,"k3":3}}`: "at most 2",
		`{"never":1}`:                    "params.app.never: there is no such field here",
		`{"pair":{"a":1}}`:               "a needs b beside it",
		`{"not":3}`:                      "params.app.not: this value is not allowed",
	} {
		_, err := s.plan(t, params)
		says(t, err, word)
	}
}

func TestPutSchema_RefusesWhatCannotBeUsed(t *testing.T) {
	s := newShelf(t)
	for raw, word := range map[string]string{
		`{"id":"a","version":"1","schema":{"$ref":"https://example.org/other.json"}}`:        "schemas are not fetched",
		`{"id":"a","version":"1","schema":{"$ref":"file:///etc/passwd"}}`:                    "schemas are not fetched",
		`{"id":"a","version":"1","schema":{"$schema":"https://example.org/own"}}`:            "schemas are not fetched",
		`{"id":"a","version":"1","schema":{"$ref":"#/$defs/missing"}}`:                       "missing",
		`{"id":"a","version":"1","schema":{"type":"txt"}}`:                                   "schema.type",
		`{"id":"a","version":"1","schema":{"properties":{"x":{"minimum":"3"}}}}`:             "schema.properties.x.minimum",
		`{"id":"a","version":"1","schema":{"properties":{"x":{"pattern":"("}}}}`:             "pattern",
		`{"id":"a","version":"1","schema":{"properties":{"x":{"x-spare-tool":"rm -rf"}}}}`:   "no tool",
		`{"id":"a","version":"1","schema":{"properties":{"x":{"x-spare-tool":["ffmpeg"]}}}}`: "x-spare-tool must be",
		`{"id":"a","version":"1","schema":[]}`:                                               "object",
		`{"id":"a","version":"1","schema":null}`:                                             "missing",
		`{"id":"a","schema":{}}`:                                                             "version",
		`{"version":"1","schema":{}}`:                                                        "id",
		`{"id":"../a","version":"1","schema":{}}`:                                            "id",
		`[]`: "not an object",
		`{`:  "no valid JSON",
	} {
		_, err := s.PutSchema(t.Context(), []byte(raw))
		says(t, err, word)
	}
	if _, err := s.PutSchema(t.Context(), []byte(`{"id":"a","version":9,"schema":{"$id":"db://inputs","properties":{"x":{"$ref":"#/definitions/x"}},"definitions":{"x":{"maxLength":50}}}}`)); err != nil {
		t.Error(err)
	}
	all, err := s.Schemas(t.Context())
	if err != nil || len(all) != 1 || all[0].Version != "9" {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestSchema_ATemplateWithoutAVersionGetsTheHighest(t *testing.T) {
	s := shelved(t)
	for _, v := range []string{"2", "10", "9"} {
		if _, err := s.PutSchema(t.Context(), []byte(`{"id":"own","version":"`+v+`","schema":{"title":"`+v+`"}}`)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.PutTemplate(t.Context(), []byte(`{"id":"t","app":"greyer","partitioner":"free","assembler":"concat","schema_id":"own"}`), "ada"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Schema(t.Context(), "t"); err != nil || got.Version != "10" {
		t.Errorf("%+v, %v", got, err)
	}
	_, _, err := s.PutTemplate(t.Context(), []byte(`{"id":"t","app":"greyer","partitioner":"free","assembler":"concat","schema_id":"own","schema_version":"3"}`), "ada")
	says(t, err, `"own version 3"`)
	if got, err := s.Schema(t.Context(), "greyer@v1"); err != nil || got.ID != "greyer" || !slices.Contains([]string{"0.1"}, got.Version) {
		t.Errorf("%+v, %v", got, err)
	}
}
