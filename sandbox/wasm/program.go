package wasm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/wasm/python"
)

// program is what is to run: a module, and what it needs around it.
type program struct {
	module  module
	argv    []string
	env     []string // after the caller's own
	mounts  []folder // seen by the program, besides the caller's
	overlay bool     // it knows no working folder: its relative paths are led there
}

// module is a WebAssembly module by its content.
type module struct {
	digest spare.Digest
	open   func() (io.ReadCloser, error)
}

// maxModule is the largest module that is taken: CPython has 12 MiB.
const maxModule = 128 << 20

var errNeither = errors.New("the wasm runtime runs Python and .wasm modules")

// pythonHome is where CPython looks for its library, in lib. The module brings one, packed
// into its memory, at /usr/local; it is unpacked anew at every start, and has no start-up
// file of ours.
const pythonHome = "/lib/python"

// program finds what Argv[0] names.
func (r *Runtime) program(s sandbox.Spec) (program, error) {
	name := s.Argv[0]
	switch {
	case name == "python3" || name == "python":
		return r.pythonProgram(s)
	case path.Ext(name) == ".wasm":
		m, err := mounted(s, name)
		if err != nil {
			return program{}, &sandbox.StartError{Program: name, Err: err}
		}
		return program{module: m, argv: s.Argv, overlay: true}, nil
	}
	return program{}, &sandbox.StartError{Program: name, Err: errNeither}
}

func (r *Runtime) pythonProgram(s sandbox.Spec) (program, error) {
	dir := r.pythonFolder()
	if dir == "" {
		return program{}, &sandbox.StartError{Program: s.Argv[0], Err: errNoPython}
	}
	if err := python.Check(dir); err != nil {
		return program{}, &sandbox.StartError{Program: s.Argv[0], Err: err}
	}
	p := program{
		module: module{digest: python.ModuleDigest(), open: func() (io.ReadCloser, error) { return os.Open(filepath.Join(dir, python.Module)) }},
		argv:   append([]string{"python3"}, s.Argv[1:]...),
		mounts: []folder{{Host: raw(filepath.Join(dir, python.Lib)), Inner: pythonHome + "/lib"}},
		env:    []string{"PYTHONHOME=" + pythonHome},
	}
	if s.Deterministic {
		p.env = append(p.env, "PYTHONHASHSEED=0")
	}
	return p, nil
}

// mounted finds a module in the mounts, and its digest.
func mounted(s sandbox.Spec, name string) (module, error) {
	if !path.IsAbs(name) {
		name = path.Join(s.Dir, name)
	}
	for _, m := range s.Mounts {
		host, rel := m.Host, strings.TrimPrefix(name[min(len(name), len(m.Inner)):], "/")
		if !within(name, m.Inner) {
			continue
		}
		open := func() (io.ReadCloser, error) { return openIn(host, rel) }
		f, err := open()
		if err != nil {
			return module{}, err
		}
		defer f.Close()
		sum := sha256.New()
		n, err := io.Copy(sum, io.LimitReader(f, maxModule+1))
		if err != nil {
			return module{}, err
		}
		if n > maxModule {
			return module{}, fmt.Errorf("the module is larger than %d MiB", maxModule>>20)
		}
		return module{digest: spare.Digest(hex.EncodeToString(sum.Sum(nil))), open: open}, nil
	}
	return module{}, fs.ErrNotExist
}

// openIn opens a plain file in a folder, or the folder itself if it is a file.
func openIn(host, rel string) (io.ReadCloser, error) {
	if rel == "" {
		host, rel = filepath.Split(host)
	}
	root, err := os.OpenRoot(host)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Stat(filepath.FromSlash(rel))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no plain file")
	}
	return root.Open(filepath.FromSlash(rel))
}

// within reports whether p is dir or lies in it.
func within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

// environment is the program's: the caller's variables, what every program here gets
// that the caller did not name, and what the interpreter cannot do without.
func environment(s sandbox.Spec, p program) []string {
	dir := s.Dir
	if dir == "" {
		dir = "/tmp"
	}
	fixed := append([]string{"PWD=" + dir}, p.env...)
	var env []string
	for _, v := range s.Env {
		if !names(fixed, v) {
			env = append(env, v)
		}
	}
	for _, v := range []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8"} {
		if !names(env, v) {
			env = append(env, v)
		}
	}
	return append(env, fixed...)
}

// names reports whether env has the variable that v sets.
func names(env []string, v string) bool {
	name, _, _ := strings.Cut(v, "=")
	for _, e := range env {
		if n, _, _ := strings.Cut(e, "="); n == name {
			return true
		}
	}
	return false
}
