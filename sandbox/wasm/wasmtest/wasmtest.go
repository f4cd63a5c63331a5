// Package wasmtest gives tests what a wasm runtime needs: CPython, which `make setup` has
// built, a cache that lasts from one test run to the next, and a helper program of its
// own. A test program that is built with the race detector would take minutes to compile
// CPython, and each one would do it anew. It owns folders in the user's cache, and runs
// the go command. Tests only call it:
//
//	wasm.New(wasm.Config{Program: wasmtest.Helper(t), Python: wasmtest.Python(t), Cache: wasmtest.Cache(t)})
package wasmtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/spare-compute/spare/sandbox/wasm/python"
)

// HelperEnv names the helper to a test program that cannot build it, for want of rights.
const HelperEnv = "SPARE_TEST_WASM_HELPER"

var helper = sync.OnceValues(func() (string, error) {
	if built := os.Getenv(HelperEnv); built != "" {
		return built, nil
	}
	return Build("")
})

// Helper is a program that runs helpers, for Config.Program.
func Helper(t testing.TB) string {
	t.Helper()
	name, err := helper()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// Build builds the helper for a processor, "" for this machine's, and returns its name.
func Build(arch string) (string, error) {
	folder, err := python.Folder()
	if err != nil {
		return "", err
	}
	if arch == "" {
		arch = runtime.GOARCH
	}
	// The go command leaves a program that is up to date as it is.
	name := filepath.Join(folder, "test-helper-"+arch+exe())
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", name, "github.com/spare-compute/spare/sandbox/wasm/wasmtest/helper")
	cmd.Env = append(os.Environ(), "GOARCH="+arch, "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the wasm helper: %w\n%s", err, out)
	}
	return name, nil
}

func exe() string {
	if runtime.GOOS == "windows" {
		return ".exe"
	}
	return ""
}

var unpacked = sync.OnceValues(func() (string, error) {
	folder, err := python.Folder()
	if err != nil {
		return "", err
	}
	archive, err := Archive()
	if err != nil {
		return "", err
	}
	f, err := os.Open(archive.Path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	dir := filepath.Join(folder, python.Name)
	return dir, python.Unpack(f, dir)
})

// Archive finds CPython's archive: where `make runtimes` keeps it, or in bin/runtimes of
// the tree that the test is in.
func Archive() (python.Archive, error) {
	folder, err := python.Folder()
	if err != nil {
		return python.Archive{}, err
	}
	folders := []string{folder}
	if here, err := os.Getwd(); err == nil {
		for dir := here; ; dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				folders = append(folders, filepath.Join(dir, "bin", "runtimes"))
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	archive, err := python.Find(folders...)
	if err != nil {
		return archive, errors.Join(err, errors.New("tests need it: run make setup"))
	}
	return archive, nil
}

// Python is a folder with CPython, for Config.Python.
func Python(t testing.TB) string {
	t.Helper()
	dir, err := unpacked()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Cache is a folder for compiled modules that lasts, for Config.Cache. What differs in
// how a helper compiles, as another processor, says so by name.
func Cache(t testing.TB, name ...string) string {
	t.Helper()
	folder, err := python.Folder()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(folder, strings.Join(append([]string{"test-cache"}, name...), "-"))
}

// CopyCompiled copies what is compiled in a cache into another, with its owners, but not
// what another process is making there at the moment.
func CopyCompiled(to, cache string) error {
	to, cache = filepath.Join(to, "compiled"), filepath.Join(cache, "compiled")
	entries, err := os.ReadDir(cache)
	if err == nil {
		err = os.MkdirAll(to, 0o700)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "new-") {
			continue
		}
		if out, copyErr := exec.Command("cp", "-a", filepath.Join(cache, e.Name()), to).CombinedOutput(); copyErr != nil {
			err = errors.Join(err, fmt.Errorf("copy a compiled module: %w: %s", copyErr, out))
		}
	}
	return err
}
