package image_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/egress"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/image/imagetest"
)

// cut answers requests for layers with at most n bytes, then drops the connection.
func cut(r *imagetest.Registry, n int64, every func() bool) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, "/blobs/") || !every() {
			return false
		}
		r.Inner().ServeHTTP(&cutter{ResponseWriter: w, left: n}, req)
		panic(http.ErrAbortHandler)
	}
}

type cutter struct {
	http.ResponseWriter
	left int64
}

func (c *cutter) Write(b []byte) (int, error) {
	if int64(len(b)) > c.left {
		_, _ = c.ResponseWriter.Write(b[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= int64(len(b))
	return c.ResponseWriter.Write(b)
}

func TestRegistry_ATransferThatIsCutGoesOnWhereItStopped(t *testing.T) {
	im, r := small(t, 2), imagetest.Serve(t)
	ref := r.Put("tools/video:1", im)
	var sent atomic.Int64
	faulty := cut(r, 3000, func() bool { return true })
	r.Fault(func(w http.ResponseWriter, req *http.Request) bool {
		if strings.Contains(req.URL.Path, string(im.Config)) {
			return false
		}
		return faulty(&tally{w, &sent}, req)
	})
	ensure(t, open(t, t.TempDir(), room), ref, image.Unpacked, source(t, ref))
	size := int64(len(im.Blobs[im.Layers[0]]) + len(im.Blobs[im.Layers[1]]))
	if n := sent.Load(); n > size+2*3000 {
		t.Errorf("%d bytes were sent for %d", n, size)
	}
}

type tally struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (w *tally) Write(b []byte) (int, error) {
	w.n.Add(int64(len(b)))
	return w.ResponseWriter.Write(b)
}
func (w *tally) Flush() { w.ResponseWriter.(http.Flusher).Flush() }

func TestRegistry_OneThatKnowsNoRangesServesToo(t *testing.T) {
	im, r := small(t, 1), imagetest.Serve(t)
	ref := r.Put("tools/video:1", im)
	var n atomic.Int64
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"ignored": func(_ http.ResponseWriter, req *http.Request) bool { req.Header.Del("Range"); return false },
		"refused": func(w http.ResponseWriter, req *http.Request) bool {
			if req.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			}
			return req.Header.Get("Range") != ""
		},
	} {
		n.Store(0)
		faulty := cut(r, 5000, func() bool { return n.Add(1) == 2 }) // the configuration comes first
		r.Fault(func(w http.ResponseWriter, req *http.Request) bool { return answer(w, req) || faulty(w, req) })
		ensure(t, open(t, t.TempDir(), room), ref, image.Unpacked, source(t, ref))
		if n.Load() != 3 {
			t.Errorf("%s: %d transfers", name, n.Load())
		}
	}
}

func TestRegistry_TroubleThatPassesIsWaitedFor(t *testing.T) {
	im, r := small(t, 1), imagetest.Serve(t)
	ref := r.Put("tools/video:1", im)
	for _, status := range []int{500, 502, 503, 429} {
		var n atomic.Int64
		r.Fault(func(w http.ResponseWriter, req *http.Request) bool {
			if n.Add(1)%2 == 0 {
				w.WriteHeader(status)
				return true
			}
			return false
		})
		ensure(t, open(t, t.TempDir(), room), ref, image.Unpacked, source(t, ref))
	}
}

func TestRegistry_TroubleThatStaysIsTold(t *testing.T) {
	im, r := small(t, 1), imagetest.Serve(t)
	ref := r.Put("tools/video:1", im)
	status := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			if strings.Contains(req.URL.Path, "/blobs/") {
				w.WriteHeader(code)
				return true
			}
			return false
		}
	}
	for want, code := range map[string]int{"write a username and token": 403, "check the name": 404, "answers 410": 410} {
		r.Fault(status(code))
		r.Asked()
		_, err := open(t, t.TempDir(), room).Ensure(t.Context(), ref, image.Unpacked, source(t, ref))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), r.Host) {
			t.Errorf("%d: %v", code, err)
		}
		if asked := r.Asked(); len(asked) > 4 { // ping twice at most, manifest, configuration
			t.Errorf("%d: asked %q", code, asked)
		}
	}
	_, err := open(t, t.TempDir(), room).Ensure(t.Context(), r.Host+"/no/such@sha256:"+string(im.Digest), image.Unpacked, source(t, r.Host+"/no/such"))
	if !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
}

