package blob

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spare-compute/spare"
)

// Sweep removes the blobs that keep does not name and that nobody has put for olderThan,
// and the beginnings of blobs as old as that. It returns how many blobs went and how many
// bytes came free. What is put while it runs is safe however it is named.
func (d *Disk) Sweep(ctx context.Context, keep map[spare.Digest]struct{}, olderThan time.Duration) (int, int64, error) {
	folders, err := os.ReadDir(d.root)
	if err != nil {
		return 0, 0, err
	}
	var removed int
	var freed int64
	var problems []error
	for _, folder := range folders {
		if err := ctx.Err(); err != nil {
			return removed, freed, errors.Join(append(problems, err)...)
		}
		if len(folder.Name()) != 2 || !folder.IsDir() {
			continue
		}
		n, bytes, err := d.sweepFolder(folder.Name(), keep, olderThan)
		removed, freed = removed+n, freed+bytes
		problems = append(problems, err)
	}
	_, bytes, err := d.sweepPartials(olderThan)
	return removed, freed + bytes, errors.Join(append(problems, err)...)
}

func (d *Disk) sweepFolder(prefix string, keep map[spare.Digest]struct{}, olderThan time.Duration) (removed int, freed int64, err error) {
	entries, err := os.ReadDir(filepath.Join(d.root, prefix))
	if err != nil {
		return 0, 0, err
	}
	var problems []error
	for _, e := range entries {
		digest, err := spare.ParseDigest(prefix + e.Name())
		if err != nil {
			continue // not ours
		}
		if _, wanted := keep[digest]; wanted {
			continue
		}
		size, gone, err := d.removeOld(d.Path(digest), olderThan)
		problems = append(problems, err)
		if gone {
			removed++
			freed += size
		}
	}
	return removed, freed, errors.Join(problems...)
}

// sweepPartials removes beginnings that nobody has gone on with for olderThan.
func (d *Disk) sweepPartials(olderThan time.Duration) (removed int, freed int64, err error) {
	dir := filepath.Join(d.root, partialsDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0, err
	}
	var problems []error
	for _, e := range entries {
		size, gone, err := d.removeOld(filepath.Join(dir, e.Name()), olderThan)
		problems = append(problems, err)
		if gone {
			removed++
			freed += size
		}
	}
	return removed, freed, errors.Join(problems...)
}

// removeOld removes a file that has not been written or put again for olderThan.
func (d *Disk) removeOld(path string, olderThan time.Duration) (size int64, gone bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, busy := d.partials[filepath.Base(path)]; busy {
		return 0, false, nil
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	if time.Since(info.ModTime()) < olderThan {
		return 0, false, nil
	}
	if err := os.Remove(path); err != nil {
		return 0, false, err
	}
	return info.Size(), true, nil
}
