package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spare-compute/spare/sandbox"
)

// loadTime bounds loading an image: gigabytes, onto a slow disk.
const loadTime = 20 * time.Minute

var imageID = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// held is an image as the engine has it.
type held struct {
	Ref     string   // what the engine knows it by: a digest, never a name
	Volumes []string // paths it declares as volumes
	Named   bool     // somebody pulled, built or named it there; what is loaded has no name
}

// hold sees to it that the engine has an image, and returns what it knows it by.
func (r *Runtime) hold(ctx context.Context, e *engine, img *sandbox.Image) (held, error) {
	if !imageID.MatchString(img.ID) {
		return held{}, fmt.Errorf("run image %.80q: want the digest of its configuration, sha256:…", img.ID)
	}
	if h, known := r.known(img.ID); known {
		return h, nil
	}
	done, err := take(ctx, r.turn(img.ID))
	if err != nil {
		return held{}, err
	}
	defer done()
	if h, known := r.known(img.ID); known { // whoever had the turn before loaded it
		return h, nil
	}
	if h, _, err := e.look(ctx, e.ref(img.ID)); err == nil {
		r.note(img.ID, h)
		return h, nil
	}
	if img.Archive == nil {
		return held{}, fmt.Errorf("run image %s: %s does not have it", img.ID, e.name())
	}
	loaded, err := take(ctx, r.loading)
	if err != nil {
		return held{}, err
	}
	defer loaded()
	h, err := e.load(ctx, img)
	if err != nil {
		return held{}, fmt.Errorf("load image %s into %s: %w", img.ID, e.name(), err)
	}
	r.note(img.ID, h)
	return h, nil
}

// take waits for what one may hold at a time.
func take(ctx context.Context, turn chan struct{}) (done func(), err error) {
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// turn is what is held by whoever deals with an image.
func (r *Runtime) turn(id string) chan struct{} {
	r.images.Lock()
	defer r.images.Unlock()
	if r.turns[id] == nil {
		r.turns[id] = make(chan struct{}, 1)
	}
	return r.turns[id]
}

// known is an image as this process has seen it in the engine's store.
func (r *Runtime) known(id string) (held, bool) {
	r.images.Lock()
	defer r.images.Unlock()
	h, known := r.loaded[id]
	return h, known
}

func (r *Runtime) note(id string, h held) {
	r.images.Lock()
	defer r.images.Unlock()
	r.loaded[id] = h
}

func (r *Runtime) unnote(id string) {
	r.images.Lock()
	defer r.images.Unlock()
	delete(r.loaded, id)
}

// lost reports whether an image that the engine had is gone from its store: its owner
// may clear it at any time. The next run brings it again.
func (r *Runtime) lost(ctx context.Context, e *engine, id string) bool {
	done, err := take(ctx, r.turn(id))
	if err != nil {
		return false
	}
	defer done()
	h, known := r.known(id)
	if !known {
		return false
	}
	if _, _, err := e.look(ctx, h.Ref); err == nil || ctx.Err() != nil {
		return false
	}
	r.unnote(id)
	return true
}

// Forget takes an image out of the engine's store, when the node's cache lets go of it.
// One that the engine does not have is no error; one that has a name there is the owner's
// own and stays.
func (r *Runtime) Forget(ctx context.Context, id string) error {
	e, err := r.engine(ctx)
	if err != nil {
		return err
	}
	if !imageID.MatchString(id) {
		return fmt.Errorf("remove image %.80q: want the digest of its configuration, sha256:…", id)
	}
	done, err := take(ctx, r.turn(id))
	if err != nil {
		return err
	}
	defer done()
	ref := e.ref(id)
	if h, known := r.known(id); known {
		ref = h.Ref
	}
	r.unnote(id)
	h, _, err := e.look(ctx, ref)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil || h.Named:
		return nil
	}
	_, err = e.call(ctx, "rmi", ref)
	return err
}

// ref is what the engine knows an image by, if it keeps images under the digest of their
// configuration: podman, and Docker unless it uses containerd's store.
func (e *engine) ref(id string) string {
	if e.podman {
		return strings.TrimPrefix(id, "sha256:")
	}
	return id
}

