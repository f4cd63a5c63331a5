package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare/sandbox"
)

func writable(t testing.TB, s *sandbox.Spec) string {
	dir := t.TempDir()
	s.Mounts = append(s.Mounts, sandbox.Mount{Host: dir, Inner: "/spare/rw", Writable: true})
	return dir
}

func TestPodman_MemoryBalloonIsKilled(t *testing.T) {
	for what, script := range map[string]string{
		"the first process": `exec tail /dev/zero`,
		"a child":           `tail /dev/zero; exit $?`,
		"temporary files":   `exec dd if=/dev/zero of=/tmp/x bs=1M count=100`,
		"shared memory":     `exec dd if=/dev/zero of=/dev/shm/x bs=1M count=100`,
	} {
		e := shell(t, script, func(s *sandbox.Spec) { s.Limits.Memory = 24 << 20 })
		if strings.Contains(what, "files") || strings.Contains(what, "shared") {
			if e.ExitCode == 0 { // /tmp's own size or the group's limit: one of them bites
				t.Errorf("%s: %+v", what, e.Result)
			}
			continue
		}
		if e.Cause != sandbox.KilledMemory || e.Signal != "SIGKILL" || e.ExitCode != -1 || e.PeakMemory < 24<<20 {
			t.Errorf("%s: %+v", what, e.Result)
		}
	}
}

