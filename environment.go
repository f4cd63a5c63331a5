package spare

import (
	"fmt"
	"slices"
)

// An Environment is what an App needs around it: its platform, and what its
// platform_config and device_requirements ask of a runtime.
type Environment struct {
	Platform      Platform `json:"platform"`
	Image         string   `json:"image,omitempty"`         // OCI image to run in, pinned: "name@sha256:…"
	Runtime       string   `json:"runtime,omitempty"`       // the only one it may run in; "" = any
	Outbound      bool     `json:"outbound,omitempty"`      // reaches public addresses through a proxy
	Deterministic bool     `json:"deterministic,omitempty"` // equal input must give equal bytes
	GPU           bool     `json:"gpu,omitempty"`
	Native        bool     `json:"native,omitempty"` // holds machine code or calls tools: not for an interpreter in wasm
}

// Words names what is asked for, as in "runs platform python in an image".
func (e Environment) Words() string {
	words := "platform " + string(e.Platform)
	if e.Image != "" {
		words += " in an image"
	}
	if e.Runtime != "" {
		words += " in the runtime " + e.Runtime
	}
	for _, n := range e.features() {
		switch n.feature {
		case FeatureOutbound:
			words += " with outbound network"
		case FeatureDeterministic:
			words += " deterministically"
		case FeatureGPU:
			words += " with a GPU"
		}
	}
	return words
}

// Feature is something that some runtimes offer beyond running a platform.
type Feature string

// The features.
const (
	FeatureImage         Feature = "image"
	FeatureOutbound      Feature = "outbound"
	FeatureDeterministic Feature = "deterministic"
	FeatureGPU           Feature = "gpu"
)

// Runtimes are the names of all runtimes, in the order in which an App gets one: native
// speed behind the kernel's walls before an engine's, and wasm, where Python is many
// times slower, where nothing else serves.
var Runtimes = []string{"linux", "engine", "seatbelt", "appcontainer", "wasm"}

// Refusal says in half a sentence why a runtime does not serve the App: "" if it does.
func (e Environment) Refusal(c Capability) string {
	switch {
	case !c.OK:
		return c.Reason
	case e.Runtime != "" && e.Runtime != c.Runtime:
		return "the App asks for the runtime " + e.Runtime
	case !slices.Contains(c.Platforms, e.Platform):
		return "it does not serve platform " + string(e.Platform)
	case e.Platform == PlatformContainer && e.Image == "":
		return "the App names no image"
	case e.Native && e.Platform == PlatformPython && c.Runtime == "wasm":
		return "the App holds machine code or calls tools"
	}
	for _, need := range e.features() {
		if !slices.Contains(c.Features, need.feature) {
			return need.missing
		}
	}
	if c.Runtime == "engine" && e.Image == "" {
		return "it runs images only, and the App names none"
	}
	return ""
}

type need struct {
	feature Feature
	missing string
}

func (e Environment) features() (all []need) {
	for _, n := range []struct {
		asked bool
		need
	}{
		{e.Image != "", need{FeatureImage, "it runs no images"}},
		{e.Outbound, need{FeatureOutbound, "it has no outbound network to offer"}},
		{e.Deterministic, need{FeatureDeterministic, "it is not deterministic"}},
		{e.GPU, need{FeatureGPU, "it passes no GPU through"}},
	} {
		if n.asked {
			all = append(all, n.need)
		}
	}
	return all
}

// Choose is the position of the capability that serves the App, the one that comes
// first in Runtimes, or -1 with a sentence that says why none does.
func (e Environment) Choose(offered []Capability) (index int, why string) {
	best, rank := -1, len(Runtimes)+1
	why = "no runtime works here"
	for i, c := range offered {
		refusal := e.Refusal(c)
		if refusal != "" {
			// The best one's refusal says most.
			if r := rankOf(c.Runtime); best < 0 && r < rank {
				rank, why = r, fmt.Sprintf("%s: %s", c.Runtime, refusal)
			}
			continue
		}
		if r := rankOf(c.Runtime); best < 0 || r < rank {
			best, rank, why = i, r, ""
		}
	}
	return best, why
}

func rankOf(runtime string) int {
	if i := slices.Index(Runtimes, runtime); i >= 0 {
		return i
	}
	return len(Runtimes)
}
