package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

// uploads is a folder of inputs that are still arriving: of each job, what came so far
// and a note of what it will be. It survives a restart of the hub.
type uploads struct {
	dir   string
	root  *os.Root
	turns turns
}

// note is what is known of an upload beside its bytes.
type note struct {
	Name  string `json:"name"`
	Total int64  `json:"total"` // bytes, -1 while unknown
}

func openUploads(dir string) (*uploads, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the folder for uploads: %w", err)
	}
	return &uploads{dir: dir, root: root}, nil
}

func partName(id spare.JobID) string { return string(id) + ".part" }
func noteName(id spare.JobID) string { return string(id) + ".json" }

// path is where the bytes of a job's upload lie.
func (u *uploads) path(id spare.JobID) string { return filepath.Join(u.dir, partName(id)) }

// claim waits until nothing else works on the job's upload.
func (u *uploads) claim(ctx context.Context, id spare.JobID, interrupt func()) (release func(), err error) {
	return u.turns.claim(ctx, string(id), interrupt)
}

// state tells how much of a job's upload is here; a zero note with offset 0 is none.
func (u *uploads) state(id spare.JobID) (n note, offset int64, err error) {
	b, err := u.root.ReadFile(noteName(id))
	if errors.Is(err, fs.ErrNotExist) {
		return note{Total: -1}, 0, nil
	}
	if err != nil {
		return n, 0, err
	}
	if err := json.Unmarshal(b, &n); err != nil {
		return note{Total: -1}, 0, nil // torn by a crash: as if nothing had come
	}
	info, err := u.root.Stat(partName(id))
	if errors.Is(err, fs.ErrNotExist) {
		return n, 0, nil
	}
	if err != nil {
		return n, 0, err
	}
	return n, info.Size(), nil
}

// begin forgets what came before and notes what will come.
func (u *uploads) begin(id spare.JobID, n note) error {
	if err := u.remove(id); err != nil {
		return err
	}
	return u.writeNote(id, n)
}

func (u *uploads) writeNote(id spare.JobID, n note) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	temp := noteName(id) + ".new"
	if err := u.root.WriteFile(temp, b, 0o600); err != nil {
		return err
	}
	return u.root.Rename(temp, noteName(id))
}

// append writes body behind what is here and returns how much there is then. What came
// before body failed stays.
func (u *uploads) append(id spare.JobID, body io.Reader) (offset int64, err error) {
	f, err := u.root.OpenFile(partName(id), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(f, body)
	if err == nil {
		err = f.Sync()
	}
	if info, statErr := f.Stat(); statErr == nil {
		offset = info.Size()
	}
	return offset, errors.Join(err, f.Close())
}

func (u *uploads) remove(id spare.JobID) error {
	var errs []error
	for _, name := range []string{partName(id), noteName(id), noteName(id) + ".new"} {
		if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// SweepUploads removes uploads whose job is gone or has left its draft. The hub calls
// it before it serves.
func SweepUploads(ctx context.Context, st store.Jobs, dir string) error {
	u, err := openUploads(dir)
	if err != nil {
		return err
	}
	defer u.root.Close()
	entries, err := fs.ReadDir(u.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), ".")
		if _, err := uuid.Parse(name); err != nil {
			continue // not ours to judge
		}
		id := spare.JobID(name)
		j, err := st.Job(ctx, id)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err != nil || j.State != spare.JobDraft {
			if err := u.remove(id); err != nil {
				return err
			}
		}
	}
	return nil
}
