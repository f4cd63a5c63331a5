package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// files2 are those of a version 2 group with all controllers, but the root.
var files2 = []string{
	"cgroup.type", "cgroup.procs", "cgroup.freeze", "cgroup.kill", "cgroup.events", "cgroup.subtree_control", "cpu.stat", "memory.max", "memory.swap.max",
	"memory.oom.group", "memory.stat", "memory.events", "pids.max", "cpu.max", "cpu.weight", "cpu.idle", "io.weight",
}

// fake is a tree of files that looks like version 2.
type fake struct {
	host
	root  string
	files []string // of a new group
}

// newFake has the process in group own. A group's files are those that are named.
func newFake(t *testing.T, uid int, own string, controllers string, files []string) *fake {
	t.Helper()
	f := &fake{root: t.TempDir(), files: files}
	f.host = host{
		mounts: fmt.Sprintf("29 23 0:26 / %s rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n", f.root),
		own:    "0::" + own + "\n", uid: uid, pid: 77,
		make: f.mkdir, born: func(string) error { return nil }, visit: func(string, string) error { return nil },
	}
	f.fill(t, "", slices.DeleteFunc(slices.Clone(files), func(n string) bool { return n == "cgroup.type" }))
	f.write(t, "cgroup.controllers", controllers)
	at := ""
	for part := range strings.SplitSeq(strings.Trim(own, "/"), "/") {
		if part == "" {
			break
		}
		at = filepath.Join(at, part)
		if err := os.Mkdir(filepath.Join(f.root, at), 0o755); err != nil {
			t.Fatal(err)
		}
		f.fill(t, at, files)
		f.write(t, at+"/cgroup.controllers", controllers)
	}
	f.write(t, filepath.Join(at, "cgroup.procs"), "77\n")
	return f
}

func (f *fake) fill(t *testing.T, dir string, files []string) {
	for _, name := range files {
		f.write(t, filepath.Join(dir, name), "")
	}
}

func (f *fake) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.root, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (f *fake) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(f.root, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(string(text), "\x00\n")
}

