package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/datasource"
)

const purposeUpload = "upload"

// The headers of a resumable upload.
const (
	headerOffset = "Upload-Offset" // bytes that are here
	headerLength = "Upload-Length" // bytes there will be, when known
)

// uploadJob returns the draft that an upload is for. A signed link stands for its owner.
func (s *server) uploadJob(r *http.Request) (spare.Job, error) {
	signed, err := s.signed(r, purposeUpload)
	if err != nil {
		return spare.Job{}, err
	}
	var j spare.Job
	if signed {
		id, err := parseJobID("job id", r.PathValue("id"))
		if err != nil {
			return j, err
		}
		if j, err = s.Store.Job(r.Context(), id); err != nil {
			return j, fmt.Errorf("job %s: %w", id, err)
		}
	} else {
		if r, err = s.admit(r, submits); err != nil {
			return j, err
		}
		if j, err = s.jobOf(r, true); err != nil {
			return j, err
		}
	}
	switch {
	case j.State != spare.JobDraft:
		return j, refuse(http.StatusConflict, "job %s is %s: its input can no longer change; create a new job", j.ID, j.State)
	case !isUpload(j.Source):
		return j, refuse(http.StatusConflict, "job %s takes its input from %q, not from an upload: set its data source to \"file\" first", j.ID, j.Source.Descriptor)
	}
	return j, nil
}

// uploadState answers HEAD: how much is here, for a client that goes on.
func (s *server) uploadState(w http.ResponseWriter, r *http.Request) error {
	j, err := s.uploadJob(r)
	if err != nil {
		return err
	}
	n, offset, err := s.uploads.state(j.ID)
	if err != nil {
		return err
	}
	if j.Input != nil && n.Total < 0 {
		n.Total, offset = j.Input.Size, j.Input.Size
	}
	sendOffset(w, n, offset)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	return nil
}

func sendOffset(w http.ResponseWriter, n note, offset int64) {
	w.Header().Set(headerOffset, strconv.FormatInt(offset, 10))
	if n.Total >= 0 {
		w.Header().Set(headerLength, strconv.FormatInt(n.Total, 10))
	}
}

// part is one PUT: bytes from start on, of a whole of total.
type part struct {
	name  string
	body  io.Reader
	start int64
	size  int64 // -1 when unknown
	total int64 // -1 when unknown
}

// upload answers PUT: the whole file, or with Content-Range the rest of it.
func (s *server) upload(w http.ResponseWriter, r *http.Request) error {
	j, err := s.uploadJob(r)
	if err != nil {
		return err
	}
	body := &pacedBody{r: r.Body, rc: http.NewResponseController(w)}
	p, err := readPart(r, body)
	if err != nil {
		return err
	}
	if p.total > s.MaxUpload || p.start+p.size > s.MaxUpload {
		return refuse(http.StatusRequestEntityTooLarge, "the file has %d bytes and this hub takes %d: cut it or use a url source", max(p.total, p.size), s.MaxUpload)
	}
	if s.Room != nil && p.size > 0 {
		if err := s.Room(p.size); err != nil {
			return err
		}
	}
	release, err := s.uploads.claim(r.Context(), j.ID, body.stop)
	if err != nil {
		return err
	}
	defer release()
	return s.store(w, r, j, p)
}

