package wasm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
)

// Where a helper inside another runtime finds what it needs. Nothing of it is seen by
// the program, whose files are made of the mounts only.
const (
	innerProgram = "/spare-wasm/program"
	innerEntry   = "/spare-wasm/entry"
	innerLib     = "/spare-wasm/lib"
	innerReport  = "/spare-wasm/report"
)

// What a helper needs beside the program's own memory, as measured: 90 MiB for CPython's
// code and the tables to it, 30 MiB for Go and this program.
const (
	helperMemory  = 256 << 20
	helperThreads = 64
	helperFiles   = 64
	diskSlack     = 64 << 20 // the helper's own count is exact; the other runtime's is the wall behind it
)

// execute runs a helper on one program.
func (r *Runtime) execute(ctx context.Context, s sandbox.Spec, p program, entry string) (sandbox.Result, report, error) {
	o := orders{
		Version: spare.Version, Entry: entry,
		Argv: raws(p.argv), Env: raws(environment(s, p)), Dir: raw(s.Dir), Overlay: p.overlay,
		Deterministic: s.Deterministic, Memory: s.Limits.Memory, Files: s.Limits.Files, Disk: s.Limits.Disk,
		TmpSize: tmpSize(s.Limits.Memory), Nice: s.Limits.Nice,
	}
	if o.Dir == "" {
		o.Dir = "/tmp"
	}
	if o.Files == 0 {
		o.Files = defaultFiles
	}
	for _, m := range s.Mounts {
		o.Mounts = append(o.Mounts, folder{Host: raw(m.Host), Inner: raw(m.Inner), Writable: m.Writable})
	}
	o.Mounts = append(o.Mounts, p.mounts...)
	scratch, err := r.scratch()
	if err != nil {
		return sandbox.Result{}, report{}, err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	o.Report = filepath.Join(scratch, "report")
	if r.inside == nil {
		return r.alone(ctx, s, o, scratch)
	}
	return r.carried(ctx, s, o, p)
}

const defaultFiles = 1024

// tmpSize bounds the program's /tmp as the linux runtime does.
func tmpSize(memory int64) int64 {
	if memory == 0 {
		return 512 << 20
	}
	return min(max(memory/2, 16<<20), 2<<30)
}

// scratch makes a run's own folder, with a report that says nothing yet.
func (r *Runtime) scratch() (string, error) {
	runs := filepath.Join(r.cache, "runs")
	if err := os.MkdirAll(runs, 0o700); err != nil {
		return "", fmt.Errorf("make the run's folder: %w", err)
	}
	sweepRuns(runs)
	dir, err := os.MkdirTemp(runs, pidPrefix())
	if err != nil {
		return "", fmt.Errorf("make the run's folder: %w", err)
	}
	return dir, os.WriteFile(filepath.Join(dir, "report"), nil, 0o600)
}

func pidPrefix() string { return strconv.Itoa(os.Getpid()) + "-" }

// sweepRuns removes what processes that are gone have left. A folder's name begins with
// the number of its process; a number that is in use again keeps it for a while longer.
func sweepRuns(runs string) {
	list, _ := os.ReadDir(runs)
	for _, d := range list {
		if abandoned(d.Name()) {
			_ = os.RemoveAll(filepath.Join(runs, d.Name()))
		}
	}
}

// abandoned reports whether a name begins with the number of a process that is gone.
func abandoned(name string) bool {
	number, _, ok := strings.Cut(name, "-")
	pid, err := strconv.Atoi(number)
	return ok && err == nil && pid != os.Getpid() && !alive(pid)
}

// carried runs the helper inside another runtime: that one keeps the limits, pauses and
// kills, and hands the output on.
func (r *Runtime) carried(ctx context.Context, s sandbox.Spec, o orders, p program) (sandbox.Result, report, error) {
	host := struct{ entry, report string }{o.Entry, o.Report}
	c := sandbox.Spec{
		Argv: []string{innerProgram}, Dir: "/tmp", Limits: s.Limits,
		Steer: s.Steer, Stdout: s.Stdout, Stderr: s.Stderr,
		Mounts: append(slices.Clone(s.Mounts),
			sandbox.Mount{Host: r.helper[0], Inner: innerProgram},
			sandbox.Mount{Host: host.entry, Inner: innerEntry},
			sandbox.Mount{Host: host.report, Inner: innerReport, Writable: true}),
	}
	o.Entry, o.Report, o.Tmp = innerEntry, innerReport, "/tmp"
	for i := range o.Mounts[:len(s.Mounts)] { // there, they are where the program sees them
		o.Mounts[i].Host = o.Mounts[i].Inner
	}
	for i := range p.mounts {
		m := &o.Mounts[len(s.Mounts)+i]
		inner := innerLib + strconv.Itoa(i)
		c.Mounts = append(c.Mounts, sandbox.Mount{Host: string(m.Host), Inner: inner})
		m.Host = raw(inner)
	}
	return r.within(ctx, c, o, host.report)
}

// within raises the limits by what the helper itself needs, and runs it.
func (r *Runtime) within(ctx context.Context, c sandbox.Spec, o orders, reported string) (sandbox.Result, report, error) {
	l := &c.Limits
	l.Processes, l.Files = helperThreads, max(l.Files, defaultFiles)+helperFiles
	if l.Memory > 0 {
		l.Memory += helperMemory
	}
	if l.Disk > 0 {
		l.Disk += diskSlack
	}
	env, err := ordersInEnv(o)
	if err != nil {
		return sandbox.Result{}, report{}, err
	}
	c.Env = append(env, helperEnv(o)...)
	res, err := r.inside.Run(ctx, c)
	var start *sandbox.StartError
	if errors.As(err, &start) { // not the program's fault: it is ours that did not start
		err = fmt.Errorf("start the wasm helper inside the %s runtime: %w", r.inside.Name(), start.Err)
	}
	return res, readReport(reported), err
}

// helperEnv is what Go in a helper needs to know. Compiled code has no place where Go
// could interrupt it: so trying makes no sense, there must be a second processor for what
// watches it, and garbage is collected only when there is much of it, since that would
// hold up all but the module until it calls WASI again.
func helperEnv(o orders) []string {
	if o.Compile {
		return []string{"GOMAXPROCS=" + strconv.Itoa(o.Cores), fmt.Sprintf("GOMEMLIMIT=%dB", o.Memory), "GOTRACEBACK=none"}
	}
	return []string{"GOMAXPROCS=2", "GOGC=off", "GOMEMLIMIT=320MiB", "GODEBUG=asyncpreemptoff=1", "GOTRACEBACK=none"}
}

// Compiling is bounded too, by what its run may take and by this: a module can be made to
// take long. Each core that compiles has a thread, of which a helper has helperThreads.
const (
	compileWall   = 5 * time.Minute
	compileMemory = 3 << 30
	compileCores  = 16
)

// compileLimits are what compiling a module for a run may take.
func compileLimits(run sandbox.Limits) sandbox.Limits {
	least := func(limit, most int64) int64 {
		if limit <= 0 {
			return most
		}
		return min(limit, most)
	}
	return sandbox.Limits{
		CPUs: run.CPUs, Nice: run.Nice, Disk: maxCode, Output: 1 << 20,
		Memory: least(run.Memory, compileMemory), Wall: time.Duration(least(int64(run.Wall), int64(compileWall))),
	}
}

// compilersFor is how many processors compiling does well to use.
func compilersFor(cpus float64) int {
	n := min(runtime.NumCPU(), compileCores)
	if cpus > 0 {
		n = min(n, int(math.Ceil(cpus)))
	}
	return n
}

// compile has a helper of its own fill an entry: it runs none of the module's code. It is
// part of the run that it is for: within its limits, and paused with it.
func (r *Runtime) compile(ctx context.Context, entry string, run sandbox.Spec) (time.Duration, error) {
	var said lastWords
	limits := compileLimits(run.Limits)
	o := orders{
		Version: spare.Version, Compile: true, Entry: entry, Report: filepath.Join(entry, "report"),
		Memory: limits.Memory, Nice: limits.Nice, Cores: compilersFor(limits.CPUs),
	}
	if err := os.WriteFile(o.Report, nil, 0o600); err != nil {
		return 0, err
	}
	var res sandbox.Result
	var rep report
	var err error
	if r.inside == nil {
		s := sandbox.Spec{Limits: limits, Steer: run.Steer, Stdout: &said, Stderr: &said}
		res, rep, err = r.alone(ctx, s, o, "")
	} else {
		c := sandbox.Spec{
			Argv: []string{innerProgram}, Dir: "/tmp", Limits: limits, Steer: run.Steer, Stdout: &said, Stderr: &said,
			Mounts: []sandbox.Mount{{Host: r.helper[0], Inner: innerProgram}, {Host: entry, Inner: innerEntry, Writable: true}},
		}
		reported := o.Report
		inner := o
		inner.Entry, inner.Report = innerEntry, innerEntry+"/report"
		res, rep, err = r.within(ctx, c, inner, reported)
	}
	switch {
	case err != nil:
		return res.Wall, err
	case rep.Refused != "":
		return res.Wall, &moduleError{rep.Refused}
	case res.Cause == sandbox.KilledCancel:
		return res.Wall, context.Cause(ctx)
	case res.Cause == sandbox.KilledTime && limits.Wall < compileWall, res.Cause == sandbox.KilledMemory && limits.Memory < compileMemory:
		return res.Wall, &overLimit{res.Cause}
	case res.Cause == sandbox.KilledTime, res.Cause == sandbox.KilledMemory, res.Cause == sandbox.KilledDisk:
		return res.Wall, &moduleError{fmt.Sprintf("compiling it takes too much (%s: %v, %d MiB and %d MiB of code are allowed)", res.Cause, compileWall, compileMemory>>20, maxCode>>20)}
	case rep.Stage != ended:
		return res.Wall, fmt.Errorf("compile the module: the wasm helper failed (%s): %s", words(res), said.text())
	}
	return res.Wall, os.Remove(o.Report)
}

// lastWords keeps the end of what a helper says when it should say nothing.
type lastWords struct{ buf []byte }

func (l *lastWords) Write(b []byte) (int, error) {
	const most = 2000
	l.buf = append(l.buf, b...)
	l.buf = l.buf[max(0, len(l.buf)-most):]
	return len(b), nil
}

func (l *lastWords) text() string {
	if text := strings.TrimSpace(string(l.buf)); text != "" {
		return text
	}
	return "it said nothing"
}
