package first

import "testing"

// Writable folders give every right but those that nothing inside needs of them.
func TestLandlock_NoRuleAllowsDevices(t *testing.T) {
	o := &Orders{Mounts: []Mount{{Inner: "/task"}, {Inner: "/results", Writable: true}}, Probe: true}
	written := 0
	for _, r := range pathRules(o, []string{"usr", "etc"}) {
		if forbidden := r.rights & (mayMakeChar | mayMakeBlock | mayIoctl); forbidden != 0 {
			t.Errorf("%s has the rights %#x, among them %#x", r.name, r.rights, forbidden)
		}
		if r.rights&mayWriteFile != 0 {
			written++
		}
		if all := pathRights(5); r.rights&^all != 0 {
			t.Errorf("%s has rights that no version knows: %#x", r.name, r.rights&^all)
		}
	}
	if written != 5 { // /dev, /proc, /tmp, /dev/shm, /results
		t.Errorf("%d rules allow writing, want 5", written)
	}
}
