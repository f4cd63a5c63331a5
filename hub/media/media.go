// Package media looks into media files with ffprobe and works on them with ffmpeg,
// always contained: a hostile file must not reach the hub. It owns how the tools are
// called, what their answers mean, and the notes that tell the join what the cut did.
// It never decides where to cut or what a good output is. Packages partition and
// assemble call it.
package media

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spare-compute/spare/sandbox"
)

// Tools runs ffmpeg and ffprobe in the best sandbox this machine has. It is safe for
// concurrent use.
type Tools struct {
	choose sync.Mutex
	chosen sandbox.Runtime
}

// New returns tools that look for a sandbox when they are first used.
func New() *Tools { return &Tools{} }

// runtime finds the sandbox. One that does not work is looked for again next time: what
// was in its way may be gone.
func (t *Tools) runtime(ctx context.Context) (sandbox.Runtime, error) {
	t.choose.Lock()
	defer t.choose.Unlock()
	if t.chosen != nil {
		return t.chosen, nil
	}
	rt, found := sandbox.Choose(ctx)
	if rt == nil {
		var why []string
		for _, c := range found {
			why = append(why, c.Reason)
		}
		return nil, fmt.Errorf("%w: the hub has no working sandbox to run them in: %s", ErrMissing, strings.Join(why, "; "))
	}
	t.chosen = rt
	return rt, nil
}

// Where the folders of a run appear inside. What a tool reads and what it writes are
// never the same folder unless a caller says so.
const (
	InnerIn  = "/spare/in"
	InnerOut = "/spare/out"
)

// In names a file of the input folder as the tool sees it.
func In(name string) string { return path.Join(InnerIn, name) }

// Out names a file of the output folder as the tool sees it.
func Out(name string) string { return path.Join(InnerOut, name) }

const (
	maxWall   = 6 * time.Hour // stream copies of the longest films stay far below it
	maxDisk   = 1 << 40       // bytes; a copy is bounded by its input, this stops a runaway
	maxMemory = 4 << 30       // bytes; decoding 8K with a frame for every thread takes 2 GiB
	errorTail = 16 << 10      // bytes of stderr kept for the sentence
)

// ErrTool says that a tool ran and failed. Sentence is the tool's own last word on it.
type ErrTool struct {
	Tool     string
	Sentence string
	Code     int
}

func (e *ErrTool) Error() string {
	if e.Sentence == "" {
		return fmt.Sprintf("%s ended with code %d and said nothing", e.Tool, e.Code)
	}
	return fmt.Sprintf("%s: %s", e.Tool, e.Sentence)
}

// ErrMissing says that the machine cannot run a tool at all.
var ErrMissing = errors.New("cannot run the media tools")

// A Job is one call of ffmpeg or ffprobe: arguments after the tool's name, the folder
// it reads and the folder it writes ("" for none), and where its output goes.
type Job struct {
	Tool   string // "ffmpeg" or "ffprobe"
	Args   []string
	Read   string
	Write  string
	Stdout io.Writer
	Mounts []sandbox.Mount // more folders
}

// Do runs one job. The text is what the tool wrote to stderr (its tail), also on
// success: at error level ffmpeg reports damage there and goes on.
func (t *Tools) Do(ctx context.Context, j Job) (stderr string, err error) {
	rt, err := t.runtime(ctx)
	if err != nil {
		return "", err
	}
	tail := &tailWriter{max: errorTail}
	spec := sandbox.Spec{
		Argv: append([]string{j.Tool}, j.Args...), Mounts: slices.Clone(j.Mounts),
		Stdout: j.Stdout, Stderr: tail,
		Limits: sandbox.Limits{Wall: maxWall, Disk: maxDisk, Memory: maxMemory},
	}
	if j.Read != "" {
		spec.Mounts = append(spec.Mounts, sandbox.Mount{Host: j.Read, Inner: InnerIn})
	}
	if j.Write != "" {
		spec.Mounts = append(spec.Mounts, sandbox.Mount{Host: j.Write, Inner: InnerOut, Writable: true})
	}
	r, err := rt.Run(ctx, spec)
	text := tail.String()
	var start *sandbox.StartError
	switch {
	case ctx.Err() != nil:
		return text, context.Cause(ctx)
	case errors.As(err, &start):
		return text, fmt.Errorf("%w: install ffmpeg on the hub (%w)", ErrMissing, err)
	case err != nil:
		return text, fmt.Errorf("run %s: %w", j.Tool, err)
	case r.Cause == sandbox.KilledMemory:
		return text, &ErrTool{Tool: j.Tool, Sentence: fmt.Sprintf("it needs more than %d GiB of memory", maxMemory>>30), Code: -1}
	case r.Cause == sandbox.KilledTime:
		return text, &ErrTool{Tool: j.Tool, Sentence: fmt.Sprintf("it did not end within %s", maxWall), Code: -1}
	case r.Cause == sandbox.KilledDisk:
		return text, fmt.Errorf("run %s: it wrote more than %d GiB", j.Tool, maxDisk>>30)
	case r.Cause != sandbox.Exited:
		return text, &ErrTool{Tool: j.Tool, Sentence: fmt.Sprintf("it was ended by %s", cmp.Or(r.Signal, string(r.Cause))), Code: -1}
	case r.ExitCode != 0:
		return text, &ErrTool{Tool: j.Tool, Sentence: Sentence(text), Code: r.ExitCode}
	}
	return text, nil
}

// Sentence is what ffmpeg said last that tells something: without its module's name and
// address, and not the general verdict where a reason stands before it.
func Sentence(stderr string) string {
	var verdict string
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		line := clean(lines[i])
		switch {
		case line == "":
		case general(line):
			if verdict == "" {
				verdict = line
			}
		default:
			return line
		}
	}
	return verdict
}

// clean takes "[mov,mp4 @ 0x55…] " and the inner path off a line.
func clean(line string) string {
	line = strings.TrimSpace(line)
	for strings.HasPrefix(line, "[") {
		_, rest, ok := strings.Cut(line, "] ")
		if !ok {
			break
		}
		line = strings.TrimSpace(rest)
	}
	for _, dir := range []string{InnerIn, InnerOut} {
		if rest, ok := strings.CutPrefix(line, dir+"/"); ok {
			if _, after, found := strings.Cut(rest, ": "); found {
				line = after
			}
		}
	}
	return line
}

func general(line string) bool {
	for _, s := range []string{"Invalid data found when processing input", "Conversion failed!", "Error opening input", "Last message repeated"} {
		if strings.Contains(line, s) {
			return true
		}
	}
	return false
}

// tailWriter keeps the last max bytes.
type tailWriter struct {
	buf bytes.Buffer
	max int
}

func (w *tailWriter) Write(p []byte) (int, error) {
	n := len(p)
	if n > w.max {
		p = p[n-w.max:]
	}
	if over := w.buf.Len() + len(p) - w.max; over > 0 {
		w.buf.Next(over)
	}
	w.buf.Write(p)
	return n, nil
}

func (w *tailWriter) String() string { return w.buf.String() }

// capWriter keeps at most max bytes and fails past them.
type capWriter struct {
	bytes.Buffer
	max int
}

func (w *capWriter) Write(p []byte) (int, error) {
	if w.Len()+len(p) > w.max {
		return 0, errors.New("the tool's answer is longer than allowed")
	}
	return w.Buffer.Write(p)
}
