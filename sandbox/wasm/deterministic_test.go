package wasm

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/wasm/wasmtest"
)

// deterministicApps are Apps with the digest of their results, the same on every system
// and processor. A new version of CPython, or of what a deterministic run is told,
// changes them, and then every node of a pool must change at the same time.
var deterministicApps = []struct {
	app, params, input, want string
}{
	{"../../apps/montecarlo/app", `{"samples": 3000, "seed": 7}`, "any", "b39f065f65433297caea0cdc8605a950"},
	{"testdata/jsonlines", "{}", records(300), "8499a58a3d7e7e49be46feea4879439f"},
	{"testdata/chance", "{}", "any", "cedbf6184464a08d5fac5613da60dccb"},
}

// records are lines of JSON.
func records(n int) string {
	var b strings.Builder
	for i := range n {
		line, _ := json.Marshal(map[string]any{"id": i, "value": math.Round(float64(i*i%977)*1.37*100)/100 - 50, "text": fmt.Sprintf("word%d käse %d", i%17, i%5)})
		b.Write(line)
		b.WriteByte('\n')
	}
	return b.String()
}

// digestOf is one digest of a folder's files.
func digestOf(t testing.TB, dir string) string {
	t.Helper()
	sum := sha256.New()
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		fmt.Fprintf(sum, "%s %d\n%s", name, len(text), text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:16])
}

func deterministic(s *sandbox.Spec) { s.Deterministic = true }

// wantSame runs the deterministic Apps and compares what they make.
func wantSame(t *testing.T, r *Runtime) {
	t.Helper()
	for _, a := range deterministicApps {
		// A copy, made in another order and at another time than the one before.
		app := t.TempDir()
		if err := os.Chmod(app, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(app, os.DirFS(a.app)); err != nil {
			t.Fatal(err)
		}
		o, results := contract(t, r, app, a.input, a.params, deterministic)
		if o.Cause != sandbox.Exited || o.ExitCode != 0 {
			t.Fatalf("%s: %+v\n%s", a.app, o.Result, o.out)
		}
		if got := digestOf(t, results); got != a.want {
			t.Errorf("%s: the digest of its results is %s, want %s", a.app, got, a.want)
		}
	}
}

func TestWasm_DeterministicRunsAreEqual(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		wantSame(t, r)
		wantSame(t, r)
	})
}

func TestWasm_DeterministicRunsAreEqualOnArm64(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH == "arm64" {
		return // the test above is this one there
	}
	helper, err := wasmtest.Build("arm64")
	if err != nil {
		t.Fatal(err)
	}
	r := New(Config{Cache: wasmtest.Cache(t, "arm64"), Python: wasmtest.Python(t)})
	r.helper = []string{"qemu-aarch64-static", helper}
	if _, err := exec.LookPath(r.helper[0]); err != nil {
		t.Fatalf("%v: make setup installs it", err)
	}
	wantSame(t, r)
}

func TestWasm_DeterministicChunksDiffer(t *testing.T) {
	r := alone(t)
	draw := func(chunk string) string {
		return run(t, r, sandbox.Spec{
			Argv: []string{"python3", "-c", "import random; print(random.random())"}, Env: []string{"CHUNK_NUMBER=" + chunk}, Deterministic: true,
		}).out
	}
	if first, again, other := draw("1"), draw("1"), draw("2"); first != again || first == other {
		t.Fatal("chunks draw the same numbers, or a chunk draws others")
	}
}

func TestWasm_OtherRunsHaveTimeAndChance(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		text := "import random, time; print(random.random(), hash('a'), time.time())"
		a, b := script(t, r, text, nil), script(t, r, text, nil)
		var x, y [3]float64
		for _, p := range []struct {
			o  outcome
			to *[3]float64
		}{{a, &x}, {b, &y}} {
			if _, err := fmt.Sscan(p.o.out, &p.to[0], &p.to[1], &p.to[2]); err != nil {
				t.Fatalf("%v\n%s", err, p.o.out)
			}
		}
		if x[0] == y[0] || x[1] == y[1] {
			t.Fatalf("two runs draw the same: %v, %v", x, y)
		}
		if now := float64(time.Now().Unix()); math.Abs(now-y[2]) > 300 {
			t.Fatalf("it is %v, and inside %v", now, y[2])
		}
	})
}

func TestWasm_DeterministicModulesSeeTheSame(t *testing.T) {
	var first string
	each(t, func(t *testing.T, r *Runtime) {
		for range 2 {
			g := newGrounds(t)
			s := g.spec(t, "show")
			s.Deterministic = true
			o := run(t, r, s)
			if o.ExitCode != 0 {
				t.Fatalf("%+v\n%s", o.Result, o.out)
			}
			if first == "" {
				first = o.out
			}
			if o.out != first {
				t.Fatalf("one run sees\n%s\nanother\n%s", first, o.out)
			}
		}
	})
}
