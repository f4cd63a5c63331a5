package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
)

func refusedHome(t *testing.T, dir string, create bool, want string) {
	t.Helper()
	h, err := OpenHome(dir, create)
	if err == nil {
		h.Close()
	}
	var home *HomeError
	if !errors.As(err, &home) || !strings.Contains(err.Error(), want) {
		t.Errorf("OpenHome = %v, want a *HomeError with %q", err, want)
	}
}

func TestHome_RefusesWhatItCannotUse(t *testing.T) {
	refusedHome(t, filepath.Join(t.TempDir(), "missing"), false, "join a hub first")
	dir := t.TempDir()
	h, err := OpenHome(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Identity(); err != nil {
		t.Fatal(err)
	}
	refusedHome(t, dir, false, "in use by another process")
	h.Close()
	for content, want := range map[string]string{"2\n": "newer version", "": "makes no sense", "-1": "makes no sense", "junk": "makes no sense"} {
		if err := os.WriteFile(filepath.Join(dir, "format"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		refusedHome(t, dir, false, want)
		refusedHome(t, dir, true, want)
	}
}

func TestLeave_ForgetsOneHubAndKeepsWhatIsOwed(t *testing.T) {
	h, err := OpenHome(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.Leave("", false); err == nil || !strings.Contains(err.Error(), "no hub") {
		t.Errorf("leaving nothing = %v", err)
	}
	a, b := spare.NodeID(strings.Repeat("a", 64)), spare.NodeID(strings.Repeat("b", 64))
	for i, key := range []spare.NodeID{a, b} {
		if err := h.putHub(Hub{Key: key, Name: string(key[:3]), Joined: time.Unix(int64(i), 0)}); err != nil {
			t.Fatal(err)
		}
	}
	owed := filepath.Join(h.resultsDir(a), "job.0.1")
	if err := os.MkdirAll(owed, 0o700); err != nil {
		t.Fatal(err)
	}
	for which, want := range map[string]string{"": "several", "attic": "not joined", "aaa": "1 finished results"} {
		if _, err := h.Leave(which, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("leave %q = %v, want %q", which, err, want)
		}
	}
	if hub, err := h.Leave("bbbbbb", false); err != nil || hub.Key != b {
		t.Errorf("leave by key = %v, %v", hub, err)
	}
	if hub, err := h.Leave("", true); err != nil || hub.Key != a {
		t.Errorf("leave by force = %v, %v", hub, err)
	}
	if hubs, err := Hubs(h.Dir()); err != nil || len(hubs) != 0 {
		t.Errorf("hubs = %v, %v", hubs, err)
	}
}

func TestHubs_DamagedFileIsNamed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "hubs", "abc", "hub.json")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(`{"key": "../../x"}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Hubs(dir); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Hubs = %v, want the file named", err)
	}
}
