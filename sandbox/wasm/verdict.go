package wasm

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spare-compute/spare/sandbox"
)

// moduleError says why a module is none that can be run. It is the module's fault.
type moduleError struct{ why string }

func (e *moduleError) Error() string { return e.why }

// overLimit says that compiling took more than the run may.
type overLimit struct{ cause sandbox.Cause }

func (e *overLimit) Error() string { return "compile the module: " + string(e.cause) }

// verdict joins how the helper ended with what it said.
func verdict(s sandbox.Spec, res sandbox.Result, rep report) (sandbox.Result, error) {
	if rep.Refused != "" {
		return sandbox.Result{}, &sandbox.StartError{Program: s.Argv[0], Err: &moduleError{rep.Refused}}
	}
	res.PeakMemory = max(res.PeakMemory, rep.Memory)
	if rep.Stage == ended {
		res.Written = rep.Written
	}
	switch {
	case res.Cause == sandbox.KilledTime, res.Cause == sandbox.KilledCancel, res.Cause == sandbox.KilledDisk, res.Cause == sandbox.KilledMemory:
		return res, nil
	case rep.Stage == notBegun:
		return res, fmt.Errorf("run %s: the wasm helper ended before the program began (%s)", s.Argv[0], words(res))
	case rep.Stage == running:
		// The helper itself fell: for want of memory, or by a fault that this module finds.
		res.ExitCode, res.Cause = -1, cmp.Or(rep.Cause, sandbox.KilledSignal)
		if most := s.Limits.Memory; most > 0 && res.PeakMemory > most+tableRoom { // quicker than the watch
			res.Cause = sandbox.KilledMemory
		}
		if res.Signal == "" {
			res.Signal = "a crash of the wasm helper"
		}
		return res, nil
	}
	res.ExitCode, res.Signal, res.Cause = rep.ExitCode, "", sandbox.Exited
	switch {
	case rep.Cause != "":
		res.ExitCode, res.Cause = -1, rep.Cause
	case rep.Starved && (rep.Trap != "" || rep.ExitCode != 0):
		res.ExitCode, res.Cause = -1, sandbox.KilledMemory
	case rep.Trap != "":
		res.ExitCode, res.Signal, res.Cause = -1, "a trap ("+rep.Trap+")", sandbox.KilledSignal
	}
	return res, nil
}

func words(res sandbox.Result) string {
	if res.Signal != "" {
		return res.Signal
	}
	return fmt.Sprintf("exit code %d", res.ExitCode)
}

var errNoPython = errors.New("CPython for WebAssembly is not on this machine yet; it comes from the hub")