// store appends the part at its place. It holds the job's upload.
func (s *server) store(w http.ResponseWriter, r *http.Request, j spare.Job, p part) error {
	n, offset, err := s.uploads.state(j.ID)
	if err != nil {
		return err
	}
	switch {
	case p.start == 0:
		n = note{Name: uploadName(p.name, j.Source), Total: p.total}
		if err := s.uploads.begin(j.ID, n); err != nil {
			return err
		}
		offset = 0
	case p.start != offset:
		sendOffset(w, n, offset)
		return refuse(http.StatusConflict, "%d bytes are here: go on from there, not from %d", offset, p.start)
	case p.total >= 0 && n.Total >= 0 && p.total != n.Total:
		sendOffset(w, n, offset)
		return refuse(http.StatusConflict, "the upload began as a file of %d bytes and goes on as one of %d: start it again from 0", n.Total, p.total)
	}
	room := s.MaxUpload - offset
	if p.size >= 0 {
		room = p.size
	}
	offset, err = s.uploads.append(j.ID, io.LimitReader(p.body, room+1))
	switch {
	case outOfSpace(err):
		// What came is no use on a full disk and would keep it full.
		return errors.Join(err, s.uploads.remove(j.ID))
	case err != nil:
		return refuse(http.StatusBadRequest, "the upload stopped after %d bytes: send the rest with Content-Range (HEAD on the same link says from where)", offset)
	case offset > p.start+room:
		return errors.Join(refuse(http.StatusBadRequest, "more bytes came than were announced: start the upload again from 0"), s.uploads.remove(j.ID))
	case p.size >= 0 && offset != p.start+p.size:
		return refuse(http.StatusBadRequest, "%d bytes were announced and %d are here: send the rest with Content-Range", p.start+p.size, offset)
	case offset == 0:
		return errors.Join(errEmpty(), s.uploads.remove(j.ID))
	}
	if n.Total < 0 { // it is as long as it turned out to be
		n.Total = offset
		if err := s.uploads.writeNote(j.ID, n); err != nil {
			return err
		}
	}
	sendOffset(w, n, offset)
	return s.ok(w, r, "")
}

func errEmpty() error {
	return refuse(http.StatusBadRequest, "the file is empty: there is nothing to work on; upload one that has content")
}

// readPart understands the forms of a PUT: raw bytes, with or without Content-Range, or
// a multipart form whose first file counts.
func readPart(r *http.Request, body io.Reader) (part, error) {
	p := part{body: body, size: r.ContentLength, total: r.ContentLength}
	kind, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind == "multipart/form-data" && params["boundary"] != "" {
		r.Body = io.NopCloser(body)
		form, err := r.MultipartReader()
		if err != nil {
			return p, refuse(http.StatusBadRequest, "the form cannot be read (%s): send the file's bytes alone instead", err)
		}
		for {
			f, err := form.NextPart()
			if err != nil {
				return p, refuse(http.StatusBadRequest, "the form holds no file: add one, or send the file's bytes alone")
			}
			if f.FileName() != "" {
				return part{name: f.FileName(), body: f, size: -1, total: -1}, nil
			}
		}
	}
	if _, params, err := mime.ParseMediaType(r.Header.Get("Content-Disposition")); err == nil {
		p.name = params["filename"]
	}
	if given := r.Header.Get("Content-Range"); given != "" {
		return p.ranged(given)
	}
	return p, nil
}

// ranged reads a Content-Range, "bytes 0-9/100" or "bytes 0-9/*".
func (p part) ranged(given string) (part, error) {
	bad := refuse(http.StatusBadRequest, "Content-Range %.80q: want \"bytes FIRST-LAST/TOTAL\"", given)
	span, ok := strings.CutPrefix(given, "bytes ")
	if !ok {
		return p, bad
	}
	span, total, ok1 := strings.Cut(span, "/")
	first, last, ok2 := strings.Cut(span, "-")
	if !ok1 || !ok2 {
		return p, bad
	}
	start, err1 := strconv.ParseInt(first, 10, 63)
	end, err2 := strconv.ParseInt(last, 10, 63)
	if err1 != nil || err2 != nil || start < 0 || end < start {
		return p, bad
	}
	size := end - start + 1
	if p.size >= 0 && p.size != size {
		return p, refuse(http.StatusBadRequest, "Content-Range %.80q spans %d bytes and Content-Length says %d", given, size, p.size)
	}
	p.start, p.size, p.total = start, size, -1
	if total != "*" {
		var err error
		if p.total, err = strconv.ParseInt(total, 10, 63); err != nil || p.total <= end {
			return p, bad
		}
	}
	return p, nil
}

