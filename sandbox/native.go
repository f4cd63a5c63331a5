package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spare-compute/spare"
)

// sinks are the pipes by which what a program prints comes out, on systems where the
// runtime starts the program itself.
type sinks struct {
	out     *output
	theirs  []*os.File // ends for the program
	ours    []*os.File
	drained sync.WaitGroup
	linger  time.Duration // how long a program that has ended may leave its output open to others
}

// connect makes a pipe to a writer; nil discards.
func (s *sinks) connect(w io.Writer) (*os.File, error) {
	if w == nil {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err == nil {
			s.theirs = append(s.theirs, null)
		}
		return null, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.ours, s.theirs = append(s.ours, read), append(s.theirs, write)
	s.drained.Go(func() { s.out.drain(read, w) })
	return write, nil
}

// open makes the pipes of stdout and stderr, one for both if they have one writer.
func (s *sinks) open(stdout, stderr io.Writer) (out, errOut *os.File, err error) {
	if out, err = s.connect(stdout); err != nil {
		return nil, nil, err
	}
	if stdout != nil && equalWriters(stdout, stderr) {
		return out, out, nil
	}
	errOut, err = s.connect(stderr)
	return out, errOut, err
}

// equalWriters compares without panicking on writers that cannot be compared.
func equalWriters(a, b io.Writer) (same bool) {
	defer func() {
		if recover() != nil {
			same = false
		}
	}()
	return a == b
}

// handed closes the program's ends, once it has them.
func (s *sinks) handed() {
	for _, f := range s.theirs {
		_ = f.Close()
	}
	s.theirs = nil
}

const defaultLinger = 2 * time.Second

func newSinks(limit int64) *sinks { return &sinks{out: newOutput(limit), linger: defaultLinger} }

// finish waits for the last of the output. What is still held open then is cut off.
func (s *sinks) finish() {
	s.handed()
	cut := time.AfterFunc(s.linger, s.cut)
	s.drained.Wait()
	cut.Stop()
	s.cut()
}

func (s *sinks) cut() {
	for _, f := range s.ours {
		_ = f.Close()
	}
}

// probeScript shows that an interpreter starts and that what must be closed is: it prints
// its version, or what is open. {file} is a file of the owner's that exists.
const probeScript = `
import os, socket, sys
bad = []
def closed(what, f, *a):
    try: f(*a)
    except OSError: return
    bad.append(what)
closed("reads a file of the owner", open, sys.argv[1])
closed("reaches this machine's network", socket.create_connection, ("127.0.0.1", int(sys.argv[2])), 5)
closed("writes beside its folders", open, sys.argv[1] + ".new", "w")
import json
with open(os.path.join(os.environ["HOME"], "probe"), "w") as f: f.write("x")
print("open: " + ", ".join(bad) if bad else "closed " + sys.version.split()[0])
`

// probeBeside offers the platform only if the interpreter starts, can work, and finds
// closed what must be.
func probeBeside(ctx context.Context, rt Runtime, file string, port int, walls []string) spare.Capability {
	c := spare.Capability{Runtime: rt.Name()}
	var out bytes.Buffer
	r, err := rt.Run(ctx, Spec{
		Argv:   []string{"python3", "-c", probeScript, file, fmt.Sprint(port)},
		Stdout: &out, Stderr: &out, Limits: Limits{Wall: toolWall, Output: 64 << 10, Memory: 1 << 30},
	})
	last := lastLine(out.Bytes())
	var start *StartError
	switch {
	case errors.As(err, &start):
		c.Reason = "no python3 was found: install Python to offer the platform python"
	case err != nil:
		c.Reason = err.Error()
	case r.Cause != Exited || r.ExitCode != 0:
		c.Reason = fmt.Sprintf("python3 in the sandbox ended with code %d (%s): %s", r.ExitCode, r.Cause, last)
	case !strings.HasPrefix(last, "closed "):
		c.Reason = "the walls do not hold here: a program inside finds " + last
	default:
		c.OK, c.Platforms = true, []spare.Platform{spare.PlatformPython}
		c.Version, c.Walls = strings.TrimPrefix(last, "closed "), walls
	}
	return c
}
