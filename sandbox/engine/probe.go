package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
)

// Probe implements sandbox.Runtime: it asks the engine for its versions, removes what
// earlier lives of the node left, and looks around in a container of its own making,
// whether each wall that was ordered stands.
func (r *Runtime) Probe(ctx context.Context) spare.Capability {
	c := spare.Capability{Runtime: r.Name()}
	e, err := r.engine(ctx)
	if err != nil {
		c.Reason = err.Error()
		return c
	}
	c.Version = e.String()
	if e.remapped || e.rootless && !e.podman {
		c.Reason = "this Docker gives containers users that own none of the node's files: use podman, or Docker without rootless mode and user remapping"
		return c
	}
	if _, err := r.clean(ctx, e); err != nil {
		c.Reason = err.Error()
		return c
	}
	walls, err := r.look(ctx, e)
	if err != nil {
		c.Reason = err.Error()
		return c
	}
	c.OK, c.Walls = true, walls
	c.Platforms = []spare.Platform{spare.PlatformContainer, spare.PlatformPython}
	c.Features = []spare.Feature{spare.FeatureImage}
	if r.config.GPU {
		if _, err := e.cards(ctx); err == nil {
			c.Features = append(c.Features, spare.FeatureGPU)
		} else if !errors.Is(err, errNoGPU) {
			c.Reason = "no GPU is offered: " + err.Error()
		}
	}
	if parts := e.unjudged(); len(parts) > 0 {
		c.Reason = strings.TrimSuffix("whether "+strings.Join(parts, " and ")+" has known flaws is not judged: there is no list of them here; "+c.Reason, "; ")
	}
	if flaws := e.flaws(); len(flaws) > 0 {
		c.Reason = strings.TrimSuffix("the owner accepts that "+list(flaws)+"; "+c.Reason, "; ")
	}
	return c
}

// What the probe orders, and must find.
const (
	probeMemory    = 64 << 20
	probeProcesses = 16
	probeFiles     = 64
	probeWall      = 60 * time.Second
)

// insights are the files the probe reads inside, in this order.
var insights = []string{
	"/proc/self/status", "/proc/self/mountinfo", "/proc/self/limits", "/proc/self/uid_map",
	"/proc/net/dev", "/proc/sys/kernel/hostname", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/kernel/uevent_seqnum",
	"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes",
	"/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max",
	"/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
	"/spare/ro/file", "+/spare/rw/file", "+/spare/ro/new", "+/new", "+/tmp/new", "+/proc/sys/kernel/core_pattern",
}

// look runs the probe and judges what it saw.
func (r *Runtime) look(ctx context.Context, e *engine) ([]string, error) {
	img, err := probeImage(e.arch)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "spare-engine-probe-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ro, rw := filepath.Join(dir, "r,o"), filepath.Join(dir, "rw")
	for _, err := range []error{os.Mkdir(ro, 0o700), os.Mkdir(rw, 0o700), os.WriteFile(filepath.Join(ro, "file"), []byte("seen"), 0o600)} {
		if err != nil {
			return nil, err
		}
	}
	// Nobody needs it until the next start. If it cannot be removed it stays, of a few KiB.
	defer func() { _ = r.Forget(context.WithoutCancel(ctx), img.ID) }()
	var out, errs bytes.Buffer
	res, err := r.run(ctx, e, sandbox.Spec{
		Image: img, Argv: append([]string{"/probe"}, insights...), Stdout: &out, Stderr: &errs,
		Mounts: []sandbox.Mount{{Host: ro, Inner: "/spare/ro"}, {Host: rw, Inner: "/spare/rw", Writable: true}},
		Limits: sandbox.Limits{
			CPUs: 1, Memory: probeMemory, Processes: probeProcesses, Files: probeFiles,
			Wall: probeWall, Output: 1 << 20, Disk: 1 << 20,
		},
	})
	if err != nil {
		return nil, err
	}
	if res.Cause != sandbox.Exited || res.ExitCode != 0 {
		return nil, fmt.Errorf("the probe's container ended with code %d (%s): %s", res.ExitCode, res.Cause, lastWords(errs.Bytes()))
	}
	v, err := readView(out.Bytes())
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(rw, "file")); err != nil {
		return nil, errors.New("what a container writes to a folder of this machine does not arrive there: the engine's containers may run on another machine")
	}
	uid, _ := e.owner()
	walls, err := v.walls(uid)
	if err != nil && e.rootless && e.cgroups == 1 {
		err = fmt.Errorf("%w; with control groups of version 1 an ordinary user can set no limits: use the kernel's version 2", err)
	}
	return walls, err
}

// view is what the probe saw: what it read of each file, and which it could open.
type view struct {
	text map[string]string
	open map[string]bool
}

func readView(out []byte) (view, error) {
	v := view{map[string]string{}, map[string]bool{}}
	for _, name := range insights {
		text, rest, found := bytes.Cut(out, []byte{0})
		if !found || len(rest) == 0 {
			return v, errors.New("the probe's container did not say all that it saw")
		}
		v.text[name], v.open[name] = string(text), rest[0] == '+'
		out = rest[1:]
	}
	return v, nil
}

