package protocol

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/spare-compute/spare"
)

func newIdentity(t testing.TB) *Identity {
	t.Helper()
	id, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestIdentity_IDIsTheDigestOfItsKey(t *testing.T) {
	id := newIdentity(t)
	sum := sha256.Sum256(id.PublicKey())
	if got := spare.NodeID(hex.EncodeToString(sum[:])); id.ID() != got {
		t.Fatalf("ID %s, want %s", id.ID(), got)
	}
	if _, err := spare.ParseNodeID(string(id.ID())); err != nil {
		t.Fatal(err)
	}
	if !ed25519.Verify(id.PublicKey(), []byte("message"), id.Sign([]byte("message"))) {
		t.Fatal("a signature does not verify")
	}
}

func TestLoadIdentity_MakesOneAndKeepsIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	first, err := LoadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	if first.ID() != again.ID() {
		t.Fatalf("the key changed from %s to %s", first.ID(), again.ID())
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Fatalf("the key's mode is %v", info.Mode())
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files are left, %v", len(files), err)
	}
}

func TestLoadIdentity_StartsAtOnceAgreeOnOneKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	var wg sync.WaitGroup
	ids := make([]spare.NodeID, 16)
	for i := range ids {
		wg.Go(func() {
			id, err := LoadIdentity(path)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = id.ID()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("two starts got %s and %s", ids[0], id)
		}
	}
}

func TestLoadIdentity_RefusesWhatIsNoKeyAndLeavesIt(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"empty":    {"", "no PEM block"},
		"text":     {"hello", "no PEM block"},
		"damaged":  {"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "damaged"},
		"too long": {strings.Repeat("x", 5000), "not a key file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "node.key")
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := LoadIdentity(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Fatalf("LoadIdentity = %v, want %q and the path", err, c.want)
			}
			if got, _ := os.ReadFile(path); string(got) != c.content {
				t.Fatal("the file was changed")
			}
		})
	}
}

func TestLoadIdentity_RefusesAKeyThatOthersMayRead(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // its files have no such mode
	}
	path := filepath.Join(t.TempDir(), "node.key")
	if _, err := LoadIdentity(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(path); err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
		t.Fatalf("LoadIdentity = %v, want what to do", err)
	}
}

func TestLoadIdentity_SaysWhereItCannotKeepAKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "node.key")
	if _, err := LoadIdentity(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("LoadIdentity = %v, want the path", err)
	}
}

func TestNegotiate_PicksTheNewestBothSpeak(t *testing.T) {
	for _, c := range []struct {
		min, max, want uint32
		fails          string
	}{
		{min: 1, max: 1, want: 1},
		{min: 0, max: 9, want: 1},
		{min: 0, max: 0, fails: "update the other end"},
		{min: 2, max: 3, fails: "update this one"},
		{min: 3, max: 2, fails: "is not Spare"},
	} {
		got, err := Negotiate(c.min, c.max)
		if c.fails == "" && (err != nil || got != c.want) {
			t.Errorf("Negotiate(%d, %d) = %d, %v, want %d", c.min, c.max, got, err, c.want)
		}
		if c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("Negotiate(%d, %d) = %v, want %q", c.min, c.max, err, c.fails)
		}
	}
}
