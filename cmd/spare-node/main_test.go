package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/wasm"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	wasm.Init()
	testscript.Main(m, map[string]func(){"spare-node": main})
}

// TestScripts plays the command as a user types it. Scripts with a hub are beside the
// other programs' end-to-end tests.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_DATA_HOME", env.WorkDir+"/xdg")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": code},
	})
}

// code runs a program and wants an exact exit code: code 4 spare-node run …
func code(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if exit, ok := err.(interface{ ExitCode() int }); ok {
		got = string(rune('0' + exit.ExitCode()))
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

func TestExit_CodesDoNotOverlap(t *testing.T) {
	seen := map[int]bool{0: true}
	for _, c := range []int{exitFailed, exitUsage, exitRefused, exitData, exitUnreachable} {
		if seen[c] {
			t.Errorf("exit code %d means two things", c)
		}
		seen[c] = true
	}
	if got := exitCode(os.ErrClosed); got != exitFailed {
		t.Errorf("an unknown error ends with %d", got)
	}
}
