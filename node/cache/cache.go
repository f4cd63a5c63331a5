// Package cache keeps what hubs sent (inputs and App bundles) by digest, within a
// quota. It resumes a broken download at the byte where it stopped, lets nothing be
// used that was not verified by this very process, and unpacks an App's bundle once.
// Least recently used goes first; what is in use stays. It never talks to a hub: the
// caller hands in how to fetch. Package work calls it.
//
// On disk, below the cache's folder:
//
//	blobs/<digest>      a whole blob; its modification time is its last use
//	partial/<digest>    a download that is not whole yet
//	apps/<digest>/      an unpacked bundle, read-only
//	apps/<digest>.json  what that folder must hold; written last
//	tmp/                half-made things and what is being removed; emptied at Open
package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spare-compute/spare"
)

// Fetch writes a blob's bytes from offset on.
type Fetch func(ctx context.Context, offset int64, w io.Writer) error

// Unpack lays out the archive in the file at path in the empty folder dir. What does not
// fit the room that the context leaves (bundle.Within) gives bundle.ErrNoRoom and leaves
// dir empty; it is tried again with more.
type Unpack func(ctx context.Context, path, dir string) error

// Errors a caller tells apart.
var (
	// ErrFull means that the quota or the disk has no room left.
	ErrFull = errors.New("no room in the cache")
	// ErrCorrupt means that what was fetched is not what was asked for.
	ErrCorrupt = errors.New("content does not match its digest")
	// ErrUnpack means that a bundle came as it should and yet cannot be unpacked.
	ErrUnpack = errors.New("bundle cannot be unpacked")
)

type kind int

const (
	blob kind = iota
	app
	partial
)

type key struct {
	kind   kind
	digest spare.Digest
}

type entry struct {
	bytes    int64
	used     time.Time
	pins     int
	verified bool // by this process
}

// A Cache is one folder of content. It is safe for concurrent use by one process.
type Cache struct {
	dir string

	mu      sync.Mutex
	quota   int64
	total   int64
	entries map[key]*entry
	busy    map[spare.Digest]chan struct{} // held while a digest is being made
	aside   []string                       // what unlock is to remove
	dropped int                            // names what is set aside

	unpacking chan struct{} // held while an App is unpacked: two would take the same room
}

// Open opens the cache in dir, making it if need be, and clears half-made things.
func Open(dir string, quota int64) (*Cache, error) {
	c := &Cache{
		dir: dir, quota: quota, entries: map[key]*entry{}, busy: map[spare.Digest]chan struct{}{},
		unpacking: make(chan struct{}, 1),
	}
	if err := RemoveAll(c.path("tmp")); err != nil {
		return nil, fmt.Errorf("clear the cache's half-made files: %w", err)
	}
	for _, sub := range []string{"blobs", "partial", "apps", "tmp"} {
		if err := os.MkdirAll(c.path(sub), 0o700); err != nil {
			return nil, fmt.Errorf("make the cache: %w", err)
		}
	}
	for sub, k := range map[string]kind{"blobs": blob, "partial": partial} {
		if err := c.scanFiles(sub, k); err != nil {
			return nil, err
		}
	}
	return c, c.scanApps()
}

// path joins names below the cache. Names that come from outside are digests only,
// checked where they enter.
func (c *Cache) path(names ...string) string {
	return filepath.Join(append([]string{c.dir}, names...)...)
}

func (c *Cache) file(k key) string {
	return c.path(map[kind]string{blob: "blobs", partial: "partial", app: "apps"}[k.kind], string(k.digest))
}

func (c *Cache) scanFiles(sub string, k kind) error {
	files, err := os.ReadDir(c.path(sub))
	if err != nil {
		return fmt.Errorf("list the cache: %w", err)
	}
	for _, f := range files {
		info, err := f.Info()
		d, bad := spare.ParseDigest(f.Name())
		if err != nil || bad != nil || !info.Mode().IsRegular() {
			_ = RemoveAll(c.path(sub, f.Name())) // not ours, or gone meanwhile
			continue
		}
		c.add(key{k, d}, &entry{bytes: info.Size(), used: info.ModTime()})
	}
	return nil
}

func (c *Cache) scanApps() error {
	files, err := os.ReadDir(c.path("apps"))
	if err != nil {
		return fmt.Errorf("list the cache: %w", err)
	}
	known := map[string]bool{}
	for _, f := range files {
		name, isRecord := strings.CutSuffix(f.Name(), ".json")
		d, err := spare.ParseDigest(name)
		if !isRecord || err != nil {
			continue
		}
		rec, err := readRecord(c.path("apps", f.Name()))
		info, statErr := f.Info()
		if err != nil || statErr != nil {
			continue
		}
		known[f.Name()], known[name] = true, true
		c.add(key{app, d}, &entry{bytes: rec.bytes(), used: info.ModTime()})
	}
	for _, f := range files {
		if !known[f.Name()] {
			if err := RemoveAll(c.path("apps", f.Name())); err != nil {
				return fmt.Errorf("clear half-unpacked App %s: %w", f.Name(), err)
			}
		}
	}
	return nil
}

func (c *Cache) add(k key, e *entry) {
	c.entries[k] = e
	c.total += e.bytes
}

// SetQuota changes how many bytes the cache may hold and makes it so, as far as what
// is in use allows.
func (c *Cache) SetQuota(quota int64) {
	c.mu.Lock()
	defer c.unlock()
	c.quota = quota
	c.evict(0)
}

