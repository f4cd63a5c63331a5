// Package wasm is the sandbox's runtime for WebAssembly: modules with a WASI _start, and
// pure-Python Apps on a CPython that is itself such a module (package python). It owns
// the helper process that a program runs in, the files the program sees, and the cache of
// compiled modules. It never runs foreign code in the process that calls it, and knows
// nothing of jobs, leases or networks. Node and hub make one Runtime and give it to
// package stage; Init must be called by their main.
//
// Every run has a helper of its own: this program, executed again, which loads one
// compiled module, runs it once and ends. So a run is paused and ended as a process is,
// whatever the module does; what it used is free at once; and a module that broke out of
// its memory would find no other run there, and no later one. It is quicker too: a helper
// that served several runs would have to stop a module at a time limit from inside, by a
// check in each of its loops, and CPython runs half as fast with them. Keeping helpers
// would save little: loading compiled CPython takes a tenth of a second, where it took a
// second or more as long as its debug information came with it, which wazero reads back
// eight bytes at a time.
//
// Where another runtime can carry it (the linux one does), the helper runs inside that
// one, with the same mounts and limits: a module that broke out of wazero would meet
// those walls next. Elsewhere the helper is a plain process with the limits that the
// system has for it, and the module's own walls are all there are: memory of its own,
// and no way out of it but the functions of WASI, whose files are those of this package.
package wasm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spare-compute/spare/sandbox"
)

// Config says where a Runtime keeps things and what contains its helpers.
type Config struct {
	Cache  string          // folder for compiled modules and for what runs leave for a moment
	Room   int64           // bytes that compiled modules may take; 0 = 1 GiB
	Python string          // folder that python.Unpack filled; "" = none yet
	Inside sandbox.Runtime // carries the helpers; nil = plain processes

	// Program is executed as a helper: its main calls Init. "" is this program, and only
	// tests have reason to name another.
	Program string
}

const defaultRoom = 1 << 30

// Runtime runs modules and Python. It is safe for concurrent use.
type Runtime struct {
	inside   sandbox.Runtime
	cache    string
	compiled store
	helper   []string // what is executed: this program

	mu     sync.Mutex
	python string
}

var _ sandbox.Runtime = (*Runtime)(nil)

// New makes a Runtime. It touches nothing until it is used.
func New(c Config) *Runtime {
	if c.Room == 0 {
		c.Room = defaultRoom
	}
	if c.Program == "" {
		var err error
		if c.Program, err = os.Executable(); err != nil { // no /proc: the name that it was called by has to do
			c.Program = os.Args[0]
		}
	}
	r := &Runtime{inside: c.Inside, cache: c.Cache, helper: []string{c.Program}, python: c.Python}
	r.compiled = store{folder: filepath.Join(c.Cache, "compiled"), room: c.Room, compile: r.compile}
	return r
}

// SetPython says where CPython lies from now on: python.Unpack has filled that folder.
func (r *Runtime) SetPython(folder string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.python = folder
}

func (r *Runtime) pythonFolder() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.python
}

// Name implements sandbox.Runtime.
func (*Runtime) Name() string { return "wasm" }

// Run implements sandbox.Runtime. A program has no way to hear a signal: what ends, ends
// at once, and Spec.Grace means nothing.
func (r *Runtime) Run(ctx context.Context, s sandbox.Spec) (sandbox.Result, error) {
	if err := s.Check(); err != nil {
		return sandbox.Result{}, err
	}
	if err := unserved(s); err != nil {
		return sandbox.Result{}, err
	}
	if err := context.Cause(ctx); err != nil {
		return sandbox.Result{}, err
	}
	p, err := r.program(s)
	if err != nil {
		return sandbox.Result{}, err
	}
	return r.run(ctx, s, p)
}

// tries is how often a run is begun: a compiled module that cannot be loaded is thrown
// away, and made anew.
const tries = 2

func (r *Runtime) run(ctx context.Context, s sandbox.Spec, p program) (sandbox.Result, error) {
	var compiling time.Duration // part of the run's time
	for try := 1; ; try++ {
		entry, spent, err := r.compiled.get(ctx, p.module, s)
		compiling += spent
		var refused *moduleError
		var over *overLimit
		switch {
		case errors.As(err, &refused):
			return sandbox.Result{}, &sandbox.StartError{Program: s.Argv[0], Err: refused}
		case errors.As(err, &over):
			return sandbox.Result{ExitCode: -1, Cause: over.cause, Wall: compiling}, nil
		case err != nil:
			return sandbox.Result{}, err
		}
		if s.Limits.Wall > 0 {
			if s.Limits.Wall -= spent; s.Limits.Wall <= 0 {
				return sandbox.Result{ExitCode: -1, Cause: sandbox.KilledTime, Wall: compiling}, nil
			}
		}
		res, rep, err := r.execute(ctx, s, p, entry)
		res.Wall += compiling
		if rep.Stale && err == nil && res.Cause == sandbox.Exited {
			r.compiled.drop(entry)
			if try < tries {
				continue
			}
			return res, fmt.Errorf("load compiled %s in the wasm helper: %s", s.Argv[0], rep.Refused)
		}
		if err != nil {
			return res, err
		}
		return verdict(s, res, rep)
	}
}

// unserved refuses what this runtime cannot do.
func unserved(s sandbox.Spec) error {
	switch {
	case s.Image != nil:
		return errors.New("run in the sandbox: the wasm runtime runs no images")
	case s.Network != sandbox.NoNetwork:
		return errors.New("run in the sandbox: the wasm runtime has no network to offer")
	case len(s.GPUs) > 0:
		return errors.New("run in the sandbox: only the engine runtime passes a GPU through")
	}
	return nil
}
