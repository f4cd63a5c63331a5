package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spare-compute/spare/sandbox"
)

// Exit codes with which the client speaks of itself, unless the program used them.
const (
	codeEngine = 125 // the engine failed
	codeNoExec = 126 // the program cannot be executed
	codeNoFile = 127 // the program is not there
	codeSignal = 128 // and the number of the signal
)

// deadly are the signals that end a container's first process although it has not asked
// for them: those the kernel forces on it.
var deadly = map[int]string{
	4: "SIGILL", 5: "SIGTRAP", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 31: "SIGSYS",
}

// state is a container's end as the engine saw it.
type state struct {
	Status    string
	OOMKilled bool
	Error     string
}

// started reports whether the program was ever executed.
func (s state) started() bool {
	switch s.Status {
	case "created", "configured", "initialized", "":
		return false
	}
	return true
}

// judge turns the client's exit code into a result.
func (n *run) judge(ctx context.Context, code int) (sandbox.Result, error) {
	cpu, peak, ooms := n.use.read()
	res := sandbox.Result{
		ExitCode: code, Cause: sandbox.Exited, CPU: cpu, Wall: time.Since(n.started), PeakMemory: peak,
		OutputTruncated: n.out.truncated.Load(),
	}
	if name, ok := deadly[code-codeSignal]; ok {
		res.ExitCode, res.Signal, res.Cause = -1, name, sandbox.KilledSignal
	}
	if _, err := os.Stat(filepath.Join(n.dir, "oom")); err == nil {
		ooms++ // so podman's watcher says with version 1 of control groups
	}
	cause, stopped := n.cause.Load().(sandbox.Cause)
	var s state
	if code != 0 && !stopped {
		var err error
		if s, err = n.state(ctx); err != nil {
			return sandbox.Result{}, n.failed(code, err)
		}
		if !s.started() {
			return sandbox.Result{}, n.failed(code, errors.New(s.Error))
		}
	}
	res.Written = n.disk.written()
	l := n.spec.Limits
	switch {
	case stopped:
		res.Cause = cause
		if code >= codeEngine { // the client's account of a container that went away under it
			res.ExitCode, res.Signal = -1, "SIGKILL"
		}
	case n.disk.exceeded():
		res.Cause = sandbox.KilledDisk // it was quicker than the watch
	case code == 0:
	case res.Signal == "SIGKILL" && n.spentCPU(cpu, s.OOMKilled || ooms > 0):
		res.Cause = sandbox.KilledTime // the limit of the process bit before the watch
	// Nothing inside can kill a container's first process, and only the machine's owner
	// else outside: what does is the kernel, for want of memory.
	case l.Memory > 0 && (s.OOMKilled || ooms > 0 || res.Signal == "SIGKILL"):
		res.ExitCode, res.Signal, res.Cause = -1, "SIGKILL", sandbox.KilledMemory
		res.PeakMemory = max(peak, l.Memory)
	}
	return res, nil
}

// spentCPU reports whether a program that was killed had used up its processor time: as
// far as that was seen or, where nothing was, as far as it can be.
func (n *run) spentCPU(seen time.Duration, oom bool) bool {
	limit := n.spec.Limits.CPU
	switch {
	case limit == 0 || oom:
		return false
	case seen == 0:
		return time.Since(n.started) >= limit
	}
	return seen >= limit-lookLater
}

// state asks the engine how the container ended.
func (n *run) state(ctx context.Context) (state, error) {
	raw, err := n.engine.call(ctx, "inspect", "--type", "container", "--format", "{{json .State}}", n.order.name)
	if err != nil {
		return state{}, err
	}
	var s state
	if err := json.Unmarshal(raw, &s); err != nil {
		return state{}, fmt.Errorf("%s's account of the container cannot be read: %w", n.engine.name(), err)
	}
	return s, nil
}

// failed says why the program never ran, in the engine's words: err's if it has some, or
// what the client said last.
func (n *run) failed(code int, err error) error {
	said := lastWords(n.errs.last)
	if said == "" {
		said = err.Error()
	}
	program := n.spec.Argv[0]
	dir := strings.Contains(said, "workdir") || strings.Contains(said, "chdir") || strings.Contains(said, "working directory")
	switch {
	case code == codeNoFile && !dir:
		return &sandbox.StartError{Program: program, Err: syscall.ENOENT}
	case code == codeNoExec && !dir:
		return &sandbox.StartError{Program: program, Err: syscall.EACCES}
	}
	return &engineError{engine: n.engine.name(), code: code, said: said}
}

// engineError is an engine that could not run a container.
type engineError struct {
	engine string
	code   int
	said   string
}

func (e *engineError) Error() string {
	return fmt.Sprintf("%s could not run the container (code %d): %s", e.engine, e.code, e.said)
}
