package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/bundle"
)

// A record says what an unpacked App's folder must hold.
type record struct {
	Files   map[string]recorded `json:"files"`             // by slash-separated path
	Folders int64               `json:"folders,omitempty"` // with itself
}

type recorded struct {
	Digest     spare.Digest `json:"digest"`
	Size       int64        `json:"size"`
	Executable bool         `json:"executable,omitempty"`
}

// bytes is what the folder takes of the disk.
func (r record) bytes() int64 {
	n := r.Folders * bundle.OnDisk(0)
	for _, f := range r.Files {
		n += bundle.OnDisk(f.Size)
	}
	return n
}

func readRecord(path string) (record, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return record{}, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

// App returns the folder of the unpacked bundle named d. A folder that is not whole,
// or not as it was unpacked, is made anew.
func (c *Cache) App(ctx context.Context, d spare.Digest, size int64, fetch Fetch, unpack Unpack) (*Pin, error) {
	if !d.Valid() {
		return nil, fmt.Errorf("fetch App bundle %.80q: not a digest", string(d))
	}
	if err := checkSize(size, "App bundle "+d.Short()); err != nil {
		return nil, err
	}
	unlock, err := c.lock(ctx, d)
	if err != nil {
		return nil, err
	}
	defer unlock()
	k := key{app, d}
	if c.haveApp(k) {
		return c.pin(k), nil
	}
	archive, err := c.blobLocked(ctx, d, size, fetch)
	if err != nil {
		return nil, err
	}
	defer archive.Release()
	if err := c.unpack(ctx, k, archive.Path(), unpack); err != nil {
		return nil, err
	}
	return c.pin(k), nil
}

// haveApp checks the folder against its record, once in a process.
func (c *Cache) haveApp(k key) bool {
	c.mu.Lock()
	e, ok := c.entries[k]
	verified := ok && e.verified
	c.mu.Unlock()
	if !ok || verified {
		return ok
	}
	want, err := readRecord(c.file(k) + ".json")
	if err == nil {
		var got record
		if got, err = seal(c.file(k)); err == nil && !equal(want, got) {
			err = errors.New("the folder has changed")
		}
	}
	if err != nil {
		c.forget(k)
		return false
	}
	c.mu.Lock()
	e.verified = true
	c.mu.Unlock()
	return true
}

func equal(a, b record) bool {
	if len(a.Files) != len(b.Files) {
		return false
	}
	for name, f := range a.Files {
		if b.Files[name] != f {
			return false
		}
	}
	return true
}

func (c *Cache) unpack(ctx context.Context, k key, archive string, unpack Unpack) (err error) {
	defer func() {
		if err != nil {
			c.forget(k)
		}
	}()
	tmp, err := os.MkdirTemp(c.path("tmp"), "app-")
	if err != nil {
		return c.diskError("unpack", k.digest, err)
	}
	defer func() { _ = RemoveAll(tmp) }()
	if err := c.layOut(ctx, k.digest, archive, tmp, unpack); err != nil {
		return err
	}
	rec, err := seal(tmp)
	if err != nil {
		return c.diskError("seal", k.digest, err)
	}
	if err := c.reserve(k, rec.bytes(), "App "+k.digest.Short()); err != nil {
		return err
	}
	raw, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("record App %s: %w", k.digest.Short(), err)
	}
	dir := c.file(k)
	if err := RemoveAll(dir); err != nil {
		return fmt.Errorf("clear half-unpacked App %s: %w", k.digest.Short(), err)
	}
	if err := moveDir(tmp, dir); err != nil {
		return c.diskError("store", k.digest, err)
	}
	if err := writeRecord(c.path("tmp"), dir+".json", raw); err != nil {
		return c.diskError("store", k.digest, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries[k].verified = true
	return nil
}

// layOut unpacks an archive into the room that the quota leaves. How much it takes is not
// known before, so what was not used for longest makes way a little at a time.
func (c *Cache) layOut(ctx context.Context, d spare.Digest, archive, dir string, unpack Unpack) error {
	select {
	case c.unpacking <- struct{}{}:
		defer func() { <-c.unpacking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	info, err := os.Stat(archive)
	if err != nil {
		return c.diskError("unpack", d, err)
	}
	const little = 1 << 20
	for want := max(2*info.Size(), little); ; {
		room, more := c.makeRoom(want)
		err := unpack(bundle.Within(ctx, room), archive, dir)
		switch {
		case err == nil:
			return nil
		case DiskFull(err) || ctx.Err() != nil:
			return c.diskError("unpack", d, err)
		case errors.Is(err, bundle.ErrNoRoom) && more:
			want = room + max(room/4, little)
		case errors.Is(err, bundle.ErrNoRoom):
			return fmt.Errorf("%w: App %s unpacks to more than the %d MiB that the cache has left; give it more with \"spare-node prefs set disk=…\"",
				ErrFull, d.Short(), room>>20)
		default:
			return fmt.Errorf("%w: App bundle %s: %w", ErrUnpack, d.Short(), err)
		}
	}
}

// moveDir renames a sealed folder. A folder that its owner may not write to cannot be
// renamed by an ordinary user, so it is opened for that moment.
func moveDir(from, to string) error {
	if err := os.Chmod(from, 0o700); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return os.Chmod(to, 0o555)
}

func writeRecord(tmp, path string, raw []byte) error {
	f, err := os.CreateTemp(tmp, "record-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(raw)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// seal makes every file and folder below dir read-only and says what is there. Anyone
// may read: the sandbox runs Apps as a user that owns nothing, and the folders above
// keep others out.
func seal(dir string) (record, error) {
	rec := record{Files: map[string]recorded{}}
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			dirs = append(dirs, path)
			rec.Folders++
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is neither a file nor a folder", path)
		}
		digest, size, err := digestFile(path)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o444)
		executable := info.Mode()&0o100 != 0
		if executable {
			mode = 0o555
		}
		if info.Mode().Perm() != mode {
			if err := os.Chmod(path, mode); err != nil {
				return err
			}
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		rec.Files[filepath.ToSlash(name)] = recorded{Digest: digest, Size: size, Executable: executable}
		return nil
	})
	if err != nil {
		return record{}, err
	}
	for _, d := range dirs {
		if err := os.Chmod(d, 0o555); err != nil {
			return record{}, err
		}
	}
	return rec, nil
}
