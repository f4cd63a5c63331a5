package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Feature is something a control group does for a run.
type Feature string

// The features. Accounting is none: whatever can be counted is.
const (
	Memory  Feature = "memory"
	Pids    Feature = "pids"
	CPU     Feature = "cpu"
	IO      Feature = "io"
	Freezer Feature = "freezer"
)

// Features are all of them.
var Features = []Feature{Memory, Pids, CPU, IO, Freezer}

// Groups is where this process makes control groups. It is safe for concurrent use.
type Groups struct {
	trees []tree
	lacks map[Feature]string
}

// A tree is one hierarchy of groups, with what it is used for.
type tree struct {
	base string // folder that groups are made in
	top  string // mount point
	v2   bool
	into bool // processes can be born in a group (version 2, Linux 5.7)
	kill bool // cgroup.kill is there (version 2, Linux 5.14)
	has  map[Feature]bool
	make func(string) error // mkdir
}

// host is what is looked at. Tests look at one of their own making.
type host struct {
	mounts string // /proc/self/mountinfo
	own    string // /proc/self/cgroup
	uid    int
	pid    int
	make   func(string) error
	born   func(dir string) error // tries to have a process born in a group
	visit  func(dir, home string) error
}

// Find looks at this machine, and takes away what crashed processes have left. A process
// that systemd has given a group of its own (Delegate=) is moved into a leaf of it, since
// the kernel limits no group that has processes beside its subgroups.
func Find() *Groups {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	own, err2 := os.ReadFile("/proc/self/cgroup")
	if err := errors.Join(err, err2); err != nil {
		return none("the kernel tells nothing of control groups: " + err.Error())
	}
	g := find(host{
		mounts: string(mounts), own: string(own), uid: os.Geteuid(), pid: os.Getpid(),
		make: mkdir, born: tryBirth, visit: tryVisit,
	})
	g.Clean()
	return g
}

func mkdir(dir string) error { return os.Mkdir(dir, 0o755) }

func none(why string) *Groups {
	g := &Groups{lacks: map[Feature]string{}}
	for _, f := range Features {
		g.lacks[f] = why
	}
	return g
}

// Lacks says in a sentence why a feature is missing; "" means that it is there.
func (g *Groups) Lacks(f Feature) string { return g.lacks[f] }

// Any reports whether there are groups at all.
func (g *Groups) Any() bool { return len(g.trees) > 0 }

// Without is the same less some features, as on a machine that lacks them.
func (g *Groups) Without(features ...Feature) *Groups {
	less := &Groups{lacks: maps.Clone(g.lacks)}
	for _, f := range features {
		less.lacks[f] = "it is switched off"
	}
	for _, t := range g.trees {
		t.has = maps.Clone(t.has)
		for _, f := range features {
			delete(t.has, f)
		}
		if len(t.has) > 0 {
			less.trees = append(less.trees, t)
		}
	}
	return less
}

// String tells in one line what is used, for a log.
func (g *Groups) String() string {
	if len(g.trees) == 0 {
		return "no control groups: " + g.lacks[Memory]
	}
	var parts []string
	for _, t := range g.trees {
		version := 1
		if t.v2 {
			version = 2
		}
		parts = append(parts, fmt.Sprintf("version %d at %s for %s", version, t.base, joined(slices.Sorted(maps.Keys(t.has)))))
	}
	return "control groups: " + strings.Join(parts, "; ")
}

func joined(features []Feature) string {
	var names []string
	for _, f := range features {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}

// mount is one mounted hierarchy.
type mount struct {
	root  string // the group that the mount point shows
	point string
	v2    bool
	has   []string // controllers, of version 1
	rw    bool
}

// parseMounts reads the hierarchies from mountinfo(5).
func parseMounts(text string) []mount {
	var all []mount
	for line := range strings.Lines(text) {
		before, after, found := strings.Cut(line, " - ")
		f, kind := strings.Fields(before), strings.Fields(after)
		if !found || len(f) < 6 || len(kind) < 3 {
			continue
		}
		m := mount{root: unescape(f[3]), point: unescape(f[4]), rw: slices.Contains(strings.Split(f[5], ","), "rw")}
		switch kind[0] {
		case "cgroup2":
			m.v2 = true
		case "cgroup":
			m.has = strings.Split(kind[2], ",")
		default:
			continue
		}
		all = append(all, m)
	}
	return all
}

// unescape undoes the octal escapes of mountinfo(5).
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// ownGroups reads this process's group by controller from cgroups(7); "" is version 2.
func ownGroups(text string) map[string]string {
	own := map[string]string{}
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		for c := range strings.SplitSeq(f[1], ",") {
			own[c] = f[2]
		}
	}
	return own
}

