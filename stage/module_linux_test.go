package stage_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/stage"
)

// module builds an App that is a WebAssembly module.
func module(t *testing.T) app {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(dir, "main.wasm"), "./testdata/module")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return app{"module", dir, []byte("one\ntwo\n"), `{"k": 1}`, ""}
}

func TestRunApp_AModuleGivesTheSameResultsInEveryWay(t *testing.T) {
	ways := interpreted(t)
	if ways == nil {
		return // as another user, see there
	}
	a := module(t)
	for i := range ways {
		ways[i].around.Platform = spare.PlatformWasm
	}
	inTask := func(w way) stage.Task {
		task := a.task(t, w)
		task.Entrypoint = "main.wasm"
		return task
	}
	const want = "8 bytes, 2 lines, chunk 3, parameters {\"k\": 1}\n"
	for _, w := range ways {
		got, err := os.ReadFile(filepath.Join(a.run(t, w, inTask(w)), "count.txt"))
		if err != nil || string(got) != want {
			t.Errorf("in %s it makes %q, want %q (%v)", w.name, got, want, err)
		}
	}
	// A module is nothing that another runtime could run, and one that is none fails by itself.
	task := inTask(host())
	if ended := stage.RunApp(t.Context(), host().rt, task); ended.Outcome == spare.Succeeded {
		t.Errorf("outside of the wasm runtime it ended as %+v", ended)
	}
	task = inTask(ways[0])
	must(t, os.WriteFile(filepath.Join(task.Bundle, task.Root, "main.wasm"), []byte("\x00asm"), 0o644))
	if ended := stage.RunApp(t.Context(), ways[0].rt, task); ended.Outcome != spare.AppFailed {
		t.Errorf("a module that is cut off ended as %s: %s", ended.Outcome, ended.Message)
	}
}
