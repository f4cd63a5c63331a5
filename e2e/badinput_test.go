package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/client"
	"github.com/spare-compute/spare/protocol"
)

// sentenceEnds is where one sentence ends and another begins.
var sentenceEnds = regexp.MustCompile(`[.!?] +[A-Z]`)

// refused runs a command that must fail with one sentence, its last line, that says all of
// want: what is wrong, and what to do. What stands before it is progress or a log.
func (g *grid) refused(want []string, program string, args ...string) {
	g.t.Helper()
	out, errs, code := g.try(program, args...)
	if code == 0 {
		g.t.Errorf("%s %v: exit code 0, want a refusal:\n%s", program, args, out)
		return
	}
	lines := strings.Split(strings.TrimSpace(errs), "\n")
	said := lines[len(lines)-1]
	if !strings.HasPrefix(said, program+": ") || sentenceEnds.MatchString(said) {
		g.t.Errorf("%s %v: ends with %q, want one sentence of %s", program, args, said, program)
	}
	for _, w := range want {
		if !strings.Contains(said, w) {
			g.t.Errorf("%s %v: the sentence does not say %q:\n%s", program, args, w, said)
		}
	}
	for _, l := range lines[:len(lines)-1] {
		if strings.HasPrefix(l, "panic:") || strings.HasPrefix(l, "goroutine ") {
			g.t.Fatalf("%s %v: it crashed:\n%s", program, args, errs)
		}
	}
	if len(lines) > 8 {
		g.t.Errorf("%s %v: a message of %d lines:\n%s", program, args, len(lines), errs)
	}
}

func TestBadInput_NamesThatDoNotExistComeWithTheNearest(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	in := g.file("in.txt", "x\n")
	out := t.TempDir()
	g.refused([]string{"video-transcodin@v0.2", `did you mean "video-transcoding@v0.2"?`}, "spare", "run", in, "--template", "video-transcodin@v0.2", "-o", out)
	g.refused([]string{"web-720", `did you mean "web-720p"?`}, "spare", "run", in, "--template", "video-transcoding@v0.2", "--preset", "web-720", "-o", out)
	g.refused([]string{"sampels", `did you mean "samples"?`}, "spare", "run", in, "--template", "montecarlo", "--param", "sampels=3", "-o", out)
	g.refused([]string{"samples", "it must be from 1 to"}, "spare", "run", in, "--template", "montecarlo", "--param", "samples=0", "-o", out)
	g.refused([]string{"no-such-file", "check the path"}, "spare", "run", filepath.Join(t.TempDir(), "no-such-file"), "--template", "montecarlo", "-o", out)
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
	join(good[:len(good)-5], "the ticket is damaged", "copy the whole line again")
	join(good[:20]+"AAAA"+good[24:], "the ticket is damaged", "copy the whole line again")
	join("hello", "the ticket is damaged", "copy the whole line again")

	once := ticket()
	var joined struct {
		Joined struct{ Key, Pool string }
	}
	if raw := g.must("spare-node", "join", once, "--data", g.path("first"), "--json"); json.Unmarshal([]byte(raw), &joined) != nil || joined.Joined.Pool != "trusted" {
		t.Errorf("join --json printed %s", raw)
	}
	join(once, "used up", "ask the hub's operator for a new ticket")

	short := ticket("--expires", "1s")
	parsed, err := protocol.ParseTicket(short)
	if err != nil {
		t.Fatal(err)
	}
	g.until(5*time.Second, "the ticket has expired", func() bool { return time.Now().After(parsed.Expires) })
	join(short, "expired", "ask the hub's operator for a new ticket")

	other := newGrid(t)
	parsed.Addresses, parsed.Expires = []string{other.nodesAt}, time.Now().Add(time.Hour)
	join(parsed.String(), "another hub", "ticket")

	parsed.Addresses = []string{freePort(t, "udp")}
	join(parsed.String(), parsed.Addresses[0], "check that the hub runs")
}

