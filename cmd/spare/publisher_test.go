package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/image/imagetest"
)

// What the manifest says of the way into a registry is good for signing too.
func TestSign_PrivateImageByItsTag(t *testing.T) {
	r := imagetest.Serve(t)
	im := imagetest.Make(t, imagetest.Options{}, imagetest.Gzip(t, imagetest.Tar(t, imagetest.Dir("etc"))))
	r.Put("private/tool:1", im)
	r.Fault(func(w http.ResponseWriter, req *http.Request) bool {
		if user, token, ok := req.BasicAuth(); ok && user == "ann" && token == "s3cret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	tag := r.Host + "/private/tool:1"
	pinned := tag + "@sha256:" + string(im.Digest)
	c := &cli{err: io.Discard}
	for token, opens := range map[string]bool{"s3cret": true, "wrong": false} {
		app := spare.App{
			Kind: spare.KindApp, Name: "tool", Version: "1.0", Platform: spare.PlatformContainer,
			Environment: spare.Environment{Platform: spare.PlatformContainer, Image: tag},
			Config:      json.RawMessage(fmt.Sprintf(`{"container":%q,"username":"ann","token":%q}`, tag, token)),
		}
		err := c.pinImage(t.Context(), &app, "folder")
		if opens && (err != nil || app.Environment.Image != pinned) {
			t.Errorf("signed as %s, %v; want %s", app.Environment.Image, err, pinned)
		}
		if !opens && (err == nil || strings.Contains(err.Error(), "wrong")) {
			t.Errorf("with another token: %v", err)
		}
	}
}
