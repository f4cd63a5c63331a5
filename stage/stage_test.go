package stage

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	os.Exit(m.Run())
}

// task lays out an App of one file.
func task(t *testing.T, entrypoint, code string) Task {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "bundle", "app"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("bundle/app/"+entrypoint, code, 0o755)
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	return Task{
		Bundle: filepath.Join(dir, "bundle"), Root: "app", Entrypoint: entrypoint, Around: spare.Environment{Platform: spare.PlatformPython},
		Input: write("chunk", "the chunk", 0o644), Params: []byte(`{"case":"upper"}`), Chunk: 7,
		JobID: "job", JobName: "My job", Work: work,
		Limits: sandbox.Limits{Wall: 20 * time.Second, Memory: 1 << 30, Disk: 64 << 20},
	}
}

func runApp(t *testing.T, task Task) Ended {
	t.Helper()
	rt, found := sandbox.Choose(t.Context())
	if rt == nil {
		t.Fatalf("no sandbox works here: %+v", found)
	}
	return RunApp(t.Context(), rt, task)
}

func TestRunApp_GivesWhatTheContractPromises(t *testing.T) {
	task := task(t, "main.py", `
import json, os, sys
d = os.environ
assert os.listdir(d["TASK_DIR"]) == ["data.bin"], os.listdir(d["TASK_DIR"])
assert os.listdir(d["SHARED_CACHE_DIR"]) == []
for k in "USER_CACHE_DIR", "CHECKPOINT_DIR":
    open(os.path.join(d[k], "x"), "w").close()
for k in "SHARED_CACHE_DIR", "TASK_DIR":
    try:
        open(os.path.join(d[k], "x"), "w")
        sys.exit(k + " can be written")
    except OSError:
        pass
assert os.path.exists("main.py"), "the working folder is not the App's"
out = {k: d[k] for k in ("APP_PARAMS", "CHUNK_NUMBER", "JOB_NAME", "JOB_ID")}
out["data"] = open(d["TASK_DIR"] + "/data.bin").read()
json.dump(out, open(d["TASK_RESULTS_DIR"] + "/out.json", "w"))
`)
	ended := runApp(t, task)
	if ended.Outcome != spare.Succeeded {
		t.Fatalf("%s: %s\n%s", ended.Outcome, ended.Message, ended.Log)
	}
	raw, err := os.ReadFile(filepath.Join(ended.Results, "out.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"APP_PARAMS": `{"case":"upper"}`, "CHUNK_NUMBER": "7", "JOB_NAME": "My job", "JOB_ID": "job", "data": "the chunk",
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %q, want %q", k, got[k], v)
		}
	}
	if ended.Usage.Wall <= 0 || ended.Usage.CPU <= 0 || ended.Usage.PeakMemory <= 0 {
		t.Errorf("usage %+v, want all above zero", ended.Usage)
	}
}

func TestRunApp_EmptyParametersAreAnEmptyObject(t *testing.T) {
	task := task(t, "main.sh", `[ "$APP_PARAMS" = "{}" ] || { echo "got $APP_PARAMS"; exit 1; }`)
	task.Params = nil
	if ended := runApp(t, task); ended.Outcome != spare.Succeeded {
		t.Fatalf("%s: %s", ended.Outcome, ended.Message)
	}
}

func TestRunApp_SaysHowItEnded(t *testing.T) {
	for _, c := range []struct {
		name, entrypoint, code string
		outcome                spare.Outcome
		exit                   int
		message                string
	}{
		{"exit code and last words", "main.py", "import sys\nprint('working')\nsys.exit('no more ink')", spare.AppFailed, 1, "exit code 1: no more ink"},
		{"traceback's last line", "main.py", "raise ValueError('bad chunk')", spare.AppFailed, 1, "ValueError: bad chunk"},
		{"silence", "main.sh", "exit 9", spare.AppFailed, 9, "exit code 9; it printed nothing"},
		{"signal", "main.py", "import ctypes\nctypes.string_at(0)", spare.AppFailed, -1, "SIGSEGV"},
		{"time", "main.sh", "echo waiting; sleep 60", spare.TimedOut, 0, "waiting"},
		{"no such interpreter", "main.bin", "#!/no/such/program\n", spare.AppFailed, 0, "main.bin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			task := task(t, c.entrypoint, c.code)
			if c.outcome == spare.TimedOut {
				task.Limits.Wall = 500 * time.Millisecond
			}
			ended := runApp(t, task)
			if ended.Outcome != c.outcome || ended.ExitCode != c.exit || !strings.Contains(ended.Message, c.message) {
				t.Errorf("got %s, code %d, %q; want %s, %d and %q", ended.Outcome, ended.ExitCode, ended.Message, c.outcome, c.exit, c.message)
			}
		})
	}
}

