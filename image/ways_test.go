package image_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spare-compute/spare/egress"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/image/imagetest"
)

// stand sends the head of an answer and then nothing more.
func stand(w http.ResponseWriter, req *http.Request, said string) bool {
	w.Header().Set("Content-Length", "100000")
	_, _ = io.WriteString(w, said)
	w.(http.Flusher).Flush()
	<-req.Context().Done()
	return true
}

// A registry that stands still, wherever it does, is left after a while.
func TestRegistry_OneThatStandsStillHangsNobody(t *testing.T) {
	im, r := small(t, 1), imagetest.Serve(t)
	ref := r.Put("tools/video:1", im)
	parsed, err := image.ParseRef(ref)
	must(t, err)
	tag, err := image.ParseRef(r.Host + "/tools/video:1")
	must(t, err)
	login := func(w http.ResponseWriter) bool {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"when it is greeted": func(w http.ResponseWriter, req *http.Request) bool { return stand(w, req, "{") },
		"with the token": func(w http.ResponseWriter, req *http.Request) bool {
			if req.URL.Path != "/token" {
				return login(w)
			}
			return stand(w, req, `{"token":"`)
		},
		"in a manifest": func(w http.ResponseWriter, req *http.Request) bool {
			return req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/manifests/") && stand(w, req, "{")
		},
		"in an error": func(w http.ResponseWriter, req *http.Request) bool {
			if strings.Contains(req.URL.Path, "/manifests/") && req.Method == http.MethodGet {
				w.Header().Set("Content-Length", "100000")
				w.WriteHeader(http.StatusBadGateway)
				return stand(w, req, "{")
			}
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.Fault(func(w http.ResponseWriter, req *http.Request) bool {
				if req.Method == http.MethodHead { // so that the manifest itself is needed
					w.WriteHeader(http.StatusOK)
					return true
				}
				return fault(w, req)
			})
			all := registries(image.RegistryOptions{Stall: 100 * time.Millisecond})
			done := make(chan error, 2)
			go func() {
				_, err := all.Resolve(t.Context(), tag, image.Credential{})
				done <- err
			}()
			go func() {
				_, err := all.Source(parsed, image.Credential{}).Manifest(t.Context(), im.Digest)
				done <- err
			}()
			for range 2 {
				select {
				case err := <-done:
					if err == nil || !strings.Contains(err.Error(), "came for too long") {
						t.Errorf("it says %v", err)
					}
				case <-time.After(20 * time.Second):
					t.Fatal("it hangs")
				}
			}
		})
	}
}

// A byte now and then is no life either.
func TestRegistry_ADripComesToAnEnd(t *testing.T) {
	t.Parallel()
	im, r := small(t, 1), imagetest.Serve(t)
	ref := r.Put("tools/video:1", im)
	blob := im.Blobs[im.Layers[0]]
	var transfers atomic.Int64
	r.Fault(func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, string(im.Layers[0])) {
			return false
		}
		transfers.Add(1)
		from := int64(len(blob)) - askedOf(im, req)
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(blob)-1, len(blob)))
			w.WriteHeader(http.StatusPartialContent)
		}
		for i := from; i < int64(len(blob)) && req.Context().Err() == nil; i++ {
			_, _ = w.Write(blob[i : i+1])
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond) // 50 bytes a second
		}
		return true
	})
	parsed, err := image.ParseRef(ref)
	must(t, err)
	from := registries(image.RegistryOptions{Stall: 200 * time.Millisecond}).Source(parsed, image.Credential{})
	if _, err := open(t, t.TempDir(), room).Ensure(t.Context(), ref, image.Unpacked, from); err == nil || !strings.Contains(err.Error(), "came for too long") {
		t.Errorf("it says %v", err)
	}
	if n := transfers.Load(); n > 10 {
		t.Errorf("%d transfers", n)
	}
}

func TestRegistry_AMirrorThatLiesOfTheConfigurationIsLeft(t *testing.T) {
	im, real, mirror := small(t, 1), imagetest.Serve(t), imagetest.Serve(t)
	ref := real.Put("tools/video:1", im)
	mirror.Put("tools/video:1", im)
	parsed, err := image.ParseRef(ref)
	must(t, err)
	all := registries(image.RegistryOptions{Mirrors: map[string][]string{real.Host: {"http://" + mirror.Host}}})
	for name, said := range map[string]string{"a lie": `{"os":"linux"}`, "cut short": string(im.Blobs[im.Config][:50])} {
		mirror.Fault(func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.Contains(req.URL.Path, string(im.Config)) {
				return false
			}
			_, _ = io.WriteString(w, said)
			return true
		})
		p, err := open(t, t.TempDir(), room).Ensure(t.Context(), ref, image.Unpacked, all.Source(parsed, image.Credential{}))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p.Release()
		if _, err := image.FromSource(t.Context(), im.Digest, all.Source(parsed, image.Credential{})); err != nil {
			t.Errorf("%s, to a hub: %v", name, err)
		}
	}
}

