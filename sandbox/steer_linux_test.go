package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ways are the runtimes to try steering with: with a freezer, if this machine has one,
// and without, where processes are stopped by signals, in a control group and outside any.
func ways() map[string]linux {
	w := map[string]linux{
		"by signals":              {without: []string{"freezer"}},
		"by signals, in no group": {without: []string{"freezer", "cgroup memory", "cgroup pids", "cgroup cpu", "cgroup io"}},
	}
	if (linux{}).groups().Lacks("freezer") == "" {
		w["by the freezer"] = linux{}
	}
	return w
}

// counting is a script of n processes, each of which counts in /spare/rw/n as fast as it
// can: any instruction they get shows. It runs on the processors there are.
func counting(n int) string {
	return `
import mmap
n = ` + strconv.Itoa(n) + `
f = os.open("/spare/rw/n", os.O_CREAT | os.O_RDWR)
os.truncate(f, 8 * n)
m = mmap.mmap(f, 8 * n)
for i in range(n - 1):
    if os.fork() == 0: break
else: i = n - 1
k = 0
while True:
    k += 1
    m[8 * i:8 * i + 8] = k.to_bytes(8, "little")`
}

// A steered run goes on in the background.
type steeredRun struct {
	*Steer
	dir    string
	cancel context.CancelCauseFunc
	ended  chan ended
}

// start runs a script until the test's end, or its own, or cancel.
func start(t testing.TB, l linux, script string, change func(*Spec)) *steeredRun {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	r := &steeredRun{Steer: &Steer{}, dir: t.TempDir(), cancel: cancel, ended: make(chan ended, 1)}
	var out strings.Builder
	s := Spec{
		Argv:   []string{"python3", "-c", "import os, sys, time, signal\n" + script},
		Mounts: []Mount{{Host: r.dir, Inner: "/spare/rw", Writable: true}}, Stdout: &out, Stderr: &out, Steer: r.Steer,
		Limits: Limits{Wall: time.Minute, Processes: 100, Output: 64 << 10},
	}
	if change != nil {
		change(&s)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		res, err := l.Run(ctx, s)
		if err != nil {
			t.Errorf("the sandbox failed: %v\n%s", err, out.String())
		}
		r.ended <- ended{res, out.String()}
	}()
	t.Cleanup(func() {
		cancel(nil)
		<-done
	})
	return r
}

// counters is what the processes have counted to.
func (r *steeredRun) counters() string {
	b, _ := os.ReadFile(filepath.Join(r.dir, "n"))
	return string(b)
}

// all waits until each process counts.
func (r *steeredRun) all(t testing.TB, n int) {
	t.Helper()
	eventually(t, "all processes count", func() bool {
		c := []byte(r.counters())
		for i := 0; i+8 <= len(c); i += 8 {
			if string(c[i:i+8]) == strings.Repeat("\x00", 8) {
				return false
			}
		}
		return len(c) == 8*n
	})
}

func (r *steeredRun) has(t testing.TB, file string) {
	t.Helper()
	eventually(t, file+" is there", func() bool {
		_, err := os.Stat(filepath.Join(r.dir, file))
		return err == nil
	})
}

// still returns after other processes had the time to run: that nothing happens takes
// time to see.
func still(t testing.TB) {
	t.Helper()
	if r, err := (linux{}).Run(t.Context(), Spec{Argv: []string{"sleep", "0.05"}}); err != nil || r.ExitCode != 0 {
		t.Fatal(r, err)
	}
}

func TestSteer_PausedTreeGetsNoProcessorTime(t *testing.T) {
	for name, l := range ways() {
		t.Run(name, func(t *testing.T) {
			r := start(t, l, counting(8), nil)
			r.all(t, 8)
			for range 3 {
				if err := r.Pause(); err != nil {
					t.Fatal(err)
				}
				before := r.counters()
				still(t)
				if r.counters() != before {
					t.Error("paused, it went on")
				}
				if !r.Paused() {
					t.Error("it does not say that it is paused")
				}
				if err := r.Resume(); err != nil {
					t.Fatal(err)
				}
				eventually(t, "it goes on", func() bool { return r.counters() != before })
			}
			r.cancel(nil)
			(<-r.ended).wantCause(t, KilledCancel)
		})
	}
}

