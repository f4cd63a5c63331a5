package local

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func serve(t *testing.T, dir string) (stop func()) {
	t.Helper()
	s, err := Listen(dir, func(_ context.Context, do string) (any, error) {
		if do != DoStatus {
			return nil, errors.New("not understood")
		}
		return map[string]string{"state": "idle"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	}
}

func TestLocal_AnswersAndCleansUp(t *testing.T) {
	for name, dir := range map[string]string{
		"short path": t.TempDir(),
		"long path":  filepath.Join(t.TempDir(), strings.Repeat("x", 120)),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			stop := serve(t, dir)
			var got map[string]string
			if err := Ask(t.Context(), dir, DoStatus, &got); err != nil || got["state"] != "idle" {
				t.Errorf("Ask = %v, %v", got, err)
			}
			if err := Ask(t.Context(), dir, "dance", nil); err == nil || !strings.Contains(err.Error(), "not understood") {
				t.Errorf("an unknown question gave %v", err)
			}
			stop()
			if err := Ask(t.Context(), dir, DoStatus, &got); !errors.Is(err, ErrNotRunning) {
				t.Errorf("after the end Ask = %v, want ErrNotRunning", err)
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestLocal_StaleLeftoversOfAKilledNodeDoNotMatter(t *testing.T) {
	dir := t.TempDir()
	at, _ := json.Marshal(address{"unix", filepath.Join(dir, "node.sock"), "old"})
	for name, raw := range map[string][]byte{"control.json": at, "node.sock": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Ask(t.Context(), dir, DoStatus, nil); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Ask = %v, want ErrNotRunning", err)
	}
	defer serve(t, dir)()
	if err := Ask(t.Context(), dir, DoStatus, nil); err != nil {
		t.Error(err)
	}
}

func TestLocal_WithoutTheTokenNothingIsLearnt(t *testing.T) {
	dir := t.TempDir()
	defer serve(t, dir)()
	raw, err := os.ReadFile(filepath.Join(dir, pointer))
	if err != nil {
		t.Fatal(err)
	}
	var at address
	if err := json.Unmarshal(raw, &at); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial(at.Network, at.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = conn.Write([]byte(`{"token":"guess","do":"status"}` + "\n"))
	if got, _ := io.ReadAll(conn); len(got) != 0 {
		t.Errorf("a stranger was told %q", got)
	}
	if info, _ := os.Stat(filepath.Join(dir, pointer)); info.Mode().Perm() != 0o600 {
		t.Errorf("the token's file has mode %v", info.Mode().Perm())
	}
}