// Stats is what a cache holds.
type Stats struct {
	Bytes int64 `json:"bytes"`
	Quota int64 `json:"quota"`
	Blobs int   `json:"blobs"`
	Apps  int   `json:"apps"`
}

// Stats counts what the cache holds.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Stats{Bytes: c.total, Quota: c.quota}
	for k := range c.entries {
		switch k.kind {
		case blob:
			s.Blobs++
		case app:
			s.Apps++
		}
	}
	return s
}

// A Pin keeps one piece of content in place until it is released.
type Pin struct {
	path    string
	release func()
}

// Path is the blob's file or the App's folder. It is not to be written to.
func (p *Pin) Path() string { return p.path }

// Release lets the cache remove the content when it needs the room.
func (p *Pin) Release() { p.release() }

func (c *Cache) pin(k key) *Pin {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[k]
	e.pins++
	e.used = time.Now()
	file := c.file(k)
	mark := file
	if k.kind == app {
		mark += ".json"
	}
	_ = os.Chtimes(mark, e.used, e.used) // the order of last use survives a restart; losing it costs a download
	return &Pin{path: file, release: sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.unlock()
		e.pins--
		c.evict(0)
	})}
}

// reserve sets how many bytes k takes, making room for them, or says that there is none.
func (c *Cache) reserve(k key, bytes int64, what string) error {
	c.mu.Lock()
	defer c.unlock()
	var has int64
	if e := c.entries[k]; e != nil {
		has = e.bytes
	}
	if !c.evict(bytes - has) {
		return fmt.Errorf("%w: %s needs %d MiB and the cache may hold %d MiB, %d MiB of it in use; give it more with \"spare-node prefs set disk=…\"",
			ErrFull, what, mib(bytes), mib(c.quota), mib(c.pinned()))
	}
	c.setBytes(k, bytes)
	return nil
}

// makeRoom makes what was not used for longest give way to so many more bytes. It returns
// how many there is room for, and whether more could give way.
func (c *Cache) makeRoom(bytes int64) (room int64, more bool) {
	c.mu.Lock()
	defer c.unlock()
	more = c.evict(bytes)
	return max(c.quota-c.total, 0), more
}

// setBytes notes how many bytes k takes. The caller holds the lock.
func (c *Cache) setBytes(k key, bytes int64) {
	e := c.entries[k]
	if e == nil {
		e = &entry{}
		c.entries[k] = e
	}
	c.total += bytes - e.bytes
	e.bytes, e.used = bytes, time.Now()
}

// purge removes everything that is not in use.
func (c *Cache) purge() {
	c.mu.Lock()
	defer c.unlock()
	quota := c.quota
	c.quota = 0
	c.evict(0)
	c.quota = quota
}

func mib(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

func (c *Cache) pinned() (n int64) {
	for _, e := range c.entries {
		if e.pins > 0 {
			n += e.bytes
		}
	}
	return n
}

// evict removes what was not used for longest until need more bytes fit the quota,
// and reports whether they do. The caller holds the lock and gives it back with unlock.
func (c *Cache) evict(need int64) bool {
	fits := func() bool { return need <= c.quota-c.total } // neither is negative, so nothing overflows
	if fits() {
		return true
	}
	keys := make([]key, 0, len(c.entries))
	for k, e := range c.entries {
		if _, making := c.busy[k.digest]; e.pins == 0 && !making {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b key) int { return c.entries[a].used.Compare(c.entries[b].used) })
	for _, k := range keys {
		if fits() {
			break
		}
		c.drop(k)
	}
	return fits()
}

// drop removes an entry and sets its files aside: a large folder takes seconds to remove,
// and nobody is to wait for that. The caller holds the lock and gives it back with unlock.
func (c *Cache) drop(k key) {
	e, ok := c.entries[k]
	if !ok {
		return
	}
	file := c.file(k)
	if k.kind == app {
		_ = os.Remove(file + ".json") // first: without it the folder does not count
	}
	if k.kind == app {
		_ = os.Chmod(file, 0o700) // a folder that may not be written to cannot be moved
	}
	c.dropped++
	aside := c.path("tmp", "gone-"+strconv.Itoa(c.dropped))
	if err := os.Rename(file, aside); err == nil {
		c.aside = append(c.aside, aside)
	} else {
		_ = RemoveAll(file) // somebody has it open, where that matters; what stays goes at the next Open
	}
	delete(c.entries, k)
	c.total -= e.bytes
}

// unlock gives the lock back and then removes what was set aside under it.
func (c *Cache) unlock() {
	aside := c.aside
	c.aside = nil
	c.mu.Unlock()
	for _, path := range aside {
		_ = RemoveAll(path) // or at the next Open
	}
}

func (c *Cache) forget(k key) {
	c.mu.Lock()
	defer c.unlock()
	c.drop(k)
}

// lock makes the caller the only one that works on a digest.
func (c *Cache) lock(ctx context.Context, d spare.Digest) (unlock func(), err error) {
	for {
		c.mu.Lock()
		held, taken := c.busy[d]
		if !taken {
			done := make(chan struct{})
			c.busy[d] = done
			c.mu.Unlock()
			return func() {
				c.mu.Lock()
				delete(c.busy, d)
				c.mu.Unlock()
				close(done)
			}, nil
		}
		c.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// RemoveAll removes a tree, also where it was made read-only or left so by an App.
func RemoveAll(path string) error {
	err := os.RemoveAll(path)
	if err == nil {
		return nil
	}
	_ = filepath.WalkDir(path, func(p string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(p, 0o700) // before the folder is read
		}
		return nil
	})
	return os.RemoveAll(path)
}
