package wasm

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	experimentalsys "github.com/tetratelabs/wazero/experimental/sys"
	"github.com/tetratelabs/wazero/sys"
)

// node is a file that is open, however often. Its size is known without asking, since
// only this program writes to it.
type node struct {
	m     *mount
	info  fs.FileInfo // tells it from others
	size  int64
	count int  // handles
	gone  bool // removed while open: it takes its space until the last handle is closed
}

// resize counts what a new size takes, and reports whether it may be.
func (n *node) resize(size int64) bool {
	if !n.m.quota.take(cost(size) - cost(n.size)) {
		return false
	}
	n.size = size
	return true
}

// OpenFile implements sys.FS.
func (w *world) OpenFile(name string, flag experimentalsys.Oflag, _ fs.FileMode) (experimentalsys.File, experimentalsys.Errno) {
	p, errno := w.find(name)
	if errno != 0 {
		return nil, errno
	}
	if w.open >= w.most {
		return nil, experimentalsys.EAGAIN // WASI's "too many open files" cannot be said from here
	}
	if p.m == nil {
		return w.opened(p, nil, flag)
	}
	stat := p.m.root.Stat
	if flag&experimentalsys.O_NOFOLLOW != 0 {
		stat = p.m.root.Lstat
	}
	info, err := stat(p.rel)
	switch {
	case err == nil && info.IsDir():
		return w.opened(p, info, flag)
	case err == nil && info.Mode().Type() == fs.ModeSymlink:
		return nil, experimentalsys.ELOOP
	case err == nil && !info.Mode().IsRegular(): // opening a pipe would wait for its other end
		return nil, experimentalsys.EACCES
	case err == nil && (flag&experimentalsys.O_DIRECTORY != 0 || strings.HasSuffix(name, "/")):
		return nil, experimentalsys.ENOTDIR
	case err == nil && flag&experimentalsys.O_CREAT != 0 && flag&experimentalsys.O_EXCL != 0:
		return nil, experimentalsys.EEXIST
	case err == nil:
		return w.openFile(p, flag, false)
	case errors.Is(err, fs.ErrNotExist) && flag&experimentalsys.O_CREAT != 0:
		if errno := p.changes(); errno != 0 {
			return nil, errno
		}
		return w.openFile(p, flag, true)
	}
	return nil, p.errno(err)
}

// opened makes a folder's handle.
func (w *world) opened(p place, info fs.FileInfo, flag experimentalsys.Oflag) (experimentalsys.File, experimentalsys.Errno) {
	if flag&(experimentalsys.O_RDWR|experimentalsys.O_WRONLY|experimentalsys.O_TRUNC) != 0 {
		return nil, experimentalsys.EISDIR
	}
	w.open++
	return &openFolder{w: w, p: p, info: info}, 0
}

func (w *world) openFile(p place, flag experimentalsys.Oflag, create bool) (experimentalsys.File, experimentalsys.Errno) {
	f := &openedFile{w: w, p: p, append: flag&experimentalsys.O_APPEND != 0}
	// A program that did not say how it will use a file gets it for reading.
	f.write = flag&(experimentalsys.O_RDWR|experimentalsys.O_WRONLY) != 0
	f.read = flag&experimentalsys.O_WRONLY == 0
	mode := os.O_RDONLY
	if f.write || flag&experimentalsys.O_TRUNC != 0 {
		if !p.m.writable {
			return nil, experimentalsys.EROFS
		}
		mode = os.O_RDWR
	}
	if create {
		mode |= os.O_CREATE
		if !p.m.quota.take(fileCost) {
			return nil, experimentalsys.EIO
		}
	}
	var err error
	f.file, err = p.m.root.OpenFile(p.rel, mode, 0o644)
	if err != nil {
		if create {
			p.m.quota.take(-fileCost)
		}
		return nil, p.errno(err)
	}
	info, err := f.file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		_ = f.file.Close()
		return nil, experimentalsys.EACCES
	}
	f.node = w.node(p.m, info)
	w.open++
	if flag&experimentalsys.O_TRUNC != 0 {
		if errno := f.truncate(0); errno != 0 {
			_ = f.Close()
			return nil, errno
		}
	}
	return f, 0
}

