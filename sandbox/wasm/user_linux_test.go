package wasm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/wasm/python"
	"github.com/spare-compute/spare/sandbox/wasm/wasmtest"
)

const (
	ordinaryUser = 12345
	orphanEnv    = "SPARE_TEST_WASM_ORPHAN"
)

func init() { orphan = runForever }

// TestAsOrdinaryUser runs the other tests again, without root's rights.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		return // this is it
	}
	module, err := attacking()
	if err != nil {
		t.Fatal(err)
	}
	archive, err := wasmtest.Archive()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "spare-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program, home := filepath.Join(dir, "suite"), filepath.Join(dir, "home")
	runtimes := filepath.Join(home, ".cache", "spare", "runtimes")
	// The checkout may lie where others do not get to.
	source := filepath.Join(home, "spare", "sandbox", "wasm")
	script(t, alone(t), "pass", nil) // compiled by now
	for _, err := range []error{
		os.Chmod(dir, 0o755), os.Mkdir(home, 0o700),
		copyInto(program, "/proc/self/exe", 0o755),
		os.CopyFS(filepath.Join(source, "testdata"), os.DirFS("testdata")),
		os.CopyFS(filepath.Join(home, "spare", "apps"), os.DirFS(filepath.Join("..", "..", "apps"))),
		os.CopyFS(filepath.Join(runtimes, python.Name), os.DirFS(wasmtest.Python(t))),
		wasmtest.CopyCompiled(filepath.Join(runtimes, "test-cache"), wasmtest.Cache(t)),
		copyInto(filepath.Join(runtimes, python.File), archive.Path, 0o644),
		copyInto(filepath.Join(home, "helper"), wasmtest.Helper(t), 0o755),
		filepath.WalkDir(home, func(name string, _ os.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(name, ordinaryUser, ordinaryUser))
		}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.timeout=8m", "-test.run=^TestWasm_", "-test.skip=Arm64|Probe|Heals|Bounds|Recursion")
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "TMPDIR="+home, "HOME="+home, "XDG_CACHE_HOME=", attackEnv+"="+module, wasmtest.HelperEnv+"="+filepath.Join(home, "helper"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryUser, Gid: ordinaryUser}}
	cmd.Env = append(cmd.Env, sourceEnv+"="+source)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("as an ordinary user: %v\n%s", err, out)
	}
	if !bytes.Contains(out, []byte("PASS")) {
		t.Fatalf("as an ordinary user nothing ran:\n%s", out)
	}
}

func copyInto(to, from string, mode os.FileMode) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, content, mode)
}

// runForever is the life of a parent that will be killed.
func runForever() {
	dir := os.Getenv(orphanEnv)
	if dir == "" {
		return
	}
	folder, _ := python.Folder()
	r := New(Config{Cache: dir, Python: filepath.Join(folder, python.Name), Program: os.Getenv(wasmtest.HelperEnv)})
	r.compiled.folder = filepath.Join(folder, "test-cache", "compiled")
	_, err := r.Run(context.Background(), sandbox.Spec{Argv: []string{"python3", "-uc", "print('begun')\nwhile True: pass"}, Stdout: os.Stdout})
	fmt.Println(err)
	os.Exit(1)
}

func TestWasm_HelperEndsWithItsParent(t *testing.T) {
	script(t, alone(t), "pass", nil) // compiled by now
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), orphanEnv+"="+dir, wasmtest.HelperEnv+"="+wasmtest.Helper(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 5)
	if _, err := out.Read(said); err != nil || string(said) != "begun" {
		t.Fatalf("it says %q (%v)", said, err)
	}
	helpers := children(t, cmd.Process.Pid)
	if len(helpers) != 1 {
		t.Fatalf("it has the children %v", helpers)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	deadline := time.Now().Add(20 * time.Second)
	for alive(helpers[0]) {
		if time.Now().After(deadline) {
			t.Fatal("its helper lives on")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// children are the processes that a process has started.
func children(t testing.TB, pid int) (all []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		f := strings.Fields(rest)
		if len(f) > 1 && f[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			all = append(all, child)
		}
	}
	return all
}
