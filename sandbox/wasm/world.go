package wasm

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	experimentalsys "github.com/tetratelabs/wazero/experimental/sys"
	"github.com/tetratelabs/wazero/sys"

	"github.com/spare-compute/spare/sandbox"
)

// world is all that a program sees of files: one tree, with the mounts and /tmp hung into
// it and nothing else. Every path of the program's ends in an os.Root, so no link leads
// out of its mount. It makes no links itself, and what it tells of a file (numbers,
// order, errors) does not depend on the system it is kept on; of a deterministic run,
// times neither. It has no descriptor of a folder: it opens one each time it reads it.
type world struct {
	experimentalsys.UnimplementedFS

	mounts  []*mount                       // innermost first
	folders map[string]map[string]struct{} // the folders above the mounts, "" the root, and what is in them
	overlay string                         // where a path leads that begins in none of them; "" = nowhere
	fixed   bool                           // times are all the same

	disk  *quota
	nodes []*node // files that are open
	open  int     // handles, folders included
	most  int
}

// mount is a folder or a file of the host in the world.
type mount struct {
	inner    string // without the slash in front
	root     *os.Root
	file     string // the file in root, if it is one; root is its folder
	writable bool
	quota    *quota
}

// newWorld opens all mounts. killed is called when the program has used up its disk.
func newWorld(o orders, killed func(sandbox.Cause)) (*world, error) {
	w := &world{
		folders: map[string]map[string]struct{}{"": {}}, fixed: o.Deterministic, most: o.Files,
		disk: &quota{limit: o.Disk, over: func() { killed(sandbox.KilledDisk) }},
	}
	tmp := &quota{limit: o.TmpSize}
	for _, f := range append(slices.Clone(o.Mounts), folder{Host: raw(o.Tmp), Inner: "/tmp", Writable: true}) {
		m, err := openMount(f)
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", f.Inner, err)
		}
		m.quota = w.disk
		if f.Inner == "/tmp" {
			m.quota = tmp
		}
		w.mounts = append(w.mounts, m)
		w.hang(m.inner)
	}
	// A module's own mounts come before what they lie in: CPython's library in /usr.
	slices.SortStableFunc(w.mounts, func(a, b *mount) int { return cmp.Compare(len(b.inner), len(a.inner)) })
	if o.Overlay {
		w.overlay = strings.TrimPrefix(path.Clean(string(o.Dir)), "/")
	}
	return w, nil
}

func openMount(f folder) (*mount, error) {
	m := &mount{inner: strings.TrimPrefix(string(f.Inner), "/"), writable: f.Writable}
	host := string(f.Host)
	info, err := os.Stat(host)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return nil, errors.New("it is neither a folder nor a plain file")
	}
	if !info.IsDir() {
		// The mount is this file, wherever it lies: a link to it is the caller's wish.
		if host, err = filepath.EvalSymlinks(host); err != nil {
			return nil, err
		}
		m.file = filepath.Base(host)
		host = filepath.Dir(host)
	}
	m.root, err = os.OpenRoot(host)
	return m, err
}

// hang puts the folders above a mount into the world.
func (w *world) hang(inner string) {
	for inner != "" {
		above := parent(inner)
		if w.folders[above] == nil {
			w.folders[above] = map[string]struct{}{}
		}
		w.folders[above][path.Base(inner)] = struct{}{}
		inner = above
	}
}

func parent(name string) string {
	if dir := path.Dir(name); dir != "." {
		return dir
	}
	return ""
}

// place is where a path leads: into a mount, or to a folder above mounts.
type place struct {
	name string // the whole path, clean, without the slash in front
	m    *mount // nil: a folder above mounts
	rel  string // in m.root, as the system writes it
}

// find resolves a path.
func (w *world) find(name string) (place, experimentalsys.Errno) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if p, ok := w.at(name); ok {
		return p, w.enters(p)
	}
	if first, _, _ := strings.Cut(name, "/"); w.overlay != "" && w.folders[first] == nil {
		if p, ok := w.at(path.Join(w.overlay, name)); ok {
			return p, w.enters(p)
		}
	}
	return place{}, experimentalsys.ENOENT
}

func (w *world) at(name string) (place, bool) {
	if w.folders[name] != nil {
		return place{name: name}, true
	}
	for _, m := range w.mounts {
		if !within(name, m.inner) {
			continue
		}
		rel := strings.TrimPrefix(name[len(m.inner):], "/")
		p := place{name: name, m: m, rel: filepath.FromSlash(cmp.Or(rel, "."))}
		if m.file != "" {
			p.rel = m.file
			if rel != "" {
				p.rel = ""
			}
		}
		return p, true
	}
	return place{}, false
}