// mkdir does as the kernel does: a new group has its files.
func (f *fake) mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, name := range f.files {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) delegate(t *testing.T, dir string) {
	t.Helper()
	err := unix.Setxattr(filepath.Join(f.root, dir), "user.delegate", []byte("1"), 0)
	if errors.Is(err, unix.ENOTSUP) {
		err = unix.Setxattr(filepath.Join(f.root, dir), "trusted.delegate", []byte("1"), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func wantBase(t *testing.T, g *Groups, base string) {
	t.Helper()
	if len(g.trees) != 1 || g.trees[0].base != base {
		t.Fatalf("%v, want %s; it lacks %v", g, base, g.lacks)
	}
	for _, f := range Features {
		if g.Lacks(f) != "" {
			t.Errorf("it lacks %s: %s", f, g.Lacks(f))
		}
	}
}

const service = "/system.slice/spare-node.service"

func TestFind_DelegatedServiceMovesItselfIntoALeaf(t *testing.T) {
	f := newFake(t, 0, service, "cpuset cpu io memory pids", files2)
	f.delegate(t, service)
	wantBase(t, find(f.host), f.root+service)
	if got := f.read(t, service+"/"+leaf+"/cgroup.procs"); got != "77" {
		t.Errorf("the leaf has the processes %q", got)
	}
	if got := f.read(t, service+"/cgroup.subtree_control"); !strings.HasPrefix(got, "+") {
		t.Errorf("no controller is switched on: %q", got)
	}
}

func TestFind_ServiceThatIsInItsLeafStaysThere(t *testing.T) {
	f := newFake(t, 0, service+"/"+leaf, "cpu io memory pids", files2)
	f.delegate(t, service)
	wantBase(t, find(f.host), f.root+service)
}

// An ordinary user's service manager gives the group to the user.
func TestFind_UsersOwnGroupIsTakenWhenAlone(t *testing.T) {
	own := "/user.slice/spare.scope"
	f := newFake(t, os.Getuid(), own, "cpu io memory pids", files2)
	if os.Getuid() == 0 { // root's own is not delegated by being root's
		f.host.uid = 4711
		chown(t, f.root, 4711)
	}
	wantBase(t, find(f.host), f.root+own)
}

func chown(t *testing.T, root string, uid int) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, uid))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFind_TerminalsGroupIsLeftAlone(t *testing.T) {
	own := "/user.slice/terminal.scope"
	f := newFake(t, os.Getuid(), own, "cpu io memory pids", files2)
	if os.Getuid() == 0 {
		f.host.uid = 4711
		chown(t, f.root, 4711)
	}
	f.write(t, own+"/cgroup.procs", "12\n77\n")
	g := find(f.host)
	if g.Any() || !strings.Contains(g.Lacks(Memory), "shares its control group") || !strings.Contains(g.Lacks(Freezer), "systemd-run") {
		t.Errorf("%v, %q", g, g.Lacks(Memory))
	}
	if _, err := os.Stat(f.root + own + "/" + leaf); err == nil {
		t.Error("it was moved")
	}
}

func TestFind_OthersGroupGivesNone(t *testing.T) {
	f := newFake(t, 4711, "/user.slice/session-1.scope", "cpu io memory pids", files2)
	if os.Getuid() == 4711 {
		t.Fatal("this is nobody's")
	}
	if g := find(f.host); g.Any() && os.Getuid() == 0 || g.Lacks(Memory) == "" {
		t.Errorf("%v, %q", g, g.Lacks(Memory))
	}
}

func TestFind_RootOutsideAServiceUsesTheMachinesRoot(t *testing.T) {
	f := newFake(t, 0, "/user.slice/session-1.scope", "cpuset cpu io memory pids", files2)
	wantBase(t, find(f.host), f.root)
	if got := f.read(t, "/user.slice/session-1.scope/cgroup.procs"); got != "77" {
		t.Errorf("it moved itself: %q", got)
	}
}

// In a container the mount point shows the container's own group, which is not the
// machine's root: processes must make room.
func TestFind_ContainersRootMakesRoom(t *testing.T) {
	f := newFake(t, 0, "/", "cpu io memory pids", files2)
	f.write(t, "cgroup.type", "domain")
	f.write(t, "cgroup.procs", "1\n77\n0\n")
	wantBase(t, find(f.host), f.root)
	if got := f.read(t, leaf+"/cgroup.procs"); got != "77" && got != "1" && got != "177" { // files keep what the last write left
		t.Errorf("the leaf has the processes %q", got)
	}
}

func TestFind_SaysWhatIsMissing(t *testing.T) {
	f := newFake(t, 0, "/a", "cpu pids", slices.DeleteFunc(slices.Clone(files2), func(n string) bool {
		return strings.HasPrefix(n, "memory.") || strings.HasPrefix(n, "io.") || n == "cgroup.freeze" || n == "cgroup.kill"
	}))
	g := find(f.host)
	for feature, want := range map[Feature]string{Memory: "is offered no memory controller", IO: "is offered no io controller", Freezer: "have no cgroup.freeze", CPU: "", Pids: ""} {
		if got := g.Lacks(feature); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", feature, got, want)
		}
	}
	h := f.host
	h.mounts = strings.Replace(h.mounts, " rw,nosuid", " ro,nosuid", 1)
	if g := find(h); g.Any() || !strings.Contains(g.Lacks(Pids), "read-only") {
		t.Errorf("%v, %q", g, g.Lacks(Pids))
	}
	h.mounts = "22 1 0:5 / /proc rw - proc proc rw\n"
	if g := find(h); g.Any() || !strings.Contains(g.Lacks(Pids), "mounted") {
		t.Errorf("%v, %q", g, g.Lacks(Pids))
	}
	if _, err := find(h).New(Limits{}); err == nil {
		t.Error("a group is made of nothing")
	}
}

