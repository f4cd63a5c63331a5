package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare"
)

const probeWall = 20 * time.Second

// Probe implements Runtime: it runs the interpreter inside.
func (l linux) Probe(ctx context.Context) spare.Capability {
	c := spare.Capability{Runtime: l.Name()}
	version, err := l.try(ctx, "python3", "-c", "import sys, json, socket; print(sys.version.split()[0])")
	var noStart *StartError
	switch {
	case err == nil:
		c.Platforms, c.Version = []spare.Platform{spare.PlatformPython}, version
	case errors.As(err, &noStart):
		// Tools can run here all the same, if anything can.
		if _, err := l.try(ctx, "sh", "-c", "echo"); err != nil {
			c.Reason = err.Error()
			return c
		}
		c.Reason = "no python3 in the system folders (/usr/bin, /usr/local/bin): install python3 to offer the platform python"
	default:
		c.Reason = err.Error()
		return c
	}
	c.OK = true
	c.Walls = []string{
		"user namespace", "mount namespace", "pid namespace", "network namespace", "ipc namespace", "uts namespace", "cgroup namespace",
		"own root", "no capabilities", "no_new_privs", "no nested user namespaces", "resource limits", "memory watch", "disk watch",
	}
	if ownOwner() {
		c.Walls = append(c.Walls, "own user")
	}
	return c
}

func (l linux) try(ctx context.Context, argv ...string) (string, error) {
	var out bytes.Buffer
	r, err := l.Run(ctx, Spec{Argv: argv, Stdout: &out, Stderr: &out, Limits: Limits{Wall: probeWall, Output: 64 << 10}})
	if err != nil {
		return "", err
	}
	if r.Cause != Exited || r.ExitCode != 0 {
		return "", fmt.Errorf("%s in the sandbox ended with code %d (%s): %s", argv[0], r.ExitCode, r.Cause, lastLine(out.Bytes()))
	}
	return strings.TrimSpace(out.String()), nil
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
