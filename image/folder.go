package image

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// writeFolder writes a root file system as a layer: owned by nobody in particular, sorted,
// so that equal folders give equal bytes. Times of files are kept, which Python's compiled
// files depend on. Devices, pipes and sockets are left out.
func writeFolder(dir string, w io.Writer) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	t := tar.NewWriter(w)
	p := &packer{root: root, t: t, first: map[inode]string{}}
	if err := fs.WalkDir(root.FS(), ".", p.visit); err != nil {
		return err
	}
	if p.files == 0 {
		return refuse("there is no file in it")
	}
	return t.Close()
}

type packer struct {
	root  *os.Root
	t     *tar.Writer
	first map[inode]string // names of files that have several
	files int
}

func (p *packer) visit(name string, d fs.DirEntry, err error) error {
	if err != nil || name == "." {
		return err
	}
	if _, base := split(name); strings.HasPrefix(base, whiteoutPrefix) {
		return &Refused{Name: name, Reason: "would remove a file when the image is unpacked; give it another name"}
	}
	info, err := p.root.Lstat(name)
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	switch {
	case info.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return p.t.WriteHeader(h)
	case info.Mode()&fs.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = p.root.Readlink(name); err != nil {
			return err
		}
		return p.t.WriteHeader(h)
	case info.Mode().IsRegular():
		return p.file(name, info, h)
	}
	return nil
}

func (p *packer) file(name string, info fs.FileInfo, h *tar.Header) error {
	p.files++
	if id, several := inodeOf(info); several {
		if to, ok := p.first[id]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, to
			return p.t.WriteHeader(h)
		}
		p.first[id] = name
	}
	h.Typeflag, h.Size, h.ModTime = tar.TypeReg, info.Size(), time.Unix(moment(info.ModTime()), 0)
	if info.Mode()&0o111 == 0 {
		h.Mode = 0o644
	}
	if err := p.t.WriteHeader(h); err != nil {
		return err
	}
	f, err := p.root.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	n, err := io.Copy(p.t, f)
	if err == nil && n != info.Size() {
		err = fmt.Errorf("%s changed while it was read", name)
	}
	return err
}
