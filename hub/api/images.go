package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/blob"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/image"
)

// maxParts is how many parts of an image one question may name.
const maxParts = 16_384

// imageRoutes serve images: a client asks which parts are missing, sends those, each from
// where an earlier try stopped, and then says what name they are to have.
func (s *server) imageRoutes() {
	const images = "/v1/dev/images"
	s.handle("GET "+images, viewer, s.listImages)
	s.handle("POST "+images, submits, s.putImage)
	s.handle("DELETE "+images, submits, s.removeImage)
	s.handle("POST "+images+"/missing", submits, s.missingParts)
	s.handle("HEAD "+images+"/blobs/{digest}", submits, s.partState)
	s.handle("PUT "+images+"/blobs/{digest}", submits, s.putPart)
}

// imageJSON is an image that the hub holds.
type imageJSON struct {
	Name      string   `json:"name"`
	Digest    string   `json:"digest"` // "sha256:…"
	Ref       string   `json:"ref"`    // both: what an App is pinned to
	Current   bool     `json:"current"`
	Size      int64    `json:"size"`
	Platforms []string `json:"platforms"`
	Owner     string   `json:"owner"`
	PushedAt  *string  `json:"pushedAt"`
}

func showImage(im store.Image, current bool) imageJSON {
	digest := "sha256:" + string(im.Digest)
	return imageJSON{
		Name: im.Name, Digest: digest, Ref: im.Name + "@" + digest, Current: current, Size: im.Size,
		Platforms: listOf(im.Platforms), Owner: im.Owner, PushedAt: stamp(im.PushedAt),
	}
}

func (s *server) listImages(w http.ResponseWriter, r *http.Request) error {
	p, err := pageOf(r)
	if err != nil {
		return err
	}
	all, err := s.Images.List(r.Context())
	if err != nil {
		return err
	}
	shown := make([]imageJSON, 0, len(all))
	for i, im := range all {
		shown = append(shown, showImage(im, i == 0 || all[i-1].Name != im.Name))
	}
	return writeJSON(w, http.StatusOK, map[string]any{"data": cut(p, shown), "pagination": p.answer(len(shown))})
}

func (s *server) putImage(w http.ResponseWriter, r *http.Request) error {
	obj, err := readObject(w, r, maxBody)
	if err != nil {
		return err
	}
	name, err := text("name", obj["name"])
	if err != nil {
		return err
	}
	given, err := text("digest", obj["digest"])
	if err != nil {
		return err
	}
	digest, err := readDigest("digest", given)
	if err != nil {
		return err
	}
	im, err := s.Images.Put(r.Context(), name, digest, caller(r.Context()).Owner)
	if err != nil {
		return err
	}
	s.Log.Info("pushed", "image", im.Name, "digest", im.Digest.Short(), "bytes", im.Size, "by", caller(r.Context()).Name)
	return writeJSON(w, http.StatusOK, showImage(im, true))
}

// readDigest takes both spellings, "sha256:…" and the digits alone.
func readDigest(field, given string) (spare.Digest, error) {
	d, err := spare.ParseDigest(given)
	if err != nil && len(given) > 7 && given[:7] == "sha256:" {
		d, err = spare.ParseDigest(given[7:])
	}
	if err != nil {
		return "", refuseField(field, "%.100q is no SHA-256 digest", given)
	}
	return d, nil
}

// removeImage answers DELETE ?name=…; names have slashes and colons.
func (s *server) removeImage(w http.ResponseWriter, r *http.Request) error {
	k := caller(r.Context())
	gone, err := s.Images.Remove(r.Context(), r.URL.Query().Get("name"), k.Owner, k.Role == store.RoleAdmin)
	if err != nil {
		return err
	}
	shown := make([]imageJSON, 0, len(gone))
	for _, im := range gone {
		shown = append(shown, showImage(im, false))
		s.Log.Info("removed", "image", im.Name, "digest", im.Digest.Short(), "by", k.Name)
	}
	return writeJSON(w, http.StatusOK, map[string]any{"data": shown})
}

