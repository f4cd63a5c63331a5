package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"github.com/spare-compute/spare"
)

// maxWindow is the most memory that a layer compressed with zstd may ask for; the tools
// stay below it unless told otherwise.
const maxWindow = 64 << 20

const (
	block       = 4096 // bytes; what the smallest file or folder takes on a disk
	reserveStep = 16 << 20
	copyBuffer  = 256 << 10
)

// unpacker lays one layer out in a folder that is empty and that nobody else writes to.
type unpacker struct {
	ctx context.Context
	lim Limits
	meter
	root  *os.Root
	tree  *node
	marks []entry
	buf   []byte

	dir     string   // the folder that in is
	in      *os.Root // kept open: archives list a folder's files together
	packed  int64    // bytes read
	plain   int64    // bytes of the tar so far
	entries int      // of the archive, what was replaced or skipped too
	words   int      // bytes of names and of links' targets
	skipped int
}

// unpack lays out the layer that r gives, compressed or not, and returns what it holds.
// The record's ID is the digest of the uncompressed tar, which the caller compares.
func unpack(ctx context.Context, r io.Reader, dir string, lim Limits, reserve func(int64) error) (record, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return record{}, err
	}
	u := &unpacker{
		ctx: ctx, lim: lim, meter: meter{what: "a layer", most: lim.Bytes, step: reserveStep, reserve: reserve},
		root: root, tree: newTree(), buf: make([]byte, copyBuffer),
	}
	defer func() {
		u.closeDir()
		_ = root.Close()
	}()
	diffID, err := u.layer(r)
	if err != nil {
		return record{}, err
	}
	rec := record{head: head{ID: diffID, Bytes: u.bytes, Skipped: u.skipped}, entries: u.marks}
	for n := range u.tree.all() {
		rec.entries = append(rec.entries, n.entry)
	}
	return rec, nil
}

// layer reads the archive to its very end, which its digest is of.
func (u *unpacker) layer(r io.Reader) (spare.Digest, error) {
	plain, stop, err := decompress(counted{u, r})
	if err != nil {
		return "", err
	}
	defer stop()
	sum := sha256.New()
	whole := &plainTar{u: u, r: plain, sum: sum}
	t := tar.NewReader(whole)
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = u.entry(h, t)
		}
		if err != nil {
			return "", u.explain(err)
		}
	}
	if _, err := io.CopyBuffer(io.Discard, whole, u.buf); err != nil {
		return "", u.explain(err)
	}
	return digestOf(sum.Sum(nil)), nil
}

// explain makes an archive's errors the image's fault; a caller's own stay what they are.
func (u *unpacker) explain(err error) error {
	var refused *Refused
	var disk *os.PathError
	var link *os.LinkError
	switch {
	case u.ctx.Err() != nil:
		return context.Cause(u.ctx)
	case errors.As(err, &refused), errors.As(err, &disk), errors.As(err, &link), errors.Is(err, ErrFull):
		return err
	}
	return refuse("a layer is no whole tar archive (%v)", err)
}

// entry takes one entry of the archive.
func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	if u.entries++; u.entries > u.lim.Entries {
		return refuse("a layer holds more than %d files", u.lim.Entries)
	}
	name, err := clean(h.Name)
	if errors.Is(err, errRoot) {
		if h.Typeflag == tar.TypeDir {
			return nil
		}
		return &Refused{Name: h.Name, Reason: "is the root and no folder"}
	}
	if err != nil {
		return err
	}
	m, is, skip, err := mark(name)
	switch {
	case err != nil:
		return err
	case skip:
		u.skipped++
		return nil
	case is:
		u.marks = append(u.marks, m)
		return u.say(m.name)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.folder(name)
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.file(name, h, content)
	case tar.TypeSymlink:
		return u.symlink(name, h.Linkname)
	case tar.TypeLink:
		return u.link(name, h.Linkname)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		// A program inside gets a /dev of its own; nothing else of these is of use there.
		u.skipped++
		return nil
	case tar.TypeXGlobalHeader:
		return nil
	}
	return &Refused{Name: h.Name, Reason: fmt.Sprintf("is of the unknown kind %q", h.Typeflag)}
}

// say counts what a record has to hold of an entry besides numbers: all records of an
// image are in memory at once.
func (u *unpacker) say(text string) error {
	if u.words += len(text); u.words > u.lim.Names {
		return refuse("a layer's names and links have more than %d KiB", u.lim.Names>>10)
	}
	return nil
}

// folderOf makes the folders above a name, and refuses to go through anything else: a
// link above all. Where a link or file of a layer below stands in their place, the
// folder takes it when layers are joined.
func (u *unpacker) folderOf(name string) error {
	dir, _ := split(name)
	if dir == "" {
		return nil
	}
	n := u.tree
	for i := 0; i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		above := dir[:i]
		_, base := split(above)
		child := n.children[base]
		switch {
		case child == nil:
			if err := u.makeFolder(above); err != nil {
				return err
			}
			child = n.children[base]
		case child.kind != folder:
			return &Refused{Name: name, Reason: "lies behind a link or a file"}
		}
		n = child
	}
	return nil
}

func (u *unpacker) makeFolder(name string) error {
	if err := errors.Join(u.count(name), u.take(block)); err != nil {
		return err
	}
	if err := u.root.Mkdir(name, 0o755); err != nil {
		return err
	}
	if err := u.root.Chmod(name, 0o755); err != nil { // whatever the umask is
		return err
	}
	u.tree.put(&node{entry: entry{name: name, kind: folder}})
	return nil
}

