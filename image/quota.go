package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"

	"github.com/spare-compute/spare"
)

// reserve makes room for bytes that are about to be written, or says that there is none.
func (s *Store) reserve(bytes int64, what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok, held, err := s.evict(bytes)
	if err != nil {
		return err
	}
	if !ok {
		text := fmt.Sprintf("%s needs %d MiB more; images may take %d MiB and those in use take %d MiB", what, mib(bytes), mib(s.quota), mib(held))
		if s.opt.Hint != "" {
			text += "; " + s.opt.Hint
		}
		return fmt.Errorf("%w: %s", ErrFull, text)
	}
	s.inflight += bytes
	return nil
}

// meter counts bytes that go to the disk, and has room made before they do.
type meter struct {
	what    string // "a layer": what unpacks to too much
	most    int64
	step    int64 // how many bytes are asked for at a time, if there is room
	reserve func(bytes int64) error
	bytes   int64 // so far
	granted int64 // of them reserved
}

// take counts bytes that are about to be written.
func (m *meter) take(n int64) error {
	if n > m.most-m.bytes {
		return refuse("%s unpacks to more than %d MiB", m.what, m.most>>20)
	}
	m.bytes += n
	for step := m.step; m.bytes > m.granted; step /= 8 {
		least := m.bytes - m.granted
		err := m.reserve(max(step, least))
		switch {
		case err == nil:
			m.granted += max(step, least)
		case step <= least || !errors.Is(err, ErrFull):
			return err
		}
	}
	return nil
}

// settle gives back what was reserved: it is whole now and counts as what it is, or gone.
func (s *Store) settle(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inflight -= bytes
}

func mib(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

// evict removes what was not used for longest until more bytes fit the quota. It reports
// whether they do, and what is taken by things that cannot go. The caller holds the lock.
func (s *Store) evict(more int64) (fits bool, held int64, err error) {
	items, err := s.scan()
	if err != nil {
		return false, 0, err
	}
	held = s.inflight
	sum := s.inflight
	used := map[string]int{} // by images
	for _, it := range items {
		if it.in != partials || s.busy[it.key()] == 0 { // one that is being written was reserved whole
			sum += it.bytes
		}
		for _, key := range it.parts() {
			used[key]++
		}
	}
	slices.SortStableFunc(items, func(a, b item) int { return a.used.Compare(b.used) })
	// Not sum+more, which a number out of a manifest could make anything.
	for more > s.quota-sum {
		var release func()
		i := slices.IndexFunc(items, func(it item) (ok bool) {
			if s.busy[it.key()] > 0 || used[it.key()] > 0 {
				return false
			}
			release, ok = s.claim(it)
			return ok
		})
		if i < 0 {
			break
		}
		it := items[i]
		items = slices.Delete(items, i, i+1)
		err := s.remove(it)
		release()
		if err != nil {
			return false, held, fmt.Errorf("remove what was not used for longest: %w", err)
		}
		sum -= it.bytes
		for _, key := range it.parts() {
			used[key]--
		}
	}
	for _, it := range items {
		held += it.bytes
	}
	return more <= s.quota-sum, held, nil
}

// parts are the things that an image is made of.
func (i item) parts() (keys []string) {
	for _, l := range i.head.Layers {
		keys = append(keys, layers+"/"+string(l))
	}
	for _, l := range i.head.Packed {
		keys = append(keys, blobs+"/"+string(l.Blob))
	}
	if i.head.Config != "" {
		keys = append(keys, blobs+"/"+string(i.head.Config))
	}
	return keys
}

// claim makes sure that no process uses an image, and that none begins to until release.
func (s *Store) claim(it item) (release func(), ok bool) {
	if it.in != trees && it.in != packeds {
		return func() {}, true
	}
	path := s.pinPath(it.in, spare.Digest(it.name))
	lock := flock.New(path)
	if ok, err := lock.TryLock(); !ok || err != nil {
		return nil, false
	}
	return func() {
		// Who opened it meanwhile finds the record gone, and begins again.
		_ = os.Remove(path)
		_ = lock.Unlock()
	}, true
}

func (s *Store) pinPath(in string, id spare.Digest) string {
	return s.path(pins, in+"-"+string(id))
}

// remove takes an item away. What counts it as whole goes first.
func (s *Store) remove(it item) error {
	delete(s.checked, it.key())
	if it.in == blobs || it.in == partials {
		return os.Remove(s.path(it.in, it.name))
	}
	if err := os.Remove(s.path(it.in, it.name+recEnding)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if it.in == packeds {
		if s.opt.Gone != nil {
			s.opt.Gone("sha256:" + it.name)
		}
		return nil
	}
	// Aside first: a folder that is half removed must not lie where a whole one belongs.
	aside, err := os.MkdirTemp(s.path(tmp), "gone-")
	if err != nil {
		return err
	}
	if err := os.Rename(s.path(it.in, it.name), filepath.Join(aside, "x")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(aside)
}

// forget removes a thing that turned out to be damaged.
func (s *Store) forget(in string, d spare.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := item{in: in, name: string(d)}
	release, ok := s.claim(it)
	if !ok {
		return fmt.Errorf("%s is damaged, and in use: stop what uses it, then try again", s.path(in, string(d)))
	}
	defer release()
	if err := s.remove(it); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
