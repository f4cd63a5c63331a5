package wasm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/experimental/sysfs"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"

	"github.com/spare-compute/spare/sandbox"
)

// Init must be called by main, after sandbox.Init. In a helper it runs the program and
// never returns; everywhere else it does nothing.
func Init() {
	mark := os.Getenv(markEnv)
	if mark == "" {
		return
	}
	o, err := readOrders(mark, os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "wasm helper:", err)
		os.Exit(exitHelper)
	}
	h := &inside{orders: o}
	if mark == fromStdin {
		go h.lifeline()
	}
	if o.Floor {
		floor(o)
	}
	if o.Compile {
		h.end(h.compile())
	}
	h.end(h.serve())
}

// exitHelper is how a helper ends that could not do its work. How a program ended stands
// in the report.
const exitHelper = 3

// inside is a helper at work.
type inside struct {
	orders orders
	memory *memory
	world  *world

	mu   sync.Mutex
	over bool
}

// lifeline ends the helper when its parent is gone.
func (h *inside) lifeline() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	if h.orders.Scratch != "" {
		_ = os.RemoveAll(h.orders.Scratch)
	}
	os.Exit(exitHelper)
}

// end writes the report and ends the process. What calls it first, decides.
func (h *inside) end(rep report) {
	h.mu.Lock()
	if h.over {
		select {} // the one that was first is about to end us
	}
	h.over = true
	if h.memory != nil {
		rep.Memory, rep.Starved = h.memory.peak.Load(), h.memory.refused.Load()
	}
	if h.world != nil {
		rep.Written = h.world.disk.written()
	}
	code := rep.ExitCode
	if err := rep.write(h.orders.Report); err != nil {
		fmt.Fprintln(os.Stderr, "wasm helper: write the report:", err)
		code = exitHelper
	}
	os.Exit(code)
}

// note writes what is to be known if the helper falls.
func (h *inside) note(rep report) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		_ = rep.write(h.orders.Report) // without it, a fall has no cause
	}
}

// killed ends the run because of a limit.
func (h *inside) killed(why sandbox.Cause) {
	h.end(report{Stage: ended, Cause: why})
}

// settings are the same for compiling and running: wazero's own key for what it compiled
// depends on them. Its debug information would be read back from the disk eight bytes at
// a time, which takes longer than compiling CPython; its checks for a context that is
// done would slow down every loop (the process is killed instead).
func settings(cache wazero.CompilationCache) wazero.RuntimeConfig {
	return wazero.NewRuntimeConfig().
		WithCompilationCache(cache).
		WithCoreFeatures(api.CoreFeaturesV2).
		WithDebugInfoEnabled(false).
		WithCloseOnContextDone(false)
}

// serve runs the program.
func (h *inside) serve() report {
	o := h.orders
	if err := whole(o.Entry); err != nil {
		return report{Stale: true, Refused: err.Error()}
	}
	mod, err := mapped(filepath.Join(o.Entry, moduleFile))
	if err != nil {
		return report{Stale: true, Refused: err.Error()}
	}
	ctx := context.Background()
	cache, err := wazero.NewCompilationCacheWithDir(filepath.Join(o.Entry, codeFolder))
	if err != nil {
		return report{Stale: true, Refused: err.Error()}
	}
	h.memory = newMemory(o.Memory)
	ctx = experimental.WithMemoryAllocator(ctx, h.memory)
	r := wazero.NewRuntimeWithConfig(ctx, settings(cache))
	time := systemClocks()
	var chance io.Reader = rand.Reader
	if o.Deterministic {
		v := newVirtual(strs(o.Env))
		time, chance = clocks{v.walltime, v.nanotime, v.sleep}, v.random
	}
	if err := instantiateWASI(ctx, r, time); err != nil {
		return h.broken(err)
	}
	code := filepath.Join(o.Entry, codeFolder)
	before, err := onlyFile(code)
	if err != nil {
		return report{Stale: true, Refused: err.Error()}
	}
	loaded := quicken(sizeOf(filepath.Join(code, before)))
	compiled, err := r.CompileModule(ctx, mod)
	loaded()
	if err != nil {
		return report{Stale: true, Refused: err.Error()}
	}
	if after, err := onlyFile(code); err != nil || after != before {
		return report{Stale: true, Refused: "wazero did not take what was compiled before"}
	}
	if err := runnable(compiled); err != nil {
		return report{Stage: ended, Refused: err.Error()}
	}
	h.world, err = newWorld(o, h.killed)
	if err != nil {
		return h.broken(err)
	}
	config, err := h.config(time, chance)
	if err != nil {
		return report{Stage: ended, Refused: err.Error()}
	}
	if err := (report{Stage: running}).write(o.Report); err != nil {
		return h.broken(err)
	}
	go h.watch()
	return h.instantiate(ctx, r, compiled, config)
}

