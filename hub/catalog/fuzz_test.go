package catalog

import (
	"testing"
	"unicode/utf8"
)

func FuzzSchema(f *testing.F) {
	for _, seed := range [][2]string{
		{`{"type":"object","required":["a"],"properties":{"a":{"enum":[1,"x"]}},"additionalProperties":false}`, `{"b":1}`},
		{`{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"d":{"minimum":3}},"properties":{"a":{"$ref":"#/definitions/d"}}}`, `{"a":2}`},
		{`{"oneOf":[{"properties":{"m":{"const":1}}},{"properties":{"m":{"const":2}}}]}`, `{"m":3}`},
		{`{"properties":{"c":{"x-spare-tool":"ffmpeg:{}"},"i":{"$ref":"#"}}}`, `{"c":"libx264","i":{"c":"x"}}`},
		{`{"items":{"anyOf":[{"type":"string","pattern":"^a"},{"type":"integer","multipleOf":2}]}}`, `["b",3]`},
		{`{"$dynamicRef":"#n","$dynamicAnchor":"n","properties":{"a":{"$dynamicRef":"#n"}}}`, `{"a":{"a":1}}`},
		{`{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}`, `1`},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]))
	}
	f.Fuzz(func(t *testing.T, schema, value []byte) {
		if len(schema) > 4096 || len(value) > 4096 {
			return
		}
		rules, err := compile(schema)
		if err != nil {
			if err.Error() == "" || !utf8.ValidString(err.Error()) && utf8.Valid(schema) {
				t.Fatalf("refused with %q", err)
			}
			return
		}
		var v any
		if decode(value, &v) != nil {
			return
		}
		if err := rules.check("params", v); err != nil {
			if err.Error() == "" {
				t.Fatal("refused without a word")
			}
			return
		}
		for _, tool := range rules.tools(v) {
			if !validTool(tool) {
				t.Fatalf("%q is no tool", tool)
			}
		}
	})
}

func TestNearest_CountsMistakesNotLengths(t *testing.T) {
	known := []string{"passthrough", "replicate", "lines", "video", "zip"}
	for name, want := range map[string]string{
		"pasthrough": "passthrough", "passtrhough": "passthrough", "REPLICATE": "replicate", "line": "lines", "vidoe": "video",
		"replicate@1": "replicate", "through": "passthrough", "zap": "zip", "concat": "", "": "", "q": "",
	} {
		if got := nearest(name, known); got != want {
			t.Errorf("%q is near %q, want %q", name, got, want)
		}
	}
}

func TestEdits_AreSymmetric(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "abd", 1}, {"kitten", "sitting", 3}, {"größe", "grosse", 3}} {
		if ab, ba := edits(test.a, test.b), edits(test.b, test.a); ab != test.want || ba != test.want {
			t.Errorf("%q and %q: %d, %d, want %d", test.a, test.b, ab, ba, test.want)
		}
	}
}
