package node

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spare-compute/spare/protocol/pb"
	"github.com/spare-compute/spare/sandbox/wasm/python"
	"github.com/spare-compute/spare/sandbox/wasm/wasmtest"
)

func TestNode_FetchesADamagedInterpreterAgain(t *testing.T) {
	h := newHub(t)
	dir := joined(t, h)
	archive, err := wasmtest.Archive()
	if err != nil {
		t.Fatal(err)
	}
	packed, err := os.ReadFile(archive.Path)
	if err != nil {
		t.Fatal(err)
	}
	blob := h.add(packed)
	blob.Name = python.Name
	interpreter := filepath.Join(dir, python.Name)
	if err := os.CopyFS(interpreter, os.DirFS(wasmtest.Python(t))); err != nil {
		t.Fatal(err)
	}
	if err := wasmtest.CopyCompiled(filepath.Join(dir, "wasm"), wasmtest.Cache(t)); err != nil {
		t.Fatal(err)
	}
	// As a power cut may leave it: the sizes are right.
	damaged := filepath.Join(interpreter, "lib", "python3.11", "random.pyc")
	text, err := os.ReadFile(damaged)
	if err != nil {
		t.Fatal(err)
	}
	clear(text[len(text)/2:])
	if err := os.WriteFile(damaged, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if python.Check(interpreter) != nil || python.Verify(interpreter) == nil {
		t.Fatal("it is not damaged as it should be")
	}

	home, err := OpenHome(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	n, err := New(t.Context(), home, quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	h.accept()
	for deadline := time.Now().Add(2 * within); python.Verify(interpreter) != nil; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("it is still damaged")
			break
		}
		n.offer(n.links[0], []*pb.Blob{blob}) // as with each connection to the hub
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
