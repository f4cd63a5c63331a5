package sandbox

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox/first"
)

// lacks reports whether a probe names a wall as missing, with a reason, and not as standing.
func lacks(c spare.Capability, wall string) bool {
	named := slices.ContainsFunc(c.Missing, func(m string) bool { return strings.HasPrefix(m, wall+": ") && len(m) > len(wall)+2 })
	return named && !slices.Contains(c.Walls, wall)
}

func TestProbe_TriesEveryWall(t *testing.T) {
	c := linux{}.Probe(t.Context())
	if !c.OK || c.Reason != "" {
		t.Fatalf("%+v", c)
	}
	for _, wall := range first.Tried() {
		if !slices.Contains(c.Walls, wall) {
			t.Errorf("%s does not stand: %q", wall, c.Missing)
		}
	}
	if lacks(c, first.WallOwnUser) != (os.Getuid() != 0) {
		t.Errorf("own user: %q, %q", c.Walls, c.Missing)
	}
	if want := []spare.Feature{spare.FeatureImage, spare.FeatureOutbound}; !slices.Equal(c.Features, want) {
		t.Errorf("features %q, want %q", c.Features, want)
	}
	if want := []spare.Platform{spare.PlatformContainer, spare.PlatformPython}; !slices.Equal(c.Platforms, want) {
		t.Errorf("platforms %q, want %q", c.Platforms, want)
	}
}

func TestProbe_NamesTheWallThatIsMissing(t *testing.T) {
	fd, err := unix.Open("/", unix.O_RDONLY, 0) // open across exec, as a careless library leaves it
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, wall := range []string{
		first.WallMounts, first.WallNetwork, first.WallIPC, first.WallUTS, first.WallCgroups, first.WallRoot, first.WallRights, first.WallPrivileges,
		first.WallNested, first.WallLimits, first.WallProc, first.WallUndumpable, first.WallDescriptors,
	} {
		without := []string{wall}
		if wall == first.WallUndumpable { // Landlock, too, keeps from the first process
			without = append(without, first.WallLandlock)
		}
		if wall == first.WallPrivileges && restrained(t) {
			continue
		}
		c := linux{without: without}.Probe(t.Context())
		if c.OK || !lacks(c, wall) || !strings.Contains(c.Reason, "wall") {
			t.Errorf("without %s: %+v", wall, c)
		}
	}
	for _, wall := range optional {
		c := linux{without: []string{wall}}.Probe(t.Context())
		if !c.OK || !lacks(c, wall) {
			t.Errorf("without %s: %+v", wall, c)
		}
	}
	if os.Getuid() == 0 {
		for _, wall := range []string{first.WallUser, first.WallOwnUser} {
			if c := (linux{without: []string{wall}}).Probe(t.Context()); !lacks(c, wall) {
				t.Errorf("without %s: %+v", wall, c)
			}
		}
	}
}

func TestProbe_SaysWhatItSaw(t *testing.T) {
	f := findingsOf("seccomp\tnone\nlandlock\t\nproxy\t\npython3\t\n3.11.2\n")
	if f.seen["seccomp"] != "none" || f.seen["landlock"] != "" || f.version != "3.11.2" || len(f.seen) != 4 {
		t.Errorf("%+v", f)
	}
	if f := findingsOf("cannot execute\n"); f.version != "" || f.seen["landlock"] != "" {
		t.Errorf("%+v", f)
	}
	// A wall that nobody spoke of does not stand.
	walls, missing, refusal := linux{}.judge(findings{seen: map[string]string{}})
	if slices.Contains(walls, first.WallRoot) || refusal == "" || len(missing) < len(first.Tried()) {
		t.Errorf("%q, %q, %q", walls, missing, refusal)
	}
}
