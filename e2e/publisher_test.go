package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare/client"
	"github.com/spare-compute/spare/node/guestbook"
)

func TestPublisher_FirstStartSignsWhatComesWithTheHub(t *testing.T) {
	t.Parallel()
	g := newGrid(t, "-v")
	if out := g.hub.log.String(); !strings.Contains(out, "spare-hub publisher export") {
		t.Errorf("the first start does not tell to take the key off:\n%s", out)
	}
	info, err := os.Stat(filepath.Join(g.path("hub"), "publisher.key"))
	if err != nil || (runtime.GOOS != "windows" && info.Mode().Perm() != 0o600) {
		t.Fatalf("publisher.key: %v, %v", info, err)
	}
	apps, err := g.client().List(t.Context(), client.Apps)
	if err != nil || len(apps) < 3 {
		t.Fatalf("%v, %v", apps, err)
	}
	for _, a := range apps {
		if a.Signature == nil || a.Revision != "1" {
			t.Errorf("%s revision %s is not signed", a.Tag, a.Revision)
		}
	}
	// A machine of the operator's own that asks for signatures runs them.
	lines := strings.Split(strings.TrimSpace(g.must("spare-hub", "ticket", "--data", g.path("hub"))), "\n")
	g.must("spare-node", "join", lines[len(lines)-1], "--require-signature", "--data", g.path("a"))
	g.run("a")
	id := g.submit("hello-world", g.file("in.txt", "x"))
	if job := g.wait(id, time.Minute); job.State != client.StateComplete {
		t.Fatalf("the job is %s: %s", job.State, job.Error)
	}
	// And refuses what nobody signed, which others of the pool would run.
	g.app("unsigned", "passthrough", "passthrough", says("unsigned"))
	id = g.submit("unsigned", g.file("in.txt", "x"))
	if job := g.wait(id, time.Minute); job.State != client.StateFailed || !strings.Contains(job.Error, "no publisher's signature") || !strings.Contains(job.Error, "--sign") {
		t.Errorf("the job is %s: %s", job.State, job.Error)
	}
	out := g.must("spare-node", "log", "--data", g.path("a"))
	for _, want := range []string{"hello-world@", "succeeded", "unsigned@1.0", "refused"} {
		if !strings.Contains(out, want) {
			t.Errorf("the log does not say %q:\n%s", want, out)
		}
	}
	if out := g.must("spare-node", "log", "--app", "hello-world", "--data", g.path("a")); strings.Contains(out, "unsigned@") {
		t.Errorf("--app hello-world shows another:\n%s", out)
	}
	if out := g.must("spare-node", "status", "--data", g.path("a")); !strings.Contains(out, "runs only what is signed by") {
		t.Errorf("the status does not say so:\n%s", out)
	}
}

