package installers_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/spare-compute/spare"
)

// serviceUser is whom services run as here: nobody's number.
const serviceUser = 23456

// unitText is a unit as it is shipped.
func unitText(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("systemd", name+".service"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A service is where one is run, and as whom.
type service struct {
	dir, state string
	user       int
	group      *group
}

// newService makes a place for a service, as systemd would: a state folder and a control
// group that are left to its user. Where root does not run the test, that user is who does,
// and of a unit's walls there are those that anybody can put up around himself.
func newService(t *testing.T) *service {
	t.Helper()
	s := &service{user: os.Getuid()}
	base := os.TempDir()
	if s.user == 0 {
		s.user, base = serviceUser, "/var/lib" // the unit hides /tmp
	}
	var err error
	if s.dir, err = os.MkdirTemp(base, "spare-unit-test-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	s.state = filepath.Join(s.dir, "state")
	for _, err := range []error{os.Chmod(s.dir, 0o755), os.Mkdir(s.state, 0o700), os.Lchown(s.state, s.user, -1)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if s.group, err = delegate(s.user); err != nil {
		t.Fatalf("make a control group: %v", err)
	}
	t.Cleanup(func() {
		if err := s.group.remove(); err != nil {
			t.Errorf("the service left something in its control group: %v", err)
		}
	})
	return s
}

// start starts a program behind a unit's walls; without a unit, with nothing around it.
func (s *service) start(t *testing.T, unit string, out, errs io.Writer, env []string, argv ...string) *exec.Cmd {
	t.Helper()
	o := orders{Unit: unit, State: s.state, User: s.user, Argv: argv}
	o.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG=C.UTF-8", "HOME=" + s.state}, env...)
	said, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe") // it outlives the context of the test, to be ended well
	cmd.Env = append(os.Environ(), imposeEnv+"="+string(said))
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	entered, err := s.group.enter(cmd.SysProcAttr)
	if err != nil {
		t.Fatal(err)
	}
	defer entered()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// serve runs the suite as a service.
func serve(t *testing.T, unit string, env ...string) findings {
	t.Helper()
	s := newService(t)
	program := filepath.Join(s.dir, "program")
	copyProgram(t, program)
	var out, errs bytes.Buffer
	err := s.start(t, unit, &out, &errs, append(env, suiteEnv+"="+s.state), program).Wait()
	if err != nil {
		t.Fatalf("%v\n%s", err, errs.Bytes())
	}
	var f findings
	if err := json.Unmarshal(out.Bytes(), &f); err != nil {
		t.Fatalf("%v in %q\n%s", err, out.Bytes(), errs.Bytes())
	}
	return f
}

func copyProgram(t *testing.T, to string) {
	t.Helper()
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	for _, err := range []error{err, out.Chmod(0o755), out.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// names reports whether a probe says of a wall that it is missing, and why.
func names(c spare.Capability, wall string) bool {
	return slices.ContainsFunc(c.Missing, func(m string) bool { return strings.HasPrefix(m, wall+": ") && len(m) > len(wall)+2 })
}

func TestUnits_TheSandboxWorksBehindTheNodesWalls(t *testing.T) {
	bare := serve(t, "", wallsEnv+"=1")
	unit := serve(t, unitText(t, "spare-node"), wallsEnv+"=1")
	t.Logf("missing without the unit: %q\nmissing with it: %q", bare.Linux.Missing, unit.Linux.Missing)

	for name, said := range bare.Checks {
		if said != "ok" {
			t.Errorf("%s: even without a unit: %s", name, said)
		}
		if unit.Checks[name] != "ok" {
			t.Errorf("%s: behind the unit's walls: %s", name, unit.Checks[name])
		}
	}
	if len(bare.Checks) != len(checks) {
		t.Errorf("%d checks were made, want %d: %+v", len(bare.Checks), len(checks), bare.Linux)
	}
	for _, pair := range [][2]spare.Capability{{bare.Linux, unit.Linux}, {bare.Wasm, unit.Wasm}} {
		without, with := pair[0], pair[1]
		if !without.OK || !with.OK || !slices.Equal(without.Platforms, with.Platforms) || !slices.Equal(without.Features, with.Features) {
			t.Errorf("without the unit: %+v\nwith it: %+v", without, with)
		}
		for _, wall := range without.Walls {
			if !slices.Contains(with.Walls, wall) && !names(with, wall) {
				t.Errorf("%s: the wall %q is gone behind the unit's, and nobody says so: %q", with.Runtime, wall, with.Missing)
			}
		}
	}
	// What is shipped costs no wall at all.
	if !slices.Equal(bare.Linux.Walls, unit.Linux.Walls) {
		t.Errorf("without the unit the walls are %q, with it %q; missing: %q", bare.Linux.Walls, unit.Linux.Walls, unit.Linux.Missing)
	}
	for name := range unitWalls {
		if os.Getuid() != 0 && needsRoot(name) {
			continue
		}
		if said := unit.Walls[name]; said != "ok" {
			t.Errorf("%s does not stand around the node: %s", name, said)
		}
	}
	// Each is seen to be a wall: without the unit it is not there.
	for name, said := range bare.Walls {
		_, err := os.Stat("/usr/lib/modules")
		if said == "ok" && os.Getuid() == 0 && (name != "ProtectKernelModules" || err == nil) {
			t.Errorf("%s seems to stand without any unit", name)
		}
	}
}

func needsRoot(key string) bool {
	return key == "CapabilityBoundingSet" || slices.ContainsFunc(imposed, func(s setting) bool { return s.key == key && s.asRoot })
}

func TestUnits_EveryLineForTheSandboxIsNeeded(t *testing.T) {
	text := unitText(t, "spare-node")
	for _, c := range []struct {
		name, line, instead string
		wrong               func(findings) bool
	}{
		{"landlock", "landlock_create_ruleset landlock_add_rule landlock_restrict_self", "", func(f findings) bool { return names(f.Linux, "landlock") }},
		{"seccomp", " seccomp ", " ", func(f findings) bool { return !f.Linux.OK }},
		{"mounts", "@mount ", "", func(f findings) bool { return !f.Linux.OK }},
		{"the host's name", "sethostname ", "", func(f findings) bool { return !f.Linux.OK }},
		{"refusing instead of ending", "SystemCallErrorNumber=EPERM\n", "", func(f findings) bool { return f.Checks[counters] != "ok" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			without := strings.Replace(text, c.line, c.instead, 1)
			if without == text {
				t.Fatalf("the unit has no %q", c.line)
			}
			if f := serve(t, without); !c.wrong(f) {
				t.Errorf("without it nothing is wrong: %+v", f)
			}
		})
	}
}

// What was shown for the node's walls holds for the hub's, if they are the same.
func TestUnits_TheHubsWallsAreTheNodes(t *testing.T) {
	node, hub := parseUnit(unitText(t, "spare-node")), parseUnit(unitText(t, "spare-hub"))
	for _, key := range slices.Concat(slices.Collect(maps.Keys(node)), slices.Collect(maps.Keys(hub))) {
		i := slices.IndexFunc(imposed, func(s setting) bool { return s.key == key })
		alike := i >= 0 && key != "OOMScoreAdjust" || slices.Contains([]string{"NoNewPrivileges", "CapabilityBoundingSet", "AmbientCapabilities", "Delegate", "SystemCallErrorNumber", "SystemCallArchitectures", "DevicePolicy"}, key)
		if alike && !slices.Equal(node[key], hub[key]) {
			t.Errorf("%s: the node has %q, the hub %q", key, node[key], hub[key])
		}
	}
}

// exposure is the figure of `systemd-analyze security` that the units must not pass.
const exposure = 3.1

func TestUnits_SystemdCountsThemAsWellProtected(t *testing.T) {
	score := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)
	for _, name := range []string{"spare-node", "spare-hub"} {
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", filepath.Join("systemd", name+".service")).CombinedOutput()
		found := score.FindSubmatch(out)
		if err != nil || found == nil {
			t.Errorf("systemd-analyze security %s: %v\n%s", name, err, out)
			continue
		}
		var got float64
		if _, err := fmt.Sscan(string(found[1]), &got); err != nil || got > exposure {
			t.Errorf("%s: exposure %s, want at most %.1f: %v\n%s", name, found[1], exposure, err, out)
		}
	}
}