func TestNode_RemovedStopsAndNeedsANewTicket(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.app("slow", "passthrough", "passthrough", fmt.Sprintf(slow, "2"))
	g.addNodes("stolen")
	id := g.submit("slow", g.file("in.txt", "1\n"))
	g.busyNode(id)
	node := g.nodes["stolen"]
	delete(g.nodes, "stolen")
	g.must("spare", "node", "remove", g.nodeID("stolen").Short())
	select {
	case <-node.done:
	case <-time.After(20 * time.Second):
		node.kill()
		t.Fatalf("the removed node goes on; it printed:\n%s", node.log)
	}
	if said := node.log.String(); node.cmd.ProcessState.ExitCode() != 3 || !strings.Contains(said, "operator removed this machine") {
		t.Errorf("the removed node ended with code %d and said:\n%s", node.cmd.ProcessState.ExitCode(), said)
	}
	g.refused([]string{"does not know this machine", "join it again with a new ticket"}, "spare-node", "run", "--data", g.path("stolen"))
	if left, err := g.client().Nodes(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("nodes %v, %v; want none", left, err)
	}
	g.addNodes("other")
	if job := g.wait(id, time.Minute); job.State != client.StateComplete {
		t.Errorf("the job the removed node worked on ended as %s: %s", job.State, job.Error)
	}
	if raw := g.must("spare-node", "leave", "--force", "--json", "--data", g.path("stolen")); !strings.Contains(raw, `"left"`) {
		t.Errorf("leave --json printed %s", raw)
	}
	g.addNodes("stolen") // with a ticket it is welcome
}

func TestBadInput_HubThatIsNotThere(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.stop("hub", g.hub)
	g.hub = nil
	g.refused([]string{g.httpAt, "start one with `spare-hub serve`"}, "spare", "job", "list")
	g.refused([]string{"no hub's data folder", "start the hub once with spare-hub serve --data"}, "spare-hub", "ticket", "--data", t.TempDir())
}

func TestBadInput_PortInUse(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.refused([]string{g.httpAt, "in use", "choose another with --http"}, "spare-hub", "serve", "--data", t.TempDir(), "--http", g.httpAt, "--nodes", freePort(t, "udp"))
	g.refused([]string{g.nodesAt, "in use", "choose another with --nodes"}, "spare-hub", "serve", "--data", t.TempDir(), "--http", freePort(t, "tcp"), "--nodes", g.nodesAt)
}

func TestBadInput_DataFolderInUseOrNewer(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.refused([]string{g.path("hub"), "in use by another process", "stop the hub that uses it, or choose another with --data"}, "spare-hub", "serve", "--data", g.path("hub"), "--http", freePort(t, "tcp"), "--nodes", freePort(t, "udp"))
	g.addNodes("a")
	g.refused([]string{g.path("a"), "in use by another process", "stop that one first, or name another folder with --data"}, "spare-node", "run", "--data", g.path("a"))
	g.stop("a", g.nodes["a"])
	delete(g.nodes, "a")
	if err := os.WriteFile(filepath.Join(g.path("a"), "format"), []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.refused([]string{g.path("a"), "newer", "update this program"}, "spare-node", "run", "--data", g.path("a"))
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
	if older.cmd.ProcessState.ExitCode() == 0 || !strings.Contains(older.log.String(), "another machine uses this node's key; join again with a new data folder") {
		t.Errorf("the older node ended with code %d and said:\n%s", older.cmd.ProcessState.ExitCode(), older.log)
	}
}

func TestBadInput_NothingThatIsNoVideoIsTranscoded(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.addNodes("a")
	for name, c := range map[string]struct{ content, want, do string }{
		"text.mp4":  {strings.Repeat("this is no video\n", 100), "not a video ffmpeg can read", "spare job logs"},
		"empty.mp4": {"", "empty.mp4 is empty", "name a file with something in it"},
	} {
		out := t.TempDir()
		g.refused([]string{c.want, c.do}, "spare", "run", g.file(name, c.content), "--template", "video-transcoding@v0.2", "--preset", "web-480p", "-o", out)
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
	g.refused([]string{"main.py", "symbolic link", "only plain files and folders are allowed"}, "spare", "app", "push", dir)
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
