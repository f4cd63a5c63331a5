package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox/wasm"
	"github.com/spare-compute/spare/sandbox/wasm/python"
	"github.com/spare-compute/spare/sandbox/wasm/wasmtest"
)

// interpreters is the folder of the bundle that set-up built.
func interpreters(t *testing.T) string {
	t.Helper()
	dir, err := python.Folder()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// compiled gives a node the interpreter's machine code, which the tests of package wasm make
// too. A node that is built with the race detector would take a minute to compile it.
func (g *grid) compiled(node string) {
	g.t.Helper()
	cache := wasmtest.Cache(g.t)
	rt := wasm.New(wasm.Config{Cache: cache, Python: wasmtest.Python(g.t), Program: wasmtest.Helper(g.t)})
	if c := rt.Probe(g.t.Context()); !c.OK {
		g.t.Fatal(c.Reason)
	}
	if err := wasmtest.CopyCompiled(filepath.Join(g.path(node), "wasm"), cache); err != nil {
		g.t.Fatal(err)
	}
}

// offers waits until a node offers something in a runtime.
func (g *grid) offers(runtime string, p spare.Platform) {
	g.t.Helper()
	g.until(2*time.Minute, "a node offers "+string(p)+" in "+runtime, func() bool {
		nodes, err := g.client().Nodes(g.t.Context())
		if err != nil {
			return false
		}
		for _, n := range nodes {
			for _, c := range n.Device.Runtimes {
				if i, _ := (spare.Environment{Platform: p, Runtime: runtime}).Choose([]spare.Capability{c}); i >= 0 {
					return true
				}
			}
		}
		return false
	})
}

// folder makes a folder of files.
func (g *grid) folder(files map[string]string) string {
	g.t.Helper()
	dir := filepath.Join(g.t.TempDir(), "app")
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			g.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			g.t.Fatal(err)
		}
	}
	return dir
}

func TestSpareRun_EqualBytesInTheInterpreterThatTheHubHandsOut(t *testing.T) {
	t.Parallel()
	g := newGrid(t, "--runtimes", interpreters(t))
	g.join("a")
	g.compiled("a")
	g.run("a")
	g.addNodes()
	g.offers("wasm", spare.PlatformPython)
	g.must("spare", "app", "push", g.folder(map[string]string{
		"manifest.json": `{"name":"draw","version":"0.1","entrypoint":"main.py","platform":"python","platform_config":{"deterministic":true}}`,
		"app/main.py": `
import json, os, random, sys, time
out = {"draws": [random.random() for _ in range(5)], "hash": hash("spare"), "time": time.time(), "system": sys.platform, "chunk": os.environ["CHUNK_NUMBER"]}
open(os.path.join(os.environ["TASK_RESULTS_DIR"], "out.json"), "w").write(json.dumps(out))
`,
		"template.json": `{"id":"draw","partitioner":"passthrough","assembler":"passthrough"}`,
	}))
	g.must("spare", "app", "activate", "draw")
	var first string
	for range 2 {
		out := t.TempDir()
		g.must("spare", "run", g.file("any.txt", "x"), "--template", "draw", "-o", out)
		raw, err := os.ReadFile(filepath.Join(out, "out.json"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(raw), `"wasi"`) {
			t.Errorf("it did not run on WebAssembly: %s", raw)
		}
		if first == "" {
			first = string(raw)
		} else if string(raw) != first {
			t.Errorf("two runs made\n%s\nand\n%s", first, raw)
		}
	}
}

func TestSpareRun_AnAppInAnImageThatTheHubHolds(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.addNodes("a")
	box, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	root := g.folder(map[string]string{"bin/busybox": string(box), "etc/motd": "hello from the image\n", "tmp/.keep": ""})
	for _, name := range []string{"sh", "cat", "tr"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	g.must("spare", "image", "push", "lab.example/box:1", root)
	g.must("spare", "app", "push", g.folder(map[string]string{
		"manifest.json": `{"name":"boxed","version":"0.1","entrypoint":"main.sh","platform":"docker","platform_config":{"container":"lab.example/box:1"}}`,
		"app/main.sh":   "set -e\n{ cat /etc/motd; tr a-z A-Z < \"$TASK_DIR/data.bin\"; } > \"$TASK_RESULTS_DIR/out.txt\"\n",
		"template.json": `{"id":"boxed","partitioner":"passthrough","assembler":"passthrough"}`,
	}))
	g.must("spare", "app", "activate", "boxed")
	out := t.TempDir()
	g.must("spare", "run", g.file("in.txt", "spare\n"), "--template", "boxed", "-o", out)
	raw, err := os.ReadFile(filepath.Join(out, "out.txt"))
	if err != nil || string(raw) != "hello from the image\nSPARE\n" {
		t.Errorf("got %q, %v", raw, err)
	}
}
