package sqlite_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
)

// sector is what a disk writes whole or not at all.
const sector = 512

// A faultDisk is a disk in memory, put under SQLite as a VFS, that can lose power: what
// was not synced by then is on it in part, in any order, or not at all.
type faultDisk struct {
	mu    sync.Mutex
	rng   *rand.Rand
	files map[string]*inode
	ops   int  // writes, truncations, syncs and deletions so far
	cutAt int  // the operation at which power fails; 0 = never
	dead  bool // power is off
	lies  bool // sync does nothing: to see that the test notices
	room  int64
	shm   string // folder of the shared memory, which no power cut survives
}

// An inode is a file's content as programs see it, what of it is surely on the disk, and
// what is on its way.
type inode struct {
	data    []byte
	durable []byte
	pending []change
	created bool // its name is on the disk
	locks   locks
}

// A change is a write of data at off, or a truncation to off.
type change struct {
	off      int64
	data     []byte
	truncate bool
}

type locks struct {
	shared            int
	reserved, pending bool
}

var disks atomic.Int64

// mount registers the disk under a fresh name.
func (d *faultDisk) mount(t testing.TB) string {
	name := fmt.Sprint("faulty", disks.Add(1))
	d.shm = t.TempDir()
	vfs.Register(name, d)
	t.Cleanup(func() { vfs.Unregister(name) })
	return name
}

func newFaultDisk(seed uint64) *faultDisk {
	return &faultDisk{rng: rand.New(rand.NewPCG(seed, 7)), files: map[string]*inode{}, room: 1 << 40}
}

var errPower = sqlite3.IOERR

// step counts an operation that changes the disk, and cuts the power at the chosen one.
func (d *faultDisk) step() error {
	d.ops++
	if d.cutAt > 0 && d.ops >= d.cutAt {
		d.dead = true
	}
	if d.dead {
		return errPower
	}
	return nil
}

// reboot is the disk after the power came back.
func (d *faultDisk) reboot() *faultDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := newFaultDisk(d.rng.Uint64())
	names := make([]string, 0, len(d.files))
	for name := range d.files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f := d.files[name]
		if !f.created && d.rng.IntN(2) == 0 {
			continue
		}
		data := slices.Clone(f.durable)
		keep := d.rng.Float64() // sometimes nearly all got through, sometimes nothing
		for _, i := range d.rng.Perm(len(f.pending)) {
			data = f.pending[i].tear(data, d.rng, keep)
		}
		next.files[name] = &inode{data: data, durable: slices.Clone(data), created: true}
	}
	return next
}

// tear applies a change to data sector by sector, each with probability keep.
func (c change) tear(data []byte, rng *rand.Rand, keep float64) []byte {
	if c.truncate {
		if rng.Float64() < keep {
			data = resize(data, c.off)
		}
		return data
	}
	for at := 0; at < len(c.data); at += sector {
		if rng.Float64() < keep {
			data = write(data, c.off+int64(at), c.data[at:min(at+sector, len(c.data))])
		}
	}
	return data
}

func resize(data []byte, size int64) []byte {
	if size <= int64(len(data)) {
		return data[:size]
	}
	old := int64(len(data))
	data = slices.Grow(data, int(size-old))[:size]
	clear(data[old:])
	return data
}

func write(data []byte, off int64, b []byte) []byte {
	data = resize(data, max(int64(len(data)), off+int64(len(b))))
	copy(data[off:], b)
	return data
}

func (d *faultDisk) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return nil, flags, sqlite3.CANTOPEN
	}
	if name == "" {
		name = fmt.Sprint("temporary", d.rng.Uint64())
		flags |= vfs.OPEN_DELETEONCLOSE
	}
	f := d.files[name]
	if f == nil {
		if flags&vfs.OPEN_CREATE == 0 {
			return nil, flags, sqlite3.CANTOPEN
		}
		f = &inode{}
		d.files[name] = f
	}
	h := &handle{disk: d, inode: f, name: name, flags: flags}
	if flags&vfs.OPEN_MAIN_DB != 0 {
		h.shm = vfs.NewSharedMemory(filepath.Join(d.shm, filepath.Base(name)+"-shm"), flags)
	}
	return h, flags, nil
}