// enters refuses names that cannot be, the same ones on every system.
func (w *world) enters(p place) experimentalsys.Errno {
	switch {
	case p.m == nil:
		return 0
	case p.rel == "":
		return experimentalsys.ENOTDIR
	case !portable(p.name):
		return experimentalsys.EINVAL
	}
	return 0
}

// top reports whether a place is not the program's to make or to remove: a mount itself,
// or a folder above one.
func (p place) top() bool { return p.m == nil || p.rel == "." || p.m.file != "" }

// changes refuses to change what is not in a writable folder.
func (p place) changes() experimentalsys.Errno {
	switch {
	case p.m != nil && !p.m.writable:
		return experimentalsys.EROFS
	case p.top():
		return experimentalsys.EACCES
	}
	return 0
}

// changedTime is the time of every file in a deterministic run.
var changedTime = clockStart.UnixNano()

// folderBytes is what a folder's size is said to be.
const folderBytes = 4096

// stat describes a place. Only its kind, size and times are the host's.
func (w *world) stat(name string, info fs.FileInfo) sys.Stat_t {
	st := sys.Stat_t{Dev: 1, Ino: number(name), Nlink: 1, Mode: info.Mode().Type() | 0o600, Size: info.Size()}
	if info.IsDir() {
		st.Size, st.Mode = folderBytes, fs.ModeDir|0o700
	}
	t := changedTime
	if !w.fixed {
		t = info.ModTime().UnixNano()
	}
	st.Atim, st.Mtim, st.Ctim = t, t, t
	return st
}

// folderStat describes a folder above mounts.
func (w *world) folderStat(name string) sys.Stat_t {
	return sys.Stat_t{
		Dev: 1, Ino: number(name), Nlink: 1, Mode: fs.ModeDir | 0o500, Size: folderBytes,
		Atim: changedTime, Mtim: changedTime, Ctim: changedTime,
	}
}

// number stands in for an inode's: of one path it is always the same.
func number(name string) uint64 {
	sum := fnv.New64a()
	_, _ = sum.Write([]byte("/" + name))
	return max(sum.Sum64(), 1)
}

// Lstat implements sys.FS.
func (w *world) Lstat(name string) (sys.Stat_t, experimentalsys.Errno) {
	return w.look(name, (*os.Root).Lstat)
}

// Stat implements sys.FS.
func (w *world) Stat(name string) (sys.Stat_t, experimentalsys.Errno) {
	return w.look(name, (*os.Root).Stat)
}

func (w *world) look(name string, with func(*os.Root, string) (fs.FileInfo, error)) (sys.Stat_t, experimentalsys.Errno) {
	p, errno := w.find(name)
	if errno != 0 {
		return sys.Stat_t{}, errno
	}
	if p.m == nil {
		return w.folderStat(p.name), 0
	}
	info, err := with(p.m.root, p.rel)
	if err != nil {
		return sys.Stat_t{}, p.errno(err)
	}
	if strings.HasSuffix(name, "/") && !info.IsDir() {
		return sys.Stat_t{}, experimentalsys.ENOTDIR
	}
	return w.stat(p.name, info), 0
}

// Readlink implements sys.FS: links that lie in a mount may be looked at.
func (w *world) Readlink(name string) (string, experimentalsys.Errno) {
	p, errno := w.find(name)
	if errno != 0 {
		return "", errno
	}
	if p.m == nil {
		return "", experimentalsys.EINVAL
	}
	info, err := p.m.root.Lstat(p.rel)
	if err != nil {
		return "", p.errno(err)
	}
	if info.Mode().Type() != fs.ModeSymlink {
		return "", experimentalsys.EINVAL
	}
	to, err := p.m.root.Readlink(p.rel)
	return filepath.ToSlash(to), p.errno(err)
}

// Symlink implements sys.FS: there are none. Results may not hold links, and Windows has
// none for everybody.
func (w *world) Symlink(string, string) experimentalsys.Errno { return experimentalsys.EPERM }

// Link implements sys.FS: nor are there hard ones.
func (w *world) Link(string, string) experimentalsys.Errno { return experimentalsys.EPERM }

// Chmod implements sys.FS. WASI has no function for it.
func (w *world) Chmod(string, fs.FileMode) experimentalsys.Errno { return experimentalsys.EPERM }

