package wasm

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare/sandbox"
)

// assemble puts a module together: sections by their number.
func assemble(parts ...string) string {
	return "\x00asm\x01\x00\x00\x00" + strings.Join(parts, "")
}

func section(id byte, body string) string {
	return string(id) + string(binary.AppendUvarint(nil, uint64(len(body)))) + body
}

// The pieces that most modules here are made of: one type () -> (), one function of it,
// exported as _start beside a memory.
var (
	typeVoid    = section(1, "\x01\x60\x00\x00")
	oneFunction = section(3, "\x01\x00")
	onePage     = section(5, "\x01\x00\x01")
	exportStart = section(7, "\x02\x06memory\x02\x00\x06_start\x00\x00")
)

// body is the code section with one function.
func body(code string) string {
	code = "\x00" + code + "\x0b"
	return section(10, "\x01"+string(binary.AppendUvarint(nil, uint64(len(code))))+code)
}

func started(code string) string {
	return assemble(typeVoid, oneFunction, onePage, exportStart, body(code))
}

// runModule runs a module that is given by its bytes.
func runModule(t *testing.T, r *Runtime, module string, limits sandbox.Limits) (sandbox.Result, string, error) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "main.wasm"), module)
	var out strings.Builder
	limits.Output = 1 << 20
	if limits.Wall == 0 {
		limits.Wall = time.Minute
	}
	res, err := r.Run(t.Context(), sandbox.Spec{
		Argv: []string{"/spare/app/main.wasm"}, Dir: "/spare/app", Limits: limits, Stdout: &out, Stderr: &out,
		Mounts: []sandbox.Mount{{Host: dir, Inner: "/spare/app"}},
	})
	return res, out.String(), err
}

func TestWasm_RefusesModulesItCannotRun(t *testing.T) {
	unknown := section(2, "\x01\x03env\x07connect\x00\x00")
	extension := section(2, "\x01\x16wasi_snapshot_preview1\x09sock_open\x00\x00")
	memory := section(2, "\x01\x03env\x06memory\x02\x00\x01")
	start := section(7, "\x01\x06_start\x00\x01")
	for name, c := range map[string]struct{ module, want string }{
		"an empty file":        {"", "it is no module that can be run"},
		"not a module":         {"#!/bin/sh\necho hello\n", "it is no module that can be run"},
		"cut off":              {started("\x00")[:30], "it is no module that can be run"},
		"a bad body":           {started("\x6a"), "it is no module that can be run"}, // adds two numbers that are not there
		"a component":          {"\x00asm\x0d\x00\x01\x00", "it is no module that can be run"},
		"an unknown import":    {assemble(typeVoid, unknown, oneFunction, start, body("")), `it imports "connect" from "env"`},
		"an extension of WASI": {assemble(typeVoid, extension, oneFunction, start, body("")), "sock_open"},
		"an imported memory":   {assemble(typeVoid, memory, oneFunction, section(7, "\x01\x06_start\x00\x00"), body("")), `it imports the memory "memory" from "env"`},
		"a library":            {assemble(typeVoid, oneFunction, section(7, "\x01\x03run\x00\x00"), body("")), "it exports no _start"},
		"a huge table":         {assemble(typeVoid, oneFunction, section(4, "\x01\x70\x00\x80\x80\x80\x40"), onePage, exportStart, body("")), "its tables begin with more than"},
		"many large tables":    {assemble(typeVoid, oneFunction, section(4, "\x80\x01"+strings.Repeat("\x70\x00\x80\x80\x40", 128)), onePage, exportStart, body("")), "its tables begin with more than"},
		"shared memory":        {assemble(typeVoid, oneFunction, section(5, "\x01\x03\x01\x02"), exportStart, body("")), "it is no module that can be run"},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, r *Runtime) {
				res, out, err := runModule(t, r, c.module, sandbox.Limits{Memory: 64 << 20})
				var start *sandbox.StartError
				if !errors.As(err, &start) || start.Program != "/spare/app/main.wasm" || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("got %+v %q and %v, want the module refused with %q", res, out, err, c.want)
				}
			})
		})
	}
}

func TestWasm_SaysWhatAModuleTrappedOn(t *testing.T) {
	each(t, func(t *testing.T, r *Runtime) {
		for name, c := range map[string]struct{ code, want string }{
			"unreachable":   {"\x00", "unreachable"},
			"division":      {"\x41\x01\x41\x00\x6d\x1a", "integer divide by zero"},
			"out of bounds": {"\x41\x7f\x28\x02\x00\x1a", "out of bounds memory access"},
			"recursion":     {"\x10\x00", "stack overflow"},
		} {
			res, out, err := runModule(t, r, started(c.code), sandbox.Limits{Memory: 64 << 20})
			if err != nil || res.Cause != sandbox.KilledSignal || res.Signal != "a trap ("+c.want+")" || res.ExitCode != -1 || !strings.Contains(out, c.want) {
				t.Fatalf("%s: got %+v and %v, want a trap on %s\n%s", name, res, err, c.want, out)
			}
		}
	})
}

