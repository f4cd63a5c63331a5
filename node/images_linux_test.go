package node

import (
	"context"
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spare-compute/spare/bundle"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/image/imagetest"
	"github.com/spare-compute/spare/node/policy"
	"github.com/spare-compute/spare/protocol/pb"
)

// boxed is a lease of an App that runs in an image.
func (h *aHub) boxed(chunk int, reference, credentials string) *pb.Lease {
	h.t.Helper()
	l := h.lease(chunk, "")
	app := h.t.TempDir()
	script := "cat /etc/motd > \"$TASK_RESULTS_DIR/out.txt\"\n"
	if err := os.WriteFile(filepath.Join(app, "main.sh"), []byte(script), 0o644); err != nil {
		h.t.Fatal(err)
	}
	var packed strings.Builder
	if _, err := bundle.Pack(app, &packed); err != nil {
		h.t.Fatal(err)
	}
	l.App.Bundle, l.App.Entrypoint, l.App.Platform = h.add([]byte(packed.String())), "main.sh", "container"
	l.App.PlatformConfig = []byte(`{"container":"` + reference + `",` + credentials + `}`)
	l.App.Environment = []byte(`{"platform":"container","image":"` + reference + `"}`)
	return l
}

func TestNode_PullsFromARegistryThatItsOwnerNamed(t *testing.T) {
	const credentials = `"username":"ann","token":"secret"`
	r, mirror := imagetest.Serve(t), imagetest.Serve(t)
	im := imagetest.Make(t, imagetest.Options{Env: []string{"PATH=/bin"}}, imagetest.Gzip(t, imagetest.Busybox(t)))
	reference := r.Put("private/box:1", im)
	r.Fault(func(w http.ResponseWriter, req *http.Request) bool {
		if req.Header.Get("Authorization") == "Basic "+base64.StdEncoding.EncodeToString([]byte("ann:secret")) {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	mirrored := strings.Replace(mirror.Put("public/box:1", im), mirror.Host, "registry.test", 1)
	for name, c := range map[string]struct {
		prefs              policy.Prefs
		image, credentials string
		want               string // in the error; "" if it succeeds
	}{
		"nobody named it":    {policy.Prefs{}, reference, credentials, "allow_registries=" + r.Host},
		"the owner named it": {policy.Prefs{Registries: policy.Registries(r.Host)}, reference, credentials, ""},
		"wrong credentials":  {policy.Prefs{Registries: policy.Registries(r.Host)}, reference, `"username":"ann","token":"x"`, "write a username and token"},
		"a mirror has it":    {policy.Prefs{Mirrors: policy.Mirrors("registry.test=http://" + mirror.Host)}, mirrored, credentials, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t)
			dir := joined(t, h)
			c.prefs.When = policy.WhenAlways
			if err := policy.Save(filepath.Join(dir, "prefs.json"), c.prefs); err != nil {
				t.Fatal(err)
			}
			run(t, dir)
			p := h.accept()
			p.until("a want", func(f *pb.Frame) bool { return f.GetWant().GetRun() >= 1 })
			p.send(grant(h.boxed(0, c.image, c.credentials)))
			var end *pb.Ended
			p.until("its end", ended(&end))
			if ok := end.Outcome == pb.Outcome_OUTCOME_SUCCEEDED; ok != (c.want == "") || !strings.Contains(end.String(), c.want) || strings.Contains(end.String(), "secret") {
				t.Errorf("it ended with %v", end)
			}
		})
	}
}

// What the store of images removes, the engine is to forget, and nothing else.
func TestNode_TheEngineForgetsImagesThatTheStoreRemoved(t *testing.T) {
	n := &Node{log: quiet(), gone: newGone()}
	s, err := image.Open(t.TempDir(), image.Options{Quota: 1 << 30, Gone: n.gone.add})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var want []string
	for range 2 {
		im := imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t, imagetest.File{Name: "f", Text: imagetest.Noise(100)}))
		pin, err := s.Ensure(t.Context(), im.Ref(), image.Packed, im.Source())
		if err != nil {
			t.Fatal(err)
		}
		pin.Release()
		want = append(want, "sha256:"+string(im.Config))
	}
	if err := s.SetQuota(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var forgotten []string
	n.forgetImages(ctx, func(_ context.Context, id string) error {
		if forgotten = append(forgotten, id); len(forgotten) == len(want) {
			cancel()
		}
		return nil
	})
	if slices.Sort(want); !slices.Equal(slices.Sorted(slices.Values(forgotten)), want) {
		t.Errorf("forgotten %q, removed %q", forgotten, want)
	}
}
