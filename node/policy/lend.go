package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spare-compute/spare"
)

// Net says which network the owner lends to Apps that ask for one.
type Net string

// The choices of Net.
const (
	NetNone     Net = "none"
	NetOutbound Net = "outbound" // public addresses, through the node's proxy
)

// Runtimes lists the runtimes that an owner allows, separated by commas: "wasm" lets
// nothing native run. Empty allows every one that works.
type Runtimes string

func (r Runtimes) list() []string {
	return strings.FieldsFunc(string(r), func(c rune) bool { return c == ',' || c == ' ' })
}

func (r Runtimes) check() error {
	for _, name := range r.list() {
		if !slices.Contains(spare.Runtimes, name) {
			return fmt.Errorf("preference runtimes: %q is no runtime; did you mean %q? (there are: %s)", name, nearest(name, spare.Runtimes), strings.Join(spare.Runtimes, ", "))
		}
	}
	return nil
}

// Lent reports whether the owner allows a runtime at all.
func Lent(p Prefs, runtime string) bool {
	allowed := p.Runtimes.list()
	return len(allowed) == 0 || slices.Contains(allowed, runtime)
}

// ChoosesEngine reports whether the owner wants a container engine used where there is
// another way.
func (p Prefs) ChoosesEngine() bool {
	return p.Engine != "" || p.GPU || slices.Contains(p.Runtimes.list(), "engine")
}

// Lend is what of the proved runtimes the owner lends. One that is kept back says so.
func Lend(p Prefs, proved []spare.Capability) []spare.Capability {
	lent := slices.Clone(proved)
	for i, c := range lent {
		if !Lent(p, c.Runtime) {
			lent[i] = spare.Capability{Runtime: c.Runtime, Version: c.Version, Reason: "the owner does not lend it"}
			continue
		}
		lent[i].Features = slices.DeleteFunc(slices.Clone(c.Features), func(f spare.Feature) bool {
			return f == spare.FeatureOutbound && p.Network != NetOutbound || f == spare.FeatureGPU && !p.GPU
		})
	}
	return lent
}