func (s *server) missingParts(w http.ResponseWriter, r *http.Request) error {
	obj, err := readObject(w, r, maxPush)
	if err != nil {
		return err
	}
	var parts []image.Blob
	if err := json.Unmarshal(obj["blobs"], &parts); err != nil {
		return badJSON("blobs", err)
	}
	if len(parts) > maxParts {
		return refuseField("blobs", "%d parts are more than the %d that one question may name", len(parts), maxParts)
	}
	for i, b := range parts {
		if !b.Digest.Valid() || b.Size < 0 {
			return refuseField("blobs["+strconv.Itoa(i)+"]", "want {\"digest\": 64 hex digits, \"size\": bytes}")
		}
	}
	missing, err := s.Images.Missing(r.Context(), parts, caller(r.Context()).Owner)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"missing": missing})
}

// partKey tells transfers apart: two owners may send the same part at the same time.
func partKey(r *http.Request, d spare.Digest) string {
	return caller(r.Context()).Owner + "/" + string(d)
}

// partState answers HEAD ?size=…: how much of a part is here.
func (s *server) partState(w http.ResponseWriter, r *http.Request) error {
	size, err := strconv.ParseInt(r.URL.Query().Get("size"), 10, 64)
	if err != nil || size < 0 {
		return refuseField("size", "want the whole part's size in bytes")
	}
	digest, err := readDigest("digest", r.PathValue("digest"))
	if err != nil {
		return err
	}
	release, err := s.parts.claim(r.Context(), partKey(r, digest), func() {})
	if err != nil {
		return err
	}
	defer release()
	part, err := s.Images.Begin(r.Context(), image.Blob{Digest: digest, Size: size}, caller(r.Context()).Owner)
	if err != nil {
		return err
	}
	sendOffset(w, note{Total: size}, part.Offset())
	w.Header().Set("Cache-Control", "no-store")
	if err := part.Close(); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// putPart answers PUT: a whole part, or with Content-Range the rest of it.
func (s *server) putPart(w http.ResponseWriter, r *http.Request) error {
	digest, err := readDigest("digest", r.PathValue("digest"))
	if err != nil {
		return err
	}
	body := &pacedBody{r: r.Body, rc: http.NewResponseController(w)}
	p := part{body: body, size: r.ContentLength, total: r.ContentLength}
	if given := r.Header.Get("Content-Range"); given != "" {
		if p, err = p.ranged(given); err != nil {
			return err
		}
	}
	switch {
	case p.total < 0 || p.size < 0:
		return refuse(http.StatusLengthRequired, "a part of an image needs its size: send Content-Length, or Content-Range with the total")
	case p.total > s.MaxUpload:
		return refuse(http.StatusRequestEntityTooLarge, "the part has %d bytes and this hub takes %d", p.total, s.MaxUpload)
	}
	release, err := s.parts.claim(r.Context(), partKey(r, digest), body.stop)
	if err != nil {
		return err
	}
	defer release()
	to, err := s.Images.Begin(r.Context(), image.Blob{Digest: digest, Size: p.total}, caller(r.Context()).Owner)
	if err != nil {
		return err
	}
	err = s.fillPart(w, to, p)
	return errors.Join(err, to.Close()) // what came is kept for the next try
}

func (s *server) fillPart(w http.ResponseWriter, to blob.Writer, p part) error {
	whole := note{Total: p.total}
	if at := to.Offset(); at != p.start {
		sendOffset(w, whole, at)
		if at == p.total { // here already: there is no more to say
			return writeJSON(w, http.StatusOK, map[string]any{"ok": true})
		}
		return refuse(http.StatusConflict, "%d bytes are here: go on from there, not from %d", at, p.start)
	}
	_, err := io.Copy(to, io.LimitReader(p.body, p.size))
	sendOffset(w, whole, to.Offset())
	switch {
	case outOfSpace(err):
		return err
	case err != nil || to.Offset() != p.start+p.size:
		return refuse(http.StatusBadRequest, "the transfer stopped after %d bytes: send the rest with Content-Range (HEAD says from where)", to.Offset())
	case to.Offset() < p.total:
		return writeJSON(w, http.StatusAccepted, map[string]any{"ok": true})
	}
	if err := to.Commit(); err != nil {
		if errors.Is(err, blob.ErrMismatch) {
			return refuse(http.StatusConflict, "what arrived has another digest: send it again from 0")
		}
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"ok": true})
}