// What an owner names may stand at a private address; other registries must not lead
// there all the same.
func TestRegistry_OneThatTheOwnerNamedMayBePrivate(t *testing.T) {
	im, r := small(t, 1), imagetest.Serve(t)
	ref := r.Put("tools/video:1", im)
	parsed, err := image.ParseRef(ref)
	must(t, err)
	const hint = "its owner can allow it with allow"
	strict := image.NewRegistries(image.RegistryOptions{Hint: hint})
	if _, err := strict.Source(parsed, image.Credential{}).Manifest(t.Context(), im.Digest); !errors.Is(err, egress.ErrRefused) || !strings.Contains(err.Error(), hint+"="+r.Host) {
		t.Errorf("one that nobody named: %v", err)
	}
	for name, opt := range map[string]image.RegistryOptions{
		"named":    {Named: []string{r.Host}},
		"a mirror": {Mirrors: map[string][]string{"127.0.0.2:1": {"http://" + r.Host}}},
	} {
		all := image.NewRegistries(opt)
		from := parsed
		if name == "a mirror" {
			from, err = image.ParseRef("127.0.0.2:1/tools/video@sha256:" + string(im.Digest))
			must(t, err)
		}
		ensure(t, open(t, t.TempDir(), room), from.String(), image.Unpacked, all.Source(from, image.Credential{}))
	}
	other := imagetest.Serve(t)
	elsewhere := strings.Replace(r.Host, "127.0.0.1", "127.0.0.2", 1)
	other.Fault(func(w http.ResponseWriter, req *http.Request) bool {
		http.Redirect(w, req, "http://"+elsewhere+"/v2/", http.StatusFound)
		return true
	})
	leads, err := image.ParseRef(other.Host + "/tools/video:1")
	must(t, err)
	all := image.NewRegistries(image.RegistryOptions{Rule: onlyOne, Named: []string{elsewhere}})
	if _, err := all.Resolve(t.Context(), leads, image.Credential{}); !errors.Is(err, egress.ErrRefused) {
		t.Errorf("another registry leads to it: %v", err)
	}
}

func TestAttack_ThroughTheOwnersProxyTheRuleHoldsForWhatNamesTell(t *testing.T) {
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked = append(asked, req.Host)
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer proxy.Close()
	at, err := url.Parse(proxy.URL)
	must(t, err)
	direct := "127.0.0.1:" + at.Port()
	all := image.NewRegistries(image.RegistryOptions{Proxy: func(req *http.Request) (*url.URL, error) {
		if req.URL.Host == direct { // as NO_PROXY has it, and the usual rule for loopback
			return nil, nil
		}
		return at, nil
	}})
	for _, host := range []string{
		"127.0.0.1", "127.1", "0x7f.1", "10.1", "0177.0.0.1", "127.0.0.1.", "registry.localhost", "registry.local", "nas.lan", "metadata.google.internal", "169.254.169.254",
	} {
		ref, err := image.ParseRef(host + ":5000/tools/video:1")
		if err != nil {
			continue // names of images are narrower than hosts
		}
		if _, err := all.Resolve(t.Context(), ref, image.Credential{}); !errors.Is(err, egress.ErrRefused) {
			t.Errorf("%s: %v", host, err)
		}
	}
	if len(asked) > 0 {
		t.Errorf("the proxy was asked for %q", asked)
	}
	// The proxy itself is no registry, even after it was called as a proxy.
	public, err := image.ParseRef("registry.example/tools/video:1")
	must(t, err)
	_, _ = all.Resolve(t.Context(), public, image.Credential{})
	if len(asked) == 0 {
		t.Error("the proxy was not asked for a public name")
	}
	asked = nil
	itself, err := image.ParseRef(direct + "/tools/video:1")
	must(t, err)
	if _, err := all.Resolve(t.Context(), itself, image.Credential{}); !errors.Is(err, egress.ErrRefused) || len(asked) > 0 {
		t.Errorf("the proxy as a registry: %v, asked for %q", err, asked)
	}
}

func TestFromPath_ArchivesThatGrowAreRefusedAndLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	bomb := filepath.Join(dir, "bomb.tar.zst")
	must(t, os.WriteFile(bomb, imagetest.Zstd(t, make([]byte, 100<<20)), 0o600))
	if _, err := image.FromPath(t.Context(), bomb, dir); err == nil || !strings.Contains(err.Error(), "times as much is the most") {
		t.Errorf("a bomb: %v", err)
	}
	good := filepath.Join(dir, "good.tar.gz")
	must(t, os.WriteFile(good, imagetest.Gzip(t, saved(t, imagetest.Tar(t, File{Name: "a", Text: "x"}))), 0o600))
	c, err := image.FromPath(t.Context(), good, dir)
	must(t, err)
	must(t, c.Close())
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		for _, fd := range open {
			if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); to == good {
				t.Error("the archive stays open")
			}
		}
	}
	if left := list(t, dir); len(left) != 2 {
		t.Errorf("%q is left", left)
	}
	large := filepath.Join(dir, "large.tar.gz")
	must(t, os.WriteFile(large, imagetest.Gzip(t, []byte(imagetest.Noise(8<<20))), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := image.FromPath(ctx, large, dir); !errors.Is(err, ctx.Err()) {
		t.Errorf("after its end: %v", err)
	}
}