func (d *faultDisk) Delete(name string, _ bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	if d.files[name] == nil {
		return sqlite3.IOERR_DELETE_NOENT
	}
	delete(d.files, name)
	return nil
}

func (d *faultDisk) Access(name string, _ vfs.AccessFlag) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.files[name] != nil, nil
}

func (d *faultDisk) FullPathname(name string) (string, error) { return name, nil }

// A handle is an open file.
type handle struct {
	disk  *faultDisk
	inode *inode
	name  string
	flags vfs.OpenFlag
	lock  vfs.LockLevel
	shm   vfs.SharedMemory
}

var _ vfs.FileSharedMemory = (*handle)(nil)

func (h *handle) SharedMemory() vfs.SharedMemory { return h.shm }

func (h *handle) Close() error {
	if h.shm != nil {
		h.shm.Close()
	}
	err := h.Unlock(vfs.LOCK_NONE)
	if h.flags&vfs.OPEN_DELETEONCLOSE != 0 {
		h.disk.mu.Lock()
		delete(h.disk.files, h.name)
		h.disk.mu.Unlock()
	}
	return err
}

func (h *handle) ReadAt(p []byte, off int64) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.disk.dead {
		return 0, errPower
	}
	if off >= int64(len(h.inode.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.inode.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) WriteAt(p []byte, off int64) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.disk.step(); err != nil {
		if h.disk.ops == h.disk.cutAt { // the write under way may have got through in part
			h.inode.pending = append(h.inode.pending, change{off: off, data: slices.Clone(p)})
		}
		return 0, err
	}
	if more := off + int64(len(p)) - int64(len(h.inode.data)); more > 0 {
		if h.disk.room < more {
			return 0, sqlite3.FULL
		}
		h.disk.room -= more
	}
	h.inode.data = write(h.inode.data, off, p)
	h.inode.pending = append(h.inode.pending, change{off: off, data: slices.Clone(p)})
	return len(p), nil
}

func (h *handle) Truncate(size int64) error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.disk.step(); err != nil {
		return err
	}
	h.inode.data = resize(h.inode.data, size)
	h.inode.pending = append(h.inode.pending, change{off: size, truncate: true})
	return nil
}

func (h *handle) Sync(vfs.SyncFlag) error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.disk.step(); err != nil {
		return err
	}
	if h.disk.lies {
		return nil
	}
	for _, c := range h.inode.pending {
		if c.truncate {
			h.inode.durable = resize(h.inode.durable, c.off)
		} else {
			h.inode.durable = write(h.inode.durable, c.off, c.data)
		}
	}
	h.inode.pending, h.inode.created = nil, true
	return nil
}

func (h *handle) Size() (int64, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	return int64(len(h.inode.data)), nil
}

func (h *handle) Lock(level vfs.LockLevel) error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.lock >= level {
		return nil
	}
	l := &h.inode.locks
	switch level {
	case vfs.LOCK_SHARED:
		if l.pending {
			return sqlite3.BUSY
		}
		l.shared++
	case vfs.LOCK_RESERVED:
		if l.reserved {
			return sqlite3.BUSY
		}
		l.reserved = true
	case vfs.LOCK_EXCLUSIVE:
		if l.pending && h.lock < vfs.LOCK_PENDING {
			return sqlite3.BUSY
		}
		l.pending, h.lock = true, vfs.LOCK_PENDING
		if l.shared > 1 {
			return sqlite3.BUSY
		}
	}
	h.lock = level
	return nil
}

func (h *handle) Unlock(level vfs.LockLevel) error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.lock <= level {
		return nil
	}
	l := &h.inode.locks
	if h.lock >= vfs.LOCK_PENDING {
		l.pending = false
	}
	if h.lock >= vfs.LOCK_RESERVED {
		l.reserved = false
	}
	if level == vfs.LOCK_NONE {
		l.shared--
	}
	h.lock = level
	return nil
}

func (h *handle) CheckReservedLock() (bool, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	return h.inode.locks.reserved, nil
}

func (*handle) SectorSize() int { return sector }

func (*handle) DeviceCharacteristics() vfs.DeviceCharacteristic { return 0 }
