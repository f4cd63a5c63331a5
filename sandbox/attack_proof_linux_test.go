package sandbox_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/spare-compute/spare/sandbox/attack"
)

// A proof is what happened when all the walls that stop an attack were switched off.
type proof struct {
	Without []string `json:"without"`
	Fault   string   `json:"fault"` // "" if the attack got through, as it must
	Detail  string   `json:"detail"`
}

// proofs switches off, for each attack, all the walls that stop it, and wants to see it
// succeed: or else the suite would praise walls for what something else does.
func (f *field) proofs(t *testing.T, c fighter) map[string]proof {
	t.Helper()
	c.open = true
	all := map[string]proof{}
	together := map[string][]attack.Attack{} // by their walls
	var alone, bared []attack.Attack
	for _, a := range wanted(attack.All()) {
		switch {
		case a.Unshown != "" || a.Proof.By != "" && a.Proof.By != user():
		case a.Proof.Bare:
			bared = append(bared, a)
		case a.Load != nil && os.Getuid() == 0 && os.Getenv(longEnv) == "":
			// The user's arena shows these, meanwhile: they take time.
		case a.Load != nil:
			alone = append(alone, a)
		default:
			key := strings.Join(a.Walls, ", ")
			together[key] = append(together[key], a)
		}
	}
	var mu sync.Mutex
	note := func(a attack.Attack, o attack.Outcome) {
		mu.Lock()
		defer mu.Unlock()
		p := proof{Without: a.Walls, Detail: o.Detail}
		if o.Verdict != attack.Succeeded && o.Verdict != attack.Absent {
			p.Fault = fmt.Sprintf("the attack is still %s: %s", o.Verdict, o.Detail)
		}
		all[a.Name] = p
	}
	each(slices.Collect(maps.Values(together)), func(group []attack.Attack) {
		got := f.quick(t, c, c.without(group[0].Walls...), group)
		for _, a := range group {
			note(a, got[a.Name])
		}
	})
	got := f.quick(t, fighter{Column: attack.Column{Name: c.Name + ", bare"}, open: true, bare: true}, bare(), bared)
	for _, a := range bared {
		note(a, got[a.Name])
	}
	each(alone, func(a attack.Attack) { note(a, f.alone(t, c, c.without(a.Walls...), a)) })
	return all
}
