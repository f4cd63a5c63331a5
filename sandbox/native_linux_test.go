package sandbox

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
)

// wallless runs programs as they are: what a system would be whose walls do not hold.
type wallless struct{ home string }

func (wallless) Name() string                             { return "wallless" }
func (w wallless) Probe(context.Context) spare.Capability { return spare.Capability{} }
func (w wallless) Run(ctx context.Context, s Spec) (Result, error) {
	cmd := exec.CommandContext(ctx, s.Argv[0], s.Argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = s.Stdout, s.Stderr, append(os.Environ(), "HOME="+w.home)
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return Result{}, &StartError{Program: s.Argv[0], Err: err}
	}
	return Result{ExitCode: cmd.ProcessState.ExitCode(), Cause: Exited}, nil
}

func TestProbeNatively_OffersOnlyWhatIsClosed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "owners")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	c := probeBeside(t.Context(), linux{}, file, port, []string{"wall"})
	if !c.OK || len(c.Platforms) != 1 || c.Version == "" || len(c.Walls) != 1 || c.Runtime != "linux" {
		t.Errorf("behind walls: %+v", c)
	}
	c = probeBeside(t.Context(), wallless{dir}, file, port, nil)
	if c.OK {
		t.Errorf("without walls: %+v", c)
	}
	for _, want := range []string{"reads a file", "network", "writes beside"} {
		if !strings.Contains(c.Reason, want) {
			t.Errorf("%q does not say %q", c.Reason, want)
		}
	}
	t.Setenv("PATH", dir)
	if c := probeBeside(t.Context(), wallless{dir}, file, port, nil); c.OK || !strings.Contains(c.Reason, "install Python") {
		t.Errorf("without Python: %+v", c)
	}
}

func TestSinks_CarryBothStreamsAndLetGoOfWhatStaysOpen(t *testing.T) {
	var both, one bytes.Buffer
	for _, test := range []struct {
		stdout, stderr io.Writer
		want           string
	}{{&both, &both, "out err"}, {&one, nil, "out "}, {nil, nil, ""}} {
		s := newSinks(0)
		out, errOut, err := s.open(test.stdout, test.stderr)
		if err != nil {
			t.Fatal(err)
		}
		if same := out == errOut; same != (test.stdout != nil && test.stderr != nil) {
			t.Errorf("one pipe for both: %v", same)
		}
		for _, w := range []struct {
			f    *os.File
			text string
		}{{out, "out "}, {errOut, "err"}} {
			if _, err := w.f.WriteString(w.text); err != nil {
				t.Fatal(err)
			}
		}
		s.finish()
		if b, ok := test.stdout.(*bytes.Buffer); ok && b.String() != test.want {
			t.Errorf("%q came out, want %q", b.String(), test.want)
		}
	}
}

func TestSinks_ADaemonThatHoldsTheOutputDoesNotHoldTheRun(t *testing.T) {
	s := newSinks(0)
	s.linger = 10 * time.Millisecond
	var out bytes.Buffer
	w, _, err := s.open(&out, nil)
	if err != nil {
		t.Fatal(err)
	}
	held := exec.Command("sleep", "60")
	held.Stdout = w
	if err := held.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Process.Kill(); _ = held.Wait() }()
	s.finish() // returns although the pipe's other end is open
}
