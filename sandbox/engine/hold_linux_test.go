package engine

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/spare-compute/spare/sandbox"
)

// An image that takes long to load keeps neither those waiting whose image is there nor
// those who do not want to wait any more.
func TestHold_ASlowLoadKeepsNobodyElseWaiting(t *testing.T) {
	dir := t.TempDir()
	began := filepath.Join(dir, "began")
	client := filepath.Join(dir, "client")
	script := "#!/bin/sh\ncase \"$*\" in\n*inspect*) exit 1 ;;\n*load*) touch " + began + "; exec sleep 600 ;;\nesac\n"
	if err := os.WriteFile(client, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r, e := New(Config{}), &engine{path: client, podman: true, about: about{arch: runtime.GOARCH}}
	slow, other, warm := imageOf(t, nil), imageOf(t, nil, file{name: "other", text: "x"}), imageOf(t, nil, file{name: "warm", text: "x"})
	r.note(warm.ID, held{Ref: "warm"})

	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := r.hold(ctx, e, slow)
		ended <- err
	}()
	eventually(t, "the slow one is being loaded", func() bool { _, err := os.Stat(began); return err == nil })
	within := func(img *sandbox.Image, d time.Duration) (held, error) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		return r.hold(ctx, e, img)
	}
	if h, err := within(warm, 10*time.Second); err != nil || h.Ref != "warm" {
		t.Errorf("an image that is there: %+v, %v", h, err)
	}
	for name, img := range map[string]*sandbox.Image{"the same image": slow, "another image": other} {
		if _, err := within(img, 50*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	enough := errors.New("enough")
	cancel(enough)
	if err := <-ended; !errors.Is(err, enough) {
		t.Errorf("it ended with %v", err)
	}
}

func TestPodman_ForgetsWhatItLoadedAndNothingOfTheOwners(t *testing.T) {
	r := podman()
	e := r.mustEngine(t)
	there := func(ref string) bool { return exec.Command("podman", "image", "exists", ref).Run() == nil }
	mine := imageOf(t, nil, file{name: "mine", text: random()})
	owners := imageOf(t, nil, file{name: "owners", text: random()})
	for _, img := range []*sandbox.Image{mine, owners} {
		if _, err := r.hold(t.Context(), e, img); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = exec.Command("podman", "rmi", "--force", e.ref(img.ID)).Run() })
	}
	if out, err := exec.Command("podman", "tag", e.ref(owners.ID), "spare.test/owners:"+random()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, img := range []*sandbox.Image{mine, owners} {
		if err := r.Forget(t.Context(), img.ID); err != nil {
			t.Error(err)
		}
	}
	if there(e.ref(mine.ID)) || !there(e.ref(owners.ID)) {
		t.Errorf("the node's image is there: %t, the owner's: %t", there(e.ref(mine.ID)), there(e.ref(owners.ID)))
	}
	// Neither does the probe leave the image that it brings.
	if c := r.Probe(t.Context()); !c.OK {
		t.Fatal(c.Reason)
	}
	probe, err := probeImage(e.arch)
	if err != nil {
		t.Fatal(err)
	}
	if there(e.ref(probe.ID)) {
		t.Error("the probe's image stays")
	}
}
