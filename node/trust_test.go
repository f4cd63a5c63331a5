package node

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/node/policy"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/publisher"
)

func aPublisher(t *testing.T) *publisher.Key {
	t.Helper()
	k, err := publisher.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// published is an App of a revision, signed by a key.
func published(t *testing.T, k *publisher.Key, revision uint64) spare.App {
	t.Helper()
	app := spare.App{
		Kind: spare.KindApp, Name: "invert", Version: "0.1", Entrypoint: "main.py", Root: ".", Bundle: spare.Sum([]byte{byte(revision)}), BundleSize: 7,
		Environment: spare.Environment{Platform: spare.PlatformPython},
	}
	m, err := publisher.Of(app)
	if err != nil {
		t.Fatal(err)
	}
	m.Revision, m.Issued, m.Expires = revision, time.Now(), time.Now().Add(time.Hour)
	if app.Signed, err = publisher.Sign(k, m); err != nil {
		t.Fatal(err)
	}
	return app
}

const aHubKey = spare.NodeID("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")

func ticketFor(pool string, keys ...*publisher.Key) protocol.Ticket {
	t := protocol.Ticket{HubKey: aHubKey, HubName: "attic", Pool: pool}
	for _, k := range keys {
		t.Publishers = append(t.Publishers, k.Public().Key)
	}
	return t
}

func guarded(t *testing.T, home *Home, s policy.Signature) *guard {
	t.Helper()
	g, err := home.guard(Hub{Key: aHubKey, Name: "attic", Pool: "trusted"}, s.Required)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestTrust_VolunteersRequireASignature(t *testing.T) {
	yes, no := true, false
	k := aPublisher(t)
	unsigned := published(t, k, 1)
	unsigned.Signed = nil
	for _, c := range []struct {
		name  string
		pool  string
		join  *bool
		prefs policy.Signature
		runs  bool
	}{
		{"volunteers", "volunteers", nil, "", false},
		{"any other name", "lab", nil, "", false},
		{"no name", "", nil, "", false},
		{"the operator's own", "trusted", nil, "", true},
		{"the operator's own, asked for at join", "trusted", &yes, "", false},
		{"volunteers, given up at join", "volunteers", &no, "", true},
		{"the owner wants it always", "trusted", nil, policy.SignatureAlways, false},
		{"the owner wants it never", "volunteers", nil, policy.SignatureNever, true},
		{"the owner leaves it to the pool", "volunteers", nil, policy.SignatureByPool, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			home := &Home{dir: t.TempDir()}
			if err := home.pin(ticketFor(c.pool, k), JoinOptions{RequireSignature: c.join}); err != nil {
				t.Fatal(err)
			}
			_, err := guarded(t, home, c.prefs).Admit(unsigned)
			if c.runs != (err == nil) || (!c.runs && !errors.Is(err, publisher.ErrUnsigned)) {
				t.Errorf("admitted: %v", err)
			}
			if _, err := guarded(t, home, c.prefs).Admit(published(t, k, 1)); err != nil {
				t.Errorf("signed: %v", err)
			}
		})
	}
}

// What the node has seen outlives its restart: an older revision does not come back.
func TestTrust_IsOnDiskBeforeAnAppRuns(t *testing.T) {
	home := &Home{dir: t.TempDir()}
	k := aPublisher(t)
	if err := home.pin(ticketFor("volunteers", k), JoinOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := guarded(t, home, "").Admit(published(t, k, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := guarded(t, home, "").Admit(published(t, k, 1)); !errors.Is(err, publisher.ErrRolledBack) {
		t.Errorf("after a restart the older revision is judged %v", err)
	}
	next, err := k.Rotate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	refused := published(t, next, 1) // too old, but it brings the rotation
	if _, err := guarded(t, home, "").Admit(refused); !errors.Is(err, publisher.ErrRolledBack) {
		t.Errorf("judged %v", err)
	}
	if _, err := guarded(t, home, "").Admit(published(t, k, 3)); !errors.Is(err, publisher.ErrRetiredKey) {
		t.Errorf("after a restart the old key's App is judged %v", err)
	}
	info, err := os.Stat(trustPath(home.dir, aHubKey))
	if err != nil || (runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0) {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Whose a name is outlives a restart too, and joining again does not change it.
func TestTrust_NameStaysItsPublishers(t *testing.T) {
	home := &Home{dir: t.TempDir()}
	k, other := aPublisher(t), aPublisher(t)
	if err := home.pin(ticketFor("volunteers", k, other), JoinOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := guarded(t, home, "").Admit(published(t, k, 1)); err != nil {
		t.Fatal(err)
	}
	if err := home.pin(ticketFor("volunteers", other), JoinOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := guarded(t, home, "").Admit(published(t, other, 2))
	if !errors.Is(err, publisher.ErrTaken) || !strings.Contains(err.Error(), "spare-node leave") {
		t.Errorf("another publisher's App of the same name is judged %v", err)
	}
	if _, err := guarded(t, home, "").Admit(published(t, k, 2)); err != nil {
		t.Errorf("its own publisher's: %v", err)
	}
}

func TestTrust_AppThatCannotBeNotedDoesNotRun(t *testing.T) {
	home := &Home{dir: t.TempDir()}
	k := aPublisher(t)
	if err := home.pin(ticketFor("volunteers", k), JoinOptions{}); err != nil {
		t.Fatal(err)
	}
	g := guarded(t, home, "")
	g.path = filepath.Join(home.dir, "gone", "trust.json")
	_, err := g.Admit(published(t, k, 1))
	var refusal *publisher.Refusal
	if err == nil || errors.As(err, &refusal) {
		t.Errorf("admitted: %v, want a fault of this machine", err)
	}
}

func TestTrust_JoiningAgainAddsAndForgetsNothing(t *testing.T) {
	home := &Home{dir: t.TempDir()}
	k, other := aPublisher(t), aPublisher(t)
	if err := home.pin(ticketFor("volunteers", k), JoinOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := guarded(t, home, "").Admit(published(t, k, 5)); err != nil {
		t.Fatal(err)
	}
	// A hub that issues a ticket for its trusted pool does not lift the requirement.
	if err := home.pin(ticketFor("trusted", other), JoinOptions{}); err != nil {
		t.Fatal(err)
	}
	g := guarded(t, home, "")
	if required, keys := g.signers(); !required || len(keys) != 2 {
		t.Errorf("required %v, publishers %v", required, keys)
	}
	if _, err := g.Admit(published(t, k, 4)); !errors.Is(err, publisher.ErrRolledBack) {
		t.Errorf("an older revision is judged %v", err)
	}
}

func TestTrust_DamagedFileStopsTheNode(t *testing.T) {
	home := &Home{dir: t.TempDir()}
	if err := home.pin(ticketFor("volunteers", aPublisher(t)), JoinOptions{}); err != nil {
		t.Fatal(err)
	}
	path := trustPath(home.dir, aHubKey)
	for name, text := range map[string]string{
		"half":        `{"version":1,"require_publ`,
		"bad key":     `{"version":1,"publishers":[{"key":"AAAA"}]}`,
		"newer":       `{"version":2}`,
		"empty":       ``,
		"not our own": `[]`,
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := home.guard(Hub{Key: aHubKey, Name: "attic", Pool: "volunteers"}, policy.Signature("").Required)
			var unusable *HomeError
			if !errors.As(err, &unusable) || !strings.Contains(err.Error(), "trust.json") {
				t.Errorf("opened: %v", err)
			}
			if err := home.pin(ticketFor("volunteers"), JoinOptions{}); err == nil {
				t.Error("joining again overwrites it")
			}
		})
	}
}

// A node that joined under an earlier release goes by its ticket of then.
func TestTrust_NodeOfAnEarlierRelease(t *testing.T) {
	home := &Home{dir: t.TempDir()}
	k := aPublisher(t)
	hub := Hub{Key: aHubKey, Name: "attic", Pool: "volunteers", Publishers: [][]byte{k.Public().Key}}
	if err := home.putHub(hub); err != nil {
		t.Fatal(err)
	}
	g, err := home.guard(hub, policy.Signature("").Required)
	if err != nil {
		t.Fatal(err)
	}
	app := published(t, k, 1)
	if _, err := g.Admit(app); err != nil {
		t.Errorf("signed: %v", err)
	}
	app.Signed = nil
	if _, err := g.Admit(app); !errors.Is(err, publisher.ErrUnsigned) {
		t.Errorf("unsigned: %v", err)
	}
	raw, err := os.ReadFile(trustPath(home.dir, aHubKey))
	if err != nil || !json.Valid(raw) {
		t.Errorf("what was seen is not on disk: %s, %v", raw, err)
	}
}
