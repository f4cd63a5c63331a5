package wasm

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spare-compute/spare/sandbox"
)

// attackEnv names the attacking module when this is not the process that built it.
const attackEnv = "SPARE_TEST_ATTACK"

// attacking is testdata/attack as a module.
var attacking = sync.OnceValues(func() (string, error) {
	if built := os.Getenv(attackEnv); built != "" {
		return built, nil
	}
	dir, err := os.MkdirTemp("", "spare-attack-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	removeAtEnd = append(removeAtEnd, dir)
	out := filepath.Join(dir, "attack.wasm")
	// Trimmed, so that its bytes, and what it is compiled to, are the same each time.
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", out, "./testdata/attack")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", &exec.Error{Name: "go build: " + string(text), Err: err}
	}
	return out, nil
})

// grounds are the folders that an attack plays in.
type grounds struct{ rw, ro, one, host string }

func newGrounds(t testing.TB) grounds {
	t.Helper()
	dir := t.TempDir()
	g := grounds{filepath.Join(dir, "rw"), filepath.Join(dir, "ro"), filepath.Join(dir, "data"), filepath.Join(dir, "host")}
	for _, d := range []string{g.rw, g.ro, g.host, filepath.Join(g.ro, "dir")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{filepath.Join(g.ro, "file"): "ro", g.one: "data", filepath.Join(g.rw, "inside"): "inside"} {
		write(t, name, text)
	}
	return g
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (g grounds) spec(t testing.TB, words ...string) sandbox.Spec {
	t.Helper()
	module, err := attacking()
	if err != nil {
		t.Fatal(err)
	}
	return sandbox.Spec{
		Argv: append([]string{"/spare/one/attack.wasm"}, words...), Dir: "/spare/rw",
		Mounts: []sandbox.Mount{
			{Host: g.rw, Inner: "/spare/rw", Writable: true},
			{Host: g.ro, Inner: "/spare/ro"},
			{Host: g.one, Inner: "/spare/one/data.bin"},
			{Host: module, Inner: "/spare/one/attack.wasm"},
		},
		Limits: sandbox.Limits{Wall: time.Minute, Output: 1 << 20, Memory: 256 << 20, Disk: 32 << 20, Files: 64},
	}
}

// attack runs one of the module's attacks and wants all of it refused.
func attack(t *testing.T, word string, prepare func(g grounds)) {
	t.Helper()
	each(t, func(t *testing.T, r *Runtime) {
		g := newGrounds(t)
		if prepare != nil {
			prepare(g)
		}
		run(t, r, g.spec(t, word)).wantOut(t, "ok")
	})
}

func TestWasm_MakesNoLinks(t *testing.T)         { attack(t, "links", nil) }
func TestWasm_SeesNoFilesOfTheHost(t *testing.T) { attack(t, "outside", nil) }
func TestWasm_KeepsReadOnlyFolders(t *testing.T) { attack(t, "readonly", nil) }
func TestWasm_KeepsFoldersAboveMounts(t *testing.T) {
	attack(t, "world", nil)
}
func TestWasm_MakesOnlyPortableNames(t *testing.T)   { attack(t, "names", nil) }
func TestWasm_ReachesNoNetwork(t *testing.T)         { attack(t, "network", nil) }
func TestWasm_StartsAndSignalsNothing(t *testing.T)  { attack(t, "processes", nil) }
func TestWasm_LimitsOpenFiles(t *testing.T)          { attack(t, "handles", nil) }
func TestWasm_ServesFilesAsPOSIXDoes(t *testing.T)   { attack(t, "files", nil) }
func TestWasm_RefusesSparseFiles(t *testing.T)       { attackDisk(t, "sparse") }
func TestWasm_RefusesManySmallFiles(t *testing.T)    { attackDisk(t, "small") }
func TestWasm_RefusesOneLargeFile(t *testing.T)      { attackDisk(t, "large") }
func TestWasm_RefusesFilesItHasRemoved(t *testing.T) { attackDisk(t, "deleted") }

func TestWasm_FollowsNoLinkOutOfItsFolders(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // making the links needs a right that tests there do not have
	}
	each(t, func(t *testing.T, r *Runtime) {
		g := newGrounds(t)
		write(t, filepath.Join(g.host, "victim"), "safe")
		for _, l := range [][2]string{
			{"/etc", g.rw + "/out"},
			{"/etc/passwd", g.rw + "/absolute"},
			{"/etc/passwd", g.ro + "/absolute"},
			{"../../../../..", g.rw + "/up"},
			{filepath.Join(g.host, "victim"), g.rw + "/victim-link"},
			{g.host, g.rw + "/out-rw"},
			{"inside", g.rw + "/good"},
		} {
			if err := os.Symlink(l[0], l[1]); err != nil {
				t.Fatal(err)
			}
		}
		run(t, r, g.spec(t, "follow")).wantOut(t, "ok")
		list, err := os.ReadDir(g.host)
		if err != nil || len(list) != 1 {
			t.Fatalf("outside there is %v now (%v)", list, err)
		}
		if text, err := os.ReadFile(filepath.Join(g.host, "victim")); string(text) != "safe" {
			t.Fatalf("the victim holds %q (%v)", text, err)
		}
	})
}

// attackDisk wants a run that fills the disk ended at once.
func attackDisk(t *testing.T, word string) {
	t.Helper()
	each(t, func(t *testing.T, r *Runtime) {
		g := newGrounds(t)
		s := g.spec(t, word)
		o := run(t, r, s)
		o.wantCause(t, sandbox.KilledDisk)
		var sum int64
		err := filepath.WalkDir(g.rw, func(_ string, d os.DirEntry, err error) error {
			if info, err := d.Info(); err == nil && !d.IsDir() {
				sum += info.Size()
			}
			return err
		})
		if err != nil || sum > s.Limits.Disk+fileCost { // a little was there before
			t.Fatalf("%d bytes were written, %d are allowed (%v)", sum, s.Limits.Disk, err)
		}
	})
}

func TestWasm_CountsWhatIsWritten(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		o := run(t, r, newGrounds(t).spec(t, "account"))
		o.wantOut(t, "ok")
		if o.Written != 30_000 {
			t.Fatalf("it counts %d bytes, 30,000 were kept", o.Written)
		}
	})
}

