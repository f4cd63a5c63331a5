package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/api/apitest"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/image/imagetest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"spare": main})
}

// TestScripts types the commands as a user does, at a hub whose jobs' results are their
// inputs.
func TestScripts(t *testing.T) {
	h := apitest.Start(t)
	registry := imagetest.Serve(t)
	registry.Put("tools/video:1", imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t, imagetest.File{Name: "f", Text: "x"})))
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "jobid": jobID,
			"node": func(ts *testscript.TestScript, _ bool, args []string) { putNode(ts, h.Store, args[0]) },
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("SPARE_HUB", h.URL)
			// Each script is an owner of its own and sees its own jobs.
			env.Setenv("SPARE_KEY", h.Key(filepath.Base(env.WorkDir), store.RoleSubmitter))
			env.Setenv("ADMIN", h.Admin)
			env.Setenv("REGISTRY", registry.Host)
			return os.WriteFile(filepath.Join(env.WorkDir, "admin.key"), []byte(h.Admin+"\n"), 0o600)
		},
	})
}

// exits wants a command to end with a code: exits CODE PROGRAM ARG…
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		got = ended.ExitCode()
	case err != nil:
		ts.Fatalf("%s: %v", args[1], err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	if text := ts.ReadFile("stderr"); got != 0 && strings.Count(text, "\n") != 1 {
		ts.Fatalf("want one sentence on stderr, got %q", text)
	}
}

// putNode makes the hub know a node and puts its id into $NODE: node NAME
func putNode(ts *testscript.TestScript, nodes store.Nodes, name string) {
	id := spare.NodeID(spare.Sum([]byte(rand.Text())))
	ts.Check(nodes.PutNode(context.Background(), spare.Node{ID: id, Device: spare.Device{Name: name}}))
	ts.Setenv("NODE", id.Short())
}

// jobID puts the id of the job in a JSON file into $JOB.
func jobID(ts *testscript.TestScript, _ bool, args []string) {
	var out struct{ Job struct{ ID string } }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &out))
	ts.Setenv("JOB", out.Job.ID)
}
