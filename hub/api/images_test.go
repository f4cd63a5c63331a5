package api_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/client"
	"github.com/spare-compute/spare/hub/api/apitest"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/image/imagetest"
)

func imageOf(t *testing.T, text string) *imagetest.Image {
	t.Helper()
	return imagetest.Make(t, imagetest.Options{},
		imagetest.Gzip(t, imagetest.Tar(t, imagetest.File{Name: "base", Text: strings.Repeat("base ", 10_000)})),
		imagetest.Tar(t, imagetest.File{Name: "own", Text: text}))
}

// parts are an image's blobs as a client sends them; sent counts the bytes read.
func parts(im *imagetest.Image, sent *int64) (all []client.ImagePart) {
	for d, b := range im.Blobs {
		all = append(all, client.ImagePart{Digest: d, Size: int64(len(b)), Read: func(_ context.Context, offset int64, w io.Writer) error {
			n, err := w.Write(b[offset:])
			*sent += int64(n)
			return err
		}})
	}
	return all
}

func imageClient(t *testing.T, h *apitest.Hub, key string) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{Hub: h.URL, Key: key, Wait: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestImages_WhatTheHubHasIsNotSentAgain(t *testing.T) {
	h := apitest.Start(t)
	c := imageClient(t, h, h.Key("ann", store.RoleSubmitter))
	one, two := imageOf(t, "one"), imageOf(t, "two")
	var first, second, again int64
	im, err := c.PushImage(t.Context(), "registry.test/tools:1", one.Digest, parts(one, &first), nil)
	if err != nil {
		t.Fatal(err)
	}
	if im.Ref != "registry.test/tools:1@sha256:"+string(one.Digest) || !im.Current || im.Owner != "ann" || len(im.Platforms) != 1 || im.Size != first {
		t.Errorf("%+v, %d bytes sent", im, first)
	}
	if _, err := c.PushImage(t.Context(), "registry.test/tools:1", one.Digest, parts(one, &again), nil); err != nil || again != 0 {
		t.Errorf("%d bytes were sent again, %v", again, err)
	}
	if _, err := c.PushImage(t.Context(), "registry.test/tools:1", two.Digest, parts(two, &second), nil); err != nil {
		t.Fatal(err)
	}
	if shared := int64(len(two.Blobs[two.Layers[0]])); second != total(two)-shared {
		t.Errorf("%d bytes were sent, want %d less %d", second, total(two), shared)
	}
	all, err := c.Images(t.Context())
	if err != nil || len(all) != 2 || !all[0].Current || all[1].Current || all[0].Digest != "sha256:"+string(two.Digest) {
		t.Errorf("%+v %v", all, err)
	}
	// What images are made of is no garbage.
	keep, err := h.Store.References(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Blobs.Sweep(t.Context(), keep, 0); err != nil {
		t.Fatal(err)
	}
	for _, im := range []*imagetest.Image{one, two} {
		for d := range im.Blobs {
			if _, err := h.Blobs.Stat(d); err != nil {
				t.Errorf("swept: %v", err)
			}
		}
	}
}

func total(im *imagetest.Image) (n int64) {
	for _, b := range im.Blobs {
		n += int64(len(b))
	}
	return n
}

func TestImages_APushThatIsCutGoesOn(t *testing.T) {
	h := apitest.Start(t)
	key := h.Key("ann", store.RoleSubmitter)
	big := imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t, imagetest.File{Name: "f", Text: imagetest.Noise(8 << 20)}))
	d := big.Layers[0]
	partial := filepath.Join(h.Blobs.Path(d), "..", "..", "partials", fmt.Sprintf("%s.%d*", d, len(big.Blobs[d])))
	arrived := func() int64 {
		names, _ := filepath.Glob(partial)
		if len(names) == 0 {
			return 0
		}
		info, err := os.Stat(names[0])
		if err != nil {
			return 0
		}
		return info.Size()
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := []client.ImagePart{{Digest: d, Size: int64(len(big.Blobs[d])), Read: func(ctx context.Context, _ int64, w io.Writer) error {
		if _, err := w.Write(big.Blobs[d][:6<<20]); err != nil {
			return err
		}
		for deadline := time.Now().Add(20 * time.Second); arrived() < 1<<20; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				return errors.New("nothing of it arrived")
			}
		}
		cancel() // the program is killed
		<-ctx.Done()
		return ctx.Err()
	}}}
	if _, err := imageClient(t, h, key).PushImage(ctx, "registry.test/big:1", big.Digest, first, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	var sent int64
	if _, err := imageClient(t, h, key).PushImage(t.Context(), "registry.test/big:1", big.Digest, parts(big, &sent), nil); err != nil {
		t.Fatal(err)
	}
	if most := total(big) - 1<<20; sent > most {
		t.Errorf("%d bytes were sent of %d", sent, total(big))
	}
}

