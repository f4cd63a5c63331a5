package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/spare-compute/spare"
)

// Options of a Store.
type Options struct {
	Quota    int64  // bytes it may take on the disk
	Platform string // what to choose from an index, "linux/arm64"; default: Linux on this machine's processor
	Limits   Limits
	Hint     string // how to give it more room, for the sentence that says there is none
	// Gone, if it is not nil, is told of each image in the form Packed that was removed: its
	// ID. An engine keeps a copy that nobody needs any more. It must not wait or call back.
	Gone func(id string)
}

// A Store is one folder of images. It is safe for concurrent use, by several processes
// too: one at a time changes anything, and none removes what another uses.
type Store struct {
	dir      string
	root     *os.Root
	opt      Options
	platform platform
	backoff  func(try int) time.Duration
	link     func(root *os.Root, from, to string) error

	gate    chan struct{} // held while working changes
	working int           // calls that change something now
	lock    *flock.Flock  // held while there are any

	mu       sync.Mutex
	quota    int64
	inflight int64           // bytes promised to what is not whole yet
	busy     map[string]int  // what calls under way need, as "layers/D"
	checked  map[string]bool // what this process has seen to be whole
	ready    map[readyKey]spare.Digest
	keys     map[string]chan struct{} // held while one of them is made
}

type readyKey struct {
	digest spare.Digest // of the manifest or index
	form   Form
}

const (
	blobs    = "blobs"
	partials = "partial"
	layers   = "layers"
	trees    = "trees"
	packeds  = "packed"
	pins     = "pins"
	tmp      = "tmp"
)

const (
	recEnding = ".rec"
	lockPoll  = 20 * time.Millisecond // how often another process's lock is tried
)

// Open opens the store in dir, making it if need be.
func Open(dir string, opt Options) (*Store, error) {
	opt.Limits = opt.Limits.withDefaults()
	want := platform{OS: "linux", Arch: runtime.GOARCH}
	if opt.Platform != "" {
		p, err := parsePlatform(opt.Platform)
		if err != nil {
			return nil, err
		}
		want = p
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open the image store: %w", err)
	}
	for _, sub := range []string{"", blobs, partials, layers, trees, packeds, pins, tmp} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("make the image store: %w", err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the image store: %w", err)
	}
	return &Store{
		dir: dir, root: root, opt: opt, platform: want, backoff: jitter, link: (*os.Root).Link, gate: make(chan struct{}, 1),
		lock: flock.New(filepath.Join(dir, "lock")), quota: opt.Quota, busy: map[string]int{},
		checked: map[string]bool{}, ready: map[readyKey]spare.Digest{}, keys: map[string]chan struct{}{},
	}, nil
}

// Close lets go of the folder. Images in use stay so until they are released.
func (s *Store) Close() error { return s.root.Close() }

// path joins names below the store. What comes from outside is digests only, checked
// where they enter.
func (s *Store) path(names ...string) string {
	return filepath.Join(append([]string{s.dir}, names...)...)
}

func (s *Store) rec(in string, d spare.Digest) string { return s.path(in, string(d)+recEnding) }

// enter makes the caller one of those that change the store, all of one process.
func (s *Store) enter(ctx context.Context) (leave func(), err error) {
	select {
	case s.gate <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-s.gate }()
	if s.working == 0 {
		if ok, err := s.lock.TryLockContext(ctx, lockPoll); !ok {
			return nil, fmt.Errorf("lock the image store %s: %w", s.dir, err)
		}
		// Nobody else is at work: what is half made was left by a crash.
		if err := s.clear(); err != nil {
			return nil, errors.Join(fmt.Errorf("clear half-made images: %w", err), s.lock.Unlock())
		}
	}
	s.working++
	return func() {
		s.gate <- struct{}{}
		if s.working--; s.working == 0 {
			_ = s.lock.Unlock() // the process's end lets go of it too
		}
		<-s.gate
	}, nil
}

// clear removes what a crash left half made: folders whose record was never written.
func (s *Store) clear() error {
	var errs []error
	for _, in := range []string{tmp, layers, trees} {
		entries, err := os.ReadDir(s.path(in))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if in != tmp {
				if strings.HasSuffix(e.Name(), recEnding) {
					continue
				}
				if _, err := os.Lstat(s.path(in, e.Name()+recEnding)); err == nil {
					continue
				}
			}
			errs = append(errs, os.RemoveAll(s.path(in, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// one makes the caller the only one in this process that works on a thing.
func (s *Store) one(ctx context.Context, key string) (unlock func(), err error) {
	for {
		s.mu.Lock()
		held, taken := s.keys[key]
		if !taken {
			done := make(chan struct{})
			s.keys[key] = done
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.keys, key)
				s.mu.Unlock()
				close(done)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// need keeps things in place while a call goes on.
func (s *Store) need(things ...string) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range things {
		s.busy[t]++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, t := range things {
			if s.busy[t]--; s.busy[t] == 0 {
				delete(s.busy, t)
			}
		}
	}
}

// An item is a piece of the store that takes room and can be removed.
type item struct {
	in    string // "layers"
	name  string
	bytes int64
	used  time.Time
	head  head
}

func (i item) key() string { return i.in + "/" + i.name }

// scan lists what is in the store. The disk is the only truth: another process may have
// changed it since.
func (s *Store) scan() ([]item, error) {
	var all []item
	for _, in := range []string{blobs, partials, layers, trees, packeds} {
		entries, err := os.ReadDir(s.path(in))
		if err != nil {
			return nil, fmt.Errorf("list the image store: %w", err)
		}
		for _, e := range entries {
			name, isRec := strings.CutSuffix(e.Name(), recEnding)
			plain := in == blobs || in == partials
			if !plain && !isRec || !spare.Digest(name).Valid() {
				continue
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("list the image store: %w", err)
			}
			it := item{in: in, name: name, bytes: info.Size(), used: info.ModTime()}
			if !plain {
				if it.head, err = readHead(s.path(in, e.Name())); err == nil {
					it.bytes += it.head.Bytes
				}
				// A damaged record is worth nothing: it is just removed when its turn comes.
			}
			all = append(all, it)
		}
	}
	return all, nil
}

// Stats is what a store holds.
type Stats struct {
	Bytes  int64 `json:"bytes"`
	Quota  int64 `json:"quota"`
	Images int   `json:"images"`
	Layers int   `json:"layers"`
}

// Stats counts what the store holds.
func (s *Store) Stats() (Stats, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items, err := s.scan()
	st := Stats{Quota: s.quota}
	for _, it := range items {
		st.Bytes += it.bytes
		switch it.in {
		case trees, packeds:
			st.Images++
		case layers:
			st.Layers++
		}
	}
	return st, err
}

// SetQuota changes how many bytes the store may take and makes it so, as far as what is
// in use allows.
func (s *Store) SetQuota(ctx context.Context, quota int64) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quota = quota
	_, _, err = s.evict(0)
	return err
}

// purge removes everything that is not in use.
func (s *Store) purge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	quota := s.quota
	s.quota = 0
	_, _, _ = s.evict(0) // what cannot be removed is no worse than before
	s.quota = quota
}

func (s *Store) wasChecked(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checked[key]
}

func (s *Store) setChecked(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checked[key] = true
}

// touch notes a use.
func touch(path string) {
	now := time.Now()
	_ = os.Chtimes(path, now, now) // losing it costs a download, some day
}
