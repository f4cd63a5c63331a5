package main

import (
	"encoding/json"
	"testing"
)

func TestParseParams_BuildsOneObject(t *testing.T) {
	for _, c := range []struct {
		name  string
		given []string
		want  string
	}{
		{"text", []string{"case=upper"}, `{"case":"upper"}`},
		{"JSON values", []string{"n=3", "on=true", "x=null", "l=[1,2]", `s="3"`}, `{"l":[1,2],"n":3,"on":true,"s":"3","x":null}`},
		{"text that only begins like JSON", []string{"v=1 2", "w={a"}, `{"v":"1 2","w":"{a"}`},
		{"a long number stays as it was typed", []string{"n=12345678901234567890"}, `{"n":12345678901234567890}`},
		{"dots and brackets", []string{"outputs.0.video.codec=libx265", "outputs[1].name=hd"}, `{"outputs":[{"video":{"codec":"libx265"}},{"name":"hd"}]}`},
		{"a value may hold =", []string{"q=a=b"}, `{"q":"a=b"}`},
		{"empty text", []string{"q="}, `{"q":""}`},
		{"the last wins", []string{"a=1", "a=2"}, `{"a":2}`},
		{"into an object given whole", []string{`a={"b":1}`, "a.c=2"}, `{"a":{"b":1,"c":2}}`},
		{"a key that looks like a number", []string{`a={"b":1}`, "a.0=2"}, `{"a":{"0":2,"b":1}}`},
		{"none", nil, `{}`},
	} {
		got, err := parseParams(c.given)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if b, _ := json.Marshal(got); string(b) != c.want {
			t.Errorf("%s: got %s, want %s", c.name, b, c.want)
		}
	}
}

func TestParseParams_RefusesWhatMakesNoSense(t *testing.T) {
	for name, given := range map[string][]string{
		"no value":            {"codec"},
		"no key":              {"=1"},
		"empty part":          {"a..b=1"},
		"a hole in a list":    {"a.1=1"},
		"below a value":       {"a=1", "a.b=2"},
		"a list for a value":  {"a=1", "a.0=2"},
		"an object is a list": {"0=1"},
	} {
		if got, err := parseParams(given); err == nil {
			t.Errorf("%s was taken: %v", name, got)
		}
	}
}

func FuzzParseParams(f *testing.F) {
	f.Add("outputs[0].x=1", "outputs.1.y=true")
	f.Add("0=1", "a.b=c")
	f.Fuzz(func(t *testing.T, a, b string) {
		got, err := parseParams([]string{a, b})
		if (got == nil) == (err == nil) {
			t.Fatalf("%v beside %v", got, err)
		}
	})
}
