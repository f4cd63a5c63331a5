package spare

import (
	"strings"
	"testing"
)

func TestEnvironment_Choose(t *testing.T) {
	linux := Capability{Runtime: "linux", OK: true, Platforms: []Platform{PlatformPython, PlatformContainer}, Features: []Feature{FeatureImage, FeatureOutbound}}
	engine := Capability{Runtime: "engine", OK: true, Platforms: []Platform{PlatformPython, PlatformContainer}, Features: []Feature{FeatureImage, FeatureGPU}}
	wasm := Capability{Runtime: "wasm", OK: true, Platforms: []Platform{PlatformWasm, PlatformPython}, Features: []Feature{FeatureDeterministic}}
	broken := Capability{Runtime: "linux", Reason: "user namespaces are off"}
	for _, c := range []struct {
		name    string
		needs   Environment
		offered []Capability
		want    string // runtime, or words of the sentence after "!"
	}{
		{"native Python before wasm, in whatever order", Environment{Platform: PlatformPython}, []Capability{wasm, engine, linux}, "linux"},
		{"pure Python falls back to wasm", Environment{Platform: PlatformPython}, []Capability{broken, wasm}, "wasm"},
		{"machine code does not", Environment{Platform: PlatformPython, Native: true}, []Capability{broken, wasm}, "!linux: user namespaces are off"},
		{"no machine code in wasm", Environment{Platform: PlatformPython, Native: true}, []Capability{wasm}, "!machine code"},
		{"an image without an engine", Environment{Platform: PlatformContainer, Image: "i"}, []Capability{engine, linux}, "linux"},
		{"Python in an image", Environment{Platform: PlatformPython, Image: "i"}, []Capability{wasm, engine}, "engine"},
		{"an image where nothing runs one", Environment{Platform: PlatformPython, Image: "i"}, []Capability{wasm}, "!runs no images"},
		{"a container of no image", Environment{Platform: PlatformContainer}, []Capability{linux}, "!names no image"},
		{"a GPU", Environment{Platform: PlatformContainer, Image: "i", GPU: true}, []Capability{linux, engine}, "engine"},
		{"a network the owner does not lend", Environment{Platform: PlatformPython, Outbound: true}, []Capability{wasm, engine}, "!no outbound network"},
		{"a network", Environment{Platform: PlatformPython, Outbound: true}, []Capability{linux, engine}, "linux"},
		{"the named runtime only", Environment{Platform: PlatformPython, Runtime: "wasm"}, []Capability{linux, wasm}, "wasm"},
		{"the named runtime is not there", Environment{Platform: PlatformPython, Runtime: "wasm"}, []Capability{linux}, "!asks for the runtime wasm"},
		{"equal bytes", Environment{Platform: PlatformPython, Deterministic: true}, []Capability{linux, wasm}, "wasm"},
		{"a module", Environment{Platform: PlatformWasm}, []Capability{linux, wasm}, "wasm"},
		{"nothing at all", Environment{Platform: PlatformPython}, nil, "!no runtime works here"},
	} {
		i, why := c.needs.Choose(c.offered)
		words, refused := strings.CutPrefix(c.want, "!")
		switch {
		case refused && (i >= 0 || !strings.Contains(why, words)):
			t.Errorf("%s: %d, %q, want none because %q", c.name, i, why, words)
		case !refused && (i < 0 || c.offered[i].Runtime != c.want || why != ""):
			t.Errorf("%s: %d, %q, want %s", c.name, i, why, c.want)
		}
	}
}
