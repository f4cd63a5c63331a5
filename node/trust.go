package node

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/disk"
	"github.com/spare-compute/spare/node/policy"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/publisher"
)

// trustedPool is the one pool whose machines are taken to be the operator's own. All
// others are volunteers'.
const trustedPool = "trusted"

const trustFile = "trust.json"

// trust is whose code a hub's leases may run: decided by the ticket and the owner when
// the node joined, and by nothing that the hub says later.
type trust struct {
	Version int  `json:"version"`
	Require bool `json:"require_publisher_signature"`
	publisher.Trust
}

const trustVersion = 1

func trustPath(dir string, hub spare.NodeID) string {
	return filepath.Join(hubDir(dir, hub), trustFile)
}

func readTrust(path string) (trust, error) {
	var t trust
	raw, err := os.ReadFile(path)
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return t, err
	}
	if t.Version != trustVersion {
		return t, fmt.Errorf("it is of version %d, and this program knows version %d; update this program", t.Version, trustVersion)
	}
	for _, p := range t.Publishers {
		if len(p.Key) != ed25519.PublicKeySize {
			return t, errors.New("a key in it is damaged")
		}
	}
	return t, nil
}

func (t trust) write(path string) error {
	raw, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	return disk.Replace(path, append(raw, '\n'))
}

// pin notes a ticket's publishers, and whether they must have signed what runs. Who joins
// the same hub again adds to what is pinned; what was seen stays, and so does a
// requirement unless the owner lifts it.
func (h *Home) pin(t protocol.Ticket, opt JoinOptions) error {
	dir := hubDir(h.dir, t.HubKey)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("note the publishers of hub %s: %w", t.HubName, err)
	}
	path := filepath.Join(dir, trustFile)
	have, err := readTrust(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &HomeError{h.dir, fmt.Sprintf("%s cannot be read (%v); leave that hub and join it again", path, err)}
	}
	have.Version = trustVersion
	have.Require = have.Require || t.Pool != trustedPool
	if opt.RequireSignature != nil {
		have.Require = *opt.RequireSignature
	}
	for _, key := range t.Publishers {
		have.Trust = have.Add(key)
	}
	if err := have.write(path); err != nil {
		return fmt.Errorf("note the publishers of hub %s: %w", t.HubName, err)
	}
	return nil
}

// A guard decides for one hub what its leases may run.
type guard struct {
	path     string
	required func(byPool bool) bool // the owner's preference

	mu    sync.Mutex
	trust trust
}

// guard opens a hub's. A node that joined before there was such a file gets one from
// what the ticket said then.
func (h *Home) guard(hub Hub, required func(bool) bool) (*guard, error) {
	g := &guard{path: trustPath(h.dir, hub.Key), required: required}
	var err error
	g.trust, err = readTrust(g.path)
	if errors.Is(err, fs.ErrNotExist) {
		g.trust = trust{Version: trustVersion, Require: hub.Pool != trustedPool}
		for _, key := range hub.Publishers {
			g.trust.Trust = g.trust.Add(key)
		}
		return g, nil
	}
	if err != nil {
		return nil, &HomeError{h.dir, fmt.Sprintf("%s cannot be read (%v); leave hub %s and join it again", g.path, err, hub.Name)}
	}
	return g, nil
}

// Admit judges an App. What that teaches is on disk before the App may run.
func (g *guard) Admit(app spare.App) (publisher.Verdict, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	next, verdict, err := g.trust.Judge(app, time.Now(), g.required(g.trust.Require))
	if next.Equal(g.trust.Trust) {
		return verdict, err
	}
	learnt := g.trust
	learnt.Trust = next
	if bad := learnt.write(g.path); bad != nil {
		if err != nil {
			return verdict, err // refused anyway; it is learnt again the next time
		}
		return verdict, fmt.Errorf("note the revision of App %s: %w", app.Tag(), bad)
	}
	g.trust = learnt
	return verdict, err
}

// signers tells whether signatures are required, and the publishers' keys of now.
func (g *guard) signers() (required bool, keys []publisher.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	keys = []publisher.ID{}
	for _, p := range g.trust.Publishers {
		keys = append(keys, p.ID())
	}
	return g.required(g.trust.Require), keys
}

// Signers tells whether a joined hub's Apps need a trusted publisher's signature, and
// whose keys are trusted.
func Signers(dir string, hub Hub) (required bool, keys []publisher.ID, err error) {
	home := &Home{dir: dir}
	prefs, err := policy.Load(home.path("prefs.json"))
	if err != nil {
		return false, nil, err
	}
	g, err := home.guard(hub, prefs.Signature.Required)
	if err != nil {
		return false, nil, err
	}
	required, keys = g.signers()
	return required, keys, nil
}

// preferences are the owner's, as they stand.
func (n *Node) preferences() policy.Prefs {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.prefs
}

// bookFolder is the guest book's, in the data folder.
const bookFolder = "guestbook"

// GuestBook is where the guest book of a data folder lies, and the key that its head is
// signed with. It needs no lock: the node may run.
func GuestBook(dir string) (folder string, key ed25519.PublicKey, err error) {
	if err := exists(dir); err != nil {
		return "", nil, err
	}
	id, err := protocol.LoadIdentity(filepath.Join(dir, "identity.key"))
	if err != nil {
		return "", nil, err
	}
	return filepath.Join(dir, bookFolder), id.PublicKey(), nil
}
