// Package stage is one run of an App: it lays out the folders and variables that the
// contract promises, runs the entrypoint in a sandbox, and says how that ended in the
// ledger's words. It knows nothing of jobs, leases or networks, and keeps nothing. The
// node calls it for Apps; engines are run the same way.
package stage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/bundle"
	"github.com/spare-compute/spare/sandbox"
)

// Where things are inside. An App learns them from its variables only.
const (
	innerApp        = "/spare/app"
	innerTask       = "/spare/task"
	innerResults    = "/spare/results"
	innerShared     = "/spare/cache/shared"
	innerUser       = "/spare/cache/user"
	innerCheckpoint = "/spare/checkpoint"
)

// A Task is one chunk for one App.
type Task struct {
	Bundle     string // the App's bundle, unpacked: a folder on this machine
	Root       string // the entrypoint's folder inside it, "." for the bundle's own
	Entrypoint string // a file in Root
	Around     spare.Environment
	Image      *sandbox.Image // the image that Around names, on this machine
	GPUs       []string       // models the App asks for, if it asks for one
	Input      string         // the chunk: a file on this machine
	Params     []byte         // JSON; "{}" if empty
	Chunk      int
	JobID      spare.JobID
	JobName    string
	Work       string // a folder of this run's own; results are left in it

	SharedCache string // read-only; "" = an empty folder
	UserCache   string // kept by the caller; "" = a folder that goes with the run
	Checkpoint  string // kept by the caller; "" = a folder that goes with the run

	Limits sandbox.Limits
	Grace  time.Duration  // from SIGTERM to the end when it is cancelled
	Steer  *sandbox.Steer // pauses and resumes it; may be nil
}

// Ended is how a run ended.
type Ended struct {
	Outcome  spare.Outcome
	ExitCode int
	Message  string // a sentence with the App's own last words; "" on success
	Log      []byte // the tail of what it printed, at most LogLimit bytes
	Results  string // the folder of what it made; on success it holds only what may travel
	Usage    spare.Usage
}

// RunApp runs one task. What ctx ends is cancelled. It always says how the run ended:
// a fault of the machine is the outcome sandbox_failed.
func RunApp(ctx context.Context, rt sandbox.Runtime, t Task) Ended {
	argv, err := command(t)
	if err != nil {
		return Ended{Outcome: spare.AppFailed, Message: err.Error()}
	}
	spec, results, err := t.spec(argv)
	if err != nil {
		return Ended{Outcome: spare.SandboxFailed, Message: fmt.Sprintf("lay out the task's folders: %v", err)}
	}
	log := &tail{}
	spec.Stdout, spec.Stderr = log, log
	result, err := rt.Run(ctx, spec)
	ended := judge(ctx, result, err, log)
	if ended.Outcome == spare.Succeeded {
		ended = collected(results)
	}
	ended.Log, ended.Results = log.Bytes(), results
	ended.Usage = spare.Usage{
		Wall: result.Wall, CPU: result.CPU, PeakMemory: result.PeakMemory, Written: result.Written,
	}
	return ended
}

// collected looks through what a run that ended well left, under package bundle's rules.
func collected(results string) Ended {
	_, err := bundle.CollectResults(results, bundle.Limits{})
	var refused *bundle.Refused
	switch {
	case errors.As(err, &refused):
		return Ended{Outcome: spare.AppFailed, Message: fmt.Sprintf("its results are %v", refused)}
	case err != nil:
		return Ended{Outcome: spare.SandboxFailed, Message: fmt.Sprintf("collect the results: %v", err)}
	}
	return Ended{Outcome: spare.Succeeded}
}

// spec makes the run's own folders and says what is seen inside.
func (t Task) spec(argv []string) (sandbox.Spec, string, error) {
	results := filepath.Join(t.Work, "results")
	mounts := []sandbox.Mount{
		{Host: filepath.Join(t.Bundle, filepath.FromSlash(t.Root)), Inner: innerApp},
		{Host: t.Input, Inner: path.Join(innerTask, "data.bin")},
		{Host: results, Inner: innerResults, Writable: true},
	}
	for _, extra := range []struct {
		host, inner, name string
		writable          bool
	}{
		{t.SharedCache, innerShared, "shared", false},
		{t.UserCache, innerUser, "user", true},
		{t.Checkpoint, innerCheckpoint, "checkpoint", true},
	} {
		if extra.host == "" {
			extra.host = filepath.Join(t.Work, extra.name)
		}
		mounts = append(mounts, sandbox.Mount{Host: extra.host, Inner: extra.inner, Writable: extra.writable})
	}
	for _, m := range mounts[2:] {
		if err := os.MkdirAll(m.Host, 0o755); err != nil {
			return sandbox.Spec{}, "", err
		}
	}
	params := string(t.Params)
	if params == "" {
		params = "{}"
	}
	network := sandbox.NoNetwork
	if t.Around.Outbound {
		network = sandbox.Outbound
	}
	return sandbox.Spec{
		Image: t.Image, Argv: argv, Dir: innerApp, Mounts: mounts, Limits: t.Limits,
		Network: network, GPUs: t.GPUs, Deterministic: t.Around.Deterministic, Grace: t.Grace, Steer: t.Steer,
		Env: []string{
			"TASK_DIR=" + innerTask,
			"TASK_RESULTS_DIR=" + innerResults,
			"APP_PARAMS=" + params,
			"CHUNK_NUMBER=" + strconv.Itoa(t.Chunk),
			"SHARED_CACHE_DIR=" + innerShared,
			"USER_CACHE_DIR=" + innerUser,
			"CHECKPOINT_DIR=" + innerCheckpoint,
			"JOB_ID=" + string(t.JobID),
			"JOB_NAME=" + t.JobName,
			"SPARE_CORES=" + strconv.Itoa(t.cores()),
			// The App's folder is read-only, and its last words must not sit in a buffer.
			"PYTHONDONTWRITEBYTECODE=1",
			"PYTHONUNBUFFERED=1",
		},
	}, results, nil
}