func TestSteer_PausedTreeIsMeasured(t *testing.T) {
	for name, l := range ways() {
		t.Run(name, func(t *testing.T) {
			r := start(t, l, `
held = b"x" * (50 << 20)
if os.fork() == 0:
    more = b"y" * (40 << 20)
    open("/spare/rw/ready", "w")
    time.sleep(600)
os.wait()`, nil)
			r.has(t, "ready")
			for range 2 {
				m, err := r.Memory()
				if err != nil || m < 90<<20 || m > 250<<20 {
					t.Errorf("%d bytes, %v; paused %t", m, err, r.Paused())
				}
				if err := r.Pause(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestSteer_PausedTimeIsNotWallTime(t *testing.T) {
	for name, l := range ways() {
		t.Run(name, func(t *testing.T) {
			steer := &Steer{}
			if err := steer.Pause(); err != nil {
				t.Fatal(err)
			}
			const wall = time.Second
			r := start(t, l, `time.sleep(600)`, func(s *Spec) { s.Steer, s.Limits.Wall = steer, wall })
			steer.begun(t)
			began := time.Now()
			eventually(t, "its wall time is long over", func() bool { return time.Since(began) > 2*wall })
			select {
			case e := <-r.ended:
				t.Fatalf("paused, it ended: %+v", e.Result)
			default:
			}
			if err := steer.Resume(); err != nil {
				t.Fatal(err)
			}
			e := <-r.ended
			e.wantCause(t, KilledTime)
			if total := time.Since(began); e.Wall < wall || e.Wall > total-wall {
				t.Errorf("it says %v of %v", e.Wall, total)
			}
		})
	}
}

// begun waits until there is something to steer.
func (s *Steer) begun(t testing.TB) {
	t.Helper()
	eventually(t, "it has begun", func() bool { _, err := s.Memory(); return !errors.Is(err, ErrNotRunning) })
}

// A node that pauses before the program begins must find it paused.
func TestSteer_PausedBeforeItsStart(t *testing.T) {
	for name, l := range ways() {
		t.Run(name, func(t *testing.T) {
			r := &Steer{}
			if err := r.Pause(); err != nil {
				t.Fatal(err)
			}
			s := start(t, l, counting(1), func(s *Spec) { s.Steer = r })
			r.begun(t)
			before := s.counters()
			still(t)
			if s.counters() != before {
				t.Error("it runs")
			}
			if err := r.Resume(); err != nil {
				t.Fatal(err)
			}
			s.all(t, 1)
		})
	}
}

func TestSteer_PausedIsKilledAsItIs(t *testing.T) {
	for name, l := range ways() {
		t.Run(name, func(t *testing.T) {
			r := start(t, l, counting(8), func(s *Spec) { s.Grace = time.Minute })
			r.all(t, 8)
			if err := r.Pause(); err != nil {
				t.Fatal(err)
			}
			before := r.counters()
			began := time.Now()
			r.cancel(nil)
			e := <-r.ended
			e.wantCause(t, KilledCancel)
			if r.counters() != before {
				t.Error("it went on before it ended")
			}
			if e.Signal != "SIGKILL" || time.Since(began) > killGrace {
				t.Errorf("%+v after %v", e.Result, time.Since(began))
			}
			if err := r.Resume(); err != nil {
				t.Error(err)
			}
			if _, err := r.Memory(); !errors.Is(err, ErrNotRunning) {
				t.Errorf("what has ended still answers: %v", err)
			}
		})
	}
}

func TestSteer_PausingAndCancellingAtOnceEndsIt(t *testing.T) {
	for name, l := range ways() {
		t.Run(name, func(t *testing.T) {
			for range 5 {
				r := start(t, l, counting(2), nil)
				r.all(t, 2)
				go func() { _ = r.Pause() }()
				r.cancel(nil)
				began := time.Now()
				(<-r.ended).wantCause(t, KilledCancel)
				if time.Since(began) > killGrace {
					t.Errorf("it took %v", time.Since(began))
				}
			}
		})
	}
}

const checkpointing = `
def save(*_):
    with open("/spare/rw/checkpoint", "w") as f: f.write("42")
    sys.exit(5)
signal.signal(signal.SIGTERM, save)
open("/spare/rw/ready", "w")
while True: time.sleep(60)`

func TestLinux_CancelledProgramMaySaveItsState(t *testing.T) {
	r := start(t, linux{}, checkpointing, func(s *Spec) { s.Grace = 20 * time.Second })
	r.has(t, "ready")
	r.cancel(nil)
	e := <-r.ended
	e.wantCause(t, KilledCancel)
	if text, err := os.ReadFile(filepath.Join(r.dir, "checkpoint")); string(text) != "42" || e.ExitCode != 5 || e.Signal != "" {
		t.Errorf("%q, %v, %+v", text, err, e.Result)
	}
}

func TestLinux_CancelledProgramGetsNoMoreThanItsGrace(t *testing.T) {
	r := start(t, linux{}, `
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("/spare/rw/ready", "w")
while True: time.sleep(60)`, func(s *Spec) { s.Grace = 300 * time.Millisecond })
	r.has(t, "ready")
	began := time.Now()
	r.cancel(nil)
	e := <-r.ended
	e.wantCause(t, KilledCancel)
	if took := time.Since(began); took < 300*time.Millisecond || took > killGrace || e.Signal != "SIGKILL" {
		t.Errorf("%+v after %v", e.Result, took)
	}
}

func TestLinux_CancelledAtOnceGetsNoGrace(t *testing.T) {
	r := start(t, linux{}, checkpointing, func(s *Spec) { s.Grace = time.Minute })
	r.has(t, "ready")
	r.cancel(errors.Join(errors.New("the owner is back"), ErrAtOnce))
	(<-r.ended).wantCause(t, KilledCancel)
	if _, err := os.Stat(filepath.Join(r.dir, "checkpoint")); err == nil {
		t.Error("it was asked")
	}
}

// What a program that is asked to end cannot do is to end well in secret.
func TestLinux_AskedProgramThatEndsByTheSignalSaysSo(t *testing.T) {
	r := start(t, linux{}, `
open("/spare/rw/ready", "w")
while True: time.sleep(60)`, func(s *Spec) { s.Grace = time.Minute })
	r.has(t, "ready")
	r.cancel(nil)
	if e := <-r.ended; e.Cause != KilledCancel || e.Signal != "SIGTERM" || e.ExitCode != -1 {
		t.Errorf("%+v", e.Result)
	}
}

func TestClock_CountsWithoutPauses(t *testing.T) {
	rung := make(chan struct{}, 1)
	c := clock{limit: time.Hour, since: time.Now().Add(-time.Hour + time.Minute)}
	c.start(func() { rung <- struct{}{} })
	c.pause()
	c.pause()
	at := c.elapsed()
	if at < 59*time.Minute || at > 59*time.Minute+10*time.Second || c.elapsed() != at {
		t.Errorf("%v", at)
	}
	c.used = time.Hour
	c.resume()
	select {
	case <-rung:
	case <-time.After(10 * time.Second):
		t.Error("it does not ring")
	}
	c.stop()
}

// TestSteer_PausesATreeOf64Quickly prints what pausing took, and sees that the tree does
// nothing once Pause has returned. The promise is 50 ms in 99 of 100. What else this
// machine does meanwhile is not known here, so the test goes by half of them.
func TestSteer_PausesATreeOf64Quickly(t *testing.T) {
	const processes = 64
	rounds := 8
	kinds := map[string]func(*Spec){"": func(s *Spec) { s.Limits.Nice = true }}
	if os.Getenv("SPARE_LONG") != "" { // on a busy machine, what is idle takes long to begin
		rounds = 100
		kinds[", half a core"] = func(s *Spec) { s.Limits.Nice, s.Limits.CPUs = true, 0.5 }
	}
	for name, l := range ways() {
		for kind, change := range kinds {
			t.Run(name+kind, func(t *testing.T) {
				r := start(t, l, counting(processes), func(s *Spec) {
					s.Limits.Wall = 5 * time.Minute
					change(s)
				})
				r.all(t, processes)
				took := r.pauses(t, rounds)
				p50, p99 := took[rounds/2], took[(rounds*99+99)/100-1]
				t.Logf("%d processes: p50 %v, p99 %v, most %v", processes, p50, p99, took[rounds-1])
				if p50 > 500*time.Millisecond {
					t.Errorf("p50 %v", p50)
				}
			})
		}
	}
}

// pauses pauses and resumes it some times, and returns in order what pausing took.
func (r *steeredRun) pauses(t *testing.T, rounds int) []time.Duration {
	t.Helper()
	var took []time.Duration
	for range rounds {
		began := time.Now()
		if err := r.Pause(); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
		before := r.counters()
		if len(took) == 1 {
			still(t)
			if r.counters() != before {
				t.Error("paused, it went on")
			}
		}
		if err := r.Resume(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it goes on", func() bool { return r.counters() != before })
	}
	slices.Sort(took)
	return took
}
