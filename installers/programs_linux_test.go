package installers_test

import (
	"bytes"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// built are the programs as they are shipped, in a folder that every user reaches.
func built(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "../cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
}

// freePorts are on loopback: one for TCP and one for UDP.
func freePorts(t *testing.T) (tcp, udp string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	return l.Addr().String(), p.LocalAddr().String()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// run runs a program to its end and returns what it printed.
func run(t *testing.T, env []string, argv ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(argv, " "), err, out.Bytes(), errs.Bytes())
	}
	return out.String()
}

// keep starts a service that runs until the test ends, and then wants it to end well.
func (s *service) keep(t *testing.T, unit string, argv ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := s.start(t, unit, &log, &log, nil, argv...)
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("%s ended with %v:\n%s", argv[0], err, log.Bytes())
		}
	})
}

func TestUnits_HubAndNodeDoAJobBehindThem(t *testing.T) {
	hub, node := newService(t), newService(t)
	built(t, hub.dir, "spare-hub", "spare")
	built(t, node.dir, "spare-node")
	api, nodes := freePorts(t)
	hub.keep(t, unitText(t, "spare-hub"), filepath.Join(hub.dir, "spare-hub"), "serve", "--data", hub.state, "--http", api, "--nodes", nodes)
	eventually(t, "the hub is ready", func() bool {
		r, err := http.Get("http://" + api + "/healthz")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
	lines := strings.Fields(run(t, nil, filepath.Join(hub.dir, "spare-hub"), "ticket", "--data", hub.state))
	ticket := lines[len(lines)-1]

	program := filepath.Join(node.dir, "spare-node")
	var said bytes.Buffer
	if err := node.start(t, unitText(t, "spare-node"), &said, &said, nil, program, "join", ticket, "--data", node.state).Wait(); err != nil {
		t.Fatalf("join: %v\n%s", err, said.Bytes())
	}
	node.keep(t, unitText(t, "spare-node"), program, "run", "--data", node.state)

	input, output := filepath.Join(t.TempDir(), "in.txt"), filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(input, []byte("behind the walls"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"SPARE_HUB=http://" + api, "SPARE_KEY_FILE=" + filepath.Join(hub.state, "admin.key")}
	run(t, env, filepath.Join(hub.dir, "spare"), "run", input, "--template", "hello-world", "-o", output)
	results, err := filepath.Glob(filepath.Join(output, "*.txt"))
	if err != nil || len(results) != 1 {
		t.Fatalf("results: %q, %v", results, err)
	}
	if text, err := os.ReadFile(results[0]); err != nil || string(text) != "BEHIND THE WALLS" {
		t.Errorf("the result is %q, %v", text, err)
	}
	if status := run(t, nil, program, "status", "--data", node.state); !strings.Contains(status, "linux: works for container, python") {
		t.Errorf("the node offers less behind its unit:\n%s", status)
	}
}
