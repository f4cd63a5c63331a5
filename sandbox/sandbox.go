// Package sandbox runs one program of foreign code, contained, and gives back how it
// ended. It owns the walls around the program: what it sees, what it may write, what
// it may use, and that nothing of it is left when Run returns. It knows nothing of
// jobs, leases or networks, and never looks into what the program makes. Package stage
// runs Apps and engines in it; node and hub run media tools in it.
//
// The first process inside is the program that called Run, executed again, or on Linux a
// smaller one that it carries: Init must be the first line of every main, and of TestMain
// in tests that run a sandbox.
package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/spare-compute/spare"
)

// A Runtime contains programs in one way.
type Runtime interface {
	// Name is the runtime's short name: "linux".
	Name() string
	// Probe really runs something inside, and says in a sentence why not when it cannot.
	Probe(ctx context.Context) spare.Capability
	// Run runs a program to its end. An error means that the sandbox failed, or could
	// not start the program (StartError); a Result means that the program ended.
	// Whatever happens, no process of it is left when Run returns.
	Run(ctx context.Context, s Spec) (Result, error)
}

// Spec is one program to run.
type Spec struct {
	Image         *Image   // what the program finds at /; nil is the machine's own system folders, read-only
	Argv          []string // Argv[0] is looked up in PATH inside unless it has a slash
	Env           []string // all of it; without PATH, HOME or LANG the defaults are added
	Dir           string   // working folder inside; "" is /tmp
	Mounts        []Mount
	Limits        Limits
	Network       Network
	GPUs          []string      // model names, any of them, case ignored; only engines pass one through
	Deterministic bool          // clock, random numbers and folder order are the same in every run
	Grace         time.Duration // on cancel: SIGTERM, and this long to end; but see ErrAtOnce, and a paused program is killed as it is
	Steer         *Steer        // pauses and resumes it meanwhile; may be nil
	Stdout        io.Writer     // nil discards; the same writer for both keeps their order
	Stderr        io.Writer
}

// An Image is an OCI image that is on this machine. Its own entrypoint, user and working
// folder mean nothing here.
type Image struct {
	ID      string                        // digest of its configuration, "sha256:…"
	Folder  string                        // its files, unpacked as package image keeps them
	Env     []string                      // its variables; the Spec's win
	Archive func() (io.ReadCloser, error) // the whole of it as `docker save` writes it, for engines
}

// Network says what the program reaches.
type Network string

// A program has a network of its own with nothing in it or, with Outbound, with only a
// proxy to public addresses in it (package egress), which the variables HTTP_PROXY,
// HTTPS_PROXY and ALL_PROXY name.
const (
	NoNetwork Network = ""
	Outbound  Network = "outbound"
)

// A Mount shows a folder or file of the host inside. The sandbox sees to it that the
// program can read it, and write it if Writable: when Spare runs as root, that means
// giving it to the unprivileged owner that programs run as.
type Mount struct {
	Host     string
	Inner    string // absolute; not in the system's own folders, not inside another mount
	Writable bool
}

// Limits bound a run. Zero is no limit, except where a default is named.
type Limits struct {
	CPUs      float64       // cores; rounded up to whole ones where no control group counts finer
	Memory    int64         // bytes, of all processes together
	Processes int           // processes and threads; default 1024
	Files     int           // open files of one process; default 1024
	Wall      time.Duration // from start to end, less what it was paused
	CPU       time.Duration // of all processes together
	Output    int64         // bytes of stdout and stderr handed on; the rest is read and dropped
	Disk      int64         // bytes that the writable mounts may gain; of a sparse file, its length counts
	Inodes    int64         // files and folders that they may gain; default 1,000,000
	Nice      bool          // run only on processor time nobody else wants
}

// Result is how a program ended and what it took.
type Result struct {
	ExitCode        int    // -1 if it did not exit by itself
	Signal          string // what ended it, as "SIGSEGV", if it did not exit by itself
	Cause           Cause
	CPU             time.Duration
	Wall            time.Duration // without the pauses
	PeakMemory      int64         // bytes
	Written         int64         // bytes the writable mounts grew by
	OutputTruncated bool
}

// Cause is why a program ended.
type Cause string

// The causes. KilledSignal is a signal that the sandbox did not send.
const (
	Exited       Cause = "exited"
	KilledMemory Cause = "killed_memory"
	KilledTime   Cause = "killed_time"
	KilledDisk   Cause = "killed_disk"
	KilledCancel Cause = "killed_cancel"
	KilledSignal Cause = "killed_signal"
)