// The private key is in its file and nowhere else: not in the ledger, a log, an answer of
// the hub, an App's variables, or on a node.
func TestPublisher_PrivateKeyIsNowhereElse(t *testing.T) {
	t.Parallel()
	g := newGrid(t, "-v")
	g.addNodes("a")
	g.app("nosy", "passthrough", "passthrough", `
import os
with open(os.environ["TASK_RESULTS_DIR"] + "/out.txt", "w") as out:
    out.write(repr(dict(os.environ)))
    for folder, inside, names in os.walk("/"):
        if folder == "/":
            inside[:] = [d for d in inside if d not in ("proc", "sys", "dev", "usr", "lib", "lib64", "bin", "sbin")]
        for n in names:
            path = os.path.join(folder, n)
            if os.path.isfile(path) and os.path.getsize(path) < 1 << 16:
                try:
                    out.write(open(path, errors="replace").read())
                except OSError:
                    pass
`)
	id := g.submit("nosy", g.file("in.txt", "x"))
	if job := g.wait(id, time.Minute); job.State != client.StateComplete {
		t.Fatalf("the job is %s: %s", job.State, job.Error)
	}
	said := g.path("said")
	if err := os.Mkdir(said, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"result": g.result(id), "hub": g.hub.log.String(), "node": g.nodes["a"].log.String(),
		"apps": g.must("spare", "app", "list", "--json"), "app": g.must("spare", "app", "get", "hello-world@0.1"),
		"show":   g.must("spare-hub", "publisher", "show", "--json", "--data", g.path("hub")),
		"ticket": g.must("spare-hub", "ticket", "--data", g.path("hub")),
	} {
		if err := os.WriteFile(filepath.Join(said, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	own := filepath.Join(g.path("hub"), "publisher.key")
	if found := holds(t, g.dir, own); len(found) != 1 || found[0] != own {
		t.Errorf("the private key is in %v, want it in %s alone", found, own)
	}
	file := g.path("away.key")
	if out := g.must("spare-hub", "publisher", "export", "--data", g.path("hub"), "--remove", file); !strings.Contains(out, "no longer on this hub") {
		t.Errorf("export says %q", out)
	}
	if found := holds(t, g.dir, file); len(found) != 1 || found[0] != file {
		t.Errorf("after the export the private key is in %v, want it in %s alone", found, file)
	}
}

func TestPublisher_OthersSignTheirAppsToo(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	ann := g.path("ann.key")
	public := g.must("spare", "publisher", "new", ann)
	g.refused([]string{"exists"}, "spare", "publisher", "new", ann)
	if again := g.must("spare", "publisher", "show", ann); again != public {
		t.Errorf("shown as %q, made as %q", again, public)
	}
	dir := g.path("app-anns")
	write := func(code string) {
		for name, text := range map[string]string{
			"app/main.py": code, "manifest.json": `{"name":"anns","version":"1.0","entrypoint":"main.py"}`,
			"template.json": `{"id":"anns","app":"anns@1.0","partitioner":"passthrough","assembler":"passthrough","scheduling_strategy_config":{"pool":"volunteers"},"config":{"maxTaskRetries":1}}`,
		} {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(says("ann's"))
	g.refused([]string{"does not know", "spare-hub publisher add"}, "spare", "app", "push", dir, "--sign", "--publisher-key", ann)
	g.refused([]string{"private key", "public half"}, "spare-hub", "publisher", "add", ann, "--name", "ann", "--data", g.path("hub"))
	g.must("spare-hub", "publisher", "add", g.file("ann.pub", public), "--name", "ann", "--data", g.path("hub"))
	g.volunteer("v")

	// Unsigned first: every step warns, and the node refuses.
	_, errs, code := g.try("spare", "app", "push", dir, "--activate")
	if code != 0 || strings.Count(errs, "pool volunteers") != 2 {
		t.Errorf("exit code %d, want a warning at push and one at activation:\n%s", code, errs)
	}
	_, errs, code = g.try("spare", "run", g.file("in.txt", "x"), "--template", "anns", "-o", t.TempDir())
	if code == 0 || strings.Count(errs, "warning: ") != 1 || !strings.Contains(errs, "pool volunteers") || !strings.Contains(errs, "no publisher's signature") {
		t.Errorf("exit code %d, want a warning and the node's reason:\n%s", code, errs)
	}
	// The signature can come later, for what is there already.
	if out := g.must("spare", "app", "sign", dir, "--publisher-key", ann); !strings.Contains(out, "signed by publisher") {
		t.Errorf("sign says %q", out)
	}
	g.runs("anns", "ann's")

	// A revision that replaces another ends it; one that keeps it does not.
	write(says("ann's second"))
	g.refused([]string{"bundle"}, "spare", "app", "sign", dir, "--publisher-key", ann)
	g.refused([]string{"--keep-older", "later"}, "spare", "app", "push", dir, "--sign", "--keep-older", "9007199254740991", "--publisher-key", ann)
	ran := g.guests("v")
	g.must("spare", "app", "push", dir, "--sign", "--keep-older", fmt.Sprint(ran[len(ran)-1].Signed), "--publisher-key", ann)
	g.runs("anns", "ann's second")
	g.refused([]string{"higher"}, "spare", "app", "push", dir, "--sign", "--signed-revision", "7", "--publisher-key", ann)

	// Her key changes, and the node follows.
	next := g.path("ann-2.key")
	g.must("spare-hub", "publisher", "add", g.file("ann-2.pub", g.must("spare", "publisher", "rotate", next, "--publisher-key", ann)), "--data", g.path("hub"))
	write(says("ann's third"))
	g.must("spare", "app", "push", dir, "--sign", "--publisher-key", next)
	g.runs("anns", "ann's third")
	g.refused([]string{"replaced"}, "spare", "app", "push", dir, "--sign", "--publisher-key", ann)
	entries := g.guests("v")
	last := entries[len(entries)-1]
	if last.Event != guestbook.Ended || last.Outcome != "succeeded" || last.Owner == "" || last.CPU <= 0 || last.BytesOut == 0 || last.Publisher == "" {
		t.Errorf("the guest book's last entry is %+v", last)
	}
}

// After an update of the hub, whose key is elsewhere, the operator signs what came with
// it; what is signed is what lies where the key is.
func TestPublisher_OfficialAppsAreSignedWhereTheKeyIs(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	file := g.path("away.key")
	g.must("spare-hub", "publisher", "export", "--data", g.path("hub"), "--remove", file)
	out := g.must("spare", "app", "sign", "--official", "--publisher-key", file)
	if strings.Count(out, "is signed by publisher") < 3 {
		t.Errorf("sign --official says:\n%s", out)
	}
	apps, err := g.client().List(t.Context(), client.Apps)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range apps {
		if a.Signature == nil || a.Revision != "2" || a.Status != "active" {
			t.Errorf("%+v", a)
		}
	}
	g.refused([]string{"taken off this hub before"}, "spare-hub", "publisher", "export", "--data", g.path("hub"), "--remove", g.path("again.key"))
	g.refused([]string{"does not know"}, "spare", "app", "sign", "--official", "--publisher-key", stranger(t, g))
}

func stranger(t *testing.T, g *grid) string {
	t.Helper()
	file := g.path("stranger.key")
	if err := key(t).Save(file); err != nil {
		t.Fatal(err)
	}
	return file
}
