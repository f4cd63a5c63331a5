package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/client"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/hub/store/sqlite"
	"github.com/spare-compute/spare/node/guestbook"
	"github.com/spare-compute/spare/publisher"
)

// says is an App that tells which revision of it ran.
func says(word string) string {
	return fmt.Sprintf(`
import os
open(os.environ["TASK_RESULTS_DIR"] + "/out.txt", "w").write(%q)
`, word)
}

// signedApp writes an App's folder whose jobs go to volunteers, and pushes it signed.
func (g *grid) signedApp(name, key, code string, more ...string) {
	g.t.Helper()
	dir := g.path("app-" + name)
	for file, text := range map[string]string{
		"app/main.py":   code,
		"app/tool.py":   says("a file that is no entrypoint"),
		"manifest.json": fmt.Sprintf(`{"name":%q,"version":"1.0","platform":"python","entrypoint":"main.py","device_requirements":{"min_cpu":1}}`, name),
		"template.json": fmt.Sprintf(`{"id":%q,"app":%q,"partitioner":"passthrough","assembler":"passthrough",
			"scheduling_strategy_config":{"pool":"volunteers"},"config":{"maxTaskRetries":1}}`, name, name+"@1.0"),
	} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			g.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			g.t.Fatal(err)
		}
	}
	args := append([]string{"app", "push", dir, "--activate"}, more...)
	if key != "" {
		args = append(args, "--sign", "--publisher-key", key)
	}
	g.must("spare", args...)
}

// volunteer joins and runs a node in the pool of volunteers.
func (g *grid) volunteer(name string, more ...string) {
	g.t.Helper()
	lines := strings.Split(strings.TrimSpace(g.must("spare-hub", "ticket", "--data", g.path("hub"), "--pool", "volunteers")), "\n")
	g.must("spare-node", append([]string{"join", lines[len(lines)-1], "--data", g.path(name)}, more...)...)
	g.must("spare-node", "prefs", "set", "cores=1", "--data", g.path(name))
	g.run(name)
}

// guests is a node's guest book.
func (g *grid) guests(name string) []guestbook.Entry {
	g.t.Helper()
	var all []guestbook.Entry
	if err := json.Unmarshal([]byte(g.must("spare-node", "log", "--json", "-n", "0", "--data", g.path(name))), &all); err != nil {
		g.t.Fatal(err)
	}
	return all
}

func count(entries []guestbook.Entry, event guestbook.Event) (n int) {
	for _, e := range entries {
		if e.Event == event {
			n++
		}
	}
	return n
}

// runs wants a job to bring a result.
func (g *grid) runs(template, want string) {
	g.t.Helper()
	id := g.submit(template, g.file("in.txt", "x"))
	if job := g.wait(id, time.Minute); job.State != client.StateComplete {
		g.t.Fatalf("%s: the job is %s: %s", template, job.State, job.Error)
	}
	if got := g.result(id); got != want {
		g.t.Fatalf("%s: the job made %q, want %q", template, got, want)
	}
}

// drill is a hub in the hands of a thief, and a volunteer's node that knows it from before.
type drill struct {
	*grid
	db   *sqlite.Store
	good spare.App // what the publisher signed last
	ran  int       // attempts that the guest book tells of
}

// in lets a part of the test use the grid.
func (d *drill) in(t *testing.T) func() {
	outer := d.t
	d.t = t
	return func() { d.t = outer }
}

// attack puts an App in the place of the good one, runs a job of it, and wants the
// volunteer's node to refuse it for a reason, and to write that down.
func (d *drill) attack(t *testing.T, why error, bad spare.App) {
	t.Helper()
	defer d.in(t)()
	d.put(bad)
	id := d.submit(bad.Name, d.file("in.txt", "x"))
	job := d.wait(id, time.Minute)
	if job.State != client.StateFailed || !strings.Contains(job.Error, why.Error()) {
		t.Errorf("the job is %s: %s; want it refused because %v", job.State, job.Error, why)
	}
	entries := d.guests("volunteer")
	if n := count(entries, guestbook.Began); n != d.ran {
		t.Errorf("something ran: %d attempts in the guest book, want %d", n, d.ran)
	}
	last := entries[len(entries)-1]
	if last.Event != guestbook.Refused || !strings.Contains(last.Message, why.Error()) || last.Bundle != bad.Bundle {
		t.Errorf("the guest book's last entry is %+v; want the refusal", last)
	}
}

