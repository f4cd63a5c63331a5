package sandbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/attack"
	"github.com/spare-compute/spare/sandbox/wasm/wasmtest"
)

// The suite: every attack of package attack against every runtime, and the proof that each
// bites where its walls are switched off. It runs in an arena, this program executed again
// in a network where every address is its own, first as root and from there as an ordinary
// user, and comes back with a report.
const (
	arenaEnv  = "SPARE_ATTACK_ARENA"  // the arena's folder
	openEnv   = "SPARE_ATTACK_OPEN"   // set where the arena is open already
	sharedEnv = "SPARE_ATTACK_SHARED" // the folder of what all its users share
	longEnv   = "SPARE_LONG"          // also what is compared with
	asUserEnv = "SPARE_TEST_AS_USER"  // the whole of this folder's tests runs again, as a user
	attacker  = 12345                 // the ordinary user
	parallel  = 6                     // runs at a time: most of them wait for a limit
)

var (
	some    = flag.String("attacks", "", "try only attacks whose names match this expression, and look at no table")
	columns = flag.String("columns", "", "run only columns of these kinds, separated by commas")
	update  = flag.Bool("update", false, "write what the attacks gave into docs/sandbox.md")
)

// report is what an arena brings back.
type report struct {
	Columns map[string]map[string]attack.Outcome `json:"columns"`
	Took    map[string]time.Duration             `json:"took"`
	Left    map[string]string                    `json:"left"`   // by column, what stayed behind
	Proofs  map[string]map[string]proof          `json:"proofs"` // by column and attack
}

func newReport() *report {
	return &report{
		Columns: map[string]map[string]attack.Outcome{}, Took: map[string]time.Duration{}, Left: map[string]string{}, Proofs: map[string]map[string]proof{},
	}
}

func TestAttacks(t *testing.T) {
	if os.Getenv(asUserEnv) != "" {
		return // the suite has columns of its own for that
	}
	if dir := os.Getenv(arenaEnv); dir != "" {
		fight(t, dir)
		return
	}
	all := newReport()
	for _, file := range arenas(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatalf("the arena brought no report: %v", err)
		}
		if err := json.Unmarshal(text, all); err != nil { // adds to the maps
			t.Fatal(err)
		}
	}
	for _, c := range attack.Columns() {
		if got, ran := all.Columns[c.Name]; ran {
			t.Run(c.Name, func(t *testing.T) { judgeColumn(t, c, got, all) })
		}
	}
	compare(t, all)
	judgeTable(t, all)
}

// wanted are the attacks that are to be tried.
func wanted(all []attack.Attack) []attack.Attack {
	match := regexp.MustCompile(*some)
	return slices.DeleteFunc(all, func(a attack.Attack) bool { return !match.MatchString(a.Name) })
}

// judgeColumn says for each attack whether it was refused, and of the walls whether they
// were what refused it.
func judgeColumn(t *testing.T, c attack.Column, got map[string]attack.Outcome, all *report) {
	t.Logf("%d attacks in %v", len(got), all.Took[c.Name].Round(time.Millisecond))
	for _, a := range wanted(attack.All()) {
		t.Run(a.Name, func(t *testing.T) {
			o := got[a.Name]
			switch {
			case o.Verdict == attack.Broken, o.Verdict == "":
				t.Errorf("the attack itself failed: %s", o.Detail)
			case o.Verdict == attack.Succeeded && c.Ours:
				t.Errorf("it got through: %s", o.Detail)
			}
			if p, tried := all.Proofs[c.Name][a.Name]; tried && p.Fault != "" {
				t.Errorf("switching off %q: %s", p.Without, p.Fault)
			}
		})
	}
	if left := all.Left[c.Name]; left != "" {
		t.Errorf("after all attacks: %s", left)
	}
}

// compare wants from our runtimes what others do: what they refuse, ours must refuse.
func compare(t *testing.T, all *report) {
	for _, theirs := range attack.Columns() {
		if theirs.Ours {
			continue
		}
		for _, ours := range attack.Columns() {
			for name, o := range all.Columns[theirs.Name] {
				if ours.Ours && o.Verdict == attack.Refused && all.Columns[ours.Name][name].Verdict == attack.Succeeded {
					t.Errorf("%q: %s refuses it and %s does not", name, theirs.Name, ours.Name)
				}
			}
		}
	}
}

// arenas runs the suite in its arena and returns the reports' files. Root's arena runs the
// ordinary user's, and so brings both.
func arenas(t *testing.T) []string {
	t.Helper()
	// Not in /tmp, which sandboxes cover with their own: without its walls an attack must
	// find the bait.
	dir, err := os.MkdirTemp("/var/tmp", "spare-attacks-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := clean(dir); err != nil {
			t.Errorf("what the attacks left cannot be removed: %v", err)
		}
	})
	suite := filepath.Join(dir, "suite")
	copyProgram(t, "/proc/self/exe", suite, 0o755)
	work := filepath.Join(dir, "arena")
	for _, err := range []error{os.Chmod(dir, 0o755), os.Mkdir(work, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	layImage(t, filepath.Join(dir, "image"))
	layPrograms(t, filepath.Join(dir, "programs"))
	cmd := arena(t.Context(), suite, work)
	cmd.Env = append(cmd.Env, sharedEnv+"="+dir)
	if os.Getuid() == 0 && chosen(attack.Column{Kind: attack.Wasm}) { // what the arena cannot make: it has no network
		wasmtest.Python(t)
		cmd.Env = append(cmd.Env, wasmtest.HelperEnv+"="+wasmtest.Helper(t))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: attack.Namespaces}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN}
	}
	if err := watched(t, cmd)(); err != nil {
		t.Error(err)
	}
	files := []string{reportFile(work)}
	if os.Getuid() == 0 {
		files = append(files, reportFile(filepath.Join(work, "user")))
	}
	return files
}

