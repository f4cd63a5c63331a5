package work

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/node/cache"
	"github.com/spare-compute/spare/protocol/pb"
)

// results keeps ends and what was made, a folder for each attempt, until the hub has
// accepted them. A folder appears whole or not at all.
type results struct {
	dir  string
	root *os.Root // names come from the hub
}

const (
	endedFile  = "ended.pb"
	resultFile = "result"
	halfMade   = ".half-"
)

func openResults(dir string) (results, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return results{}, fmt.Errorf("make the folder for results: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return results{}, fmt.Errorf("open the folder for results: %w", err)
	}
	return results{dir, root}, nil
}

// save writes the end of an attempt, with what it made if that is not inside.
func (r results) save(ended *pb.Ended, made *pack) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("store the result of %s: %w", ended.Attempt, err)
		}
	}()
	half := halfMade + ended.Attempt
	if err := r.root.RemoveAll(half); err != nil {
		return err
	}
	if err := r.root.Mkdir(half, 0o700); err != nil {
		return err
	}
	defer func() { _ = r.root.RemoveAll(half) }()
	if left(ended) != nil && made != nil {
		if err := os.Rename(made.path, filepath.Join(r.dir, half, resultFile)); err != nil {
			return err
		}
	}
	raw, err := proto.Marshal(ended)
	if err != nil {
		return err
	}
	f, err := r.root.OpenFile(filepath.Join(half, endedFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := r.root.RemoveAll(ended.Attempt); err != nil {
		return err
	}
	return r.root.Rename(half, ended.Attempt)
}

func (r results) open(id spare.AttemptID, offset int64) (io.ReadCloser, error) {
	f, err := r.root.Open(filepath.Join(string(id), resultFile))
	if err != nil {
		return nil, fmt.Errorf("read the result of %s: %w", id, err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("read the result of %s: %w", id, err)
	}
	return f, nil
}

func (r results) remove(id spare.AttemptID) { _ = r.root.RemoveAll(string(id)) }

// load lists what lies finished, and clears what does not.
func (r results) load() ([]*pb.Ended, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("list results: %w", err)
	}
	var found []*pb.Ended
	for _, entry := range entries {
		ended, err := r.read(entry)
		if err != nil {
			_ = cache.RemoveAll(filepath.Join(r.dir, entry.Name()))
			continue
		}
		found = append(found, ended)
	}
	return found, nil
}

func (r results) read(entry fs.DirEntry) (*pb.Ended, error) {
	name := entry.Name()
	if !entry.IsDir() || strings.HasPrefix(name, halfMade) || !attemptName.MatchString(name) {
		return nil, errors.New("half-made")
	}
	raw, err := r.root.ReadFile(filepath.Join(name, endedFile))
	if err != nil {
		return nil, err
	}
	ended := new(pb.Ended)
	if err := proto.Unmarshal(raw, ended); err != nil || ended.Attempt != name {
		return nil, errors.New("damaged")
	}
	if res := left(ended); res != nil {
		info, err := r.root.Stat(filepath.Join(name, resultFile))
		if err != nil || uint64(info.Size()) != res.Size {
			return nil, errors.New("its result is not whole")
		}
	}
	return ended, nil
}

// Pending counts the ends that lie in a desk's folder, for "status" and "leave".
func Pending(folder string) int {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range entries {
		if e.IsDir() && attemptName.MatchString(e.Name()) {
			n++
		}
	}
	return n
}