// look inspects an image that the engine has, and refuses what must not be run.
func (e *engine) look(ctx context.Context, ref string) (held, []string, error) {
	raw, err := e.call(ctx, "image", "inspect", ref)
	if err != nil {
		return held{}, nil, err
	}
	return e.inspected(raw)
}

// inspected reads `image inspect`, which gives a list.
func (e *engine) inspected(raw []byte) (held, []string, error) {
	var list []struct {
		ID           string `json:"Id"`
		RepoTags     []string
		RepoDigests  []string
		Architecture string
		Os           string
		Annotations  map[string]string
		Config       struct {
			Env     []string
			Volumes map[string]struct{}
		}
		RootFS struct{ Layers []string }
	}
	if err := json.Unmarshal(raw, &list); err != nil || len(list) != 1 {
		return held{}, nil, fmt.Errorf("its account of the image cannot be read (%d images, %v)", len(list), err)
	}
	said := list[0]
	c := imageConfig{Architecture: said.Architecture, OS: said.Os}
	c.Config.Env, c.Config.Volumes, c.RootFS.DiffIDs = said.Config.Env, said.Config.Volumes, said.RootFS.Layers
	if err := c.check(e.arch); err != nil {
		return held{}, nil, err
	}
	for name := range said.Annotations {
		if strings.HasPrefix(name, "io.podman.") || strings.HasPrefix(name, "run.oci.") || strings.HasPrefix(name, "io.crun.") {
			return held{}, nil, fmt.Errorf("the image has the annotation %.80q, which steers engines", name)
		}
	}
	h := held{Ref: e.ref(said.ID), Named: len(said.RepoTags)+len(said.RepoDigests) > 0}
	for v := range said.Config.Volumes {
		h.Volumes = append(h.Volumes, v)
	}
	slices.Sort(h.Volumes)
	return h, said.RootFS.Layers, nil
}

// load feeds an archive to the engine and finds the image again by its digest or, where
// the engine gives images digests of its own, by the digests of its layers.
func (e *engine) load(ctx context.Context, img *sandbox.Image) (held, error) {
	archive, err := img.Archive()
	if err != nil {
		return held{}, err
	}
	defer archive.Close()
	tmp, err := loadFolder()
	if err != nil {
		return held{}, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := &filter{id: img.ID, arch: e.arch}
	pr, pw := io.Pipe()
	filtered := make(chan error, 1)
	go func() {
		err := f.copy(pw, archive)
		if err != nil {
			cancel(err) // before the archive's end reaches the engine, which might take it for a whole one
		}
		_ = pw.CloseWithError(err)
		filtered <- err
	}()
	said, err := e.send(ctx, pr, tmp, loadTime, "load")
	_ = pr.CloseWithError(io.ErrClosedPipe)
	if ferr := <-filtered; ferr != nil && !errors.Is(ferr, io.ErrClosedPipe) {
		return held{}, ferr
	}
	if err != nil {
		return held{}, err
	}
	if f.config == nil {
		return held{}, errors.New("it did not read the archive to its end")
	}
	h, _, err := e.look(ctx, e.ref(img.ID))
	if err == nil {
		return h, nil
	}
	return e.lookFor(ctx, f.config, string(said), err)
}

// loadFolder is where podman puts down an archive that it reads: a folder that goes with
// the call, because a client that is stopped leaves it behind. /tmp may be memory.
func loadFolder() (string, error) {
	dir := os.Getenv("TMPDIR")
	if dir == "" && runtime.GOOS != "windows" {
		dir = "/var/tmp"
	}
	return os.MkdirTemp(dir, "spare-engine-load-")
}

// lookFor finds an image that was loaded under another digest.
func (e *engine) lookFor(ctx context.Context, c *imageConfig, said string, why error) (held, error) {
	words := strings.Fields(said)
	if len(words) == 0 || !imageID.MatchString(words[len(words)-1]) {
		return held{}, fmt.Errorf("it loaded another image: %w", why)
	}
	h, layers, err := e.look(ctx, e.ref(words[len(words)-1]))
	if err != nil {
		return held{}, err
	}
	if !slices.Equal(layers, c.RootFS.DiffIDs) {
		return held{}, errors.New("it loaded other layers than the image's")
	}
	return h, nil
}