func TestPodman_NothingIsWrittenWhereTheNodeStands(t *testing.T) {
	t.Chdir(t.TempDir())
	e := shell(t, `exec tail /dev/zero`, func(s *sandbox.Spec) { s.Limits.Memory = 24 << 20 })
	e.wantCause(t, sandbox.KilledMemory)
	if left, err := os.ReadDir("."); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

func TestPodman_ForkBombIsBounded(t *testing.T) {
	e := shell(t, `
n=0
while [ $n -lt 100 ]; do sleep 600 & n=$((n+1)); done # so that a missing wall does no harm
echo unbounded`, func(s *sandbox.Spec) { s.Limits.Processes = 20 })
	if strings.Contains(e.out, "unbounded") || !strings.Contains(e.out, "can't fork") {
		t.Errorf("%+v\n%s", e.Result, e.out)
	}
}

func TestPodman_ProcessorTimeIsBounded(t *testing.T) {
	for _, script := range []string{`while :; do :; done`, `for i in 1 2 3; do while :; do :; done & done; wait`} {
		e := shell(t, script, func(s *sandbox.Spec) { s.Limits.CPU = time.Second })
		e.wantCause(t, sandbox.KilledTime)
		if e.CPU < 800*time.Millisecond || e.Wall > 20*time.Second {
			t.Errorf("%+v", e.Result)
		}
	}
}

func TestPodman_WallTimeEndsIt(t *testing.T) {
	e := shell(t, `trap '' TERM INT HUP; while :; do sleep 60; done`, func(s *sandbox.Spec) { s.Limits.Wall = 2 * time.Second })
	e.wantCause(t, sandbox.KilledTime)
	if e.Wall < 2*time.Second || e.Wall > 15*time.Second || e.ExitCode != -1 {
		t.Errorf("%+v", e.Result)
	}
}

func TestPodman_EndlessOutputIsCut(t *testing.T) {
	e := shell(t, `while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done`, func(s *sandbox.Spec) { s.Limits.Output, s.Limits.Wall = 50_000, 2*time.Second })
	e.wantCause(t, sandbox.KilledTime)
	if len(e.out) != 50_000 || !e.OutputTruncated {
		t.Errorf("%d bytes came, truncated %t", len(e.out), e.OutputTruncated)
	}
	e = shell(t, `dd if=/dev/zero bs=50000 count=1 2>/dev/null`, func(s *sandbox.Spec) { s.Limits.Output = 50_000 })
	if len(e.out) != 50_000 || e.OutputTruncated {
		t.Errorf("%d bytes came, truncated %t", len(e.out), e.OutputTruncated)
	}
}

func TestPodman_AllOutputComes(t *testing.T) {
	var out, errs bytes.Buffer
	for range 5 {
		out.Reset()
		errs.Reset()
		shell(t, `dd if=/dev/zero bs=1000 count=300 2>/dev/null; echo bad >&2`, func(s *sandbox.Spec) { s.Stdout, s.Stderr = &out, &errs })
		if out.Len() != 300_000 || errs.String() != "bad\n" {
			t.Fatalf("%d bytes, %q", out.Len(), errs.String())
		}
	}
}

func TestPodman_AWriterThatFailsStopsNothing(t *testing.T) {
	r, w := io.Pipe()
	_ = r.Close()
	e := shell(t, `dd if=/dev/zero bs=1000 count=300 2>/dev/null; exit 4`, func(s *sandbox.Spec) { s.Stdout, s.Stderr = w, nil })
	if e.ExitCode != 4 {
		t.Errorf("%+v", e.Result)
	}
}

// TestPodman_DeletedFilesCount is about files that have no name any more, in which the
// disk could be filled unseen.
func TestPodman_DeletedFilesCount(t *testing.T) {
	e := shell(t, `for i in 4 5 6 7; do
	eval "exec $i>/spare/rw/f; rm /spare/rw/f; dd if=/dev/zero bs=1M count=4 >&$i" 2>/dev/null
done
sleep 20`, func(s *sandbox.Spec) { writable(t, s); s.Limits.Disk = 8 << 20 })
	if e.Cause != sandbox.KilledDisk || e.Wall > 15*time.Second {
		t.Errorf("%+v", e)
	}
}

func TestPodman_DiskIsBounded(t *testing.T) {
	for what, script := range map[string]string{
		"many files":    `i=0; while [ $i -lt 40 ]; do dd if=/dev/zero of=/spare/rw/$i bs=1M count=1 2>/dev/null; i=$((i+1)); done; sleep 20`,
		"small files":   `i=0; while [ $i -lt 20000 ]; do : > /spare/rw/$i; i=$((i+1)); done; sleep 20`,
		"a closed door": `mkdir /spare/rw/d; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do dd if=/dev/zero of=/spare/rw/d/$i bs=1M count=1 2>/dev/null; done; chmod 0 /spare/rw/d; sleep 20`,
	} {
		e := shell(t, script, func(s *sandbox.Spec) { writable(t, s); s.Limits.Disk = 8 << 20 })
		if e.Cause != sandbox.KilledDisk || e.Written < 8<<20 || e.Wall > 15*time.Second {
			t.Errorf("%s: %+v", what, e.Result)
		}
	}
	e := shell(t, `dd if=/dev/zero of=/spare/rw/f bs=1M count=64 2>/dev/null && echo wrote; echo ok`, func(s *sandbox.Spec) { writable(t, s); s.Limits.Disk = 8 << 20 })
	if strings.Contains(e.out, "wrote") || e.Written > 9<<20 {
		t.Errorf("one large file: %+v %s", e.Result, e.out)
	}
	e = shell(t, `dd if=/dev/zero of=/spare/rw/f bs=1 count=1 seek=1T 2>/dev/null && echo wrote; echo ok`, func(s *sandbox.Spec) { writable(t, s); s.Limits.Disk = 8 << 20 })
	e.wantOK(t)
}

func TestPodman_CountsWhatItUses(t *testing.T) {
	e := shell(t, `i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/spare/rw/f bs=100000 count=1 2>/dev/null; dd if=/dev/zero of=/tmp/f bs=1M count=30 2>/dev/null; sleep 0.5; echo ok`, func(s *sandbox.Spec) { writable(t, s) })
	e.wantOK(t)
	if e.CPU < 50*time.Millisecond || e.CPU > 20*time.Second || e.PeakMemory < 30<<20 || e.PeakMemory > 200<<20 || e.Written < 100_000 || e.Written > 120_000 {
		t.Errorf("%+v", e.Result)
	}
}

// starting runs a script that touches /spare/rw/on, and gives a channel with its end.
func starting(ctx context.Context, t *testing.T, script string, change func(*sandbox.Spec)) (dir string, done chan ended) {
	t.Helper()
	dir = t.TempDir()
	done = make(chan ended, 1)
	s := sandbox.Spec{
		Image: box(t), Argv: []string{"sh", "-c", script}, Mounts: []sandbox.Mount{{Host: dir, Inner: "/spare/rw", Writable: true}},
		Limits: sandbox.Limits{Wall: 60 * time.Second, Memory: 64 << 20},
	}
	if change != nil {
		change(&s)
	}
	var out bytes.Buffer
	s.Stdout, s.Stderr = &out, &out
	go func() {
		r, err := podman().Run(ctx, s)
		if err != nil {
			t.Errorf("the sandbox failed: %v\n%s", err, out.Bytes())
		}
		done <- ended{r, out.String()}
	}()
	if !s.Steer.Paused() {
		eventually(t, "it runs", func() bool { _, err := os.Stat(filepath.Join(dir, "on")); return err == nil })
	}
	return dir, done
}

func TestPodman_CancelGivesGraceToWhoHeedsIt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	dir, done := starting(ctx, t, `trap 'echo saved > /spare/rw/checkpoint; exit 0' TERM; touch /spare/rw/on; while :; do sleep 0.05; done`,
		func(s *sandbox.Spec) { s.Grace = 20 * time.Second })
	cancel()
	e := <-done
	if text, err := os.ReadFile(filepath.Join(dir, "checkpoint")); err != nil || string(text) != "saved\n" || e.Cause != sandbox.KilledCancel || e.ExitCode != 0 {
		t.Errorf("%q, %v, %+v", text, err, e.Result)
	}
	if e.Wall > 15*time.Second {
		t.Errorf("%v", e.Wall)
	}

	ctx, cancel = context.WithCancel(t.Context())
	_, done = starting(ctx, t, `trap '' TERM; touch /spare/rw/on; while :; do sleep 0.05; done`, func(s *sandbox.Spec) { s.Grace = 700 * time.Millisecond })
	cancelled := time.Now()
	cancel()
	if e = <-done; e.Cause != sandbox.KilledCancel || e.Signal != "SIGKILL" || time.Since(cancelled) > 15*time.Second {
		t.Errorf("it does not listen: %+v", e.Result)
	}

	ctx, cancel = context.WithCancel(t.Context())
	_, done = starting(ctx, t, `touch /spare/rw/on; sleep 600`, func(s *sandbox.Spec) { s.Grace = time.Minute })
	cancelled = time.Now()
	cancel()
	if e = <-done; e.Cause != sandbox.KilledCancel || time.Since(cancelled) > 15*time.Second {
		t.Errorf("it could not hear: %+v after %v", e.Result, time.Since(cancelled))
	}
	if _, err := podman().Run(ctx, sandbox.Spec{Image: box(t), Argv: []string{"true"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context starts nothing: %v", err)
	}
}

// TestPodman_CancelBeforeItRuns ends runs at many moments of their start.
func TestPodman_CancelBeforeItRuns(t *testing.T) {
	for after := range 8 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(after)*40*time.Millisecond+time.Millisecond)
		r, err := podman().Run(ctx, sandbox.Spec{Image: box(t), Argv: []string{"sleep", "600"}})
		cancel()
		if err == nil && r.Cause != sandbox.KilledCancel {
			t.Errorf("%+v", r)
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
	if left := containers(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestPodman_PausesAndResumes(t *testing.T) {
	var steer sandbox.Steer
	dir, done := starting(t.Context(), t, `touch /spare/rw/on; i=0; while ! test -e /spare/rw/off; do i=$((i+1)); echo $i > /spare/rw/count; done; echo ok`,
		func(s *sandbox.Spec) { s.Steer = &steer })
	count := func() string { text, _ := os.ReadFile(filepath.Join(dir, "count")); return string(text) }
	eventually(t, "it can be steered", func() bool { _, err := steer.Memory(); return err == nil })
	if err := steer.Pause(); err != nil {
		t.Fatal(err)
	}
	at := count()
	if m, err := steer.Memory(); err != nil || m < 10_000 || m > 64<<20 {
		t.Errorf("paused, it uses %d bytes, %v", m, err)
	}
	for range 20 { // a while that it must not use
		if _, err := steer.Memory(); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("podman", "ps", "--all", "--filter", "label="+labelProcess+"="+podman().token, "--format", "{{.Status}}").Output(); err != nil ||
			!strings.Contains(string(out), "Paused") && !strings.Contains(string(out), "paused") {
			t.Fatalf("%q, %v", out, err)
		}
	}
	if now := count(); now != at {
		t.Errorf("paused, it went on from %q to %q", at, now)
	}
	if err := steer.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes on", func() bool { now := count(); return now != at && now != "" })
	if err := os.WriteFile(filepath.Join(dir, "off"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	(<-done).wantOK(t)
}

func TestPodman_PausedFromTheStartAndKilledAsItIs(t *testing.T) {
	var steer sandbox.Steer
	if err := steer.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, done := starting(ctx, t, `trap 'touch /spare/rw/heard; exit 0' TERM; while :; do sleep 0.05; done`, func(s *sandbox.Spec) { s.Steer, s.Grace = &steer, time.Minute })
	eventually(t, "it can be steered", func() bool { _, err := steer.Memory(); return err == nil })
	cancelled := time.Now()
	cancel()
	if e := <-done; e.Cause != sandbox.KilledCancel || time.Since(cancelled) > 15*time.Second {
		t.Errorf("%+v after %v", e.Result, time.Since(cancelled))
	}
}
