package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/client"
	"github.com/spare-compute/spare/protocol"
)

// grid is a hub and its nodes, each a process with a data folder of its own.
type grid struct {
	t       *testing.T
	dir     string
	httpAt  string
	nodesAt string
	hub     *process
	nodes   map[string]*process
	flags   []string // more of spare-hub serve
}

// process is one of the programs, running.
type process struct {
	cmd  *exec.Cmd
	log  *syncBuffer
	done chan struct{}
}

// syncBuffer collects what a process prints.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// newGrid starts a hub without nodes.
func newGrid(t *testing.T, flags ...string) *grid {
	t.Helper()
	g := &grid{
		t: t, dir: t.TempDir(), nodes: map[string]*process{}, flags: flags,
		httpAt: freePort(t, "tcp"), nodesAt: freePort(t, "udp"),
	}
	t.Cleanup(func() {
		for name, n := range g.nodes {
			g.stop(name, n)
		}
		if g.hub != nil {
			g.stop("hub", g.hub)
		}
	})
	g.startHub()
	return g
}

func freePort(t *testing.T, network string) string {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.LocalAddr().String()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (g *grid) path(name string) string { return filepath.Join(g.dir, name) }

func (g *grid) startHub() {
	g.t.Helper()
	args := append([]string{"serve", "--data", g.path("hub"), "--http", g.httpAt, "--nodes", g.nodesAt}, g.flags...)
	g.hub = g.start("spare-hub", args...)
	g.until(20*time.Second, "the hub is ready", func() bool {
		select {
		case <-g.hub.done:
			g.t.Fatalf("the hub ended:\n%s", g.hub.log)
		default:
		}
		return g.client().Ready(g.t.Context()) == nil
	})
}

func (g *grid) start(program string, args ...string) *process {
	g.t.Helper()
	p := &process{cmd: exec.Command(program, args...), log: &syncBuffer{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in ProcessState
		close(p.done)
	}()
	return p
}

// kill ends a process as a power cut would.
func (p *process) kill() {
	p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.done
}

// stop ends a process politely and shows its log if the test failed.
func (g *grid) stop(name string, p *process) {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		g.t.Errorf("%s did not stop within 20 s of SIGTERM", name)
		p.kill()
	}
	if strings.Contains(p.log.String(), "DATA RACE") {
		g.t.Errorf("%s has a data race:\n%s", name, p.log)
	} else if g.t.Failed() {
		g.t.Logf("%s printed:\n%s", name, p.log)
	}
}

func (g *grid) restartHub() {
	g.t.Helper()
	g.hub.kill()
	g.startHub()
}

// join makes a node's data folder with one core to lend.
func (g *grid) join(name string) {
	g.t.Helper()
	out := g.must("spare-hub", "ticket", "--data", g.path("hub"))
	lines := strings.Split(strings.TrimSpace(out), "\n")
	g.must("spare-node", "join", lines[len(lines)-1], "--data", g.path(name))
	g.must("spare-node", "prefs", "set", "cores=1", "--data", g.path(name))
}

func (g *grid) run(name string) {
	g.t.Helper()
	g.nodes[name] = g.start("spare-node", "run", "--data", g.path(name))
}

// addNodes joins and runs nodes, and waits until the hub sees them.
func (g *grid) addNodes(names ...string) {
	g.t.Helper()
	for _, n := range names {
		g.join(n)
		g.run(n)
	}
	g.until(30*time.Second, "all nodes are connected", func() bool {
		nodes, err := g.client().Nodes(g.t.Context())
		if err != nil {
			return false
		}
		up := 0
		for _, n := range nodes {
			if n.State != spare.NodeOffline && len(n.Device.Runtimes) > 0 && n.Device.Runtimes[0].OK {
				up++
			}
		}
		return up >= len(g.nodes)
	})
}

// env is what the commands of a user of this hub need.
func (g *grid) env() []string {
	return append(os.Environ(), "SPARE_HUB=http://"+g.httpAt, "SPARE_KEY_FILE="+filepath.Join(g.path("hub"), "admin.key"))
}

// try runs a command and returns what it printed and its exit code.
func (g *grid) try(program string, args ...string) (stdout, stderr string, code int) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &errs, g.env()
	err := cmd.Run()
	if cmd.ProcessState == nil {
		g.t.Fatalf("%s %v: %v", program, args, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (g *grid) must(program string, args ...string) string {
	g.t.Helper()
	out, errs, code := g.try(program, args...)
	if code != 0 {
		g.t.Fatalf("%s %v: exit code %d\n%s%s", program, args, code, out, errs)
	}
	return out
}

func (g *grid) client() *client.Client {
	g.t.Helper()
	key, err := os.ReadFile(filepath.Join(g.path("hub"), "admin.key"))
	if err != nil {
		key = []byte("none yet")
	}
	c, err := client.New(client.Options{Hub: "http://" + g.httpAt, Key: strings.TrimSpace(string(key))})
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// until polls a condition; it fails the test if that does not come true in time.
func (g *grid) until(within time.Duration, what string, ok func() bool) {
	g.t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			for name, n := range g.nodes {
				g.t.Logf("%s printed:\n%s", name, n.log)
			}
			g.t.Fatalf("waited %v in vain until %s; the hub printed:\n%s", within, what, g.hub.log)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-g.t.Context().Done():
			g.t.Fatal(g.t.Context().Err())
		}
	}
}

// app writes an App's folder, with a template of the same name, and pushes and
// activates it.
func (g *grid) app(name, partitioner, assembler, code string) {
	g.t.Helper()
	dir := g.path("app-" + name)
	write := func(file, text string) {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			g.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			g.t.Fatal(err)
		}
	}
	write("app/main.py", code)
	write("manifest.json", fmt.Sprintf(
		`{"name":%q,"version":"1.0","platform":"python","entrypoint":"main.py","description":"a test"}`, name))
	write("template.json", fmt.Sprintf(
		`{"id":%q,"app":%q,"partitioner":%q,"assembler":%q}`, name, name+"@1.0", partitioner, assembler))
	g.must("spare", "app", "push", dir)
	g.must("spare", "app", "activate", name+"@1.0")
}

// file writes an input.
func (g *grid) file(name, text string) string {
	g.t.Helper()
	path := g.path(name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		g.t.Fatal(err)
	}
	return path
}

// submit uploads an input and runs a job without waiting for it.
func (g *grid) submit(template, input string, more ...string) string {
	g.t.Helper()
	out := g.must("spare", append([]string{"run", input, "--template", template, "--detach", "--json"}, more...)...)
	var made struct {
		Job client.Job `json:"job"`
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.Job.ID == "" {
		g.t.Fatalf("spare run --detach --json printed %q: %v", out, err)
	}
	return made.Job.ID
}

// wait returns a job once it has ended.
func (g *grid) wait(id string, within time.Duration) client.Job {
	g.t.Helper()
	var job client.Job
	g.until(within, "job "+id+" has ended", func() bool {
		got, err := g.client().Job(g.t.Context(), id)
		job = got
		return err == nil && client.Final(got.State)
	})
	return job
}

// result downloads a complete job's only result.
func (g *grid) result(id string) string {
	g.t.Helper()
	dir := g.t.TempDir()
	g.must("spare", "job", "results", id, "-o", dir)
	var found []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, path)
		}
		return err
	})
	if err != nil || len(found) != 1 {
		g.t.Fatalf("job %s has the results %v (%v), want one file", id, found, err)
	}
	f, err := os.Open(found[0])
	if err != nil {
		g.t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		g.t.Fatal(err)
	}
	return string(b)
}

// nodeID is the name that the hub knows a node by.
func (g *grid) nodeID(name string) spare.NodeID {
	g.t.Helper()
	id, err := protocol.LoadIdentity(filepath.Join(g.path(name), "identity.key"))
	if err != nil {
		g.t.Fatal(err)
	}
	return id.ID()
}