// runnable says in a sentence what a module lacks that compiled well.
func runnable(m wazero.CompiledModule) error {
	for _, f := range m.ImportedFunctions() {
		from, name, _ := f.Import()
		if from != wasi_snapshot_preview1.ModuleName {
			return fmt.Errorf("it imports %s from %s, and there is nothing here but WASI (%s)", quoted(name), quoted(from), wasi_snapshot_preview1.ModuleName)
		}
	}
	for _, m := range m.ImportedMemories() {
		from, name, _ := m.Import()
		return fmt.Errorf("it imports the memory %s from %s; it must bring its own", quoted(name), quoted(from))
	}
	if m.ExportedFunctions()["_start"] == nil {
		return errors.New("it exports no _start: build it as a program (WASI command), not as a library")
	}
	return nil
}

// quoted keeps what a module calls things short and printable.
func quoted(name string) string {
	const most = 60
	return fmt.Sprintf("%.*q", most, name)
}

func (h *inside) config(time clocks, chance io.Reader) (wazero.ModuleConfig, error) {
	o := h.orders
	c := wazero.NewModuleConfig().WithName("").WithArgs(strs(o.Argv)...).
		WithStdout(plain{os.Stdout}).WithStderr(plain{os.Stderr}).
		WithFSConfig(wazero.NewFSConfig().(sysfs.FSConfig).WithSysFSMount(h.world, "/"))
	for _, v := range strs(o.Env) {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("the variable %q has no name and value", v)
		}
		c = c.WithEnv(name, value)
	}
	step := sys.ClockResolution(1)
	if o.Deterministic {
		step = clockStep
	}
	return c.WithWalltime(time.wall, step).WithNanotime(time.mono, step).WithNanosleep(time.sleep).
		WithOsyield(runtime.Gosched).WithRandSource(chance), nil
}

// plain hides what stdout and stderr are: a program sees the same in every run.
type plain struct{ w io.Writer }

func (p plain) Write(b []byte) (int, error) { return p.w.Write(b) }

// instantiate runs _start and says how that ended.
func (h *inside) instantiate(ctx context.Context, r wazero.Runtime, m wazero.CompiledModule, c wazero.ModuleConfig) (rep report) {
	defer func() {
		// wazero panics when there is no memory to begin with, and a fault in it is the
		// module's luck, not ours.
		if p := recover(); p != nil {
			trap := fmt.Sprint(p)
			if h.memory.refused.Load() {
				trap = "more memory than it may have, to begin with"
			}
			rep = report{Stage: ended, ExitCode: exitHelper, Trap: trap}
		}
	}()
	_, err := r.InstantiateModule(ctx, m, c)
	var exit *sys.ExitError
	switch {
	case errors.As(err, &exit):
		return report{Stage: ended, ExitCode: int(exit.ExitCode() & 0xff)} // as everywhere, a byte of it
	case err == nil:
		return report{Stage: ended}
	}
	if _, text, ran := strings.Cut(err.Error(), trapMark); ran {
		text = strings.TrimPrefix(text, "wasm error: ")
		fmt.Fprintln(os.Stderr, "wasm error: "+text)
		text, _, _ = strings.Cut(text, "\n")
		return report{Stage: ended, ExitCode: exitHelper, Trap: text}
	}
	return report{Stage: ended, Refused: err.Error()}
}

const trapMark = "] failed: " // wazero's, between a function's name and what it trapped on

// The watch ends a run that takes what only the helper itself can see: tables and what
// else wazero keeps for a module lie in Go's memory, not in the module's.
const (
	watchPause = 50 * time.Millisecond
	tableRoom  = 256 << 20
)

func (h *inside) watch() {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	taken := func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	most := taken() + tableRoom
	for range time.Tick(watchPause) {
		over := taken() > most
		if over {
			// Most of it may be garbage: each file that a program looks at leaves some.
			// This waits for the module's next call, and without one it takes no more;
			// processor time has a wall behind this one. One that goes on taking may bring
			// the helper down meanwhile: then that is why.
			h.note(report{Stage: running, Cause: sandbox.KilledMemory})
			runtime.GC()
			if over = taken() > most; !over {
				h.note(report{Stage: running})
			}
		}
		switch {
		case over:
			h.killed(sandbox.KilledMemory)
		case h.orders.CPU > 0 && processorTime() > h.orders.CPU:
			h.killed(sandbox.KilledTime)
		}
	}
}
