package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/client"
	"github.com/spare-compute/spare/protocol"
)

// refused runs a command that must fail with a sentence that says all of want, and no
// more than a few lines.
func (g *grid) refused(want []string, program string, args ...string) {
	g.t.Helper()
	out, errs, code := g.try(program, args...)
	if code == 0 {
		g.t.Errorf("%s %v: exit code 0, want a refusal:\n%s", program, args, out)
		return
	}
	for _, w := range want {
		if !strings.Contains(errs, w) {
			g.t.Errorf("%s %v: the message does not say %q:\n%s", program, args, w, errs)
		}
	}
	if lines := strings.Count(strings.TrimSpace(errs), "\n") + 1; lines > 8 {
		g.t.Errorf("%s %v: a message of %d lines:\n%s", program, args, lines, errs)
	}
}

func TestBadInput_NamesThatDoNotExistComeWithTheNearest(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	in := g.file("in.txt", "x\n")
	out := t.TempDir()
	g.refused([]string{"video-transcodin@v0.2", "video-transcoding@v0.2"}, "spare", "run", in, "--template", "video-transcodin@v0.2", "-o", out)
	g.refused([]string{"web-720", "web-720p"}, "spare", "run", in, "--template", "video-transcoding@v0.2", "--preset", "web-720", "-o", out)
	g.refused([]string{"sampels", "samples"}, "spare", "run", in, "--template", "montecarlo", "--param", "sampels=3", "-o", out)
	g.refused([]string{"samples", "from 1 to"}, "spare", "run", in, "--template", "montecarlo", "--param", "samples=0", "-o", out)
	g.refused([]string{"no-such-file"}, "spare", "run", filepath.Join(t.TempDir(), "no-such-file"), "--template", "montecarlo", "-o", out)
	jobs, _, err := g.client().Jobs(t.Context(), client.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range jobs {
		if j.State != client.StateNew {
			t.Errorf("refused input left job %s in state %s", j.ID, j.State)
		}
	}
}

func TestBadInput_Tickets(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	ticket := func(more ...string) string {
		lines := strings.Split(strings.TrimSpace(g.must("spare-hub", append([]string{"ticket", "--data", g.path("hub")}, more...)...)), "\n")
		return lines[len(lines)-1]
	}
	join := func(ticket string, want ...string) {
		t.Helper()
		data := filepath.Join(t.TempDir(), "node")
		g.refused(want, "spare-node", "join", ticket, "--data", data)
		if left, err := filepath.Glob(filepath.Join(data, "hubs", "*")); err != nil || len(left) > 0 {
			t.Errorf("a refused ticket left %v (%v)", left, err)
		}
	}
	good := ticket()
	join(good[:len(good)-5], "ticket")
	join(good[:20]+"AAAA"+good[24:], "ticket")
	join("hello", "ticket")

	once := ticket()
	g.must("spare-node", "join", once, "--data", g.path("first"))
	join(once, "used up")

	short := ticket("--expires", "1s")
	parsed, err := protocol.ParseTicket(short)
	if err != nil {
		t.Fatal(err)
	}
	g.until(5*time.Second, "the ticket has expired", func() bool { return time.Now().After(parsed.Expires) })
	join(short, "expired")

	other := newGrid(t)
	parsed.Addresses, parsed.Expires = []string{other.nodesAt}, time.Now().Add(time.Hour)
	join(parsed.String(), "another hub")

	parsed.Addresses = []string{freePort(t, "udp")}
	join(parsed.String(), parsed.Addresses[0])
}

func TestBadInput_HubThatIsNotThere(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.stop("hub", g.hub)
	g.hub = nil
	g.refused([]string{g.httpAt}, "spare", "job", "list")
	g.refused([]string{"no hub's data folder"}, "spare-hub", "ticket", "--data", t.TempDir())
}

func TestBadInput_PortInUse(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.refused([]string{g.httpAt, "in use", "--http"}, "spare-hub", "serve", "--data", t.TempDir(), "--http", g.httpAt, "--nodes", freePort(t, "udp"))
	g.refused([]string{g.nodesAt, "in use", "--nodes"}, "spare-hub", "serve", "--data", t.TempDir(), "--http", freePort(t, "tcp"), "--nodes", g.nodesAt)
}

func TestBadInput_DataFolderInUseOrNewer(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.refused([]string{g.path("hub"), "in use by another process"}, "spare-hub", "serve", "--data", g.path("hub"), "--http", freePort(t, "tcp"), "--nodes", freePort(t, "udp"))
	g.addNodes("a")
	g.refused([]string{g.path("a"), "in use by another process"}, "spare-node", "run", "--data", g.path("a"))
	g.stop("a", g.nodes["a"])
	delete(g.nodes, "a")
	if err := os.WriteFile(filepath.Join(g.path("a"), "format"), []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.refused([]string{g.path("a"), "newer"}, "spare-node", "run", "--data", g.path("a"))
}

func TestBadInput_TwoNodesWithTheSameKeyTheOlderIsToldWhy(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.join("a")
	g.must("cp", "-a", g.path("a"), g.path("twin"))
	g.run("a")
	older := g.nodes["a"]
	g.until(10*time.Second, "the first is connected", func() bool {
		nodes, err := g.client().Nodes(t.Context())
		return err == nil && len(nodes) == 1 && nodes[0].State != spare.NodeOffline
	})
	delete(g.nodes, "a")
	g.run("twin")
	select {
	case <-older.done:
	case <-time.After(20 * time.Second):
		older.kill()
		t.Fatalf("the older of two nodes with one key did not stop; it printed:\n%s", older.log)
	}
	if older.cmd.ProcessState.ExitCode() == 0 || !strings.Contains(older.log.String(), "another machine uses this node's key") {
		t.Errorf("the older node ended with code %d and said:\n%s", older.cmd.ProcessState.ExitCode(), older.log)
	}
}

func TestBadInput_NothingThatIsNoVideoIsTranscoded(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.addNodes("a")
	for name, c := range map[string]struct{ content, want string }{
		"text.mp4":  {strings.Repeat("this is no video\n", 100), "not a video"},
		"empty.mp4": {"", "empty"},
	} {
		out := t.TempDir()
		g.refused([]string{c.want}, "spare", "run", g.file(name, c.content), "--template", "video-transcoding@v0.2", "--preset", "web-480p", "-o", out)
		if left, err := os.ReadDir(out); err != nil || len(left) > 0 {
			t.Errorf("%s left %v (%v)", name, left, err)
		}
	}
}

func TestBadInput_AppArchivesThatWouldDoHarm(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	dir := g.path("evil")
	if err := os.MkdirAll(filepath.Join(dir, "app"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(`{"name":"evil","version":"1.0","platform":"python","entrypoint":"main.py"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "app", "main.py")); err != nil {
		t.Fatal(err)
	}
	g.refused([]string{"main.py", "symbolic link"}, "spare", "app", "push", dir)
	apps, err := g.client().List(t.Context(), "apps")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range apps {
		if a.Name == "evil" {
			t.Error("a refused App was stored")
		}
	}
}

func TestWaiting_SaysWhichToolIsMissing(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	// A node whose PATH holds no ffmpeg cannot exist beside the system's own: what the
	// job needs is therefore an encoder that no ffmpeg has.
	g.app("needy", "passthrough", "passthrough", "pass")
	dir := g.path("app-needy")
	manifest := `{"name":"needy","version":"1.1","platform":"python","entrypoint":"main.py",
		"device_requirements":{"tools":["ffmpeg:libx999"]}}`
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "template.json"), []byte(`{"id":"needy","app":"needy@1.1","partitioner":"passthrough","assembler":"passthrough"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	g.must("spare", "app", "push", dir)
	g.must("spare", "app", "activate", "needy@1.1")
	g.addNodes("a")
	id := g.submit("needy", g.file("in.txt", "x"))
	g.until(20*time.Second, "the job says what it waits for", func() bool {
		p, err := g.client().Progress(t.Context(), id)
		return err == nil && len(p.Waiting) > 0 && p.Waiting[0].Code == spare.ReasonNeedsTool &&
			strings.Contains(p.Waiting[0].Detail, "no connected node offers ffmpeg with libx999")
	})
	if out := g.must("spare", "job", "why", id); !strings.Contains(out, "no connected node offers ffmpeg with libx999") {
		t.Errorf("spare job why printed:\n%s", out)
	}
}
