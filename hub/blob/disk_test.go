package blob_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/blob"
	"github.com/spare-compute/spare/hub/blob/blobtest"
)

// The test program runs itself again, as a hub to kill or in a small disk of its own.
const (
	roleVar = "SPARE_BLOB_TEST_ROLE"
	dirVar  = "SPARE_BLOB_TEST_DIR"
)

var roles = map[string]func(dir string) error{"putter": putForever}

func TestMain(m *testing.M) {
	if role, ok := roles[os.Getenv(roleVar)]; ok {
		if err := role(os.Getenv(dirVar)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// again is this program in one of its roles, working in dir.
func again(ctx context.Context, role, dir string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+role, dirVar+"="+dir)
	cmd.Stderr = os.Stderr
	return cmd
}

func open(t *testing.T, dir string, minFree int64) *blob.Disk {
	t.Helper()
	d, err := blob.OpenDisk(dir, minFree)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDisk_Conforms(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blobtest.Store {
		return open(t, filepath.Join(t.TempDir(), "blobs"), 0)
	})
}

// files lists the regular files under dir, relative to it.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			all = append(all, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDisk_BlobsLieUnderTheirDigestsAndCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, 0)
	digest, _, err := d.Put(t.Context(), strings.NewReader("content"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := files(t, dir), string(digest[:2]+"/"+digest[2:]); len(got) != 1 || got[0] != want {
		t.Fatalf("the folder holds %v, want %s alone", got, want)
	}
	info, err := os.Stat(d.Path(digest))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm()&0o222 != 0 {
		t.Fatalf("the blob's mode is %v", info.Mode())
	}
}

func TestDisk_WhatWasHalfWrittenIsClearedAtOpen(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, 0)
	digest, _, err := d.Put(t.Context(), strings.NewReader("whole"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tmp/put-123", "tmp/blob-9", "partials/" + string(spare.Sum(nil)) + ".7"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-72 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "partials", string(spare.Sum(nil))+".7"), old, old); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir, 0)
	if got := files(t, dir); len(got) != 1 {
		t.Fatalf("the folder holds %v, want the whole blob alone", got)
	}
	if _, err := d.Stat(digest); err != nil {
		t.Fatal(err)
	}
}

func TestDisk_AnUploadGoesOnAfterARestart(t *testing.T) {
	dir := t.TempDir()
	b := []byte("the first half, the second half")
	w, err := open(t, dir, 0).Partial(spare.Sum(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b[:15]); err != nil {
		t.Fatal(err)
	}
	// Nobody closed it: the hub was killed.
	w, err = open(t, dir, 0).Partial(spare.Sum(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if w.Offset() != 15 {
		t.Fatalf("goes on at %d, want 15", w.Offset())
	}
	if _, err := w.Write(b[15:]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Commit(), w.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestDisk_SpaceIsLeftFree(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, 1<<62)
	_, _, err := d.Put(t.Context(), strings.NewReader("x"))
	if !errors.Is(err, blob.ErrFull) {
		t.Fatalf("Put = %v, want ErrFull", err)
	}
	for _, part := range []string{dir, "must stay free", "free space on it"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	if _, err := d.Partial(spare.Sum([]byte("x")), 1); !errors.Is(err, blob.ErrFull) {
		t.Fatalf("Partial = %v, want ErrFull", err)
	}
	if got := files(t, dir); len(got) != 0 {
		t.Fatalf("left behind: %v", got)
	}
}

// putForever is a hub that stores blobs until it is killed, saying the digest of each
// once it is stored.
func putForever(dir string) error {
	d, err := blob.OpenDisk(dir, 0)
	if err != nil {
		return err
	}
	for i := range uint64(100_000) {
		b := make([]byte, 1+i*7919%300_000)
		_, _ = rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(b)
		digest, _, err := d.Put(context.Background(), bytes.NewReader(b))
		if err != nil {
			return err
		}
		fmt.Println(digest)
	}
	return nil
}

func TestDisk_AKillLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	acknowledged := map[spare.Digest]struct{}{}
	for round := range 5 {
		cmd := again(t.Context(), "putter", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			acknowledged[spare.Digest(lines.Text())] = struct{}{}
			if n == 7*round+3 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the program ended by itself")
		}
	}
	d := open(t, dir, 0)
	for digest := range acknowledged {
		if _, err := d.Stat(digest); err != nil {
			t.Errorf("acknowledged, then gone: %v", err)
		}
	}
	for _, name := range files(t, dir) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.ReplaceAll(name, "/", ""); string(spare.Sum(b)) != want {
			t.Errorf("%s holds other content", name)
		}
	}
}
