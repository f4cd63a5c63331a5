package publisher_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/spare-compute/spare/publisher"
)

func TestKey_FileIsItsOwnersAlone(t *testing.T) {
	k := rotate(t, newKey(t))
	path := filepath.Join(t.TempDir(), "publisher.key")
	if err := k.Save(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %04o, want 0600", info.Mode().Perm())
	}
	back, err := publisher.ReadKey(path)
	if err != nil || back.ID() != k.ID() {
		t.Fatalf("read back %v, %v", back, err)
	}
	app := anApp(1)
	if !bytes.Equal(sign(t, k, manifest(t, app, 1)), sign(t, back, manifest(t, app, 1))) {
		t.Error("the key that is read back signs otherwise, or lost its rotations")
	}
	if err := newKey(t).Save(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("writing over a key: %v, want %v", err, fs.ErrExist)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if runtime.GOOS == "windows" {
		return
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := publisher.ReadKey(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others may read: %v", err)
	}
}

// A stick that other systems read too shows one mode for every file, and none can be set.
func TestKey_OnAStickWithoutModes(t *testing.T) {
	k := rotate(t, newKey(t))
	path := filepath.Join(t.TempDir(), "publisher.key")
	if err := errors.Join(k.Save(path), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	if same, err := k.SavedAs(path); err != nil || !same {
		t.Errorf("saved: %v, %v", same, err)
	}
	if same, err := newKey(t).SavedAs(path); err != nil || same {
		t.Errorf("another key is saved: %v, %v", same, err)
	}
	publisher.OnAStick(t)
	back, err := publisher.ReadKey(path)
	if err != nil || back.ID() != k.ID() {
		t.Fatalf("read back %v, %v", back, err)
	}
	if back.Exposed() != (runtime.GOOS != "windows") {
		t.Errorf("exposed: %v", back.Exposed())
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if back, err := publisher.ReadKey(path); err != nil || back.Exposed() {
		t.Errorf("read back %v, %v", back, err)
	}
}

func TestKey_DamagedFileIsRefusedWithoutShowingIt(t *testing.T) {
	k := newKey(t)
	path := filepath.Join(t.TempDir(), "publisher.key")
	if err := k.Save(path); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	secret := secretOf(t, path)
	other := newKey(t)
	for name, text := range map[string]string{
		"empty":           "",
		"not a key":       "hello\n",
		"newer version":   strings.Replace(string(good), "key 1\n", "key 2\n", 1),
		"another id":      strings.Replace(string(good), string(k.ID()), string(other.ID()), 1),
		"half":            string(good[:len(good)-10]),
		"a line too many": string(good) + "private: " + secret + "\n",
		"nonsense":        string(good) + "nonsense\n",
		"bad rotation":    string(good) + "rotation: AAAA\n",
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := publisher.ReadKey(path)
			if err == nil {
				t.Fatal("it is read")
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

func secretOf(t testing.TB, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "private: ")
	secret, _, _ := strings.Cut(rest, "\n")
	if seed, err := base64.StdEncoding.DecodeString(secret); err != nil || len(seed) != 32 {
		t.Fatalf("no private key in %s", path)
	}
	return secret
}

func TestKey_IsNeverPrinted(t *testing.T) {
	k := newKey(t)
	path := filepath.Join(t.TempDir(), "k")
	if err := k.Save(path); err != nil {
		t.Fatal(err)
	}
	secret := secretOf(t, path)
	seed, err := base64.StdEncoding.DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, v := range []any{k, *k, []*publisher.Key{k}, struct{ K *publisher.Key }{k}, map[string]publisher.Key{"k": *k}} {
		fmt.Fprintf(&out, "%v %+v %#v %s %x %X %q %d\n", v, v, v, v, v, v, v, v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("text", "key", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("text", "key", v)
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(raw)
	}
	for form, text := range map[string]string{
		"base64": secret, "hex": fmt.Sprintf("%x", seed), "HEX": fmt.Sprintf("%X", seed),
		"numbers": strings.Trim(fmt.Sprint(seed[:8]), "[]"), "raw": string(seed), "go": strings.Trim(fmt.Sprintf("%#v", seed[:6]), "[]byte{}"),
	} {
		if strings.Contains(out.String(), text) {
			t.Errorf("printed as %s", form)
		}
	}
	if !strings.Contains(out.String(), k.ID().Short()) {
		t.Errorf("its public name is not printed either:\n%s", out.String())
	}
}

func TestPublic_TravelsAsText(t *testing.T) {
	k := rotate(t, newKey(t))
	text, err := k.Public().Text()
	if err != nil {
		t.Fatal(err)
	}
	back, err := publisher.ParsePublic(text)
	if err != nil || back.ID() != k.ID() {
		t.Fatalf("read back %v, %v", back.ID(), err)
	}
	bare, err := publisher.ParsePublic([]byte(base64.StdEncoding.EncodeToString(k.Public().Key) + "\n"))
	if err != nil || bare.ID() != k.ID() {
		t.Errorf("the key alone: %v, %v", bare.ID(), err)
	}
	path := filepath.Join(t.TempDir(), "k")
	if err := k.Save(path); err != nil {
		t.Fatal(err)
	}
	private, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := publisher.ParsePublic(private); err == nil || !strings.Contains(err.Error(), "private") || strings.Contains(err.Error(), secretOf(t, path)) {
		t.Errorf("a private key given for a public one: %v", err)
	}
	other, err := newKey(t).Public().Text()
	if err != nil {
		t.Fatal(err)
	}
	_, rotation, _ := strings.Cut(string(text), "rotation: ")
	if _, err := publisher.ParsePublic([]byte(string(other) + "rotation: " + rotation)); err == nil {
		t.Error("rotations that lead to another key are read")
	}
}

func TestKey_RotationsAreBounded(t *testing.T) {
	k := newKey(t)
	for n := range 100 {
		next, err := k.Rotate(now)
		if err != nil {
			if n < 16 {
				t.Fatalf("rotation %d: %v", n, err)
			}
			// The longest chain still signs, and is followed from its beginning.
			app := anApp(1)
			if _, err := publisher.Sign(k, manifest(t, app, 1)); err != nil {
				t.Errorf("after %d rotations: %v", n, err)
			}
			return
		}
		k = next
	}
	t.Error("a key can be rotated for ever")
}
