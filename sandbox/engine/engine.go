// Package engine runs programs in containers of an engine that the owner has installed:
// podman or Docker, on Linux, macOS and Windows. It owns the command lines that the
// engine gets, what is known of the flaws of its parts, and every container it starts:
// none is left when Run returns, and what a node that was killed left behind goes at the
// next start. It never pulls an image, never runs one by a name that could move, never
// passes anything through a shell, and never trusts a flag that its probe has not seen
// to bite from inside. The node calls it for Apps whose platform is container; it is the
// only runtime that passes a GPU through.
//
// An engine is another program with rights of its own. Where package sandbox's linux
// runtime works, it is the stronger wall and the quicker start.
package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spare-compute/spare/sandbox"
)

// Config is what the owner and the node decide.
type Config struct {
	// Command is the engine's program: a name or a path; "" looks for podman, then docker.
	Command string
	// OCIRuntime is the low-level runtime the engine is to use ("runc", "crun"); "" is
	// the engine's own choice.
	OCIRuntime string
	// Instance tells this node's containers from those of others on the machine, so
	// that only its own orphans are removed: the path of its data folder, which one
	// process has at a time. Without it, containers of processes that live are left alone.
	Instance string
	// GPU lets Apps that name a GPU have it.
	GPU bool
	// AcceptKnownFlaws uses an engine although its parts have flaws that are known and
	// mended elsewhere. The owner alone decides that, and Probe's Reason goes on naming
	// them.
	AcceptKnownFlaws bool
}

// Runtime runs programs in containers of one engine. It is safe for concurrent use.
type Runtime struct {
	config Config
	token  string // of this process: its containers are no orphans

	mu    sync.Mutex
	found *engine // what probing found; nil before, and if nothing works

	loading chan struct{} // held while the engine reads an archive: heavy work for the disk
	images  sync.Mutex    // for a look at those that follow
	loaded  map[string]held
	turns   map[string]chan struct{} // by image ID: held while one is looked for, loaded or removed
}

var _ sandbox.Runtime = (*Runtime)(nil)

// New gives the runtime of an engine. Nothing is looked for before Probe or Run.
func New(c Config) *Runtime {
	return &Runtime{
		config: c, token: random(), loading: make(chan struct{}, 1), loaded: map[string]held{}, turns: map[string]chan struct{}{},
	}
}

// Name implements sandbox.Runtime.
func (*Runtime) Name() string { return "engine" }

// errNoEngine says that there is nothing to probe.
var errNoEngine = errors.New("neither podman nor docker is installed: install podman to run containers with an engine")

// command is the engine's program and whether it is podman.
func (r *Runtime) command() (path string, podman bool, err error) {
	names := []string{"podman", "docker"}
	if r.config.Command != "" {
		names = []string{r.config.Command}
	}
	for _, name := range names {
		if path, err = exec.LookPath(name); err == nil {
			if path, err = filepath.Abs(path); err != nil {
				return "", false, err
			}
			return path, !strings.Contains(strings.ToLower(base(name)), "docker"), nil
		}
	}
	if r.config.Command != "" {
		return "", false, fmt.Errorf("the engine %s cannot be run: %w", r.config.Command, err)
	}
	return "", false, errNoEngine
}

// base is a path's last part, with either system's separator.
func base(p string) string { return p[strings.LastIndexAny(p, `/\`)+1:] }

// engine finds and describes the engine once.
func (r *Runtime) engine(ctx context.Context) (*engine, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.found != nil {
		return r.found, nil
	}
	path, podman, err := r.command()
	if err != nil {
		return nil, err
	}
	e := &engine{path: path, podman: podman, ociRuntime: r.config.OCIRuntime}
	if err := e.describe(ctx); err != nil {
		return nil, err
	}
	if flaws := e.flaws(); len(flaws) > 0 && !r.config.AcceptKnownFlaws {
		return nil, &FlawsError{Flaws: flaws}
	}
	r.found = e
	return e, nil
}

// random is a word nobody can guess.
func random() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// instance is the label that marks this node's containers.
func (r *Runtime) instance() string {
	if r.config.Instance == "" {
		return "default"
	}
	return short(r.config.Instance)
}

// pid is what other processes of this machine know this one by.
var pid = os.Getpid()