// ErrAtOnce, in the cause that a run's context ends with, denies the program its Grace.
var ErrAtOnce = errors.New("to be ended at once")

// StartError says that the walls stand but the program could not be executed in them.
type StartError struct {
	Program string
	Err     error
}

func (e *StartError) Error() string {
	return fmt.Sprintf("start %s in the sandbox: %v", e.Program, e.Err)
}

func (e *StartError) Unwrap() error { return e.Err }

// leaving counts what ended runs have left to be taken away.
var leaving sync.WaitGroup

// Settle returns when nothing is left of runs that have ended. It is for a program that is
// about to exit: Run does not wait for the kernel to let go of the last process, which
// takes milliseconds, and only then can its control group be taken away.
func Settle() { leaving.Wait() }

// Choose probes this system's runtimes, best first. It returns the first that works,
// or nil, and what each probe found; where there is no runtime to probe, it says so.
func Choose(ctx context.Context) (Runtime, []spare.Capability) {
	var chosen Runtime
	var found []spare.Capability
	for _, rt := range Default() {
		c := rt.Probe(ctx)
		if c.OK && chosen == nil {
			chosen = rt
		}
		found = append(found, c)
	}
	if len(found) == 0 {
		found = append(found, Unavailable())
	}
	return chosen, found
}

const (
	toolWall   = 20 * time.Second
	toolOutput = 1 << 20
)

// ProbeTool runs a program inside, with a short time limit, and returns what it
// printed, at most 1 MiB: how a node learns what a tool on it really does. An exit code
// other than 0 is an error that carries the last line.
func ProbeTool(ctx context.Context, rt Runtime, argv ...string) ([]byte, error) {
	var out bytes.Buffer
	r, err := rt.Run(ctx, Spec{
		Argv: argv, Stdout: &out, Stderr: &out,
		Limits: Limits{Wall: toolWall, Output: toolOutput, Memory: 2 << 30, Processes: 512},
	})
	switch {
	case err != nil:
		return nil, err
	case r.Cause == KilledCancel:
		return out.Bytes(), context.Cause(ctx)
	case r.Cause != Exited:
		return out.Bytes(), fmt.Errorf("%s in the sandbox: %s", argv[0], r.Cause)
	case r.ExitCode != 0:
		return out.Bytes(), fmt.Errorf("%s in the sandbox ended with code %d: %s", argv[0], r.ExitCode, lastLine(out.Bytes()))
	}
	return out.Bytes(), nil
}

func lastLine(b []byte) string {
	b = bytes.TrimSpace(b)
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}

// reserved are the folders inside that mounts may not cover.
var reserved = []string{
	"/", "/bin", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin",
	"/sys", "/tmp", "/usr", "/nix", "/gnu",
}

// Check refuses what no runtime could do. Every runtime calls it first.
func (s Spec) Check() error {
	if len(s.Argv) == 0 || s.Argv[0] == "" {
		return errors.New("run in the sandbox: no program named")
	}
	if s.Network != NoNetwork && s.Network != Outbound {
		return fmt.Errorf("run in the sandbox: network %q is not known; none (\"\") and %q are", s.Network, Outbound)
	}
	for _, text := range [][]string{s.Argv, s.Env, {s.Dir}} {
		for _, t := range text {
			if strings.ContainsRune(t, 0) {
				return errors.New("run in the sandbox: an argument, variable or folder holds a zero byte")
			}
		}
	}
	for i, m := range s.Mounts {
		if err := m.check(); err != nil {
			return err
		}
		for _, other := range s.Mounts[:i] {
			if within(m.Inner, other.Inner) || within(other.Inner, m.Inner) {
				return fmt.Errorf("mount %s in the sandbox: it overlaps %s", m.Inner, other.Inner)
			}
		}
	}
	return nil
}

func (m Mount) check() error {
	if !path.IsAbs(m.Inner) || path.Clean(m.Inner) != m.Inner {
		return fmt.Errorf("mount %q in the sandbox: want a clean absolute path", m.Inner)
	}
	for _, r := range reserved {
		if m.Inner == r || r != "/" && within(m.Inner, r) {
			return fmt.Errorf("mount %s in the sandbox: %s is the system's own", m.Inner, r)
		}
	}
	return nil
}

// within reports whether p is dir or lies in it.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, dir+"/")
}