// cores is how many threads the App does well to start. The system inside does not say it
// in every runtime: an engine bounds an App's time on all processors, and shows them all.
// A deterministic run must not know what machine it is on.
func (t Task) cores() int {
	switch {
	case t.Around.Deterministic:
		return 1
	case t.Limits.CPUs > 0:
		return int(math.Ceil(t.Limits.CPUs))
	}
	return runtime.NumCPU()
}

// command is what runs the entrypoint: an interpreter by the file's ending, or the file
// itself.
func command(t Task) ([]string, error) {
	root, err := os.OpenRoot(t.Bundle)
	if err != nil {
		return nil, fmt.Errorf("open the App's bundle: %w", err)
	}
	defer root.Close()
	info, err := root.Lstat(filepath.Join(filepath.FromSlash(t.Root), filepath.FromSlash(t.Entrypoint)))
	if err != nil || !info.Mode().IsRegular() || !filepath.IsLocal(filepath.FromSlash(t.Entrypoint)) {
		return nil, fmt.Errorf("the App's entrypoint %q is no file in its bundle", t.Entrypoint)
	}
	inner := path.Join(innerApp, t.Entrypoint)
	switch path.Ext(t.Entrypoint) {
	case ".py":
		return []string{"python3", inner}, nil
	case ".sh":
		return []string{"sh", inner}, nil
	case ".js", ".mjs":
		return []string{"node", inner}, nil
	case ".wasm":
		return []string{inner}, nil
	}
	if info.Mode()&0o111 == 0 {
		return nil, fmt.Errorf("the App's entrypoint %q has no ending that names an interpreter (.py, .sh, .js, .wasm) and is not executable", t.Entrypoint)
	}
	return []string{inner}, nil
}

// judge turns the sandbox's account into an outcome.
func judge(ctx context.Context, r sandbox.Result, err error, log *tail) Ended {
	var start *sandbox.StartError
	switch {
	case err != nil && ctx.Err() != nil:
		return Ended{Outcome: spare.Cancelled, Message: cancelled(ctx)}
	case errors.As(err, &start) && path.IsAbs(start.Program):
		return Ended{Outcome: spare.AppFailed, Message: err.Error()}
	case err != nil:
		return Ended{Outcome: spare.SandboxFailed, Message: err.Error()}
	}
	switch r.Cause {
	case sandbox.KilledTime:
		return Ended{Outcome: spare.TimedOut, Message: withLast("ran longer than it may", log)}
	case sandbox.KilledMemory:
		return Ended{Outcome: spare.OutOfMemory, Message: withLast("used more memory than it may", log)}
	case sandbox.KilledDisk:
		return Ended{Outcome: spare.OutOfDisk, Message: withLast("wrote more than it may", log)}
	case sandbox.KilledCancel:
		return Ended{Outcome: spare.Cancelled, Message: cancelled(ctx)}
	case sandbox.KilledSignal:
		return Ended{Outcome: spare.AppFailed, ExitCode: -1, Message: withLast("was ended by "+r.Signal, log)}
	}
	if r.ExitCode != 0 {
		return Ended{
			Outcome: spare.AppFailed, ExitCode: r.ExitCode,
			Message: withLast(fmt.Sprintf("ended with exit code %d", r.ExitCode), log),
		}
	}
	return Ended{Outcome: spare.Succeeded}
}

func cancelled(ctx context.Context) string {
	if cause := context.Cause(ctx); cause != nil {
		return cause.Error()
	}
	return "cancelled"
}

func withLast(what string, log *tail) string {
	if last := log.LastLine(); last != "" {
		return what + ": " + last
	}
	return what + "; it printed nothing"
}