func TestRegistry_OneThatStandsStillIsLeft(t *testing.T) {
	im, r := small(t, 1), imagetest.Serve(t)
	ref := r.Put("tools/video:1", im)
	var n atomic.Int64
	r.Fault(func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, string(im.Layers[0])) || n.Add(1) > 1 {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(im.Blobs[im.Layers[0]])))
		_, _ = w.Write(im.Blobs[im.Layers[0]][:100])
		w.(http.Flusher).Flush()
		<-req.Context().Done()
		return true
	})
	parsed, err := image.ParseRef(ref)
	must(t, err)
	from := registries(image.RegistryOptions{Stall: 100 * time.Millisecond}).Source(parsed, image.Credential{})
	ensure(t, open(t, t.TempDir(), room), ref, image.Unpacked, from)
	if n.Load() != 2 {
		t.Errorf("%d transfers", n.Load())
	}
}

func TestRegistry_ForgedLayersAreRefused(t *testing.T) {
	im, r := small(t, 1), imagetest.Serve(t)
	ref := r.Put("tools/video:1", im)
	for name, forged := range map[string][]byte{
		"other bytes": []byte(imagetest.Noise(len(im.Blobs[im.Layers[0]]))),
		"more bytes":  append(slices.Clone(im.Blobs[im.Layers[0]]), "more"...),
		"endless":     nil,
	} {
		r.Fault(func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.Contains(req.URL.Path, string(im.Layers[0])) {
				return false
			}
			for forged == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return true
				}
			}
			_, _ = w.Write(forged)
			return true
		})
		dir := t.TempDir()
		_, err := open(t, dir, room).Ensure(t.Context(), ref, image.Unpacked, source(t, ref))
		if name != "endless" && !errors.Is(err, image.ErrCorrupt) || err == nil {
			t.Errorf("%s: %v", name, err)
		}
		if left := append(list(t, filepath.Join(dir, "partial")), list(t, filepath.Join(dir, "layers"))...); len(left) > 0 {
			t.Errorf("%s: %q is left", name, left)
		}
	}
}

func TestRegistry_AMirrorIsAskedFirstAndNotBelieved(t *testing.T) {
	im, real, mirror := small(t, 1), imagetest.Serve(t), imagetest.Serve(t)
	ref := real.Put("tools/video:1", im)
	parsed, err := image.ParseRef(ref)
	must(t, err)
	all := registries(image.RegistryOptions{Mirrors: map[string][]string{real.Host: {"http://" + mirror.Host}}})
	from := func() image.Source { return all.Source(parsed, image.Credential{Username: "u", Token: "secret"}) }

	// It has nothing: the registry serves.
	ensure(t, open(t, t.TempDir(), room), ref, image.Unpacked, from())
	if len(mirror.Asked()) == 0 || len(real.Asked()) == 0 {
		t.Error("the mirror or the registry was not asked")
	}
	// It has all: the registry is left alone, and the mirror sees no password.
	mirror.Put("tools/video:1", im)
	mirror.Fault(func(_ http.ResponseWriter, req *http.Request) bool {
		if a := req.Header.Get("Authorization"); a != "" {
			t.Errorf("the mirror got %q", a)
		}
		return false
	})
	ensure(t, open(t, t.TempDir(), room), ref, image.Unpacked, from())
	if asked := real.Asked(); len(asked) > 0 {
		t.Errorf("the registry was asked %q", asked)
	}
	// It lies: the registry serves.
	mirror.Fault(func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, string(im.Layers[0])) {
			return false
		}
		_, _ = w.Write([]byte(imagetest.Noise(len(im.Blobs[im.Layers[0]]))))
		return true
	})
	ensure(t, open(t, t.TempDir(), room), ref, image.Unpacked, from())
}

