package sandbox

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox/first"
)

const probeWall = 20 * time.Second

// Probe implements Runtime: this very program goes inside, tries each wall and the way out,
// and then becomes the interpreter, all in one run.
func (l linux) Probe(ctx context.Context) spare.Capability {
	c := spare.Capability{Runtime: l.Name()}
	found, err := l.look(ctx, Outbound)
	if err != nil { // perhaps it is the way out that fails
		found, err = l.look(ctx, NoNetwork)
	}
	if err != nil {
		c.Reason = err.Error()
		return c
	}
	if c.Walls, c.Missing, c.Reason = l.judge(found); c.Reason != "" {
		return c
	}
	c.OK, c.Version = true, found.version
	c.Platforms, c.Features = []spare.Platform{spare.PlatformContainer}, []spare.Feature{spare.FeatureImage}
	if way, tried := found.seen[first.ProbeProxy]; tried && way == "" {
		c.Features = append(c.Features, spare.FeatureOutbound)
	}
	why, started := found.seen[first.ProbePython]
	switch {
	case found.version != "":
		c.Platforms = append(c.Platforms, spare.PlatformPython)
	case started:
		c.Reason = "python3 does not work in the sandbox: " + why
	default:
		c.Reason = "no python3 in the system folders (/usr/bin, /usr/local/bin): install python3 to offer the platform python"
	}
	return c
}

// look sends this very program inside, and returns what it saw there.
func (l linux) look(ctx context.Context, n Network) (findings, error) {
	l.probing = true
	var out bytes.Buffer
	r, err := l.Run(ctx, Spec{
		Argv: []string{"probe"}, Network: n, Stdout: &out, Stderr: &out, Limits: Limits{Wall: probeWall, Output: 64 << 10},
	})
	if err != nil {
		return findings{}, err
	}
	f := findingsOf(out.String())
	if len(f.seen) == 0 {
		return f, fmt.Errorf("trying the sandbox's walls ended with code %d (%s %s): %s", r.ExitCode, r.Cause, r.Signal, lastLine(out.Bytes()))
	}
	if r.Cause != Exited || r.ExitCode != 0 {
		f.version, f.seen[first.ProbePython] = "", f.version
	}
	return f, nil
}

// findings are what was seen from inside: of each wall what got through, "" for nothing.
type findings struct {
	seen    map[string]string
	version string // the interpreter's, or what it said last
}

func findingsOf(text string) findings {
	f := findings{seen: map[string]string{}}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if _, started := f.seen[first.ProbePython]; started {
			f.version = line
			continue
		}
		if what, found, ok := strings.Cut(line+"\t", "\t"); ok {
			f.seen[what] = strings.TrimSpace(found)
		}
	}
	return f
}

// optional are the walls that a node can do without: others stand behind them. Without
// any other, nothing runs.
var optional = []string{first.WallSeccomp, first.WallLandlock}

// judge lists the walls that hold and those that do not, with their reasons, and says why
// nothing may run here, if so.
func (l linux) judge(f findings) (walls, missing []string, refusal string) {
	for _, wall := range first.Tried() {
		what, tried := f.seen[wall]
		switch file := first.NamespaceFile(wall); {
		case !tried:
			what = "it could not be tried"
		case file != "":
			what = sharedNamespace(file, what)
		case wall == first.WallSeccomp && filterFor(NoNetwork) == nil:
			what = "Spare has no filter of system calls for " + runtime.GOARCH
		}
		switch {
		case what == "":
			walls = append(walls, wall)
		case slices.Contains(optional, wall):
			missing = append(missing, wall+": "+what)
		default:
			missing = append(missing, wall+": "+what)
			refusal = cmp.Or(refusal, "a wall of the sandbox does not hold here: "+wall+": "+what)
		}
	}
	if l.ownUser() {
		walls = append(walls, first.WallOwnUser)
	} else {
		missing = append(missing, first.WallOwnUser+": programs run as the user that Spare runs as; only root can give them one of their own")
	}
	walls = append(walls, first.WallMemoryWatch, first.WallCPUTime)
	standing, lacks := l.limitWalls()
	for wall, why := range lacks {
		missing = append(missing, wall+": "+why)
	}
	slices.Sort(missing)
	return append(walls, standing...), missing, refusal
}

// sharedNamespace compares a namespace seen inside with this process's.
func sharedNamespace(file, inside string) string {
	outside, err := os.Readlink(file)
	if err != nil || inside == "" || inside == outside {
		return "it is the host's own"
	}
	return ""
}

// switches are the kernel settings that turn the sandbox's means off.
var switches = []struct{ file, off, say string }{
	{"user/max_user_namespaces", "0", "user namespaces are off: set the sysctl user.max_user_namespaces to 15000 or more"},
	{"kernel/unprivileged_userns_clone", "0", "user namespaces are off for ordinary users: set the sysctl kernel.unprivileged_userns_clone to 1"},
	{"kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor keeps user namespaces from programs it does not know (sysctl kernel.apparmor_restrict_unprivileged_userns): load Spare's AppArmor profile"},
}

// explain adds to a failed set-up the switch that is off, if one is. sysctl is /proc/sys.
func explain(sysctl fs.FS, err error) error {
	for _, s := range switches {
		text, readErr := fs.ReadFile(sysctl, s.file)
		if readErr == nil && strings.TrimSpace(string(text)) == s.off {
			return fmt.Errorf("the sandbox cannot start: %s (%w)", s.say, err)
		}
	}
	switch {
	case says(err, unix.ENOSYS):
		return fmt.Errorf("the sandbox cannot start: it needs Linux 5.12 or newer (%w)", err)
	case says(err, unix.EPERM), says(err, unix.EACCES):
		return fmt.Errorf("the sandbox cannot start: the kernel refuses it here; inside a container, allow user namespaces and an unmasked /proc (%w)", err)
	}
	return fmt.Errorf("the sandbox cannot start: %w", err)
}

// says reports whether err is errno, or tells of it: across the report pipe only text comes.
func says(err error, errno unix.Errno) bool {
	return errors.Is(err, errno) || strings.HasSuffix(err.Error(), errno.Error())
}
