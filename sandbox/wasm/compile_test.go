package wasm

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/wasm/wasmtest"
)

// spy is a runtime that runs nothing and keeps what it was asked to run.
type spy struct {
	asked []sandbox.Spec
	cause sandbox.Cause // how all ends
}

func (*spy) Name() string { return "spy" }

func (*spy) Probe(context.Context) spare.Capability { return spare.Capability{} }

func (s *spy) Run(_ context.Context, spec sandbox.Spec) (sandbox.Result, error) {
	s.asked = append(s.asked, spec)
	return sandbox.Result{Cause: s.cause}, nil
}

func TestCompile_KeepsTheLimitsOfTheRunItIsFor(t *testing.T) {
	inside := &spy{}
	r := New(Config{Cache: t.TempDir(), Inside: inside, Program: wasmtest.Helper(t)})
	var steer sandbox.Steer
	limits := sandbox.Limits{CPUs: 1, Memory: 700 << 20, Wall: time.Minute, Nice: true}
	_, _, _ = r.compiled.get(t.Context(), helloProgram().module, sandbox.Spec{Limits: limits, Steer: &steer})
	if len(inside.asked) != 1 {
		t.Fatalf("it was asked for %d runs", len(inside.asked))
	}
	s := inside.asked[0]
	if l := s.Limits; l.CPUs != 1 || l.Memory != 700<<20+helperMemory || l.Wall != time.Minute || !l.Nice || s.Steer != &steer {
		t.Errorf("compiling has the limits %+v, and is steered: %v", l, s.Steer == &steer)
	}
	env := strings.Join(s.Env, "\n")
	if !strings.Contains(env, "GOMAXPROCS=1\n") || !strings.Contains(env, "GOMEMLIMIT=734003200B\n") {
		t.Errorf("the helper has the variables\n%s", env)
	}
}

func TestCompile_ForAProbeTakesIdleTimeFirst(t *testing.T) {
	inside := &spy{cause: sandbox.KilledTime}
	r := New(Config{Cache: t.TempDir(), Inside: inside, Program: wasmtest.Helper(t)})
	if err := r.prepare(t.Context(), helloProgram().module); err == nil || len(inside.asked) != 2 {
		t.Fatalf("it tried %d times (%v)", len(inside.asked), err)
	}
	idle, busy := inside.asked[0].Limits, inside.asked[1].Limits
	if !idle.Nice || idle.CPUs != 0 || busy.Nice || busy.CPUs != 1 {
		t.Errorf("it tried with the limits %+v and %+v", idle, busy)
	}
}

func TestCompile_IsBoundedWithoutLimits(t *testing.T) {
	l := compileLimits(sandbox.Limits{})
	if l.Wall != compileWall || l.Memory != compileMemory || l.Disk != maxCode {
		t.Errorf("got %+v", l)
	}
	for _, cpus := range []float64{0, 0.5, 3, 500} {
		if n := compilersFor(cpus); n < 1 || n > compileCores || cpus > 0 && float64(n) >= cpus+1 {
			t.Errorf("%v cores compile with %d threads", cpus, n)
		}
	}
}

// A limit that the run itself was given is not the module's fault.
func TestCompile_ThatTakesTheRunsTimeEndsIt(t *testing.T) {
	r := New(Config{Cache: t.TempDir(), Program: wasmtest.Helper(t)})
	for cause, limits := range map[sandbox.Cause]sandbox.Limits{
		sandbox.KilledTime:   {Wall: time.Millisecond},
		sandbox.KilledMemory: {Memory: 1 << 20, Wall: time.Minute},
	} {
		r.compiled.compile = func(context.Context, string, sandbox.Spec) (time.Duration, error) {
			return time.Second, &overLimit{cause}
		}
		p := helloProgram()
		res, err := r.run(t.Context(), sandbox.Spec{Argv: p.argv, Limits: limits}, p)
		if err != nil || res.Cause != cause || res.Wall != time.Second {
			t.Errorf("got %+v and %v, want it %s", res, err, cause)
		}
	}
	r.compiled.compile = r.compile
	p := helloProgram()
	if res, err := r.run(t.Context(), sandbox.Spec{Argv: p.argv, Limits: sandbox.Limits{Wall: time.Microsecond}}, p); err != nil || res.Cause != sandbox.KilledTime {
		t.Errorf("got %+v and %v", res, err)
	}
}

func TestCompile_OthersThatWaitForItCanBeCancelled(t *testing.T) {
	r := New(Config{Cache: t.TempDir(), Program: wasmtest.Helper(t)})
	compiling, on := make(chan struct{}), make(chan struct{})
	r.compiled.compile = func(context.Context, string, sandbox.Spec) (time.Duration, error) {
		close(compiling)
		<-on // as long as its run is paused
		return 0, errors.New("over")
	}
	done := make(chan error, 1)
	p := helloProgram()
	go func() { _, err := r.run(context.Background(), sandbox.Spec{Argv: p.argv}, p); done <- err }()
	<-compiling
	why := errors.New("not wanted any more")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := r.run(ctx, sandbox.Spec{Argv: p.argv}, p); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	close(on)
	<-done
}
