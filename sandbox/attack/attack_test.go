package attack

import (
	"slices"
	"strings"
	"testing"

	"github.com/spare-compute/spare/sandbox"
)

// named are the walls by the names that probes report and tests switch off.
var named = walls("user namespace, mount namespace, pid namespace, network namespace, ipc namespace, uts namespace, cgroup namespace, own root, " +
	"no capabilities, no_new_privs, no nested user namespaces, resource limits, seccomp, landlock, cgroup memory, cgroup pids, cgroup cpu, " +
	"memory watch, disk watch, masked proc, own user, undumpable first process, closed descriptors, output cap, wall time, cpu time")

func TestAttacks_AreWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range All() {
		if seen[a.Name] || a.Name == "" || strings.ContainsAny(a.Name+a.Tries, "|\n") || !strings.HasSuffix(a.Tries, ".") && !strings.HasSuffix(a.Tries, "…") && !strings.HasSuffix(a.Tries, ")") {
			t.Errorf("%q: %q", a.Name, a.Tries)
		}
		seen[a.Name] = true
		if len(a.Walls) == 0 && a.Unshown == "" {
			t.Errorf("%q: neither a wall that stops it nor why none can be shown", a.Name)
		}
		for _, w := range a.Walls {
			if !slices.Contains(named, w) {
				t.Errorf("%q: no wall is called %q", a.Name, w)
			}
		}
		if a.Script == "" && (a.Load == nil || !a.Load.Linked) {
			t.Errorf("%q: it tries nothing", a.Name)
		}
		if a.Load != nil && (a.Load.Limits.Wall == 0 || a.Load.Limits.Memory == 0) {
			t.Errorf("%q: its load has no bounds", a.Name)
		}
	}
	if len(seen) < 60 {
		t.Errorf("%d attacks", len(seen))
	}
}

func TestAttacks_EveryWallStopsOne(t *testing.T) {
	for _, w := range named {
		if !slices.ContainsFunc(All(), func(a Attack) bool { return slices.Contains(a.Walls, w) }) {
			t.Errorf("no attack is stopped by %q", w)
		}
	}
}

func TestRead_FindsOutcomes(t *testing.T) {
	got := Read([]byte("noise\nVERDICT {\"attack\":\"a\",\"verdict\":\"refused\"}\nVERDICT {\n  VERDICT {\"attack\":\"b\",\"verdict\":\"succeeded\",\"detail\":\"x\"}"))
	if len(got) != 2 || got["a"].Verdict != Refused || got["b"].Detail != "x" {
		t.Errorf("%+v", got)
	}
}

func TestTable_KeepsColumnsThatDidNotRun(t *testing.T) {
	all := map[string]Outcome{}
	for _, a := range All() {
		all[a.Name] = Outcome{Verdict: Refused}
	}
	first, last := Columns()[0], Columns()[len(Columns())-1]
	table := Table{}
	table.Set(last, all, true)
	page := table.Write("# Title\n\nText.\n")
	if !strings.HasPrefix(page, "# Title\n\nText.\n\n"+begin) {
		t.Fatalf("%.200s", page)
	}
	again := ReadTable(page)
	all["fork bomb"] = Outcome{Verdict: Succeeded}
	again.Set(first, all, true)
	page = again.Write(strings.Replace(page, "Text.", "Other text.", 1))
	final := ReadTable(page)
	for _, name := range []string{"fork bomb", "read /etc/shadow"} {
		if final[name][last.Name] != refused || (final[name][first.Name] == through) != (name == "fork bomb") {
			t.Errorf("%s: %v", name, final[name])
		}
	}
	if page != final.Write(page) || !strings.HasPrefix(page, "# Title\n\nOther text.") {
		t.Error("the page changes by being read and written")
	}
}

func TestTable_SaysWhatCannotBeTriedInWebAssembly(t *testing.T) {
	absent := Outcome{Verdict: Absent}
	if word(Column{Kind: Wasm}, absent) != none || word(Column{Kind: Linux}, absent) != refused {
		t.Error("absent")
	}
}

func TestLoads_AreSmall(t *testing.T) {
	for _, a := range Alone() {
		if l := a.Load.Limits; l.Memory > 256<<20 || l.Disk > diskLimit || l == (sandbox.Limits{}) {
			t.Errorf("%q: %+v", a.Name, l)
		}
	}
}
