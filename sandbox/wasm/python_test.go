package wasm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/wasm/wasmtest"
)

func TestWasm_RunsPython(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		script(t, r, "import json, sys; print(json.dumps([1, 2]), sys.platform)", nil).wantOut(t, "[1, 2] wasi")
	})
}

// contract runs a Python App as package stage does.
func contract(t testing.TB, r *Runtime, app, input, params string, change func(*sandbox.Spec)) (outcome, string) {
	t.Helper()
	dir := t.TempDir()
	data, results := filepath.Join(dir, "input"), filepath.Join(dir, "results")
	write(t, data, input)
	s := sandbox.Spec{
		Argv: []string{"python3", "/spare/app/main.py"}, Dir: "/spare/app",
		Env: []string{
			"TASK_DIR=/spare/task", "TASK_RESULTS_DIR=/spare/results", "APP_PARAMS=" + params, "CHUNK_NUMBER=3",
			"SHARED_CACHE_DIR=/spare/cache/shared", "USER_CACHE_DIR=/spare/cache/user", "CHECKPOINT_DIR=/spare/checkpoint",
			"JOB_ID=j", "JOB_NAME=n", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1",
		},
		Mounts: []sandbox.Mount{
			{Host: app, Inner: "/spare/app"}, {Host: data, Inner: "/spare/task/data.bin"}, {Host: results, Inner: "/spare/results", Writable: true},
		},
		Limits: sandbox.Limits{Wall: 5 * time.Minute, Output: 1 << 20, Memory: 512 << 20, Disk: 64 << 20},
	}
	for _, m := range []struct{ name, inner string }{{"shared", "/spare/cache/shared"}, {"user", "/spare/cache/user"}, {"checkpoint", "/spare/checkpoint"}} {
		s.Mounts = append(s.Mounts, sandbox.Mount{Host: filepath.Join(dir, m.name), Inner: m.inner, Writable: m.name != "shared"})
	}
	for _, m := range s.Mounts[2:] {
		if err := os.Mkdir(m.Host, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		change(&s)
	}
	return run(t, r, s), results
}

// appOf makes an App's folder of one script.
func appOf(t testing.TB, main string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "main.py"), main)
	return dir
}

func TestWasm_KeepsTheContract(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		app := appOf(t, `
import json, os, sys
import helper
assert os.getcwd() == "/spare/app", os.getcwd()
assert open("words.txt").read() == "beside it"
assert sys.argv == ["/spare/app/main.py"], sys.argv
assert open(os.path.join(os.environ["TASK_DIR"], "data.bin")).read() == "the chunk"
assert json.loads(os.environ["APP_PARAMS"]) == {"k": "väl\"ue\n"}, os.environ["APP_PARAMS"]
assert os.environ["CHUNK_NUMBER"] == "3" and os.environ["HOME"] == "/tmp"
assert "SPARE_WASM_HELPER" not in os.environ
for name, writable in (("TASK_RESULTS_DIR", True), ("USER_CACHE_DIR", True), ("CHECKPOINT_DIR", True), ("SHARED_CACHE_DIR", False), (None, False)):
    try:
        with open(os.path.join(os.environ[name] if name else ".", "made.txt"), "w") as f:
            f.write(helper.word)
        assert writable, name
    except OSError:
        assert not writable, name
import tempfile
with tempfile.TemporaryFile() as f:
    f.write(b"x"); f.seek(0); assert f.read() == b"x"
print("to stdout"); print("to stderr", file=sys.stderr)
`)
		write(t, filepath.Join(app, "helper.py"), `word = "made"`)
		write(t, filepath.Join(app, "words.txt"), "beside it")
		o, results := contract(t, r, app, "the chunk", `{"k": "väl\"ue\n"}`, nil)
		o.wantOut(t, "to stdout\nto stderr")
		if text, err := os.ReadFile(filepath.Join(results, "made.txt")); string(text) != "made" {
			t.Fatalf("the results hold %q (%v)", text, err)
		}
		if o.CPU <= 0 || o.PeakMemory < 10<<20 || o.Written < 4 {
			t.Fatalf("its use is told as %+v", o.Result)
		}
	})
}

func TestWasm_TellsPythonsFailures(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		o := script(t, r, "import sys; sys.exit(9)", nil)
		if o.Cause != sandbox.Exited || o.ExitCode != 9 {
			t.Fatalf("exit 9: %+v", o.Result)
		}
		o = script(t, r, "raise ValueError('no good')", nil)
		if o.ExitCode != 1 || !strings.Contains(o.out, "ValueError: no good") {
			t.Fatalf("an exception: %+v\n%s", o.Result, o.out)
		}
		o = script(t, r, "import os; os.abort()", nil)
		if o.Cause != sandbox.KilledSignal || !strings.HasPrefix(o.Signal, "a trap") {
			t.Fatalf("abort: %+v\n%s", o.Result, o.out)
		}
		script(t, r, "a = []\nwhile True: a.append(bytearray(1 << 20))", func(s *sandbox.Spec) {
			s.Limits = sandbox.Limits{Wall: time.Minute, Memory: 96 << 20}
		}).wantCause(t, sandbox.KilledMemory)
		script(t, r, "import socket", nil).wantCause(t, sandbox.Exited)
		o = script(t, r, "import subprocess; subprocess.run(['/bin/true'])", nil)
		if o.ExitCode == 0 {
			t.Fatalf("it has started a process: %+v", o.Result)
		}
	})
}

func TestWasm_Sleeps(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		script(t, r, `
import select, time
start = time.monotonic()
time.sleep(0.1)
select.select([], [], [], 0.1)
assert 0.2 <= time.monotonic() - start < 30, time.monotonic() - start
time.sleep(0)
ready, _, _ = select.select([0], [], [], 60)
assert ready == [0]
print(len(select.select([], [1, 2], [])[1]))
`, nil).wantOut(t, "2")
	})
}

