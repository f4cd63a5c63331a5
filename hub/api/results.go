package api

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spare-compute/spare"
)

const purposeFile = "file"

// resultJSON is one result; size and digest are ours, so that a download can be
// resumed and proved.
type resultJSON struct {
	Name   string       `json:"name"`
	Link   string       `json:"link"`
	Size   int64        `json:"size"`
	Digest spare.Digest `json:"digest"`
}

// results lists what a complete job made. Clients of the contract poll this path and
// look for the words of the refusal.
func (s *server) results(w http.ResponseWriter, r *http.Request) error {
	j, err := s.jobOf(r, false)
	if err != nil {
		return err
	}
	switch j.State {
	case spare.JobComplete:
	case spare.JobFailed, spare.JobAborted:
		return refuse(http.StatusBadRequest, "job %s was %s and has no results (%s): the job has not yet been completed", j.ID, j.State, j.Error)
	default:
		return refuse(http.StatusBadRequest, "job %s is %s: the job has not yet been completed; ask again when it is", j.ID, j.State)
	}
	out := make([]resultJSON, 0, len(j.Results))
	for _, f := range j.Results {
		out = append(out, resultJSON{
			Name: f.Name, Size: f.Size, Digest: f.Digest,
			Link: s.link(r, purposeFile, jobPath(j.ID)+"/files/"+f.Name, linkLife),
		})
	}
	return writeJSON(w, http.StatusOK, map[string]any{"results": out, "summary": j.Summary})
}

// file sends one result, whole or in part. A signed link needs no key.
func (s *server) file(w http.ResponseWriter, r *http.Request) error {
	signed, err := s.signed(r, purposeFile)
	if err != nil {
		return err
	}
	var j spare.Job
	if signed {
		id, err := parseJobID("job id", r.PathValue("id"))
		if err != nil {
			return err
		}
		if j, err = s.Store.Job(r.Context(), id); err != nil {
			return fmt.Errorf("job %s: %w", id, err)
		}
	} else {
		if r, err = s.admit(r, viewer); err != nil {
			return err
		}
		if j, err = s.jobOf(r, false); err != nil {
			return err
		}
	}
	name := r.PathValue("path")
	i := slices.IndexFunc(j.Results, func(f spare.File) bool { return f.Name == name })
	if i < 0 {
		return refuse(http.StatusNotFound, "job %s made no file %.200q: GET %s/results lists them", j.ID, name, jobPath(j.ID))
	}
	return s.sendBlob(w, r, j.Results[i])
}

// sendBlob serves a blob as a file to save, never as a page of this hub: what an App
// wrote must not run in a reader's browser under the hub's name.
func (s *server) sendBlob(w http.ResponseWriter, r *http.Request, file spare.File) error {
	content := io.ReadSeeker(bytes.NewReader(file.Inline))
	if len(file.Inline) == 0 && file.Size > 0 {
		f, err := os.Open(s.Blobs.Path(file.Digest))
		if errors.Is(err, fs.ErrNotExist) {
			return refuse(http.StatusNotFound, "%q is no longer kept by this hub: run the job again", file.Name)
		}
		if err != nil {
			return fmt.Errorf("open %q: %w", file.Name, err)
		}
		defer f.Close()
		content = f
	}
	h := w.Header()
	h.Set("Content-Type", contentType(file.Name))
	h.Set("Content-Disposition", attachment(path.Base(file.Name)))
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("Cache-Control", "private, immutable, max-age=3600")
	h.Set("ETag", `"`+string(file.Digest)+`"`)
	if sum, err := hex.DecodeString(string(file.Digest)); err == nil {
		h.Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum)+":")
	}
	rc := http.NewResponseController(w)
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }() // the connection may carry another answer
	http.ServeContent(&pacedWriter{ResponseWriter: w, rc: rc}, r, "", time.Time{}, content)
	return nil
}

func contentType(name string) string {
	if t := mime.TypeByExtension(strings.ToLower(path.Ext(name))); t != "" {
		return t
	}
	return "application/octet-stream"
}

// attachment names a file so that every client reads it, whatever letters it has.
func attachment(name string) string {
	plain := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return '_'
		}
		return c
	}, name)
	if plain == name {
		return `attachment; filename="` + name + `"`
	}
	return `attachment; filename="` + plain + `"; filename*=UTF-8''` + url.PathEscape(name)
}

// pacedWriter gives each piece of a long answer its own time to be taken.
type pacedWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
}

func (w *pacedWriter) Write(p []byte) (int, error) {
	_ = w.rc.SetWriteDeadline(time.Now().Add(bodyPause))
	return w.ResponseWriter.Write(p)
}
