package wasm

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/wasm/wasmtest"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	Init()
	orphan()
	if source := os.Getenv(sourceEnv); source != "" {
		if err := os.Chdir(source); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	for _, dir := range removeAtEnd {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// orphan is the life of a parent that a test kills, in a process that is one.
var orphan = func() {}

// sourceEnv names this folder to a suite that runs elsewhere.
const sourceEnv = "SPARE_TEST_SOURCE"

// removeAtEnd is what all tests share.
var removeAtEnd []string

// each runs a test with every way there is to hold a helper.
func each(t *testing.T, test func(t *testing.T, r *Runtime)) {
	t.Helper()
	t.Run("alone", func(t *testing.T) { test(t, alone(t)) })
	if inside := carrier(); inside != nil {
		t.Run("inside "+inside.Name(), func(t *testing.T) { test(t, New(config(t, inside))) })
	}
}

func config(t testing.TB, inside sandbox.Runtime) Config {
	t.Helper()
	return Config{Cache: wasmtest.Cache(t), Python: wasmtest.Python(t), Program: wasmtest.Helper(t), Inside: inside}
}

func alone(t testing.TB) *Runtime {
	t.Helper()
	return New(config(t, nil))
}

// carrier is this system's first runtime.
func carrier() sandbox.Runtime {
	all := sandbox.Default()
	if len(all) == 0 {
		return nil
	}
	return all[0]
}

// outcome is what a run gave back.
type outcome struct {
	sandbox.Result
	out string
}

// run runs a program and fails the test if the runtime does.
func run(t testing.TB, r *Runtime, s sandbox.Spec) outcome {
	t.Helper()
	var out bytes.Buffer
	if s.Stdout == nil {
		s.Stdout, s.Stderr = &out, &out
	}
	if s.Limits == (sandbox.Limits{}) {
		s.Limits = sandbox.Limits{Wall: time.Minute, Output: 1 << 20, Memory: 512 << 20}
	}
	res, err := r.Run(t.Context(), s)
	if err != nil {
		t.Fatalf("%q: %v\n%s", s.Argv, err, out.Bytes())
	}
	return outcome{res, out.String()}
}

// script runs a Python script.
func script(t testing.TB, r *Runtime, text string, change func(*sandbox.Spec)) outcome {
	t.Helper()
	s := sandbox.Spec{Argv: []string{"python3", "-c", text}}
	if change != nil {
		change(&s)
	}
	return run(t, r, s)
}

// wantOut fails the test unless the program ended well and said exactly this.
func (o outcome) wantOut(t testing.TB, want string) {
	t.Helper()
	if o.Cause != sandbox.Exited || o.ExitCode != 0 || strings.TrimSpace(o.out) != want {
		t.Fatalf("got %+v and\n%s\nwant the output %q", o.Result, o.out, want)
	}
}

// wantCause fails the test unless the program was ended for this.
func (o outcome) wantCause(t testing.TB, want sandbox.Cause) {
	t.Helper()
	if o.Cause != want {
		t.Fatalf("ended by %q, want %q: %+v\n%s", o.Cause, want, o.Result, o.out)
	}
}