// A kernel without some of version 2's controllers has them in version 1, and both are used.
func TestFind_HybridUsesBoth(t *testing.T) {
	f := newFake(t, 0, "/", "hugetlb", []string{"cgroup.type", "cgroup.procs", "cgroup.freeze", "cgroup.kill", "cpu.stat"})
	for i, c := range []string{"memory", "pids", "cpu,cpuacct", "freezer"} {
		dir := filepath.Join(t.TempDir(), "with space")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		f.host.mounts += fmt.Sprintf("%d 23 0:27 / %s rw shared:4 - cgroup cgroup rw,%s\n", 40+i, strings.ReplaceAll(dir, " ", `\040`), c)
		f.host.own += fmt.Sprintf("%d:%s:/\n", i+1, c)
	}
	f.files = append(f.files, "memory.limit_in_bytes", "pids.max", "cpu.cfs_quota_us", "freezer.state", "tasks")
	g := find(f.host)
	if len(g.trees) != 4 || !g.trees[0].v2 || !g.trees[0].has[Freezer] {
		t.Errorf("%v", g)
	}
	for _, feature := range []Feature{Memory, Pids, CPU, Freezer} {
		if g.Lacks(feature) != "" {
			t.Errorf("it lacks %s: %s", feature, g.Lacks(feature))
		}
	}
	if !strings.Contains(g.Lacks(IO), "no io controller") {
		t.Errorf("io: %q", g.Lacks(IO))
	}
	less := g.Without(Memory, Freezer)
	if less.Lacks(Memory) == "" || less.Lacks(Freezer) == "" || less.Lacks(Pids) != "" || len(less.trees) != 2 || g.Lacks(Memory) != "" {
		t.Errorf("%v", less)
	}
}

// A thread of the process that looks visits the group it looks at. Who cleans up at that
// moment, another node that starts, must not take that group for one left behind.
func TestFind_GroupsItTriesAreItsOwn(t *testing.T) {
	f := newFake(t, 0, "/", "memory pids", files2)
	dir := t.TempDir()
	f.host.mounts += fmt.Sprintf("40 23 0:27 / %s rw shared:4 - cgroup cgroup rw,cpu\n", dir)
	f.host.own += "1:cpu:/\n"
	f.files = append(f.files, "cpu.cfs_quota_us")
	tried := 0
	look := func(group string) error {
		tried++
		other := place{path: group}
		if err := other.lock(); !errors.Is(err, errTaken) {
			t.Errorf("another process can take %s while it is tried: %v", group, err)
		}
		return nil
	}
	f.host.born, f.host.visit = look, func(group, _ string) error { return look(group) }
	if g := find(f.host); tried != 2 {
		t.Errorf("%d groups were tried, want 2: %v", tried, g)
	}
}

func TestGroup_Version2GetsItsLimits(t *testing.T) {
	f := newFake(t, 0, "/", "cpu io memory pids", files2)
	g := find(f.host)
	group, err := g.New(Limits{Memory: 1 << 30, Processes: 99, CPUs: 0.25, Idle: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := group.Share(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(group.places[0].path)
	for file, want := range map[string]string{
		"memory.max": "1073741824", "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "99",
		"cpu.max": "25000 100000", "cpu.idle": "1", "io.weight": "default 1",
	} {
		if got := f.read(t, name+"/"+file); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	f.write(t, name+"/memory.stat", "anon 100\nfile 1000\nkernel 7\nshmem 20\n")
	f.write(t, name+"/memory.events", "low 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 1\n")
	f.write(t, name+"/cpu.stat", "usage_usec 1500000\nuser_usec 1\n")
	if u := group.Usage(); u.Memory != 120 || u.Killed != 2 || u.CPU.Milliseconds() != 1500 {
		t.Errorf("%+v", u)
	}
	f.write(t, name+"/cgroup.events", "populated 1\nfrozen 1\n")
	if err := group.Freeze(); err != nil || f.read(t, name+"/cgroup.freeze") != "1" {
		t.Errorf("%v, %q", err, f.read(t, name+"/cgroup.freeze"))
	}
	if got := f.read(t, name+"/cpu.max"); !strings.HasPrefix(got, "25000") {
		t.Errorf("after freezing, the quota is %q", got)
	}
	// Whoever is to stop, or to end, gets the processor for it.
	shares := func() string { return f.read(t, name+"/cpu.max") + ", idle " + f.read(t, name+"/cpu.idle") }
	const bound = "25000 100000, idle 1"
	if err := group.Share(); err != nil || shares() != bound {
		t.Errorf("bound: %s, %v", shares(), err)
	}
	if group.Hurry(); !strings.HasPrefix(shares(), "max") || !strings.HasSuffix(shares(), "idle 0") {
		t.Errorf("hurried: %s", shares())
	}
	if err := group.Share(); err != nil || shares() != bound {
		t.Errorf("bound again: %s, %v", shares(), err)
	}
	if err := group.Kill(); err != nil || f.read(t, name+"/cgroup.kill") != "1" {
		t.Errorf("%v", err)
	}
	ending := shares()
	if err := group.Share(); err != nil || ending == bound || shares() != ending {
		t.Errorf("bound while it ends: %s, %v", shares(), err)
	}
}
