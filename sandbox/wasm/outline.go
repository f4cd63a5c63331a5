package wasm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
)

// A helper that runs a compiled module needs of the module itself all but its functions'
// bodies, and wazero would look through each of them at every start: of CPython's start,
// that was half. So an entry keeps the module's outline, in which every body is one
// instruction, under which wazero finds the code of the whole module. Would it not find
// it, it would compile the outline, and the program's first step would be a trap; the
// helper looks for that.

// The sections of a module that matter here.
const (
	customSection = 0
	tableSection  = 4
	codeSection   = 10
)

const wasmHeader = 8 // bytes: the mark and the version

// emptyBody is a function without locals: unreachable, end.
var emptyBody = []byte{3, 0, 0, 0x0b}

// outline is a module without its functions' bodies and debug information. It must be
// one that wazero has compiled.
func outline(mod []byte) ([]byte, error) {
	if len(mod) < wasmHeader {
		return nil, errCut
	}
	out := bytes.Clone(mod[:wasmHeader])
	err := sections(mod, func(id byte, whole, body []byte) error {
		switch id {
		case customSection:
			if n, used := binary.Uvarint(body); used <= 0 || !bytes.HasPrefix(body[used:], []byte("name")) || n != 4 {
				return nil // names tell where a trap was; nothing reads the rest
			}
		case codeSection:
			count, n := binary.Uvarint(body)
			if n <= 0 || count > uint64(len(body)) {
				return errCut
			}
			empty := append(bytes.Clone(body[:n]), bytes.Repeat(emptyBody, int(count))...)
			out = append(out, codeSection)
			out = append(binary.AppendUvarint(out, uint64(len(empty))), empty...)
			return nil
		}
		out = append(out, whole...)
		return nil
	})
	return out, err
}

var errCut = errors.New("the module is cut off")

// sections calls visit with each section, as a whole and without its head.
func sections(mod []byte, visit func(id byte, whole, body []byte) error) error {
	for rest := mod[min(len(mod), wasmHeader):]; len(rest) > 0; {
		size, n := binary.Uvarint(rest[1:])
		if n <= 0 || size > uint64(len(rest)-1-n) {
			return errCut
		}
		whole := rest[:1+n+int(size)]
		if err := visit(whole[0], whole, whole[1+n:]); err != nil {
			return err
		}
		rest = rest[len(whole):]
	}
	return nil
}

// compile fills the entry.
func (h *inside) compile() report {
	name := filepath.Join(h.orders.Entry, moduleFile)
	mod, err := os.ReadFile(name)
	if err != nil {
		return h.broken(err)
	}
	if err := bounded(mod); err != nil {
		return report{Stage: ended, Refused: err.Error()}
	}
	code := filepath.Join(h.orders.Entry, codeFolder)
	if err := compileInto(code, mod); err != nil {
		return report{Stage: ended, Refused: "it is no module that can be run: " + err.Error()}
	}
	if err := h.shrink(name, code, mod); err != nil {
		return h.broken(err)
	}
	return report{Stage: ended}
}

// broken is the report of a helper that could not do its work.
func (h *inside) broken(err error) report {
	fmt.Fprintln(os.Stderr, "wasm helper:", err)
	return report{ExitCode: exitHelper}
}

// compileInto compiles a module with a folder of its own as the cache.
func compileInto(folder string, mod []byte) error {
	ctx := context.Background()
	cache, err := wazero.NewCompilationCacheWithDir(folder)
	if err != nil {
		return err
	}
	r := wazero.NewRuntimeWithConfig(ctx, settings(cache))
	_, err = r.CompileModule(experimental.WithCompilationWorkers(ctx, runtime.GOMAXPROCS(0)), mod)
	return err
}

// shrink puts the outline in the module's place: it compiles it too, which takes no time,
// and gives the whole module's code the outline's name.
func (h *inside) shrink(name, code string, mod []byte) error {
	small, err := outline(mod)
	if err != nil {
		return err
	}
	made, err := onlyFile(code)
	if err != nil || made == "" { // wazero interprets on this machine
		return err
	}
	scratch := filepath.Join(h.orders.Entry, "outline")
	if err := compileInto(scratch, small); err != nil {
		return fmt.Errorf("compile its outline: %w", err)
	}
	alike, err := onlyFile(scratch)
	if err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(code, made), filepath.Join(code, alike)); err != nil {
		return err
	}
	if err := os.WriteFile(name, small, 0o600); err != nil {
		return err
	}
	return os.RemoveAll(scratch)
}

// onlyFile names the one file that wazero has put into a folder, from there; "" if none.
func onlyFile(folder string) (name string, err error) {
	found, err := filepath.Glob(filepath.Join(folder, "*", "*"))
	switch {
	case err != nil || len(found) == 0:
		return "", err
	case len(found) > 1:
		return "", fmt.Errorf("wazero left %d files where there should be one", len(found))
	}
	return filepath.Rel(folder, found[0])
}

// sizeOf is a file's length, or 0.
func sizeOf(name string) int64 {
	info, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}