func (u *unpacker) folder(name string) error {
	if err := u.folderOf(name); err != nil {
		return err
	}
	if have := u.tree.find(name); have != nil {
		if have.kind == folder {
			return nil
		}
		if err := u.remove(name); err != nil {
			return err
		}
	}
	return u.makeFolder(name)
}

// remove makes room for a later entry of the same name.
func (u *unpacker) remove(name string) error {
	u.closeDir()
	u.tree.drop(name)
	return u.root.RemoveAll(name)
}

// place makes a name free, in a folder that is there.
func (u *unpacker) place(name string) error {
	if err := u.folderOf(name); err != nil {
		return err
	}
	if u.tree.find(name) != nil {
		return u.remove(name)
	}
	return nil
}

// open is the folder of a name, and the name in it.
func (u *unpacker) open(name string) (*os.Root, string, error) {
	dir, base := split(name)
	if dir == "" {
		return u.root, base, nil
	}
	if u.in == nil || u.dir != dir {
		u.closeDir()
		in, err := u.root.OpenRoot(dir)
		if err != nil {
			return nil, "", err
		}
		u.in, u.dir = in, dir
	}
	return u.in, base, nil
}

func (u *unpacker) closeDir() {
	if u.in != nil {
		_ = u.in.Close()
		u.in = nil
	}
}

// begin makes room for something new, and opens the folder that it goes into.
func (u *unpacker) begin(name string) (in *os.Root, base string, err error) {
	if err := u.place(name); err != nil {
		return nil, "", err
	}
	if err := errors.Join(u.say(name), u.take(block)); err != nil {
		return nil, "", err
	}
	return u.open(name)
}

func (u *unpacker) file(name string, h *tar.Header, content io.Reader) error {
	in, base, err := u.begin(name)
	if err != nil {
		return err
	}
	f, err := in.OpenFile(base, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	e := entry{name: name, kind: file, exec: h.Mode&0o111 != 0, mtime: moment(h.ModTime)}
	sum := sha256.New()
	e.size, err = u.copy(f, sum, content)
	mode := os.FileMode(0o644)
	if e.exec {
		mode = 0o755
	}
	if err := errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	when := time.Unix(e.mtime, 0)
	if err := in.Chtimes(base, when, when); err != nil {
		return err
	}
	copy(e.sum[:], sum.Sum(nil))
	u.tree.put(&node{entry: e})
	return nil
}

// copy writes a file's content, which may be longer than what the archive holds of it.
func (u *unpacker) copy(f *os.File, sum hash.Hash, content io.Reader) (size int64, err error) {
	for {
		n, err := content.Read(u.buf)
		if n > 0 {
			if more := roundUp(size+int64(n)) - max(block, roundUp(size)); more > 0 {
				if err := u.take(more); err != nil {
					return size, err
				}
			}
			if err := u.bomb(u.bytes); err != nil {
				return size, err
			}
			if _, err := f.Write(u.buf[:n]); err != nil {
				return size, err
			}
			sum.Write(u.buf[:n])
			size += int64(n)
		}
		if err == io.EOF {
			return size, nil
		}
		if err != nil {
			return size, err
		}
	}
}

func roundUp(n int64) int64 { return (n + block - 1) / block * block }

func (u *unpacker) symlink(name, to string) error {
	switch {
	case to == "" || len(to) > maxName:
		return &Refused{Name: name, Reason: "is a link with too short or too long a target"}
	case bytes.ContainsRune([]byte(to), 0):
		return &Refused{Name: name, Reason: "is a link whose target holds a zero byte"}
	}
	if err := u.say(to); err != nil {
		return err
	}
	in, base, err := u.begin(name)
	if err != nil {
		return err
	}
	if err := in.Symlink(to, base); err != nil { // as it is: nothing here ever follows it
		return err
	}
	u.tree.put(&node{entry: entry{name: name, kind: symlink, to: to}})
	return nil
}

// link makes a hard link to a file of this layer, or notes one to a file of a layer
// below.
func (u *unpacker) link(name, to string) error {
	target, err := clean(to)
	if err != nil {
		return &Refused{Name: name, Reason: fmt.Sprintf("is a hard link to %.200q, which is no file of an image", to)}
	}
	if target == name {
		return &Refused{Name: name, Reason: "is a hard link to itself"}
	}
	if err := u.place(name); err != nil {
		return err
	}
	have := u.tree.find(target)
	if have == nil || have.kind == file || have.kind == lower {
		if err := errors.Join(u.say(name), u.say(target)); err != nil {
			return err
		}
	}
	switch {
	case have == nil:
		u.tree.put(&node{entry: entry{name: name, kind: lower, to: target}})
		return nil
	case have.kind == folder:
		return &Refused{Name: name, Reason: "is a hard link to a folder"}
	case have.kind == symlink:
		return u.symlink(name, have.to)
	}
	e := have.entry
	e.name = name
	if have.kind == file {
		if err := u.root.Link(target, name); cannotLink(err) {
			return u.copyOf(target, name, e, err)
		} else if err != nil {
			return err
		}
	}
	u.tree.put(&node{entry: e})
	return nil
}

// copyOf stands in for a hard link that the file system refuses: there are too many to
// one file already, or it has none.
func (u *unpacker) copyOf(target, name string, e entry, why error) error {
	f, err := u.root.Open(target)
	if err != nil {
		return errors.Join(why, err)
	}
	defer func() { _ = f.Close() }()
	h := &tar.Header{ModTime: time.Unix(e.mtime, 0)}
	if e.exec {
		h.Mode = 0o111
	}
	return u.file(name, h, f)
}