// node finds a file among those that are open, or adds it.
func (w *world) node(m *mount, info fs.FileInfo) *node {
	for _, n := range w.nodes {
		if n.m == m && os.SameFile(n.info, info) {
			n.count++
			return n
		}
	}
	n := &node{m: m, info: info, size: info.Size(), count: 1}
	w.nodes = append(w.nodes, n)
	return n
}

// offset has a name of its own because vet takes a Seek of an int64 for io.Seeker's.
type offset = int64

// openedFile is a handle of a plain file.
type openedFile struct {
	experimentalsys.UnimplementedFile

	w      *world
	p      place
	file   *os.File
	node   *node
	pos    int64
	read   bool
	write  bool
	append bool
	closed bool
}

// Dev implements sys.File.
func (f *openedFile) Dev() (uint64, experimentalsys.Errno) { return 1, 0 }

// Ino implements sys.File.
func (f *openedFile) Ino() (sys.Inode, experimentalsys.Errno) { return number(f.p.name), 0 }

// IsDir implements sys.File.
func (f *openedFile) IsDir() (bool, experimentalsys.Errno) { return false, 0 }

// IsAppend implements sys.File.
func (f *openedFile) IsAppend() bool { return f.append }

// SetAppend implements sys.File.
func (f *openedFile) SetAppend(enable bool) experimentalsys.Errno {
	f.append = enable
	return 0
}

// Stat implements sys.File.
func (f *openedFile) Stat() (sys.Stat_t, experimentalsys.Errno) {
	if f.closed {
		return sys.Stat_t{}, experimentalsys.EBADF
	}
	info, err := f.file.Stat()
	if err != nil {
		return sys.Stat_t{}, experimentalsys.EIO
	}
	return f.w.stat(f.p.name, info), 0
}

// Read implements sys.File.
func (f *openedFile) Read(buf []byte) (int, experimentalsys.Errno) {
	n, errno := f.Pread(buf, f.pos)
	f.pos += int64(n)
	return n, errno
}

// Pread implements sys.File.
func (f *openedFile) Pread(buf []byte, off int64) (int, experimentalsys.Errno) {
	switch {
	case f.closed || !f.read:
		return 0, experimentalsys.EBADF
	case off < 0:
		return 0, experimentalsys.EINVAL
	case len(buf) == 0:
		return 0, 0
	}
	n, err := f.file.ReadAt(buf, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, experimentalsys.EIO
	}
	return n, 0
}

// Write implements sys.File.
func (f *openedFile) Write(buf []byte) (int, experimentalsys.Errno) {
	if f.append {
		f.pos = f.node.size
	}
	n, errno := f.Pwrite(buf, f.pos)
	f.pos += int64(n)
	return n, errno
}

// Pwrite implements sys.File.
func (f *openedFile) Pwrite(buf []byte, off int64) (int, experimentalsys.Errno) {
	switch {
	case f.closed || !f.write:
		return 0, experimentalsys.EBADF
	case off < 0 || off > math.MaxInt64-int64(len(buf)):
		return 0, experimentalsys.EINVAL
	case len(buf) == 0:
		return 0, 0
	}
	before := f.node.size
	if end := off + int64(len(buf)); end > before && !f.node.resize(end) {
		return 0, experimentalsys.EIO
	}
	n, err := f.file.WriteAt(buf, off)
	if err != nil {
		f.node.resize(max(before, off+int64(n)))
		return n, f.failed(err)
	}
	return n, 0
}

// Truncate implements sys.File. It may make a file longer: of what it does not hold, the
// whole length counts.
func (f *openedFile) Truncate(size int64) experimentalsys.Errno {
	switch {
	case f.closed || !f.write:
		return experimentalsys.EBADF
	case size < 0:
		return experimentalsys.EINVAL
	}
	return f.truncate(size)
}

func (f *openedFile) truncate(size int64) experimentalsys.Errno {
	before := f.node.size
	if !f.node.resize(size) {
		return experimentalsys.EIO
	}
	if err := f.file.Truncate(size); err != nil {
		f.node.resize(before)
		return f.failed(err)
	}
	return 0
}

func (f *openedFile) failed(err error) experimentalsys.Errno {
	if errors.Is(err, syscall.EINVAL) {
		return experimentalsys.EINVAL
	}
	return experimentalsys.EIO
}