// uploadName is the input's file name: what the upload says, or the data source, or "input".
func uploadName(given string, dp spare.DataPoint) string {
	for _, name := range []string{given, dp.Params["name"]} {
		name = path.Base(strings.ReplaceAll(name, `\`, "/"))
		if name != "." && name != "/" {
			return datasource.CleanName(name)
		}
	}
	return "input"
}

// pacedBody ends when nothing comes for a while, or when it is stopped.
type pacedBody struct {
	r  io.Reader
	rc *http.ResponseController

	mu      sync.Mutex
	stopped bool
}

var errSuperseded = errors.New("the client came again on another connection")

func (b *pacedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.stopped {
		b.mu.Unlock()
		return 0, errSuperseded
	}
	_ = b.rc.SetReadDeadline(time.Now().Add(bodyPause)) // a test's recorder has none
	b.mu.Unlock()
	n, err := b.r.Read(p)
	if err == io.EOF {
		b.mu.Lock()
		defer b.mu.Unlock()
		if !b.stopped { // to keep what came may take longer
			_ = b.rc.SetReadDeadline(time.Time{})
		}
	}
	return n, err
}

// stop makes the reading end now.
func (b *pacedBody) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
	_ = b.rc.SetReadDeadline(time.Now())
}

// uploadCompleted takes what came as the job's input. The body may name the file's
// SHA-256, which is then checked. Saying it twice does no harm.
func (s *server) uploadCompleted(w http.ResponseWriter, r *http.Request) error {
	obj, err := readObject(w, r, maxBody)
	if err != nil {
		return err
	}
	want, err := text("sha256", obj["sha256"])
	if err != nil {
		return err
	}
	j, err := s.jobOf(r, true)
	if err != nil {
		return err
	}
	release, err := s.uploads.claim(r.Context(), j.ID, func() {})
	if err != nil {
		return err
	}
	defer release()
	n, offset, err := s.uploads.state(j.ID)
	switch {
	case err != nil:
		return err
	case offset == 0 && j.Input != nil && (want == "" || want == string(j.Input.Digest)):
		return s.ok(w, r, "")
	case j.State != spare.JobDraft:
		return refuse(http.StatusConflict, "job %s is %s: its input can no longer change", j.ID, j.State)
	case offset == 0:
		return refuse(http.StatusBadRequest, "nothing was uploaded for job %s: PUT the file to its dataSource.params.tempUrl first", j.ID)
	case offset != n.Total:
		sendOffset(w, n, offset)
		return refuse(http.StatusConflict, "the upload of job %s is not complete: %d of %d bytes are here; send the rest, then say so again", j.ID, offset, n.Total)
	}
	return s.commitUpload(w, r, j, n, want)
}

func (s *server) commitUpload(w http.ResponseWriter, r *http.Request, j spare.Job, n note, want string) error {
	digest, size, err := s.Blobs.PutFile(r.Context(), s.uploads.path(j.ID))
	if err != nil {
		return fmt.Errorf("keep the upload of job %s: %w", j.ID, err)
	}
	if err := s.uploads.remove(j.ID); err != nil {
		return err
	}
	if want != "" && want != string(digest) {
		return refuse(http.StatusConflict, "the file that arrived differs from the one that was sent: upload it again from 0")
	}
	in := spare.File{Name: n.Name, Digest: digest, Size: size}
	_, err = s.Store.UpdateJob(r.Context(), j.ID, func(j *spare.Job) error {
		if j.State != spare.JobDraft {
			return refuse(http.StatusConflict, "job %s is %s: its input can no longer change", j.ID, j.State)
		}
		j.Input = &in
		return nil
	})
	if err != nil {
		return err
	}
	answer, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return s.ok(w, r, string(answer))
}