// walls checks each wall. Those that must stand are errors if they do not; others are
// just not in the list.
func (v view) walls(uid int) ([]string, error) {
	status := fields(v.text["/proc/self/status"])
	none := func(names ...string) bool {
		for _, n := range names {
			if bits, err := strconv.ParseUint(status[n], 16, 64); err != nil || bits != 0 {
				return false
			}
		}
		return true
	}
	limits := v.text["/proc/self/limits"]
	own := strconv.Itoa(uid)
	var stand []string
	for _, w := range []struct {
		name  string
		holds bool
		may   bool // be missing
		no    string
	}{
		{"own user", status["Uid"] == strings.Join([]string{own, own, own, own}, "\t") && uid != 0, false, "its program runs as user " + status["Uid"]},
		{"no capabilities", none("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), false, "its program has capabilities"},
		{"no_new_privs", status["NoNewPrivs"] == "1", false, "its program can gain rights"},
		{"seccomp", status["Seccomp"] == "2", false, "no system call is refused it"},
		{"pid namespace", status["Pid"] == "1", false, "it sees other processes"},
		{"network namespace", onlyLoopback(v.text["/proc/net/dev"]), false, "it has network interfaces"},
		{"uts namespace", strings.TrimSpace(v.text["/proc/sys/kernel/hostname"]) == hostname, false, "it has the machine's name"},
		{"own root", readOnlyRoot(v.text["/proc/self/mountinfo"]) && !v.open["+/new"], false, "its root can be written"},
		{"mount namespace", v.text["/spare/ro/file"] == "seen" && v.open["+/spare/rw/file"] && !v.open["+/spare/ro/new"] && v.open["+/tmp/new"], false, "its folders are not those it was given, as they were given"},
		{"masked proc", v.masked(), false, "it reads the kernel's own files"},
		{"cgroup memory", v.first("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes") == strconv.Itoa(probeMemory), false, "its memory is not limited"},
		{"cgroup pids", v.first("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max") == strconv.Itoa(probeProcesses), false, "its processes are not limited"},
		{"cgroup cpu", strings.HasPrefix(v.first("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), "100000"), true, ""},
		{"resource limits", limitIs(limits, "Max open files", probeFiles) && limitIs(limits, "Max core file size", 0) && limitIs(limits, "Max locked memory", lockedMemory), false, "its open files or locked memory are not limited"},
		{"user namespace", !mapsAll(v.text["/proc/self/uid_map"]), true, ""},
		{"ipc namespace", true, false, ""}, // ordered, and nothing shows it from inside
		{"cgroup namespace", true, false, ""},
		{"freezer", true, false, ""},
		{"disk watch", true, false, ""},
		{"output cap", true, false, ""},
		{"wall time", true, false, ""},
		{"cpu time", true, false, ""},
	} {
		switch {
		case w.holds:
			stand = append(stand, w.name)
		case !w.may:
			return nil, fmt.Errorf("the engine's containers lack a wall that was ordered (%s): %s", w.name, w.no)
		}
	}
	return stand, nil
}

// first is what was read of the first file that could be opened.
func (v view) first(names ...string) string {
	for _, n := range names {
		if v.open[n] {
			return strings.TrimSpace(v.text[n])
		}
	}
	return ""
}

// masked reports whether the kernel's own files give nothing away.
func (v view) masked() bool {
	for _, n := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/kernel/uevent_seqnum"} {
		if v.text[n] != "" {
			return false
		}
	}
	return !v.open["+/proc/sys/kernel/core_pattern"]
}

// fields reads lines "Name:\tvalue".
func fields(text string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			all[name] = strings.TrimSpace(value)
		}
	}
	return all
}

// onlyLoopback reads /proc/net/dev: two lines of titles, then one for each interface.
func onlyLoopback(text string) bool {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) < 2 {
		return false
	}
	for _, line := range lines[2:] {
		name, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name != "lo" {
			return false
		}
	}
	return true
}

// readOnlyRoot reads /proc/self/mountinfo: the fifth field is where, the sixth how.
func readOnlyRoot(text string) bool {
	found := false
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 5 && f[4] == "/" {
			found = f[5] == "ro" || strings.HasPrefix(f[5], "ro,")
		}
	}
	return found
}

// limitIs reads a line of /proc/self/limits: name, soft, hard.
func limitIs(text, name string, want int) bool {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			f := strings.Fields(rest)
			return len(f) > 1 && f[0] == strconv.Itoa(want) && f[1] == f[0]
		}
	}
	return false
}

// mapsAll reports whether an id map is that of the machine itself.
func mapsAll(text string) bool {
	f := strings.Fields(text)
	return len(f) == 3 && f[0] == "0" && f[1] == "0" && f[2] == "4294967295"
}