// Seek implements sys.File.
func (f *openedFile) Seek(offset offset, whence int) (int64, experimentalsys.Errno) {
	if f.closed {
		return 0, experimentalsys.EBADF
	}
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += f.pos
	case io.SeekEnd:
		offset += f.node.size
	default:
		return 0, experimentalsys.EINVAL
	}
	if offset < 0 {
		return 0, experimentalsys.EINVAL
	}
	f.pos = offset
	return offset, 0
}

// Readdir implements sys.File.
func (f *openedFile) Readdir(int) ([]experimentalsys.Dirent, experimentalsys.Errno) {
	return nil, experimentalsys.EBADF
}

// Utimens implements sys.File.
func (f *openedFile) Utimens(atim, mtim int64) experimentalsys.Errno {
	if f.closed {
		return experimentalsys.EBADF
	}
	return f.w.Utimens(f.p.name, atim, mtim)
}

// Close implements sys.File.
func (f *openedFile) Close() experimentalsys.Errno {
	if f.closed {
		return 0
	}
	f.closed = true
	f.w.open--
	err := f.file.Close()
	if f.node.count--; f.node.count == 0 {
		f.w.nodes = slices.DeleteFunc(f.w.nodes, func(n *node) bool { return n == f.node })
		if f.node.gone {
			f.node.m.quota.take(-cost(f.node.size))
		}
	}
	if err != nil {
		return experimentalsys.EIO
	}
	return 0
}

// openFolder is a handle of a folder.
type openFolder struct {
	experimentalsys.DirFile

	w      *world
	p      place
	info   fs.FileInfo // nil: a folder above mounts
	list   []experimentalsys.Dirent
	read   bool
	closed bool
}

// Dev implements sys.File.
func (d *openFolder) Dev() (uint64, experimentalsys.Errno) { return 1, 0 }

// Ino implements sys.File.
func (d *openFolder) Ino() (sys.Inode, experimentalsys.Errno) { return number(d.p.name), 0 }

// Stat implements sys.File.
func (d *openFolder) Stat() (sys.Stat_t, experimentalsys.Errno) {
	if d.closed {
		return sys.Stat_t{}, experimentalsys.EBADF
	}
	if d.info == nil {
		return d.w.folderStat(d.p.name), 0
	}
	return d.w.stat(d.p.name, d.info), 0
}

// Seek implements sys.File: back to the start.
func (d *openFolder) Seek(offset offset, whence int) (int64, experimentalsys.Errno) {
	if offset != 0 || whence != io.SeekStart {
		return 0, experimentalsys.EINVAL
	}
	d.list, d.read = nil, false
	return 0, 0
}

// Readdir implements sys.File.
func (d *openFolder) Readdir(n int) ([]experimentalsys.Dirent, experimentalsys.Errno) {
	if d.closed {
		return nil, experimentalsys.EBADF
	}
	if !d.read {
		if errno := d.load(); errno != 0 {
			return nil, errno
		}
	}
	if n <= 0 || n > len(d.list) {
		n = len(d.list)
	}
	var out []experimentalsys.Dirent
	out, d.list = d.list[:n:n], d.list[n:]
	return out, 0
}

func (d *openFolder) load() experimentalsys.Errno {
	add := func(name string, kind fs.FileMode) {
		d.list = append(d.list, experimentalsys.Dirent{Name: name, Type: kind, Ino: number(path.Join(d.p.name, name))})
	}
	if d.p.m != nil {
		list, err := readFolder(d.p)
		if err != nil {
			return d.p.errno(err)
		}
		for _, e := range list {
			add(e.Name(), e.Type())
		}
	} else {
		for _, name := range d.w.names(d.p.name) {
			kind := fs.ModeDir
			if p, _ := d.w.at(path.Join(d.p.name, name)); p.m != nil && p.m.file != "" {
				kind = 0
			}
			add(name, kind)
		}
	}
	d.read = true
	return 0
}

// Sync implements sys.File.
func (d *openFolder) Sync() experimentalsys.Errno { return 0 }

// Datasync implements sys.File.
func (d *openFolder) Datasync() experimentalsys.Errno { return 0 }

// Utimens implements sys.File.
func (d *openFolder) Utimens(atim, mtim int64) experimentalsys.Errno {
	return d.w.Utimens(d.p.name, atim, mtim)
}

// Close implements sys.File.
func (d *openFolder) Close() experimentalsys.Errno {
	if !d.closed {
		d.closed = true
		d.w.open--
	}
	return 0
}
