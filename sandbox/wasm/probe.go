package wasm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/wasm/python"
)

// hello is a module that writes "ok" and ends: imports fd_write, has one page of memory
// with the text and the vector that points at it, and a _start that makes the call.
var hello = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x0c\x02\x60\x04\x7f\x7f\x7f\x7f\x01\x7f\x60\x00\x00" + // types: (i32 i32 i32 i32) -> i32, () -> ()
	"\x02\x23\x01\x16wasi_snapshot_preview1\x08fd_write\x00\x00" + // import
	"\x03\x02\x01\x01" + // one function, of type 1
	"\x05\x03\x01\x00\x01" + // memory: 1 page
	"\x07\x13\x02\x06memory\x02\x00\x06_start\x00\x01" + // exports
	"\x0a\x0f\x01\x0d\x00\x41\x01\x41\x00\x41\x01\x41\x10\x10\x00\x1a\x0b" + // fd_write(1, 0, 1, 16); drop
	"\x0b\x10\x01\x00\x41\x00\x0b\x0a\x08\x00\x00\x00\x02\x00\x00\x00ok") // at 0: {8, 2}, "ok"

const (
	probeWall   = 90 * time.Second // the first time, a small machine compiles CPython for half a minute
	probeOutput = 64 << 10
	probeMemory = 512 << 20
)

// Probe implements sandbox.Runtime: it runs CPython, which compiles it if need be, or,
// where there is none yet, a module of its own.
func (r *Runtime) Probe(ctx context.Context) spare.Capability {
	r.compiled.sweep() // it comes first, and an earlier process may have been killed
	c := spare.Capability{Runtime: r.Name(), Walls: r.walls()}
	if err := r.tryModule(ctx); err != nil {
		c.Reason, c.Walls = err.Error(), nil
		return c
	}
	c.OK = true
	c.Platforms, c.Features = []spare.Platform{spare.PlatformWasm}, []spare.Feature{spare.FeatureDeterministic}
	err := r.tryPython(ctx)
	switch {
	case err == nil:
		c.Platforms = append(c.Platforms, spare.PlatformPython)
		c.Version = "Python " + python.Version
	default:
		c.Reason = "no platform python: " + err.Error()
	}
	return c
}

func (r *Runtime) walls() []string {
	walls := []string{"memory of its own", "no way out but WASI", "no network", "no processes", "own files", "memory cap", "disk quota", "output cap", "wall time", "cpu time", "own process"}
	if r.inside != nil {
		return append(walls, "inside the "+r.inside.Name()+" runtime")
	}
	return append(walls, "resource limits")
}

func (r *Runtime) tryModule(ctx context.Context) error {
	return r.try(ctx, helloProgram(), "hello.wasm", "ok")
}

func helloProgram() program {
	return program{
		module: module{digest: spare.Sum(hello), open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(hello)), nil }},
		argv:   []string{"hello"},
	}
}

func (r *Runtime) tryPython(ctx context.Context) error {
	dir := r.pythonFolder()
	if dir == "" {
		return errNoPython
	}
	if err := python.Verify(dir); err != nil {
		return err
	}
	s := sandbox.Spec{Argv: []string{"python3", "-c", "import json, sys; print(sys.version.split()[0])"}}
	p, err := r.program(s)
	if err != nil {
		return err
	}
	if err := r.prepare(ctx, p.module); err != nil {
		return err
	}
	return r.try(ctx, p, "python3", python.Version)
}

// prepare compiles a module with the processor time that nobody else wants, so that the
// machine's owner does not feel it. A machine that is busy for long may have none: then it
// takes one core.
func (r *Runtime) prepare(ctx context.Context, m module) error {
	s := sandbox.Spec{Limits: sandbox.Limits{Wall: probeWall, Memory: probeMemory, Nice: true}}
	_, _, err := r.compiled.get(ctx, m, s)
	var over *overLimit
	if errors.As(err, &over) && over.cause == sandbox.KilledTime {
		s.Limits.Nice, s.Limits.CPUs = false, 1
		_, _, err = r.compiled.get(ctx, m, s)
	}
	return err
}

// try runs a program that must say one thing and nothing else.
func (r *Runtime) try(ctx context.Context, p program, name, want string) error {
	var out bytes.Buffer
	s := sandbox.Spec{Argv: []string{name}, Stdout: &out, Stderr: &out, Limits: sandbox.Limits{Wall: probeWall, Output: probeOutput, Memory: probeMemory}}
	ctx, cancel := context.WithTimeoutCause(ctx, probeWall, errors.New("it takes longer than "+probeWall.String()))
	defer cancel()
	res, err := r.run(ctx, s, p)
	switch {
	case err != nil:
		return err
	case res.Cause == sandbox.KilledCancel:
		return context.Cause(ctx)
	case res.Cause != sandbox.Exited || res.ExitCode != 0 || strings.TrimSpace(out.String()) != want:
		return fmt.Errorf("%s in the wasm runtime ended with code %d (%s): %s", name, res.ExitCode, res.Cause, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}