func TestImages_TroubleWithTheSourceIsTold(t *testing.T) {
	h := apitest.Start(t)
	c := imageClient(t, h, h.Key("ann", store.RoleSubmitter))
	im, why := imageOf(t, "one"), errors.New("the registry is gone")
	var sent int64
	all := parts(im, &sent)
	for i := range all {
		all[i].Read = func(context.Context, int64, io.Writer) error { return why }
	}
	if _, err := c.PushImage(t.Context(), "registry.test/x:1", im.Digest, all, nil); !errors.Is(err, why) {
		t.Error(err)
	}
}

func TestImages_WhatIsNotWholeOrNotRightIsRefused(t *testing.T) {
	h := apitest.Start(t)
	c := imageClient(t, h, h.Key("ann", store.RoleSubmitter))
	im := imageOf(t, "one")
	var sent int64
	refusedAs := func(status int, err error) {
		t.Helper()
		var e *client.Error
		if !errors.As(err, &e) || e.Status != status {
			t.Errorf("want %d, got %v", status, err)
		}
	}
	without := func(d spare.Digest) (some []client.ImagePart) {
		for _, p := range parts(im, &sent) {
			if p.Digest != d {
				some = append(some, p)
			}
		}
		return some
	}
	for _, d := range []spare.Digest{im.Layers[1], im.Config, im.Digest} {
		_, err := c.PushImage(t.Context(), "registry.test/x:1", im.Digest, without(d), nil)
		refusedAs(http.StatusBadRequest, err)
		if _, _, err := h.Blobs.Sweep(t.Context(), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	forged := parts(im, &sent)
	for i, p := range forged {
		forged[i].Read = func(_ context.Context, offset int64, w io.Writer) error {
			_, err := w.Write(bytes.Repeat([]byte("x"), int(p.Size-offset)))
			return err
		}
	}
	_, err := c.PushImage(t.Context(), "registry.test/x:1", im.Digest, forged, nil)
	refusedAs(http.StatusConflict, err)
	bad := imagetest.Make(t, imagetest.Options{LayerType: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"}, imagetest.Tar(t, imagetest.File{Name: "a"}))
	_, err = c.PushImage(t.Context(), "registry.test/x:1", bad.Digest, parts(bad, &sent), nil)
	refusedAs(http.StatusBadRequest, err)
	for _, name := range []string{"", "Not A Name", "a@sha256:" + string(im.Digest), "../x"} {
		_, err = c.PushImage(t.Context(), name, im.Digest, parts(im, &sent), nil)
		refusedAs(http.StatusBadRequest, err)
	}
	if all, err := c.Images(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("%+v %v", all, err)
	}
}

func TestImages_BelongToWhoPushedThem(t *testing.T) {
	h := apitest.Start(t)
	ann := imageClient(t, h, h.Key("ann", store.RoleSubmitter))
	bob := imageClient(t, h, h.Key("bob", store.RoleSubmitter))
	one, two := imageOf(t, "one"), imageOf(t, "two")
	var sent int64
	if _, err := ann.PushImage(t.Context(), "registry.test/tools:1", one.Digest, parts(one, &sent), nil); err != nil {
		t.Fatal(err)
	}
	status := func(err error) int {
		var e *client.Error
		errors.As(err, &e)
		if e == nil {
			return 0
		}
		return e.Status
	}
	_, err := bob.PushImage(t.Context(), "registry.test/tools:1", two.Digest, parts(two, &sent), nil)
	if status(err) != http.StatusForbidden {
		t.Errorf("bob pushes over it: %v", err)
	}
	if _, err := bob.RemoveImage(t.Context(), "registry.test/tools:1"); status(err) != http.StatusForbidden {
		t.Errorf("bob removes it: %v", err)
	}
	viewer := imageClient(t, h, h.Key("eve", store.RoleViewer))
	if _, err := viewer.PushImage(t.Context(), "registry.test/other:1", one.Digest, parts(one, &sent), nil); status(err) != http.StatusForbidden {
		t.Errorf("a viewer pushes: %v", err)
	}
	if all, err := viewer.Images(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("a viewer sees %+v %v", all, err)
	}
	if gone, err := ann.RemoveImage(t.Context(), "registry.test/tools@sha256:"+string(one.Digest)); err != nil || len(gone) != 1 {
		t.Errorf("%+v %v", gone, err)
	}
	if _, err := ann.RemoveImage(t.Context(), "registry.test/tools:1"); status(err) != http.StatusNotFound {
		t.Errorf("removed twice: %v", err)
	}
}

func TestImages_PartsAreTakenPieceByPiece(t *testing.T) {
	h := apitest.Start(t)
	key := h.Key("ann", store.RoleSubmitter)
	content := []byte("the first half, the second half")
	path := h.URL + "/v1/dev/images/blobs/" + string(spare.Sum(content))
	do := func(method, url, span string, body []byte) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", key)
		if span != "" {
			req.Header.Set("Content-Range", span)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("Upload-Offset")
	}
	size := len(content)
	for i, step := range []struct {
		method, url, span string
		body              []byte
		status            int
		offset            string
	}{
		{http.MethodHead, fmt.Sprintf("%s?size=%d", path, size), "", nil, 200, "0"},
		{http.MethodHead, path, "", nil, 400, ""},
		{http.MethodPut, path, fmt.Sprintf("bytes 0-14/%d", size), content[:15], 202, "15"},
		{http.MethodHead, fmt.Sprintf("%s?size=%d", path, size), "", nil, 200, "15"},
		{http.MethodPut, path, fmt.Sprintf("bytes 3-%d/%d", size-1, size), content[3:], 409, "15"},
		{http.MethodPut, path, fmt.Sprintf("bytes 15-%d/%d", size-1, size), content[15:], 200, fmt.Sprint(size)},
		{http.MethodPut, path, "", content, 200, fmt.Sprint(size)},
		{http.MethodHead, fmt.Sprintf("%s?size=%d", path, size+1), "", nil, 400, ""},
		{http.MethodPut, h.URL + "/v1/dev/images/blobs/nonsense", "", content, 400, ""},
		{http.MethodPut, path, "bytes nonsense", content, 400, ""},
	} {
		if status, offset := do(step.method, step.url, step.span, step.body); status != step.status || offset != step.offset {
			t.Errorf("step %d: %d at %q, want %d at %q", i, status, offset, step.status, step.offset)
		}
	}
	if _, err := h.Blobs.Stat(spare.Sum(content)); err != nil {
		t.Error(err)
	}
}

// A node gets an image from the hub part by part, by digest, and nothing else.
func TestImages_ANodeGetsThemFromTheHub(t *testing.T) {
	h := apitest.Start(t)
	c := imageClient(t, h, h.Key("ann", store.RoleSubmitter))
	other := imagetest.Make(t, imagetest.Options{Arch: "mips"}, imagetest.Tar(t, imagetest.File{Name: "x"}))
	index := imagetest.Index(t, map[string]*imagetest.Image{runtime.GOARCH: imageOf(t, "ours"), "mips": other})
	var sent int64
	im, err := c.PushImage(t.Context(), "registry.test/tools:1", index.Digest, parts(index, &sent), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(im.Platforms) != 2 {
		t.Errorf("%+v", im)
	}
	may, err := h.Config.Images.Parts(t.Context(), im.Ref)
	if err != nil {
		t.Fatal(err)
	}
	s, err := image.Open(t.TempDir(), image.Options{Quota: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p, err := s.Ensure(t.Context(), im.Ref, image.Unpacked, image.Fetch(func(_ context.Context, d spare.Digest, offset int64, w io.Writer) error {
		if !slices.Contains(may, d) {
			return fmt.Errorf("part %s is not for this node", d.Short())
		}
		r, _, err := h.Blobs.Open(d, offset)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(w, r)
		return err
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	if b, err := os.ReadFile(filepath.Join(p.Image().Folder, "own")); err != nil || string(b) != "ours" {
		t.Errorf("%q, %v", b, err)
	}
}