// Mkdir implements sys.FS.
func (w *world) Mkdir(name string, _ fs.FileMode) experimentalsys.Errno {
	p, errno := w.find(name)
	if errno != 0 {
		return errno
	}
	if p.m == nil {
		return experimentalsys.EEXIST
	}
	if _, err := p.m.root.Lstat(p.rel); err == nil {
		return experimentalsys.EEXIST
	}
	if errno := p.changes(); errno != 0 {
		return errno
	}
	if !p.m.quota.take(fileCost) {
		return experimentalsys.EIO
	}
	if err := p.m.root.Mkdir(p.rel, 0o755); err != nil {
		p.m.quota.take(-fileCost)
		return p.errno(err)
	}
	return 0
}

// Rmdir implements sys.FS.
func (w *world) Rmdir(name string) experimentalsys.Errno {
	p, info, errno := w.existing(name)
	if errno != 0 {
		return errno
	}
	if !info.IsDir() {
		return experimentalsys.ENOTDIR
	}
	if list, err := readFolder(p); err != nil || len(list) > 0 {
		return experimentalsys.ENOTEMPTY
	}
	if err := p.m.root.Remove(p.rel); err != nil {
		return p.errno(err)
	}
	p.m.quota.take(-fileCost)
	return 0
}

// Unlink implements sys.FS.
func (w *world) Unlink(name string) experimentalsys.Errno {
	p, info, errno := w.existing(name)
	if errno != 0 {
		return errno
	}
	if info.IsDir() {
		return experimentalsys.EISDIR
	}
	if err := p.m.root.Remove(p.rel); err != nil {
		return p.errno(err)
	}
	w.removed(p.m, info)
	return 0
}

// existing finds what may be removed or renamed.
func (w *world) existing(name string) (place, fs.FileInfo, experimentalsys.Errno) {
	p, errno := w.find(name)
	if errno != 0 {
		return p, nil, errno
	}
	if p.m == nil {
		return p, nil, experimentalsys.EACCES
	}
	info, err := p.m.root.Lstat(p.rel)
	if err != nil {
		return p, nil, p.errno(err)
	}
	return p, info, p.changes()
}

// removed gives back what a file took, once nobody has it open any more.
func (w *world) removed(m *mount, info fs.FileInfo) {
	for _, n := range w.nodes {
		if os.SameFile(n.info, info) {
			n.gone = true
			return
		}
	}
	m.quota.take(-cost(info.Size()))
}

// Rename implements sys.FS, within one mount; from one to another a program must copy.
func (w *world) Rename(from, to string) experimentalsys.Errno {
	p, info, errno := w.existing(from)
	if errno != 0 {
		return errno
	}
	q, errno := w.find(to)
	if errno != 0 {
		return errno
	}
	if q.m != p.m {
		return experimentalsys.ENOTSUP
	}
	if errno := q.changes(); errno != 0 {
		return errno
	}
	if p.name == q.name {
		return 0
	}
	if within(q.name, p.name) {
		return experimentalsys.EINVAL
	}
	old, err := q.m.root.Lstat(q.rel)
	// A file system that does not tell upper from lower case finds the file itself under
	// its new name, and so do hard links: then nothing goes.
	replaces := err == nil && !os.SameFile(info, old)
	switch {
	case replaces && old.IsDir() && !info.IsDir():
		return experimentalsys.EISDIR
	case replaces && !old.IsDir() && info.IsDir():
		return experimentalsys.ENOTDIR
	case replaces && old.IsDir(): // Windows replaces no folder, not even an empty one
		if errno := w.Rmdir(to); errno != 0 {
			return errno
		}
		replaces = false
	}
	if err := p.m.root.Rename(p.rel, q.rel); err != nil {
		return q.errno(err)
	}
	if replaces {
		w.removed(q.m, old)
	}
	return 0
}

// Utimens implements sys.FS.
func (w *world) Utimens(name string, atim, mtim int64) experimentalsys.Errno {
	p, errno := w.find(name)
	if errno != 0 {
		return errno
	}
	if p.m == nil || !p.m.writable {
		return experimentalsys.EROFS
	}
	info, err := p.m.root.Stat(p.rel)
	if err != nil {
		return p.errno(err)
	}
	if w.fixed {
		return 0
	}
	return p.errno(p.m.root.Chtimes(p.rel, moment(atim, info), moment(mtim, info)))
}

func moment(ns int64, info fs.FileInfo) time.Time {
	if ns == experimentalsys.UTIME_OMIT {
		return info.ModTime()
	}
	return time.Unix(0, ns)
}

// names lists a folder above mounts, sorted.
func (w *world) names(name string) []string {
	return slices.Sorted(maps.Keys(w.folders[name]))
}

// readFolder lists a folder in a mount, sorted.
func readFolder(p place) ([]fs.DirEntry, error) {
	f, err := p.m.root.Open(p.rel)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := f.ReadDir(-1)
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return list, err
}
