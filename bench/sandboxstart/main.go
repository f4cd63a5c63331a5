// Command spare-bench-sandbox measures what it costs to start Python in Spare's sandbox
// and in bubblewrap, over starting it bare, and prints the medians as JSON, in
// nanoseconds. It links what the program spare-node links, so that its second start
// inside the sandbox costs what a node's does.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/node"
	"github.com/spare-compute/spare/node/service"
	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/attack"
	"github.com/spare-compute/spare/sandbox/first"
	"github.com/spare-compute/spare/sandbox/wasm"
	python3wasi "github.com/spare-compute/spare/sandbox/wasm/python"
)

const runs = 101

// weight is what spare-node is made of.
var weight = []any{node.New, node.Join, node.Ask, service.Run, service.Control, new(cobra.Command)}

var python = []string{"/usr/bin/python3", "-c", "pass"}

func main() {
	sandbox.Init()
	wasm.Init()
	took, err := measure(context.Background())
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(took)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "spare-bench-sandbox:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context) (map[string]time.Duration, error) {
	rt, found := sandbox.Choose(ctx)
	if rt == nil || len(weight) == 0 {
		return nil, fmt.Errorf("no sandbox works here: %+v", found)
	}
	root, err := attack.Debian(ctx)
	if err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "spare-bench-sandbox-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	if err := podman(ctx, filepath.Join(work, "image.tar"), root); err != nil {
		return nil, err
	}
	defer func() { _ = exec.Command("podman", "rmi", "-f", imageName).Run() }()
	modules, err := pythonOnWasm(ctx, work, rt)
	if err != nil {
		return nil, err
	}
	filter, err := os.Create(filepath.Join(work, "filter"))
	if err != nil {
		return nil, err
	}
	defer filter.Close()
	if _, err := filter.Write(sandbox.Filter()); err != nil {
		return nil, err
	}
	contained := &sandbox.Image{ID: "sha256:0", Folder: root}
	ways := map[string]func() error{
		"bare":              func() error { return exec.CommandContext(ctx, python[0], python[1:]...).Run() },
		"Spare":             func() error { return inside(ctx, rt, sandbox.Limits{}) },
		"Spare with limits": func() error { return inside(ctx, rt, sandbox.Limits{CPUs: 1, Memory: 1 << 30, Wall: time.Minute}) },
		"Spare, image":      func() error { return runIn(ctx, rt, sandbox.Spec{Image: contained, Argv: python}) },
		"Spare, wasm":       func() error { return runIn(ctx, modules, sandbox.Spec{Argv: []string{"python3", "-c", "pass"}}) },
		"bare, image": func() error {
			return exec.CommandContext(ctx, "chroot", append([]string{root}, python...)...).Run()
		},
		"podman, image": func() error {
			return exec.CommandContext(ctx, "podman", append(append([]string{"--runtime", "runc", "run", "--rm", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}, imageName), python...)...).Run()
		},
		"bubblewrap, alike": func() error {
			cmd := exec.CommandContext(ctx, "bwrap", bubblewrap(alike)...)
			cmd.ExtraFiles = []*os.File{filter}
			if _, err := filter.Seek(0, io.SeekStart); err != nil {
				return err
			}
			return cmd.Run()
		},
		"bubblewrap":        func() error { return exec.CommandContext(ctx, "bwrap", bubblewrap(more)...).Run() },
		"bubblewrap, fewer": func() error { return exec.CommandContext(ctx, "bwrap", bubblewrap(fewer)...).Run() },
	}
	samples := map[string][]time.Duration{}
	for range runs {
		for name, start := range ways { // in an order that changes
			began := time.Now()
			if err := start(); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			samples[name] = append(samples[name], time.Since(began))
		}
	}
	medians := map[string]time.Duration{}
	for name, s := range samples {
		slices.Sort(s)
		medians[name] = s[len(s)/2]
	}
	return medians, nil
}

const imageName = "localhost/spare-bench-sandbox"

// podman makes an image of a folder.
func podman(ctx context.Context, archive, root string) error {
	if out, err := exec.CommandContext(ctx, "tar", "-C", root, "-cf", archive, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("make an image for podman: %w: %s", err, out)
	}
	if out, err := exec.CommandContext(ctx, "podman", "import", "--quiet", archive, imageName).CombinedOutput(); err != nil {
		return fmt.Errorf("make an image for podman: %w: %s", err, out)
	}
	return nil
}

// pythonOnWasm is the wasm runtime inside another, with its module compiled.
func pythonOnWasm(ctx context.Context, work string, inside sandbox.Runtime) (sandbox.Runtime, error) {
	folder, err := python3wasi.Folder()
	if err != nil {
		return nil, err
	}
	found, err := python3wasi.Find(folder)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(found.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	home := filepath.Join(work, "python")
	if err := python3wasi.Unpack(f, home); err != nil {
		return nil, err
	}
	rt := wasm.New(wasm.Config{Cache: filepath.Join(work, "wasm"), Python: home, Inside: inside})
	if c := rt.Probe(ctx); !slices.Contains(c.Platforms, spare.PlatformPython) {
		return nil, fmt.Errorf("the wasm runtime does not work: %s", c.Reason)
	}
	return rt, nil
}

func inside(ctx context.Context, rt sandbox.Runtime, limits sandbox.Limits) error {
	return runIn(ctx, rt, sandbox.Spec{Argv: python, Limits: limits})
}

func runIn(ctx context.Context, rt sandbox.Runtime, s sandbox.Spec) error {
	r, err := rt.Run(ctx, s)
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("python ended with %d (%s)", r.ExitCode, r.Cause)
	}
	return err
}

// The walls that bubblewrap is asked for. Landlock and control groups it does not have.
const (
	fewer = iota // namespaces and read-only system folders
	more         // no user namespaces inside, an unprivileged user, a read-only root, an environment of its own, those parts of /etc that programs read
	alike        // the filter of system calls (descriptor 3) and the masks over /proc too
)

func bubblewrap(walls int) []string {
	args := []string{"--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--ro-bind", "/usr", "/usr"}
	if walls >= more {
		args = append(args, "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000",
			"--hostname", "spare", "--clearenv", "--setenv", "PATH", "/usr/bin:/bin")
		for _, file := range []string{"alternatives", "localtime", "mime.types", "ssl/certs", "ssl/openssl.cnf", "fonts"} {
			args = append(args, "--ro-bind-try", "/etc/"+file, "/etc/"+file)
		}
	}
	for _, link := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if to, err := os.Readlink(link); err == nil {
			args = append(args, "--symlink", to, link)
		} else if _, err := os.Stat(link); err == nil {
			args = append(args, "--ro-bind", link, link)
		}
	}
	args = append(args, "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/tmp")
	if walls >= more {
		args = append(args, "--tmpfs", "/dev/shm")
	}
	if walls >= alike {
		args = append(args, "--seccomp", "3")
		for _, name := range first.Masked() {
			switch info, err := os.Stat("/proc/" + name); {
			case err != nil:
			case info.IsDir():
				args = append(args, "--tmpfs", "/proc/"+name)
			default:
				args = append(args, "--ro-bind", "/dev/null", "/proc/"+name)
			}
		}
	}
	if walls >= more {
		args = append(args, "--remount-ro", "/")
	}
	return append(args, python...)
}
