package main

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/spare-compute/spare/hub"
	"github.com/spare-compute/spare/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	testscript.Main(m, map[string]func(){"spare-hub": main})
}

// TestScripts plays the command as an operator types it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir+"/xdg")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "hub": startHub, "newer": newer},
	})
}

// exits wants a command to end with a code, and one line of why: exits CODE PROGRAM ARG…
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		ended, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%s: %v", args[1], err)
		}
		got = ended.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	said := 0
	for line := range strings.Lines(ts.ReadFile("stderr")) {
		if !strings.HasPrefix(line, "time=") { // else the log of a hub that began to start
			said++
		}
	}
	if got != 0 && said != 1 {
		ts.Fatalf("want one sentence on stderr, got %q", ts.ReadFile("stderr"))
	}
}

// startHub runs a hub to the end of the script and puts its addresses into $HTTP and
// $NODES: hub DIR
func startHub(ts *testscript.TestScript, _ bool, args []string) {
	self, err := os.Executable()
	ts.Check(err)
	// The test's program is the command when it is called by its name.
	program := filepath.Join(ts.MkAbs("."), "spare-hub")
	if err := os.Symlink(self, program); err != nil && !os.IsExist(err) {
		ts.Fatalf("%v", err)
	}
	cmd := exec.Command(program, "serve", "--data", ts.MkAbs(args[0]), "--http", "127.0.0.1:0", "--nodes", "127.0.0.1:0", "--json")
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	ts.Check(err)
	var at struct{ HTTP, Nodes, AdminKeyFile string }
	ts.Check(json.Unmarshal(line, &at))
	ts.Setenv("HTTP", strings.TrimPrefix(at.HTTP, "http://"))
	ts.Setenv("NODES", at.Nodes)
	ts.Setenv("ADMIN", at.AdminKeyFile)
}

// newer makes a data folder look as a later release would leave it: newer DIR
func newer(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	raw, err := json.Marshal(hub.Addresses{Key: strings.Repeat("a", 64), Nodes: "127.0.0.1:1"})
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(dir, "hub.json"), raw, 0o600))
	db, err := sqlite3.Open(filepath.Join(dir, "hub.db"))
	ts.Check(err)
	ts.Check(db.Exec("PRAGMA user_version = 9999"))
	ts.Check(db.Close())
}

func TestExit_CodesDoNotOverlap(t *testing.T) {
	if exitCode(os.ErrClosed) != exitFailed || exitCode(usageError{os.ErrClosed}) != exitUsage || exitCode(hub.ErrInUse) != exitInUse {
		t.Error("an error ends with another's exit code")
	}
}