func TestWasm_EndsModulesThatGrowWithoutEnd(t *testing.T) {
	// loop: memory.grow by a page until it fails, then trap
	grow := "\x03\x40\x41\x01\x40\x00\x41\x7f\x47\x0d\x00\x0b\x00"
	// loop: table.grow by a million until it fails
	tables := assemble(typeVoid, oneFunction, section(4, "\x01\x70\x00\x01"), onePage, exportStart,
		body("\x03\x40\xd0\x70\x41\xc0\x84\x3d\xfc\x0f\x00\x41\x7f\x47\x0d\x00\x0b\x00"))
	each(t, func(t *testing.T, r *Runtime) {
		for name, module := range map[string]string{
			"memory":               started(grow),
			"tables":               tables,
			"memory to begin with": assemble(typeVoid, oneFunction, section(5, "\x01\x00\x80\x20"), exportStart, body("")), // 4096 pages
		} {
			res, out, err := runModule(t, r, module, sandbox.Limits{Memory: 64 << 20})
			if err != nil || res.Cause != sandbox.KilledMemory {
				t.Fatalf("%s: got %+v and %v, want it ended for its memory\n%s", name, res, err, out)
			}
		}
	})
}

func TestWasm_GivesAModuleAllItsMemory(t *testing.T) {
	// memory.grow by 1022 pages to 1023 of 1024 must work; else trap
	module := started("\x41\xfe\x07\x40\x00\x41\x7f\x46\x04\x40\x00\x0b")
	each(t, func(t *testing.T, r *Runtime) {
		res, out, err := runModule(t, r, module, sandbox.Limits{Memory: 64 << 20})
		if err != nil || res.Cause != sandbox.Exited || res.ExitCode != 0 {
			t.Fatalf("got %+v and %v\n%s", res, err, out)
		}
	})
}

func TestWasm_RunsOnlyPythonAndModules(t *testing.T) {
	r := alone(t)
	for _, c := range []struct {
		spec sandbox.Spec
		want string
	}{
		{sandbox.Spec{Argv: []string{"sh", "-c", "echo"}}, "the wasm runtime runs Python and .wasm modules"},
		{sandbox.Spec{Argv: []string{"/bin/true"}}, "the wasm runtime runs Python and .wasm modules"},
		{sandbox.Spec{Argv: []string{"/nowhere/main.wasm"}}, "file does not exist"},
		{sandbox.Spec{Argv: []string{"/etc/../x.wasm"}}, "file does not exist"},
		{sandbox.Spec{Argv: []string{"python3"}, Image: &sandbox.Image{}}, "runs no images"},
		{sandbox.Spec{Argv: []string{"python3"}, Network: sandbox.Outbound}, "no network"},
		{sandbox.Spec{Argv: []string{"python3"}, GPUs: []string{"a"}}, "GPU"},
	} {
		if _, err := r.Run(t.Context(), c.spec); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.spec.Argv, err, c.want)
		}
	}
	without := New(Config{Cache: t.TempDir()})
	if _, err := without.Run(t.Context(), sandbox.Spec{Argv: []string{"python3"}}); !errors.Is(err, errNoPython) {
		t.Errorf("without CPython: %v", err)
	}
	if list, _ := os.ReadDir(without.cache); len(list) > 0 {
		t.Errorf("what was refused left %v", list)
	}
}

func TestWasm_OutlineKeepsAllButTheBodies(t *testing.T) {
	custom := section(0, "\x0b.debug_info"+strings.Repeat("x", 100))
	names := section(0, "\x04name\x00\x01\x00")
	long := body(strings.Repeat("\x01", 300))
	mod := assemble(typeVoid, oneFunction, onePage, exportStart, long, custom, names)
	got, err := outline([]byte(mod))
	if want := assemble(typeVoid, oneFunction, onePage, exportStart, body("\x00"), names); err != nil || string(got) != want {
		t.Fatalf("got %q and %v, want %q", got, err, want)
	}
}

func FuzzOutline(f *testing.F) {
	f.Add([]byte(started("\x00")))
	f.Add(hello)
	f.Add([]byte(assemble(section(4, "\x01\x70\x01\x01\x02"))))
	f.Fuzz(func(t *testing.T, mod []byte) {
		_ = bounded(mod)
		small, err := outline(mod)
		if err != nil {
			return
		}
		again, err := outline(small)
		if err != nil || string(again) != string(small) {
			t.Fatalf("the outline of an outline differs: %q, %q (%v)", small, again, err)
		}
	})
}
