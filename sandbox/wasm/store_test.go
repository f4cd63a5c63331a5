package wasm

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/wasm/wasmtest"
)

// counting is a Runtime whose compilations are counted.
func counting(t testing.TB, folder string, inside sandbox.Runtime) (*Runtime, func() int) {
	t.Helper()
	r := New(Config{Cache: folder, Inside: inside, Program: wasmtest.Helper(t)})
	var mu sync.Mutex
	n := 0
	r.compiled.compile = func(ctx context.Context, entry string, run sandbox.Spec) (time.Duration, error) {
		mu.Lock()
		n++
		mu.Unlock()
		return r.compile(ctx, entry, run)
	}
	return r, func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// hello runs the probe's own module.
func sayHello(t testing.TB, r *Runtime) {
	t.Helper()
	if err := r.tryModule(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// entries lists a cache's compiled modules.
func entries(t testing.TB, folder string) []string {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(folder, "compiled"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, d := range list {
		all = append(all, filepath.Join(folder, "compiled", d.Name()))
	}
	return all
}

func eachInside(t *testing.T, test func(t *testing.T, inside sandbox.Runtime)) {
	t.Helper()
	each(t, func(t *testing.T, r *Runtime) { test(t, r.inside) })
}

func TestWasm_CompilesAModuleOnceOnAMachine(t *testing.T) {
	eachInside(t, func(t *testing.T, inside sandbox.Runtime) {
		folder := t.TempDir()
		r, compiled := counting(t, folder, inside)
		sayHello(t, r)
		sayHello(t, r)
		later, again := counting(t, folder, inside) // as another process has it
		sayHello(t, later)
		if compiled() != 1 || again() != 0 {
			t.Fatalf("it was compiled %d times, and %d times by the next process", compiled(), again())
		}
		if list := entries(t, folder); len(list) != 1 {
			t.Fatalf("the cache holds %v", list)
		}
	})
}

func TestWasm_HealsItsCache(t *testing.T) {
	eachInside(t, func(t *testing.T, inside sandbox.Runtime) {
		folder := t.TempDir()
		r, compiled := counting(t, folder, inside)
		sayHello(t, r)
		n := compiled()
		entry := entries(t, folder)[0]
		var files []string
		if err := filepath.WalkDir(entry, func(name string, d fs.DirEntry, err error) error {
			if !d.IsDir() {
				files = append(files, strings.TrimPrefix(name, entry))
			}
			return err
		}); err != nil || len(files) != 3 {
			t.Fatalf("an entry holds %v (%v)", files, err)
		}
		for _, file := range files {
			name := filepath.Join(entry, file)
			damages := map[string]func() error{
				"gone":  func() error { return os.Remove(name) },
				"empty": func() error { return os.Truncate(name, 0) },
				"half": func() error {
					info, err := os.Stat(name)
					return errors.Join(err, os.Truncate(name, info.Size()/2))
				},
				"longer": func() error {
					f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
					_, werr := f.WriteString("x")
					return errors.Join(err, werr, f.Close())
				},
			}
			info, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			for at := int64(0); at < info.Size(); at += 1 + info.Size()/8 {
				damages["a byte changed at "+time.Duration(at).String()] = func() error {
					flip(t, name, at)
					return nil
				}
			}
			for what, damage := range damages {
				if err := damage(); err != nil {
					t.Fatalf("%s %s: %v", file, what, err)
				}
				sayHello(t, r)
				if n++; compiled() != n {
					t.Fatalf("%s %s: it was compiled %d times, want %d", file, what, compiled(), n)
				}
				sayHello(t, r)
				if compiled() != n {
					t.Fatalf("%s %s: it is not healed", file, what)
				}
			}
		}
		if list := entries(t, folder); len(list) != 1 {
			t.Fatalf("the cache holds %v", list)
		}
	})
}

func TestWasm_SharesItsCacheWithAnotherProcess(t *testing.T) {
	folder := t.TempDir()
	first, _ := counting(t, folder, nil)
	second, _ := counting(t, folder, nil)
	// Each makes the entry while the other does: neither sees the other's lock.
	var meet sync.WaitGroup
	meet.Add(2)
	for _, r := range []*Runtime{first, second} {
		compile := r.compiled.compile
		r.compiled.compile = func(ctx context.Context, entry string, run sandbox.Spec) (time.Duration, error) {
			meet.Done()
			meet.Wait()
			return compile(ctx, entry, run)
		}
	}
	var all sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		r := []*Runtime{first, second}[i%2]
		all.Go(func() { errs[i] = r.tryModule(t.Context()) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if list := entries(t, folder); len(list) != 1 {
		t.Fatalf("the cache holds %v", list)
	}
}

func TestWasm_BoundsItsCache(t *testing.T) {
	folder := t.TempDir()
	r := New(Config{Cache: folder, Room: 64 << 10, Program: wasmtest.Helper(t)})
	stale := filepath.Join(folder, "compiled", newPrefix+"left")
	if err := os.MkdirAll(stale, 0o700); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * staleAfter)
	if err := os.Chtimes(stale, old, old); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		data := strings.Repeat(string(rune('A'+i)), 10<<10)
		module := assemble(typeVoid, oneFunction, onePage, exportStart, body(""), section(11, "\x01\x00\x41\x00\x0b\x80\x50"+data))
		dir := t.TempDir()
		write(t, filepath.Join(dir, "main.wasm"), module)
		res, err := r.Run(t.Context(), sandbox.Spec{Argv: []string{"/spare/app/main.wasm"}, Mounts: []sandbox.Mount{{Host: dir, Inner: "/spare/app"}}})
		if err != nil || res.ExitCode != 0 {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	var sum int64
	list := entries(t, folder)
	for _, e := range list {
		sum += folderSize(e)
	}
	if sum > 2*r.compiled.room || len(list) >= 40 || len(list) == 0 {
		t.Fatalf("%d modules take %d bytes, %d are given", len(list), sum, r.compiled.room)
	}
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("what a killed process left is still there (%v)", err)
	}
}

func TestWasm_TellsWhenItCannotCompile(t *testing.T) {
	r, _ := counting(t, t.TempDir(), nil)
	r.compiled.compile = func(context.Context, string, sandbox.Spec) (time.Duration, error) { return 0, errors.New("no luck") }
	if err := r.tryModule(t.Context()); err == nil || !strings.Contains(err.Error(), "no luck") {
		t.Fatalf("got %v", err)
	}
	if list := entries(t, r.cache); len(list) != 0 {
		t.Fatalf("the cache holds %v", list)
	}
	r.helper = []string{filepath.Join(t.TempDir(), "none")}
	r.compiled.compile = r.compile
	if err := r.tryModule(t.Context()); err == nil || !strings.Contains(err.Error(), "start the wasm helper") {
		t.Fatalf("without a helper: %v", err)
	}
}

func TestStore_RefusesAModuleThatChanged(t *testing.T) {
	r, compiled := counting(t, t.TempDir(), nil)
	s := sandbox.Spec{Argv: []string{"x.wasm"}}
	p := program{argv: s.Argv, module: module{digest: spare.Sum(hello), open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(started(""))), nil
	}}}
	if _, err := r.run(t.Context(), s, p); err == nil || !strings.Contains(err.Error(), "not what it was") {
		t.Fatalf("another module than the digest names: %v", err)
	}
	if list := entries(t, r.cache); len(list) != 0 || compiled() != 0 {
		t.Fatalf("the cache holds %v", list)
	}
}

func TestStore_ClearsWhatAKilledProcessWasMaking(t *testing.T) {
	r, _ := counting(t, t.TempDir(), nil)
	gone := filepath.Join(r.compiled.folder, newPrefix+"2147483646-x") // no process has that number: the most is 2^22
	other := filepath.Join(r.compiled.folder, newPrefix+strconv.Itoa(os.Getppid())+"-x")
	for _, dir := range []string{gone, other} {
		if err := os.MkdirAll(filepath.Join(dir, "made"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r.compiled.sweep()
	if list := entries(t, r.cache); len(list) != 1 || list[0] != other {
		t.Fatalf("there is %v, want only what a living process makes", list)
	}
}

func TestStore_KnowsWazerosVersion(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "github.com/tetratelabs/wazero " + wazeroVersion + "\n"; !strings.Contains(string(mod), want) {
		t.Errorf("go.mod does not require %q: set wazeroVersion to what it does", want)
	}
}