func TestWasm_BoundsTmp(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		o := run(t, r, newGrounds(t).spec(t, "tmp"))
		o.wantOut(t, "ok")
		if o.Written != 0 {
			t.Fatalf("what is in /tmp counts as written: %d bytes", o.Written)
		}
	})
}

func TestWasm_EndsABalloon(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		o := run(t, r, newGrounds(t).spec(t, "balloon"))
		o.wantCause(t, sandbox.KilledMemory)
		if o.PeakMemory < 128<<20 || o.PeakMemory > 256<<20+helperMemory {
			t.Fatalf("its peak is said to be %d MiB", o.PeakMemory>>20)
		}
	})
}

func TestWasm_TakesNoGarbageForMemoryInUse(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		g := newGrounds(t)
		if err := os.Mkdir(filepath.Join(g.ro, "many"), 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 3000 {
			write(t, filepath.Join(g.ro, "many", "file-"+strconv.Itoa(i)), "")
		}
		s := g.spec(t, "looks")
		s.Limits.Wall = 5 * time.Minute // on a machine with much else to do
		run(t, r, s).wantOut(t, "ok")
	})
}

func TestWasm_EndsALoop(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		s := newGrounds(t).spec(t, "loop")
		run(t, r, newGrounds(t).spec(t, "exit", "0")) // compiled by now, so that the time is the loop's
		s.Limits.Wall = 2 * time.Second
		start := time.Now()
		run(t, r, s).wantCause(t, sandbox.KilledTime)
		if took := time.Since(start); took > 10*time.Second {
			t.Fatalf("it took %v to end", took)
		}
	})
}

func TestWasm_LimitsProcessorTime(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		s := newGrounds(t).spec(t, "loop")
		s.Limits.CPU = time.Second
		o := run(t, r, s)
		o.wantCause(t, sandbox.KilledTime)
		if o.CPU < 500*time.Millisecond || o.CPU > 20*time.Second {
			t.Fatalf("it used %v", o.CPU)
		}
	})
}

func TestWasm_CutsOutput(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		o := run(t, r, newGrounds(t).spec(t, "flood"))
		if o.Cause != sandbox.Exited || !o.OutputTruncated || len(o.out) != 1<<20 {
			t.Fatalf("got %d bytes: %+v", len(o.out), o.Result)
		}
	})
}

func TestWasm_TrapsDeepRecursion(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		s := newGrounds(t).spec(t, "recurse")
		s.Limits.Memory = 64 << 20
		o := run(t, r, s)
		if o.Cause == sandbox.Exited && o.ExitCode == 0 {
			t.Fatalf("endless recursion ended well: %+v", o.Result)
		}
	})
}

func TestWasm_GivesBackTheExitCode(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		for word, want := range map[string]int{"0": 0, "7": 7, "255": 255} {
			if o := run(t, r, newGrounds(t).spec(t, "exit", word)); o.Cause != sandbox.Exited || o.ExitCode != want {
				t.Fatalf("exit %s: %+v\n%s", word, o.Result, strings.TrimSpace(o.out))
			}
		}
	})
}
