package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// procProcesses lists this machine's processes, as ps does elsewhere.
func procProcesses() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		info, err2 := e.Info()
		if err != nil || err2 != nil {
			continue
		}
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
		n := func(i int) int { v, _ := strconv.Atoi(f[i]); return v }
		all = append(all, process{
			pid: pid, parent: n(1), group: n(2), user: owner(info), start: f[19], zombie: f[0] == "Z",
			memory: int64(n(21)) * int64(os.Getpagesize()), cpu: time.Duration(n(11)+n(12)) * 10 * time.Millisecond,
		})
	}
	return all, nil
}

// guarded is a program of the test under a warden, without walls: what is tested is how
// it is held and ended.
type guarded struct {
	*warden
	family *family
	done   chan Result
	dir    string
}

func guardedPython(t *testing.T, ctx context.Context, script string, change func(*Spec)) *guarded {
	t.Helper()
	dir := t.TempDir()
	s := Spec{Limits: Limits{Wall: time.Minute}}
	if change != nil {
		change(&s)
	}
	cmd := exec.Command("python3", "-c", "import os, sys, time, signal, subprocess\n"+script)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f := &family{leader: cmd.Process.Pid, user: os.Geteuid(), list: procProcesses}
	g := &guarded{warden: newWarden(f, s, []string{dir}), family: f, done: make(chan Result, 1), dir: dir}
	g.glance = 20 * time.Millisecond
	ended := make(chan struct{})
	go func() {
		var info unix.Siginfo
		_ = unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		close(ended)
	}()
	go func() {
		g.guard(ctx, ended)
		f.bury()
		_ = cmd.Wait()
		r := Result{ExitCode: cmd.ProcessState.ExitCode(), Cause: Exited}
		g.account(&r)
		g.done <- r
	}()
	return g
}

func (g *guarded) ready(t *testing.T, name string) {
	t.Helper()
	eventually(t, name+" is there", func() bool { _, err := os.Stat(filepath.Join(g.dir, name)); return err == nil })
}

// leaver is a grandchild that leaves the family's group and session, and says so.
const leaver = `
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open("pid", "w").write(str(os.getpid()))
        os.rename("pid", "left")
    while True: time.sleep(60)
`

func (g *guarded) leaver(t *testing.T) int {
	t.Helper()
	g.ready(t, "left")
	b, err := os.ReadFile(filepath.Join(g.dir, "left"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}

func TestWarden_EndsWhatPassesItsLimits(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		limits Limits
		want   Cause
	}{
		"time":          {"while True: time.sleep(60)", Limits{Wall: 300 * time.Millisecond}, KilledTime},
		"processor":     {"while True: pass", Limits{CPU: 300 * time.Millisecond, Wall: time.Minute}, KilledTime},
		"memory":        {"b = bytearray(256 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1\nwhile True: time.sleep(60)", Limits{Memory: 128 << 20, Wall: time.Minute}, KilledMemory},
		"one file":      {"open('big', 'wb').truncate(1 << 30)\nwhile True: time.sleep(60)", Limits{Disk: 1 << 20, Wall: time.Minute}, KilledDisk},
		"small files":   {"for i in range(2000): open(str(i), 'w')\nwhile True: time.sleep(60)", Limits{Inodes: 1000, Wall: time.Minute}, KilledDisk},
		"and a quick's": {"open('big', 'wb').truncate(1 << 30)", Limits{Disk: 1 << 20, Wall: time.Minute}, KilledDisk},
		"hidden files":  {"os.mkdir('d')\nopen('d/big', 'wb').truncate(1 << 30)\nos.chmod('d', 0)\nwhile True: time.sleep(60)", Limits{Disk: 1 << 20, Wall: time.Minute}, KilledDisk},
	} {
		t.Run(name, func(t *testing.T) {
			g := guardedPython(t, t.Context(), test.script, func(s *Spec) { s.Limits = test.limits })
			if r := <-g.done; r.Cause != test.want {
				t.Errorf("it ended as %+v, want %s", r, test.want)
			}
			if !gone(g.family.leader) {
				t.Error("it still runs")
			}
		})
	}
}

func TestWarden_LeavesAProgramInItsLimitsAlone(t *testing.T) {
	g := guardedPython(t, t.Context(), "open('out', 'w').write('x' * 5000)\nsys.exit(3)", func(s *Spec) {
		s.Limits = Limits{Wall: time.Minute, CPU: time.Minute, Memory: 1 << 30, Disk: 1 << 20}
	})
	r := <-g.done
	if r.Cause != Exited || r.ExitCode != 3 || r.Written != 5000 || r.Wall <= 0 || r.PeakMemory <= 0 {
		t.Errorf("%+v", r)
	}
}

func TestWarden_AsksBeforeItEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	g := guardedPython(t, ctx, `
def last(*a):
    open("checkpoint", "w")
    sys.exit(0)
signal.signal(signal.SIGTERM, last)
open("ready", "w")
while True: time.sleep(60)`, func(s *Spec) { s.Grace = time.Minute })
	g.ready(t, "ready")
	cancel(nil)
	if r := <-g.done; r.Cause != KilledCancel || r.ExitCode != 0 {
		t.Errorf("%+v", r)
	}
	g.ready(t, "checkpoint")
}

