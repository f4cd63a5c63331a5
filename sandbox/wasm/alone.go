package wasm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/spare-compute/spare/sandbox"
)

// alone runs the helper as a plain process. Its standard input is its life line: when
// this process goes, however that happens, the helper reads its end and goes too.
func (r *Runtime) alone(ctx context.Context, s sandbox.Spec, o orders, scratch string) (sandbox.Result, report, error) {
	o.Floor, o.CPU, o.Scratch = true, int64(s.Limits.CPU), scratch
	if scratch != "" {
		o.Tmp = filepath.Join(scratch, "tmp")
		if err := os.Mkdir(o.Tmp, 0o700); err != nil {
			return sandbox.Result{}, report{}, fmt.Errorf("make the run's folder: %w", err)
		}
	}
	// Linux ties the helper's life to the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	h := &helper{left: s.Limits.Output, limited: s.Limits.Output > 0}
	h.clock = stopwatch{limit: s.Limits.Wall, ring: func() { h.kill(sandbox.KilledTime) }}
	if err := h.start(r.helper, s, o); err != nil {
		return sandbox.Result{}, report{}, fmt.Errorf("start the wasm helper: %w", err)
	}
	h.clock.start()
	detach, err := s.Steer.Attach(h)
	if err != nil {
		h.kill(sandbox.KilledCancel)
	}
	release := context.AfterFunc(ctx, func() { h.kill(sandbox.KilledCancel) })
	waitErr := h.cmd.Wait()
	release()
	detach()
	h.clock.stop()
	res := h.result()
	h.system.close()
	var exit *exec.ExitError
	if waitErr != nil && !errors.As(waitErr, &exit) {
		return res, report{}, fmt.Errorf("run the wasm helper: %w", waitErr)
	}
	return res, readReport(o.Report), err
}

// helper is a plain helper process.
type helper struct {
	cmd    *exec.Cmd
	system system // what this system has to hold and to end a process
	clock  stopwatch

	mu        sync.Mutex
	cause     sandbox.Cause // why it was killed, if it was
	left      int64         // bytes of output still handed on
	limited   bool
	truncated bool
}

// outputDelay is how long a helper's output may stay open after its end. Nothing can hold
// it open but a process that the helper started, which it cannot.
const outputDelay = 5 * time.Second

func (h *helper) start(argv []string, s sandbox.Spec, o orders) error {
	h.cmd = exec.Command(argv[0], argv[1:]...)
	h.cmd.Env = append([]string{markEnv + "=" + fromStdin}, helperEnv(o)...)
	h.cmd.Env = append(h.cmd.Env, systemEnv()...)
	h.cmd.Dir = filepath.Dir(o.Report)
	h.cmd.SysProcAttr = attributes()
	h.cmd.WaitDelay = outputDelay
	stdin, err := h.cmd.StdinPipe()
	if err != nil {
		return err
	}
	if s.Stdout != nil {
		h.cmd.Stdout = &capped{h, s.Stdout}
	}
	if s.Stderr != nil {
		h.cmd.Stderr = &capped{h, s.Stderr}
		if sameWriter(s.Stdout, s.Stderr) {
			h.cmd.Stderr = h.cmd.Stdout
		}
	}
	if err := h.cmd.Start(); err != nil {
		return err
	}
	if h.system, err = hold(h.cmd.Process, s.Limits); err != nil {
		_ = h.cmd.Process.Kill()
		_ = h.cmd.Wait()
		return err
	}
	// An error to write means that the process is gone: waiting for it finds out why.
	_ = writeOrders(stdin, o)
	return nil
}

func (h *helper) kill(why sandbox.Cause) {
	h.mu.Lock()
	if h.cause == "" {
		h.cause = why
	}
	h.mu.Unlock()
	_ = h.cmd.Process.Kill() // it has no children: a module cannot start any
}

func (h *helper) result() sandbox.Result {
	h.mu.Lock()
	defer h.mu.Unlock()
	state := h.cmd.ProcessState
	res := sandbox.Result{
		ExitCode: state.ExitCode(), Cause: h.cause, CPU: state.UserTime() + state.SystemTime(), Wall: h.clock.elapsed(),
		PeakMemory: h.system.peak(state), OutputTruncated: h.truncated,
	}
	if signal, cause := signalOf(state); signal != "" {
		res.ExitCode, res.Signal = -1, signal
		if res.Cause == "" {
			res.Cause = cause
		}
	}
	if res.Cause == "" {
		res.Cause = sandbox.Exited
	}
	return res
}

// Pause implements sandbox.Steered. Time does not count meanwhile.
func (h *helper) Pause() error {
	if err := h.system.pause(); err != nil {
		return err
	}
	h.clock.stop()
	return nil
}

// Resume implements sandbox.Steered.
func (h *helper) Resume() error {
	h.clock.start()
	return h.system.resume()
}

// Memory implements sandbox.Steered.
func (h *helper) Memory() (int64, error) { return h.system.memory() }

// capped hands on output until the limit is used up and drops the rest: a program must
// never block on, or fill, what listens to it. Stdout and stderr share the limit.
type capped struct {
	h *helper
	w io.Writer
}

func (c *capped) Write(b []byte) (int, error) {
	keep := c.h.take(len(b))
	if keep > 0 && c.w != nil {
		if _, err := c.w.Write(b[:keep]); err != nil {
			c.w = nil
		}
	}
	return len(b), nil
}

func (h *helper) take(n int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.limited {
		return n
	}
	keep := min(int64(n), h.left)
	h.left -= keep
	h.truncated = h.truncated || keep < int64(n)
	return int(keep)
}

// sameWriter compares without panicking on writers that cannot be compared.
func sameWriter(a, b io.Writer) (same bool) {
	defer func() {
		if recover() != nil {
			same = false
		}
	}()
	return a == b
}
