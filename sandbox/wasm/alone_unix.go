//go:build unix

package wasm

import (
	"errors"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare/sandbox"
)

// system holds a helper by signals.
type system struct{ process *os.Process }

func hold(p *os.Process, _ sandbox.Limits) (system, error) { return system{p}, nil }

func systemEnv() []string { return nil }

func (s system) close() {}

// pause returns when the helper has stopped: a stopped process runs on until each of its
// threads has heard of it.
func (s system) pause() error {
	if err := s.signal(unix.SIGSTOP); err != nil {
		return err
	}
	return awaitStop(s.process.Pid)
}

func (s system) resume() error { return s.signal(unix.SIGCONT) }

func (s system) signal(sig syscall.Signal) error {
	err := s.process.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) {
		return sandbox.ErrNotRunning
	}
	return err
}

func (s system) memory() (int64, error) { return residentSet(s.process.Pid) }

func (s system) peak(state *os.ProcessState) int64 {
	if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
		return usage.Maxrss * maxrssUnit
	}
	return 0
}

// signalOf names the signal that ended a process and what it stands for.
func signalOf(state *os.ProcessState) (string, sandbox.Cause) {
	ws, ok := state.Sys().(syscall.WaitStatus)
	if !ok || !ws.Signaled() {
		return "", ""
	}
	if ws.Signal() == syscall.SIGXCPU {
		return "SIGXCPU", sandbox.KilledTime
	}
	name := unix.SignalName(ws.Signal())
	if name == "" {
		name = strings.ToUpper(ws.Signal().String())
	}
	return name, sandbox.KilledSignal
}

func alive(pid int) bool {
	err := unix.Kill(pid, 0)
	return err == nil || errors.Is(err, unix.EPERM)
}

// floor sets the helper's own limits, where no other walls are around it.
func floor(o orders) {
	set := func(what int, n uint64) {
		_ = unix.Setrlimit(what, &unix.Rlimit{Cur: n, Max: n}) // a lower one that is there already is as good
	}
	set(unix.RLIMIT_CORE, 0)
	set(unix.RLIMIT_NOFILE, uint64(max(o.Files, defaultFiles))+helperFiles)
	if o.CPU > 0 { // the watch in the helper is more exact
		set(unix.RLIMIT_CPU, uint64(o.CPU/1e9)+2)
	}
	if o.Memory > 0 { // the watch in the helper is more exact
		set(unix.RLIMIT_DATA, uint64(o.Memory)+2*helperMemory+maxCode/4)
	}
	if o.Nice { // of the group, which is this process: Linux takes "process" for one thread
		_ = unix.Setpriority(unix.PRIO_PGRP, 0, 19)
	}
	harden()
}

// processorTime is what this process has used, in nanoseconds.
func processorTime() int64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