func arena(ctx context.Context, suite, dir string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, suite, "-test.run=^TestAttacks$", "-test.timeout=10m", "-attacks="+*some, "-columns="+*columns)
	if testing.Verbose() {
		cmd.Args = append(cmd.Args, "-test.v")
	}
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), arenaEnv+"="+dir, "TMPDIR="+dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

func reportFile(dir string) string { return filepath.Join(dir, "report.json") }

// fight is the suite in the arena, as the user that it runs as.
func fight(t *testing.T, dir string) {
	uid := os.Getuid()
	if uid == 0 || os.Getenv(openEnv) == "" {
		if err := attack.OpenArena(); err != nil {
			t.Fatal(err)
		}
	}
	f := newField(t, dir)
	users := func() error { return nil }
	if uid == 0 {
		users = fightAsUser(t, filepath.Join(dir, "user"))
	}
	for _, c := range f.fighters(t) {
		f.column(t, c)
	}
	if err := users(); err != nil {
		t.Errorf("as an ordinary user: %v", err)
	}
	text, err := json.Marshal(f.report)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(reportFile(dir), text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// fightAsUser starts the ordinary user's columns, in root's arena, and returns what waits
// for them.
func fightAsUser(t *testing.T, dir string) (wait func() error) {
	t.Helper()
	for _, err := range []error{os.Mkdir(dir, 0o755), os.Chown(dir, attacker, attacker)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := arena(t.Context(), filepath.Join(filepath.Dir(filepath.Dir(dir)), "suite"), dir)
	cmd.Env = append(cmd.Env, openEnv+"=1", "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: attacker, Gid: attacker}}
	return watched(t, cmd)
}

// watched starts an arena. Its output comes with its error or, if tests are verbose, at
// once.
func watched(t *testing.T, cmd *exec.Cmd) (wait func() error) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if testing.Verbose() {
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("the arena: %w\n%s", err, out.Bytes())
		}
		return nil
	}
}

// A field is one user's part of the arena: the bait, and what the attacks gave so far.
type field struct {
	dir    string
	bait   *attack.Bait
	report *report
	runs   int
	mu     sync.Mutex
}

// newField lays out the bait, and another task beside the attackers'.
func newField(t *testing.T, dir string) *field {
	t.Helper()
	uid := os.Getuid()
	if id, ok := sandbox.Owner(); ok {
		uid = id
	}
	at := filepath.Join(dir, "bait")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	bait, err := attack.Set(at, uid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bait.Close(); err != nil {
			t.Error(err)
		}
	})
	leak(t, bait)
	f := &field{dir: dir, bait: bait, report: newReport()}
	f.other(t)
	return f
}

// leak leaves descriptors open as a careless parent does: for whatever it executes.
func leak(t *testing.T, b *attack.Bait) {
	t.Helper()
	service, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(unix.Close(service[0]), unix.Close(service[1])) })
	if _, err := unix.Write(service[0], []byte(strings.Repeat(b.Token, 100))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{b.Secret, "/"} {
		fd, err := unix.Open(name, unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
	}
}

// other runs another task for as long as the attacks go on, whose folder they are after.
func (f *field) other(t *testing.T) {
	t.Helper()
	dir := filepath.Join(f.dir, "other-task")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		script := fmt.Sprintf("echo %s >/spare/rw/result; chmod 644 /spare/rw/result; sleep 1000", f.bait.Token)
		_, err := sandbox.WithoutWalls().Run(ctx, sandbox.Spec{
			Argv: []string{"sh", "-c", script}, Mounts: []sandbox.Mount{{Host: dir, Inner: "/spare/rw", Writable: true}},
		})
		done <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the other task: %v", err)
		}
	})
	f.bait.Other = filepath.Join(dir, "result")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if info, err := os.Stat(f.bait.Other); err == nil && info.Size() > 0 && info.Mode().Perm() == 0o644 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the other task has not begun within 20 s")
		}
	}
}

// column runs all attacks against one runtime, and switches its walls off.
func (f *field) column(t *testing.T, c fighter) {
	t.Helper()
	start, before := time.Now(), f.traces(t)
	got := f.quick(t, c, c.runtime, wanted(attack.Quick()))
	var mu sync.Mutex
	one := func(a attack.Attack) {
		o := f.alone(t, c, c.runtime, a)
		mu.Lock()
		defer mu.Unlock()
		got[a.Name] = o
	}
	alone := wanted(attack.Alone())
	for _, a := range alone {
		if a.Load.First {
			one(a)
		}
	}
	each(slices.DeleteFunc(alone, func(a attack.Attack) bool { return a.Load.First }), one)
	f.report.Columns[c.Name], f.report.Took[c.Name] = got, time.Since(start)
	if c.without != nil {
		f.report.Proofs[c.Name] = f.proofs(t, c)
	}
	f.report.Left[c.Name] = f.left(t, before)
	t.Logf("%s: %v, with proofs %v", c.Name, f.report.Took[c.Name], time.Since(start))
}

// each calls f for all of a list, some at a time.
func each[T any](list []T, f func(T)) {
	var all sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for _, item := range list {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			f(item)
		})
	}
	all.Wait()
}