func TestRunApp_CancelledSaysWhy(t *testing.T) {
	task := task(t, "main.sh", `touch "$TASK_RESULTS_DIR/started"; sleep 60`)
	rt, _ := sandbox.Choose(t.Context())
	if rt == nil {
		t.Fatal("no sandbox works here")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for {
			if _, err := os.Stat(filepath.Join(task.Work, "results", "started")); err == nil {
				cancel(fmt.Errorf("the owner is back"))
				return
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-t.Context().Done():
				return
			}
		}
	}()
	if ended := RunApp(ctx, rt, task); ended.Outcome != spare.Cancelled || ended.Message != "the owner is back" {
		t.Fatalf("got %s, %q", ended.Outcome, ended.Message)
	}
}

func TestRunApp_EntrypointMustBeAFileOfTheBundle(t *testing.T) {
	for _, name := range []string{"missing.py", "../../chunk", "/etc/passwd", "."} {
		task := task(t, "main.py", "")
		task.Entrypoint = name
		if ended := runApp(t, task); ended.Outcome != spare.AppFailed || !strings.Contains(ended.Message, "no file in its bundle") {
			t.Errorf("entrypoint %q: got %s, %q", name, ended.Outcome, ended.Message)
		}
	}
}

func TestTail_KeepsTheEndFromTheStartOfALine(t *testing.T) {
	var log tail
	for i := range 20_000 {
		fmt.Fprintf(&log, "line %d\n", i)
	}
	b := log.Bytes()
	if len(b) > LogLimit || len(b) < LogLimit-100 {
		t.Errorf("kept %d bytes, want about %d", len(b), LogLimit)
	}
	if !bytes.HasPrefix(b, []byte("line ")) || !bytes.HasSuffix(b, []byte("line 19999\n")) {
		t.Errorf("kept %q … %q", b[:20], b[len(b)-20:])
	}
	if got := log.LastLine(); got != "line 19999" {
		t.Errorf("last line %q", got)
	}
}

func TestTail_OneHugeWriteIsBounded(t *testing.T) {
	var log tail
	if n, err := log.Write(bytes.Repeat([]byte("x"), 10<<20)); n != 10<<20 || err != nil {
		t.Fatal(n, err)
	}
	if n := len(log.Bytes()); n != LogLimit {
		t.Errorf("kept %d bytes, want %d", n, LogLimit)
	}
}

func TestRunApp_ResultsThatMayNotTravelAreTheAppsFault(t *testing.T) {
	for name, code := range map[string]string{
		"symbolic link": `os.symlink("/etc/passwd", r + "/x")`,
		"hard link":     `open(r + "/a", "w"); os.link(r + "/a", r + "/b")`,
		"named pipe":    `os.mkfifo(r + "/x")`,
		"socket":        `socket.socket(socket.AF_UNIX).bind(r + "/x")`,
		"case":          `open(r + "/A", "w"); open(r + "/a", "w")`,
		"UTF-8":         `open(r.encode() + b"/\xff", "w")`,
		"Windows":       `open(r + "/nul.txt", "w")`,
	} {
		ended := runApp(t, task(t, "main.py", "import os, socket\nr = os.environ['TASK_RESULTS_DIR']\n"+code))
		if ended.Outcome != spare.AppFailed || !strings.Contains(ended.Message, "refused") || !strings.Contains(ended.Message, name) {
			t.Errorf("%s: %s: %s\n%s", name, ended.Outcome, ended.Message, ended.Log)
		}
	}
}