// forgery is what the thief makes of an App in a job that is planned already: the hub's own
// ways would not plan it so.
type forgery struct {
	name   string
	why    error
	change func(a *spare.App)
}

// restart has the volunteer's node begin anew among forged jobs, and wants each refused
// for its reason and written down.
func (d *drill) restart(t *testing.T, all []forgery) {
	t.Helper()
	defer d.in(t)()
	d.stop("volunteer", d.nodes["volunteer"])
	d.put(d.good)
	ids := make([]string, len(all))
	for i, f := range all {
		ids[i] = d.submit(d.good.Name, d.file("in.txt", "x"))
		d.until(time.Minute, "the job waits for a node", func() bool {
			job, err := d.client().Job(t.Context(), ids[i])
			return err == nil && job.State == client.StateRunning
		})
		_, err := d.db.UpdateJob(t.Context(), spare.JobID(ids[i]), func(j *spare.Job) error { f.change(&j.Plan.App); return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	d.run("volunteer")
	for i, f := range all {
		job := d.wait(ids[i], time.Minute)
		if job.State != client.StateFailed || !strings.Contains(job.Error, f.why.Error()) {
			t.Errorf("%s: the job is %s: %s; want it refused because %v", f.name, job.State, job.Error, f.why)
		}
		refused := func(g guestbook.Entry) bool {
			return g.Event == guestbook.Refused && strings.HasPrefix(string(g.Attempt), ids[i]) && strings.Contains(g.Message, f.why.Error())
		}
		if !slices.ContainsFunc(d.guests("volunteer"), refused) {
			t.Errorf("%s: the guest book does not tell of it", f.name)
		}
	}
	if n := count(d.guests("volunteer"), guestbook.Began); n != d.ran {
		t.Errorf("something ran: %d attempts in the guest book, want %d", n, d.ran)
	}
}

// put writes an App into the hub's ledger as who holds it can.
func (d *drill) put(a spare.App) {
	d.t.Helper()
	if _, err := d.db.PutApp(d.t.Context(), a); err != nil {
		d.t.Fatal(err)
	}
}

func (d *drill) app(tag string) spare.App {
	d.t.Helper()
	name, version, _ := strings.Cut(tag, "@")
	a, err := d.db.App(d.t.Context(), spare.KindApp, name, version)
	if err != nil {
		d.t.Fatal(err)
	}
	return a
}

// sign signs an App with a key, as of now unless change says otherwise.
func (d *drill) sign(key *publisher.Key, a spare.App, change func(*publisher.Manifest)) []byte {
	d.t.Helper()
	m, err := publisher.Of(a)
	if err != nil {
		d.t.Fatal(err)
	}
	m.Revision, m.Issued, m.Expires = uint64(time.Now().Unix())+1000, time.Now(), time.Now().Add(time.Hour)
	if change != nil {
		change(&m)
	}
	raw, err := publisher.Sign(key, m)
	if err != nil {
		d.t.Fatal(err)
	}
	return raw
}

func key(t *testing.T) *publisher.Key {
	t.Helper()
	k, err := publisher.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// holds reports which files below a folder hold a private key in any form.
func holds(t *testing.T, folder, keyFile string) (found []string) {
	t.Helper()
	text, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "private: ")
	secret, _, _ := strings.Cut(rest, "\n")
	seed, err := base64.StdEncoding.DecodeString(secret)
	if err != nil || len(seed) != 32 {
		t.Fatalf("%s holds no private key", keyFile)
	}
	forms := []string{secret, string(seed), hex.EncodeToString(seed), base64.RawURLEncoding.EncodeToString(seed)}
	err = filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, f := range forms {
			if bytes.Contains(raw, []byte(f)) {
				found = append(found, path)
				break
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// steal sets the scene: an operator who took the publisher key off the hub, two signed
// revisions that ran on a volunteer's node, and a copy of all that the hub has.
func steal(t *testing.T, g *grid, safe string) *drill {
	t.Helper()
	g.must("spare-hub", "publisher", "export", "--data", g.path("hub"), "--remove", safe)
	g.signedApp("invert", safe, says("one"))
	g.volunteer("volunteer")
	g.runs("invert", "one")
	g.signedApp("invert", safe, says("two"))
	g.runs("invert", "two")

	g.stop("hub", g.hub)
	if err := os.Rename(g.path("hub"), g.path("operators-hub")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(g.path("hub"), os.DirFS(g.path("operators-hub"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"identity.key", "admin.key"} {
		if err := os.Chmod(filepath.Join(g.path("hub"), name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if found := holds(t, g.path("hub"), safe); len(found) > 0 {
		t.Fatalf("the publisher's private key is among what was stolen: %v", found)
	}
	g.startHub()
	db, err := sqlite.Open(t.Context(), filepath.Join(g.path("hub"), "hub.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	d := &drill{grid: g, db: db, ran: 2}
	d.good = d.app("invert@1.0")
	return d
}

// A hub whose database and TLS key are stolen cannot make a volunteer's node run new
// code: the thief starts a hub from them, to which the node connects as to its own.
func TestStolenHub_CannotMakeAVolunteersNodeRunNewCode(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	safe := g.path("publisher.key")
	d := steal(t, g, safe)
	g.runs("invert", "two") // the node took up with the thief's hub
	d.ran++

	// The thief has every right on the hub, and so any code in its blobs.
	g.signedApp("evil", "", says("evil"))
	evil := d.app("evil@1.0")
	thief := key(t)
	owners, err := publisher.ReadKey(safe)
	if err != nil {
		t.Fatal(err)
	}
	first := firstApp(t, g, d.good)

	withEvil := func(a spare.App) spare.App {
		a.Bundle, a.BundleSize = evil.Bundle, evil.BundleSize
		return a
	}
	signedBy := func(k *publisher.Key, a spare.App) spare.App {
		a.Signed = d.sign(k, a, nil)
		return a
	}
	rotated := func(k *publisher.Key) *publisher.Key {
		next, err := k.Rotate(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	t.Run("node that starts anew", func(t *testing.T) {
		boxed := d.good
		boxed.Environment = spare.Environment{Platform: spare.PlatformContainer, Image: "lab.example/box@sha256:" + string(spare.Sum([]byte("good")))}
		boxed = signedBy(owners, boxed)
		d.restart(t, []forgery{
			{"network, with the config that was signed", publisher.ErrMixed, func(a *spare.App) { a.Environment.Outbound = true }},
			{"other runtime", publisher.ErrMixed, func(a *spare.App) { a.Environment.Runtime = "wasm" }},
			{"GPU, with the environment that was signed", publisher.ErrMixed, func(a *spare.App) { a.Needs.GPU = []string{"RTX 4090"} }},
			{"without its requirements", publisher.ErrMixed, func(a *spare.App) { a.Needs = spare.Requirements{} }},
			{"other image", publisher.ErrMixed, func(a *spare.App) {
				*a = boxed
				a.Environment.Image = "lab.example/box@sha256:" + string(spare.Sum([]byte("evil")))
			}},
			{"other bundle", publisher.ErrMixed, func(a *spare.App) { *a = withEvil(*a) }},
			{"without its signature", publisher.ErrUnsigned, func(a *spare.App) { a.Signed = nil }},
			{"older revision", publisher.ErrRolledBack, func(a *spare.App) { *a = first }},
		})
	})
	for _, c := range []forgery{
		{"App without a signature", publisher.ErrUnsigned, func(a *spare.App) { *a = withEvil(*a); a.Signed = nil }},
		{"good App without its signature", publisher.ErrUnsigned, func(a *spare.App) { a.Signed = nil }},
		{"other bundle under the good signature", publisher.ErrMixed, func(a *spare.App) { *a = withEvil(*a) }},
		{"other entrypoint", publisher.ErrMixed, func(a *spare.App) { a.Entrypoint = "tool.py" }},
		{"other root folder", publisher.ErrMixed, func(a *spare.App) { a.Root, a.Entrypoint = ".", "app/tool.py" }},
		{"other platform_config", publisher.ErrMixed, func(a *spare.App) { a.Config = json.RawMessage(`{"network":"outbound"}`) }},
		{"signature of another App", publisher.ErrMixed, func(a *spare.App) { *a = evil; a.Signed = d.good.Signed }},
		{"older revision", publisher.ErrRolledBack, func(a *spare.App) { *a = first }},
		{"files of two revisions", publisher.ErrMixed, func(a *spare.App) { a.Bundle, a.BundleSize = first.Bundle, first.BundleSize }},
		{"byte of the signature flipped", publisher.ErrBadSignature, func(a *spare.App) {
			a.Signed = bytes.Clone(a.Signed)
			at := bytes.Index(a.Signed, []byte(`"sig":"`)) + 10
			if a.Signed[at]++; a.Signed[at] == 'Z'+1 {
				a.Signed[at] = 'a'
			}
		}},
		{"thief's own signature", publisher.ErrUnknownKey, func(a *spare.App) { *a = signedBy(thief, withEvil(*a)) }},
		{"thief's signature after a rotation", publisher.ErrUnknownKey, func(a *spare.App) { *a = signedBy(rotated(thief), withEvil(*a)) }},
		{"signature that has expired", publisher.ErrExpired, func(a *spare.App) {
			a.Signed = d.sign(owners, *a, func(m *publisher.Manifest) {
				m.Issued, m.Expires = time.Now().AddDate(-2, 0, 0), time.Now().AddDate(-1, 0, 0)
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := d.good
			c.change(&bad)
			d.attack(t, c.why, bad)
		})
	}
	t.Run("thief among the hub's publishers", func(t *testing.T) {
		defer d.in(t)()
		text, err := thief.Public().Text()
		if err != nil {
			t.Fatal(err)
		}
		g.must("spare-hub", "publisher", "add", g.file("thief.pub", string(text)), "--name", "thief", "--data", g.path("hub"))
		d.attack(t, publisher.ErrUnknownKey, signedBy(thief, withEvil(d.good)))
	})
	t.Run("node moved to the trusted pool", func(t *testing.T) {
		defer d.in(t)()
		d.move("trusted", "")
		bad := withEvil(d.good)
		bad.Signed = nil
		d.attack(t, publisher.ErrUnsigned, bad)
		d.move("volunteers", `{"pool":"volunteers"}`)
	})
	t.Run("old key that was replaced", func(t *testing.T) {
		defer d.in(t)()
		fresh := g.path("publisher-2.key")
		d.put(d.good)
		g.must("spare-hub", "publisher", "rotate", "--data", g.path("hub"), "--key", safe, "--new-key", fresh)
		g.signedApp("invert", fresh, says("three"))
		g.runs("invert", "three") // the node follows
		d.ran++
		d.good = d.app("invert@1.0")
		d.attack(t, publisher.ErrRetiredKey, signedBy(owners, withEvil(d.good)))
		d.attack(t, publisher.ErrForked, signedBy(rotated(owners), withEvil(d.good)))
	})

	// The node is as good as before, and its book is whole.
	d.put(d.good)
	g.runs("invert", "three")
	if out := g.must("spare-node", "log", "verify", "--data", g.path("volunteer")); !strings.Contains(out, "is whole") {
		t.Errorf("the guest book: %s", out)
	}

	// The wall is what held: a volunteer who gave it up is at the thief's mercy.
	g.stop("volunteer", g.nodes["volunteer"])
	delete(g.nodes, "volunteer")
	g.volunteer("naive", "--require-signature=false")
	bad := withEvil(d.good)
	bad.Signed = nil
	d.put(bad)
	g.runs("invert", "evil")
}

// move puts the volunteer's node into another pool, and the jobs of the App too. The hub
// looks a node's pool up when it connects.
func (d *drill) move(pool, schedule string) {
	d.t.Helper()
	d.stop("hub", d.hub)
	n, err := d.db.Node(d.t.Context(), d.nodeID("volunteer"))
	if err != nil {
		d.t.Fatal(err)
	}
	n.Pool = pool
	if err := d.db.PutNode(d.t.Context(), n); err != nil {
		d.t.Fatal(err)
	}
	tpl, err := d.db.Template(d.t.Context(), d.good.Name)
	if err != nil {
		d.t.Fatal(err)
	}
	tpl.ScheduleCfg = json.RawMessage(schedule)
	if _, err := d.db.PutTemplate(d.t.Context(), tpl); err != nil {
		d.t.Fatal(err)
	}
	d.startHub()
}

// firstApp finds the first revision of the App, signature and all, as a job pinned it:
// what was ever run is in the ledger.
func firstApp(t *testing.T, g *grid, good spare.App) spare.App {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(g.path("operators-hub"), "hub.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	jobs, _, err := db.ListJobs(t.Context(), store.JobQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range jobs {
		if j.Plan != nil && j.Plan.App.Name == good.Name && j.Plan.App.Bundle != good.Bundle {
			return j.Plan.App
		}
	}
	t.Fatal("no job pinned the first revision")
	return spare.App{}
}