func TestWasm_RunsOddArguments(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		long := strings.Repeat("x", 100<<10)
		s := sandbox.Spec{Argv: []string{"python3", "-c", "import os, sys; print(sys.argv[1:], os.environb[b'V'], len(os.environ['L']))", `a"b\c$d`, "\xff", "é"}, Env: []string{"V=\xfe=\n", "L=" + long}}
		run(t, r, s).wantOut(t, `['a"b\\c$d', '\udcff', 'é'] b'\xfe=\n' 102400`)
	})
}

func TestWasm_Cancels(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		ctx, cancel := context.WithCancelCause(t.Context())
		said := make(chan string, 1)
		why := errors.New("not wanted any more")
		go func() {
			<-said
			cancel(why)
		}()
		res, err := r.Run(ctx, sandbox.Spec{
			Argv: []string{"python3", "-uc", "print('begun')\nwhile True: pass"}, Stdout: lines(said), Grace: time.Hour,
		})
		if err != nil || res.Cause != sandbox.KilledCancel {
			t.Fatalf("got %+v and %v", res, err)
		}
		if _, err := r.Run(ctx, sandbox.Spec{Argv: []string{"python3", "-c", ""}}); !errors.Is(err, why) {
			t.Fatalf("a run that was cancelled before it began: %v", err)
		}
	})
}

// lines hands on what is written, if anybody listens.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	select {
	case l <- string(b):
	default:
	}
	return len(b), nil
}

func TestWasm_PausesAndResumes(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		counts := make(lines, 1)
		var steer sandbox.Steer
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			res, err := r.Run(ctx, sandbox.Spec{
				Argv: []string{"python3", "-uc", "n = 0\nwhile True:\n n += 1\n if n % 20000 == 0: print(n)"}, Stdout: counts, Steer: &steer,
				Limits: sandbox.Limits{Memory: 256 << 20},
			})
			if err == nil && res.Cause != sandbox.KilledCancel {
				err = errors.New(string(res.Cause))
			}
			done <- err
		}()
		wait := func() string {
			select {
			case n := <-counts:
				return n
			case err := <-done:
				t.Fatalf("it ended: %v", err)
			case <-time.After(time.Minute):
				t.Fatal("it does not count")
			}
			return ""
		}
		wait()
		if err := steer.Pause(); err != nil {
			t.Fatal(err)
		}
		used, err := steer.Memory()
		if err != nil || used < 20<<20 {
			t.Fatalf("while paused it uses %d bytes (%v)", used, err)
		}
		drained := time.After(300 * time.Millisecond) // what was on its way when it stopped
		for drained != nil {
			select {
			case <-counts:
			case <-drained:
				drained = nil
			}
		}
		select {
		case n := <-counts:
			t.Fatalf("it counts to %s while it is paused", n)
		case <-time.After(300 * time.Millisecond):
		}
		if err := steer.Resume(); err != nil {
			t.Fatal(err)
		}
		wait()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestWasm_ProbeRunsWhatItOffers(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		c := r.Probe(t.Context())
		if !c.OK || len(c.Platforms) != 2 || c.Platforms[1] != spare.PlatformPython || len(c.Features) != 1 || c.Features[0] != spare.FeatureDeterministic {
			t.Fatalf("with CPython: %+v", c)
		}
		without := New(Config{Cache: wasmtest.Cache(t), Program: wasmtest.Helper(t), Inside: r.inside})
		c = without.Probe(t.Context())
		if !c.OK || len(c.Platforms) != 1 || c.Platforms[0] != spare.PlatformWasm || c.Reason == "" {
			t.Fatalf("without CPython: %+v", c)
		}
	})
	broken := New(Config{Cache: filepath.Join(t.TempDir(), "file"), Program: wasmtest.Helper(t)})
	write(t, broken.cache, "")
	if c := broken.Probe(t.Context()); c.OK || c.Reason == "" {
		t.Fatalf("without a folder for its cache: %+v", c)
	}
	damaged := t.TempDir()
	if err := os.CopyFS(damaged, os.DirFS(wasmtest.Python(t))); err != nil {
		t.Fatal(err)
	}
	flip(t, filepath.Join(damaged, "lib", "python3.11", "random.pyc"), 1000)
	if c := New(Config{Cache: wasmtest.Cache(t), Program: wasmtest.Helper(t), Python: damaged}).Probe(t.Context()); len(c.Platforms) != 1 || !strings.Contains(c.Reason, "damaged") {
		t.Fatalf("with a damaged library: %+v", c)
	}
}

// flip changes one byte of a file.
func flip(t testing.TB, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x55
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func TestWasm_LeavesNothingBehind(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		for range 3 {
			script(t, r, "open('/tmp/x', 'w').write('x' * 100000)", nil).wantCause(t, sandbox.Exited)
		}
		list, err := os.ReadDir(filepath.Join(r.cache, "runs"))
		if err != nil {
			t.Fatal(err)
		}
		own := 0
		for _, d := range list {
			if bytes.HasPrefix([]byte(d.Name()), []byte(pidPrefix())) {
				own++
			}
		}
		if own > 0 {
			t.Fatalf("%d folders of runs are left", own)
		}
	})
}

func TestWasm_ClearsWhatAKilledParentLeft(t *testing.T) {
	r := New(Config{Cache: t.TempDir()})
	runs := filepath.Join(r.cache, "runs")
	gone := filepath.Join(runs, "2147483646-x") // no process has that number: the most is 2^22
	if err := os.MkdirAll(filepath.Join(gone, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := r.scratch(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(gone); !os.IsNotExist(err) {
		t.Fatalf("it is still there (%v)", err)
	}
}