func TestRegistry_CredentialsOpenIt(t *testing.T) {
	im, r := small(t, 1), imagetest.Serve(t)
	ref := r.Put("private/tool:1", im)
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:secret"))
	tokens := func(w http.ResponseWriter, req *http.Request) bool {
		switch {
		case req.URL.Path == "/token":
			if req.Header.Get("Authorization") != basic {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			_, _ = io.WriteString(w, `{"token":"let-me-in"}`)
			return true
		case req.Header.Get("Authorization") == "Bearer let-me-in":
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	password := func(w http.ResponseWriter, req *http.Request) bool {
		if req.Header.Get("Authorization") == basic {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	parsed, err := image.ParseRef(ref)
	must(t, err)
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{"tokens": tokens, "password": password} {
		r.Fault(fault)
		all := registries(image.RegistryOptions{})
		ensure(t, open(t, t.TempDir(), room), ref, image.Unpacked, all.Source(parsed, image.Credential{Username: "ann", Token: "secret"}))
		_, err := open(t, t.TempDir(), room).Ensure(t.Context(), ref, image.Unpacked, all.Source(parsed, image.Credential{Username: "ann", Token: "wrong"}))
		if err == nil || !strings.Contains(err.Error(), "write a username and token") || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRegistry_ResolvesANameToADigest(t *testing.T) {
	im, r := small(t, 1), imagetest.Serve(t)
	r.Put("tools/video:1", im)
	all := registries(image.RegistryOptions{})
	resolve := func(name string) (image.Ref, error) {
		ref, err := image.ParseRef(r.Host + "/" + name)
		must(t, err)
		return all.Resolve(t.Context(), ref, image.Credential{})
	}
	if got, err := resolve("tools/video:1"); err != nil || got.Digest != im.Digest || got.String() != r.Host+"/tools/video:1@sha256:"+string(im.Digest) {
		t.Errorf("%s, %v", got, err)
	}
	r.Fault(func(w http.ResponseWriter, req *http.Request) bool { // it does not say the digest
		if req.Method == http.MethodHead {
			w.WriteHeader(http.StatusOK)
		}
		return req.Method == http.MethodHead
	})
	if got, err := resolve("tools/video:1"); err != nil || got.Digest != im.Digest {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := resolve("tools/video:2"); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
}

func TestAttack_RegistriesAtPrivateAddressesAreNotCalled(t *testing.T) {
	r := imagetest.Serve(t)
	r.Put("tools/video:1", small(t, 1))
	call := func(host string, all *image.Registries) error {
		ref, err := image.ParseRef(host + "/tools/video:1")
		must(t, err)
		_, err = all.Resolve(t.Context(), ref, image.Credential{})
		return err
	}
	_, port, _ := strings.Cut(r.Host, ":")
	strict := image.NewRegistries(image.RegistryOptions{})
	for _, host := range []string{r.Host, "localhost:" + port, "[::1]:" + port, "[::ffff:127.0.0.1]:" + port, "169.254.169.254", "10.0.0.1:5000", "192.168.1.1"} {
		if err := call(host, strict); !errors.Is(err, egress.ErrRefused) {
			t.Errorf("%s: %v", host, err)
		}
	}
	if asked := r.Asked(); len(asked) > 0 {
		t.Errorf("the registry was asked %q", asked)
	}
	// A registry that may be called must not send us on to one that may not.
	secret := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the inner server was asked") }))
	defer secret.Close()
	inner := strings.Replace(secret.URL, "127.0.0.1", "127.0.0.2", 1)
	only := image.NewRegistries(image.RegistryOptions{Rule: onlyOne})
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"redirect": func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, inner+"/secret", http.StatusFound)
		},
		"token": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q", inner+"/token"))
			w.WriteHeader(http.StatusUnauthorized)
		},
	} {
		r.Fault(func(w http.ResponseWriter, req *http.Request) bool { answer(w, req); return true })
		if err := call(r.Host, only); err == nil {
			t.Errorf("%s: it was followed", name)
		}
	}
}

func TestRegistry_AProxyOfTheOwnersIsUsed(t *testing.T) {
	im, r := small(t, 1), imagetest.Serve(t)
	ref := r.Put("tools/video:1", im)
	var through atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodConnect {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		through.Add(1)
		req.URL.Host, req.URL.Scheme = "", ""
		r.ServeHTTP(w, req)
	}))
	defer proxy.Close()
	at, err := url.Parse(proxy.URL)
	must(t, err)
	parsed, err := image.ParseRef(ref)
	must(t, err)
	// The proxy stands at a private address that the rule would refuse for a registry.
	all := image.NewRegistries(image.RegistryOptions{Proxy: http.ProxyURL(at), Rule: onlyOne})
	ensure(t, open(t, t.TempDir(), room), ref, image.Unpacked, all.Source(parsed, image.Credential{}))
	if through.Load() == 0 {
		t.Error("the proxy was not asked")
	}
	other, err := image.ParseRef("10.1.2.3/tools/video:1")
	must(t, err)
	if _, err := all.Resolve(t.Context(), other, image.Credential{}); !errors.Is(err, egress.ErrRefused) {
		t.Errorf("a private address through the proxy: %v", err)
	}
}

func TestEnsure_AKillAtAnyMomentLosesNothingAndBreaksNothing(t *testing.T) {
	var layers [][]byte
	for i := range 8 {
		layers = append(layers, imagetest.Gzip(t, imagetest.Tar(t, File{Name: fmt.Sprintf("d/f%d", i), Text: imagetest.Noise(400_000)})))
	}
	im, r := imagetest.Make(t, imagetest.Options{}, layers...), imagetest.Serve(t)
	ref := r.Put("tools/video:1", im)
	dir := t.TempDir()
	var sent, asked atomic.Int64
	r.Fault(func(w http.ResponseWriter, req *http.Request) bool {
		asked.Add(askedOf(im, req))
		r.Inner().ServeHTTP(&tally{w, &sent}, req)
		return true
	})
	var kills int
	var here int64
	for round := int64(1); ; round++ {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), roleVar+"=puller", dirVar+"="+dir, refVar+"="+ref)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		before := sent.Load()
		here = arrived(dir, im)
		asked.Store(0)
		must(t, cmd.Start())
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		// Each time a little further: in the middle of layers, of unpacking, of joining.
		timer := time.NewTimer(20 * time.Second)
		var err error
		ended := false
		for !ended && sent.Load()-before < 150_000*round {
			select {
			case err = <-done:
				ended = true
			case <-timer.C:
				t.Fatal("it stands still")
			default:
				time.Sleep(time.Millisecond)
			}
		}
		if !ended {
			_ = cmd.Process.Kill()
			err = <-done
		}
		if err == nil {
			break
		}
		if kills++; kills > 30 {
			t.Fatal("it never comes to an end")
		}
		for _, rec := range list(t, filepath.Join(dir, "layers")) {
			if strings.HasSuffix(rec, ".rec") && spare.Digest(strings.TrimSuffix(rec, ".rec")).Valid() {
				if _, err := os.Stat(filepath.Join(dir, "layers", strings.TrimSuffix(rec, ".rec"))); err != nil {
					t.Errorf("a record without its layer: %v", err)
				}
			}
		}
	}
	if kills < 3 {
		t.Errorf("it was killed %d times only", kills)
	}
	got := ensure(t, open(t, dir, room), ref, image.Unpacked, nil)
	if n := len(list(t, got.Folder)); n != 9 {
		t.Errorf("it holds %d things", n)
	}
	if n := asked.Load(); n != layersOf(im)-here {
		t.Errorf("%d bytes were asked for, of %d with %d here", n, layersOf(im), here)
	}
}
