package imagetest

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/spare-compute/spare"
)

// A Registry serves images on loopback until its test ends.
type Registry struct {
	Host string // "127.0.0.1:PORT"

	tb testing.TB
	mu sync.Mutex
	// Fault sees every request first, and answers it itself if it returns true.
	fault func(http.ResponseWriter, *http.Request) bool
	asked []string // "GET /v2/…", in order
	inner http.Handler
}

// Serve starts a registry.
func Serve(tb testing.TB) *Registry {
	tb.Helper()
	r := &Registry{tb: tb, inner: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	srv := httptest.NewServer(r)
	tb.Cleanup(srv.Close)
	r.Host = strings.TrimPrefix(srv.URL, "http://")
	return r
}

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.asked = append(r.asked, req.Method+" "+req.URL.Path)
	fault := r.fault
	r.mu.Unlock()
	if fault != nil && fault(w, req) {
		return
	}
	r.inner.ServeHTTP(w, req)
}

// Fault sets what sees every request first, and answers it itself if it returns true.
func (r *Registry) Fault(f func(http.ResponseWriter, *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = f
}

// Inner is the registry without its faults.
func (r *Registry) Inner() http.Handler { return r.inner }

// Asked lists the requests since the last call.
func (r *Registry) Asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.asked
	r.asked = nil
	return asked
}

// Put stores an image under a name without a registry, "tools/video:1", and returns the
// name in full, pinned.
func (r *Registry) Put(name string, im *Image) string {
	r.tb.Helper()
	repo, tag, _ := strings.Cut(name, ":")
	var manifests []spare.Digest
	for d, b := range im.Blobs {
		if bytes.Contains(b, []byte(`"schemaVersion"`)) && bytes.HasPrefix(b, []byte("{")) {
			manifests = append(manifests, d)
			continue
		}
		r.send(http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest=sha256:"+string(d), "application/octet-stream", b)
	}
	for _, d := range manifests {
		if d != im.Digest {
			r.send(http.MethodPut, "/v2/"+repo+"/manifests/sha256:"+string(d), kindOf(im.Blobs[d]), im.Blobs[d])
		}
	}
	r.send(http.MethodPut, "/v2/"+repo+"/manifests/"+tag, kindOf(im.Blobs[im.Digest]), im.Blobs[im.Digest])
	r.Asked()
	return r.Host + "/" + repo + "@sha256:" + string(im.Digest)
}

func kindOf(manifest []byte) string {
	if bytes.Contains(manifest, []byte(`"manifests"`)) {
		return "application/vnd.oci.image.index.v1+json"
	}
	return "application/vnd.oci.image.manifest.v1+json"
}

func (r *Registry) send(method, path, kind string, body []byte) {
	r.tb.Helper()
	req := httptest.NewRequest(method, path, bytes.NewReader(body))
	req.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	r.inner.ServeHTTP(w, req)
	if w.Code >= 300 {
		r.tb.Fatal(fmt.Errorf("%s %s: %d %s", method, path, w.Code, w.Body))
	}
}
