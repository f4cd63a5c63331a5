package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/spare-compute/spare"
)

func TestLend_KeepsBackWhatTheOwnerDoesNotLend(t *testing.T) {
	proved := []spare.Capability{
		{Runtime: "linux", OK: true, Platforms: []spare.Platform{"python"}, Features: []spare.Feature{"image", "outbound"}},
		{Runtime: "engine", OK: true, Platforms: []spare.Platform{"container"}, Features: []spare.Feature{"image", "gpu"}},
		{Runtime: "wasm", OK: true, Platforms: []spare.Platform{"wasm"}},
	}
	features := func(c spare.Capability) string {
		var words []string
		for _, f := range c.Features {
			words = append(words, string(f))
		}
		return strings.Join(words, " ")
	}
	for _, c := range []struct {
		prefs map[string]string
		ok    []bool
		first string
		gpu   string
	}{
		{nil, []bool{true, true, true}, "image", "image"},
		{map[string]string{"network": "outbound"}, []bool{true, true, true}, "image outbound", "image"},
		{map[string]string{"gpu": "true"}, []bool{true, true, true}, "image", "image gpu"},
		{map[string]string{"runtimes": "wasm"}, []bool{false, false, true}, "", ""},
		{map[string]string{"runtimes": "linux, wasm"}, []bool{true, false, true}, "image", ""},
	} {
		p := Default()
		for k, v := range c.prefs {
			if err := p.Set(k, v); err != nil {
				t.Fatal(err)
			}
		}
		lent := Lend(p, proved)
		var ok []bool
		for _, l := range lent {
			ok = append(ok, l.OK)
			if !l.OK && l.Reason == "" {
				t.Errorf("%v: %s is kept back without a reason", c.prefs, l.Runtime)
			}
		}
		if !slices.Equal(ok, c.ok) || features(lent[0]) != c.first || features(lent[1]) != c.gpu {
			t.Errorf("%v: %+v", c.prefs, lent)
		}
	}
	if features(proved[0]) != "image outbound" || features(proved[1]) != "image gpu" {
		t.Error("what was proved is changed")
	}
}

func TestPrefs_RuntimesAreKnownOnes(t *testing.T) {
	p := Default()
	if err := p.Set("runtimes", "linux,wsm"); err == nil || !strings.Contains(err.Error(), `did you mean "wasm"`) {
		t.Errorf("%v", err)
	}
	if err := p.Set("network", "all"); err == nil {
		t.Error("network all is taken")
	}
}