func TestWarden_WhatIgnoresThatIsEnded(t *testing.T) {
	const deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen('ready', 'w')\nwhile True: time.sleep(60)"
	for name, test := range map[string]struct {
		grace time.Duration
		cause error
	}{"after its grace": {100 * time.Millisecond, nil}, "at once": {time.Hour, ErrAtOnce}, "without grace": {0, nil}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			g := guardedPython(t, ctx, deaf, func(s *Spec) { s.Grace = test.grace })
			g.ready(t, "ready")
			cancel(test.cause)
			if r := <-g.done; r.Cause != KilledCancel || r.ExitCode == 0 {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestWarden_PausesTheWholeFamilyAndItsClock(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	// Six processes count, each into a file of its own; one has left the group.
	g := guardedPython(t, ctx, leaver+`
for i in range(5):
    if os.fork() == 0: break
else: i = 5
n = 0
while True:
    n += 1
    with open("n%d" % i, "w") as f: f.write(str(n))`, nil)
	pid := g.leaver(t)
	for i := range 6 {
		g.ready(t, fmt.Sprintf("n%d", i))
	}
	if err := g.Pause(); err != nil {
		t.Fatal(err)
	}
	counts := func() string {
		var all strings.Builder
		for i := range 6 {
			b, _ := os.ReadFile(filepath.Join(g.dir, fmt.Sprintf("n%d", i)))
			fmt.Fprintf(&all, "%s ", b)
		}
		return all.String()
	}
	stopped := func() bool {
		members, err := g.family.members()
		if err != nil {
			return false
		}
		for _, p := range members {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
			if err != nil || !bytes.Contains(stat, []byte(") T ")) {
				return false
			}
		}
		return len(members) == 8
	}
	eventually(t, "all eight are stopped", stopped)
	if gone(pid) {
		t.Error("the one that left is gone")
	}
	before := counts()
	memory, err := g.Memory()
	if err != nil || memory < 6<<20 {
		t.Errorf("paused it uses %d bytes, %v", memory, err)
	}
	if !stopped() || counts() != before {
		t.Error("it went on while paused")
	}
	if err := g.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes on", func() bool { return counts() != before })
	if err := g.Pause(); err != nil {
		t.Fatal(err)
	}
	cancel(nil) // a paused one is ended as it is
	if r := <-g.done; r.Cause != KilledCancel {
		t.Errorf("%+v", r)
	}
	eventually(t, "the one that left is ended", func() bool { return gone(pid) })
}

func TestWarden_AFamilyEndsWithItsProgram(t *testing.T) {
	g := guardedPython(t, t.Context(), leaver+"while not os.path.exists('enough'): time.sleep(0.01)", nil)
	pid := g.leaver(t)
	// It is seen before the program ends: that is what this system can promise.
	eventually(t, "it is seen", func() bool {
		members, _ := g.family.members()
		for _, p := range members {
			if p.pid == pid {
				return true
			}
		}
		return false
	})
	if err := os.WriteFile(filepath.Join(g.dir, "enough"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := <-g.done; r.Cause != Exited || r.ExitCode != 0 {
		t.Errorf("%+v", r)
	}
	eventually(t, "the daemon is ended", func() bool { return gone(pid) })
	if _, err := g.family.Use(); err == nil {
		t.Error("a family that is gone is looked for")
	}
}

func TestFamily_NobodyElseBelongsToIt(t *testing.T) {
	f := &family{leader: 100, user: 501, known: map[string]bool{"90 Mon": true, "91 Mon": true}}
	got := f.pick([]process{
		{pid: 104, parent: 103, group: 104, user: 501}, // a grandchild with a group of its own
		{pid: 100, parent: 1, group: 100, user: 501},
		{pid: 103, parent: 100, group: 100, user: 501},
		{pid: 90, parent: 1, group: 90, user: 501, start: "Mon"}, // seen before
		{pid: 91, parent: 1, group: 91, user: 501, start: "Tue"}, // a stranger with a number seen before
		{pid: 105, parent: 100, group: 100, user: 0},             // not this user's
		{pid: 106, parent: 100, group: 100, user: 501, zombie: true},
		{pid: 200, parent: 1, group: 200, user: 501},
	})
	var pids []int
	for _, p := range got {
		pids = append(pids, p.pid)
	}
	if fmt.Sprint(pids) != "[104 100 103 90]" {
		t.Errorf("the family is %v", pids)
	}
}

func TestParseProcesses_ReadsBothKindsOfPs(t *testing.T) {
	got, err := parseProcesses("  501   1 501 501  10240   0:01.25 Ss   Mon Nov 23 22:30:38 2026\n" +
		" 7 2 3 0 0 1-02:03:04 Z+ Mon Nov 23 22:30:38 2026\n\n")
	if err != nil || len(got) != 2 {
		t.Fatal(got, err)
	}
	if p := got[0]; p.pid != 501 || p.parent != 1 || p.memory != 10<<20 || p.cpu != 1250*time.Millisecond || p.start != "Mon Nov 23 22:30:38 2026" || p.zombie {
		t.Errorf("%+v", p)
	}
	if p := got[1]; p.cpu != 26*time.Hour+3*time.Minute+4*time.Second || !p.zombie || p.group != 3 {
		t.Errorf("%+v", p)
	}
	for _, bad := range []string{"1 2 3", "a 2 3 4 5 0:00 S x", "1 2 3 4 5 now S x", "1 2 3 4 5 1:2:3:4 S x", "1 2 3 4 5 x-0:00 S x"} {
		if _, err := parseProcesses(bad); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}