// folder is where a group of the hierarchy is seen through the mount.
func (m mount) folder(group string) (string, bool) {
	rel, err := filepath.Rel(m.root, group)
	if err != nil || !filepath.IsLocal(rel) {
		return "", false
	}
	return filepath.Join(m.point, rel), true
}

func find(h host) *Groups {
	mounts, own := parseMounts(h.mounts), ownGroups(h.own)
	if len(mounts) == 0 {
		return none("no control groups are mounted at /sys/fs/cgroup")
	}
	g := &Groups{lacks: map[Feature]string{}}
	for _, m := range mounts {
		if m.v2 {
			g.add(h.version2(m, own[""]))
			break
		}
	}
	controllers := map[Feature]string{Memory: "memory", Pids: "pids", CPU: "cpu", IO: "blkio", Freezer: "freezer"}
	for _, f := range Features {
		if g.serves(f) {
			continue
		}
		for _, m := range mounts {
			if !m.v2 && slices.Contains(m.has, controllers[f]) {
				g.add(h.version1(m, own[controllers[f]], f))
			}
		}
		if !g.serves(f) && g.lacks[f] == "" {
			g.lacks[f] = "the kernel offers no " + controllers[f] + " control groups here"
		}
	}
	return g
}

func (g *Groups) serves(f Feature) bool {
	return slices.ContainsFunc(g.trees, func(t tree) bool { return t.has[f] })
}

// add takes what was found of one hierarchy: a tree, and why features are not in it.
func (g *Groups) add(t tree, lacks map[Feature]string) {
	for f, why := range lacks {
		if !g.serves(f) {
			g.lacks[f] = why
		}
	}
	if len(t.has) == 0 {
		return
	}
	for f := range t.has {
		delete(g.lacks, f)
	}
	for i, other := range g.trees {
		if other.base == t.base {
			maps.Copy(g.trees[i].has, t.has)
			return
		}
	}
	g.trees = append(g.trees, t)
}

// version1 tries the group that this process is in.
func (h host) version1(m mount, own string, f Feature) (tree, map[Feature]string) {
	lacks := func(why string) (tree, map[Feature]string) { return tree{}, map[Feature]string{f: why} }
	base, ok := m.folder(own)
	if !ok {
		return lacks(fmt.Sprintf("this process's own control group %s is not visible at %s", own, m.point))
	}
	t := tree{base: base, top: m.point, has: map[Feature]bool{f: true}, make: h.make}
	dir, end, err := t.trial()
	if err != nil {
		return lacks(refusal(err, h.uid))
	}
	defer end()
	if !there(dir, filesOf1[f]...) {
		return lacks(fmt.Sprintf("the kernel's control groups at %s have no %s", m.point, strings.Join(filesOf1[f], " and no ")))
	}
	if err := h.visit(dir, base); err != nil {
		return lacks("this process may not enter the control groups it makes: " + err.Error())
	}
	return t, nil
}

// filesOf1 and filesOf2 are what a group must have to serve a feature, any of them.
var (
	filesOf1 = map[Feature][]string{
		Memory: {"memory.limit_in_bytes"}, Pids: {"pids.max"}, CPU: {"cpu.cfs_quota_us"},
		IO: {"blkio.bfq.weight", "blkio.weight"}, Freezer: {"freezer.state"},
	}
	filesOf2 = map[Feature][]string{
		Memory: {"memory.max"}, Pids: {"pids.max"}, CPU: {"cpu.max"},
		IO: {"io.weight", "io.bfq.weight"}, Freezer: {"cgroup.freeze"},
	}
)

// trial makes a group to look at, and ends with end. It is locked as any other: a process
// that cleans up would take it for one whose maker is gone, and kill whoever visits it.
func (t tree) trial() (dir string, end func(), err error) {
	for {
		p := place{tree: t, path: filepath.Join(t.base, newName())}
		if err := t.make(p.path); err != nil {
			return "", nil, err
		}
		switch err := p.lock(); {
		case errors.Is(err, errTaken):
			continue
		case err != nil:
			_ = unix.Rmdir(p.path)
			return "", nil, err
		}
		return p.path, func() {
			_ = unix.Rmdir(p.path)
			_ = p.dir.Close()
		}, nil
	}
}

// there reports whether a group has any of the files.
func there(dir string, files ...string) bool {
	return slices.ContainsFunc(files, func(file string) bool {
		_, err := os.Lstat(filepath.Join(dir, file))
		return err == nil
	})
}

func refusal(err error, uid int) string {
	why := "no control group can be made: " + err.Error()
	if uid != 0 {
		why += ". " + delegate
	}
	return why
}

const delegate = "Start the node as a service with Delegate=yes, as its package does, or by: systemd-run --user --scope -p Delegate=yes"
