package bundle

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// maxWindow is the most memory a zstd archive may ask for. The zstd tool stays below it
// unless told to use --long.
const maxWindow = 64 << 20

// Unpack puts an archive's files into dir, which must be empty or missing. The archive
// is a tar, plain or compressed with gzip or zstd, or a zip; a zip that is not a file or
// in memory is first written to a temporary one. An archive that breaks the rules gives
// a Refused error, and one that does not fit the room of Within gives ErrNoRoom. On any
// error dir is as it was.
func Unpack(ctx context.Context, r io.Reader, dir string, lim Limits) error {
	made, err := emptyFolder(dir)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	u := &unpacker{ctx: ctx, root: root, names: newNames(lim.withDefaults()), lim: lim.withDefaults(), room: room(ctx)}
	err = u.unpack(r)
	if err != nil {
		err = errors.Join(fmt.Errorf("unpack the archive: %w", err), u.clear())
	}
	err = errors.Join(err, root.Close())
	if err != nil && made {
		err = errors.Join(err, os.Remove(dir))
	}
	return err
}

// emptyFolder makes dir, or checks that nothing is in it.
func emptyFolder(dir string) (made bool, err error) {
	err = os.Mkdir(dir, 0o755)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Readdirnames(1); err == nil {
		return false, fmt.Errorf("unpack into %s: it is not empty", dir)
	} else if !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("unpack into %s: %w", dir, err)
	}
	return false, nil
}

// unpacker is one Unpack on its way.
type unpacker struct {
	ctx     context.Context
	root    *os.Root
	names   *names
	lim     Limits
	packed  int64 // bytes read so far
	written int64 // bytes of files so far
	room    int64 // bytes of the disk left
	buf     []byte
}

// Read counts what is read of a source.
type counted struct {
	u *unpacker
	r io.Reader
}

func (c counted) Read(p []byte) (int, error) {
	n, err := contextReader{c.u.ctx, c.r}.Read(p)
	c.u.packed += int64(n)
	return n, err
}

// magics tell archives by their first bytes.
var magics = []struct{ bytes, form string }{
	{"\x1f\x8b", "gzip"},
	{"\x28\xb5\x2f\xfd", "zstd"},
	{"PK\x03\x04", "zip"},
	{"PK\x05\x06", "zip"}, // with nothing in it
	{"\xfd7zXZ\x00", "xz"},
	{"BZh", "bzip2"},
	{"7z\xbc\xaf", "7z"},
	{"Rar!", "rar"},
}

func formOf(head []byte) string {
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.bytes)) {
			return m.form
		}
	}
	const magicAt = 257
	if len(head) > magicAt+5 && string(head[magicAt:magicAt+5]) == "ustar" {
		return "tar"
	}
	if len(head) >= 512 && len(bytes.TrimLeft(head[:512], "\x00")) == 0 {
		return "tar" // the end of a tar with nothing in it
	}
	return ""
}

func (u *unpacker) unpack(r io.Reader) error {
	if at, ok := r.(io.ReaderAt); ok {
		if seeker, ok := r.(io.Seeker); ok {
			return u.sized(r, at, seeker)
		}
	}
	in := bufio.NewReaderSize(counted{u, r}, 64<<10)
	head, err := in.Peek(512)
	if len(head) == 0 && errors.Is(err, io.EOF) {
		return &Refused{Reason: "the archive is empty"}
	}
	if form := formOf(head); form != "zip" {
		return u.stream(form, in)
	}
	return u.spooled(in)
}

// sized unpacks from a file or memory, of which a zip can be read as it is.
func (u *unpacker) sized(r io.Reader, at io.ReaderAt, seeker io.Seeker) error {
	start, err := seeker.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	head := make([]byte, 512)
	n, err := at.ReadAt(head, start)
	if n == 0 && errors.Is(err, io.EOF) {
		return &Refused{Reason: "the archive is empty"}
	}
	form := formOf(head[:n])
	if form != "zip" {
		return u.stream(form, bufio.NewReaderSize(counted{u, r}, 64<<10))
	}
	end, err := seeker.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	return u.zip(io.NewSectionReader(at, start, end-start), end-start)
}

// spooled writes a zip to a temporary file, since its list of contents is at its end.
func (u *unpacker) spooled(r io.Reader) error {
	f, err := os.CreateTemp("", "spare-zip-*")
	if err != nil {
		return err
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	size, err := io.Copy(f, io.LimitReader(r, u.lim.Bytes+1))
	if err != nil {
		return err
	}
	if size > u.lim.Bytes {
		return tooBig(u.lim)
	}
	return u.zip(f, size)
}

// stream unpacks what can be read from front to back.
func (u *unpacker) stream(form string, in *bufio.Reader) error {
	switch form {
	case "tar":
		return u.tar(in)
	case "gzip":
		z, err := gzip.NewReader(in)
		if err != nil {
			return broken(err)
		}
		return u.tar(z)
	case "zstd":
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxWindow))
		if err != nil {
			return broken(err)
		}
		defer z.Close()
		return u.tar(z)
	case "":
		return &Refused{Reason: "it is no archive that Spare reads: want tar, tar.gz, tar.zst or zip"}
	}
	return &Refused{Reason: fmt.Sprintf("it is a %s archive: want tar, tar.gz, tar.zst or zip", form)}
}

// broken is an error of a decoder: the archive's fault, unless reading it failed.
func broken(err error) error {
	var refused *Refused
	var pathErr *fs.PathError
	switch {
	case errors.As(err, &refused), errors.As(err, &pathErr), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return &Refused{Reason: fmt.Sprintf("it needs more than %d MiB to unpack: pack it without --long", maxWindow>>20)}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &Refused{Reason: "it is cut off"}
	case malformed(err):
		return &Refused{Reason: "it is damaged: " + err.Error()}
	}
	return err
}

func malformed(err error) bool {
	for _, known := range []error{
		tar.ErrHeader, tar.ErrFieldTooLong, gzip.ErrHeader, gzip.ErrChecksum, zip.ErrFormat, zip.ErrAlgorithm, zip.ErrChecksum,
		zstd.ErrMagicMismatch, zstd.ErrCRCMismatch, zstd.ErrReservedBlockType, zstd.ErrCompressedSizeTooBig, zstd.ErrBlockTooSmall,
		zstd.ErrUnexpectedBlockSize, zstd.ErrWindowSizeTooSmall, zstd.ErrUnknownDictionary, zstd.ErrFrameSizeExceeded, zstd.ErrFrameSizeMismatch,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	// The decoders' other complaints have no names.
	for _, prefix := range []string{"archive/tar:", "flate:", "zip:", "gzip:", "zstd:", "corrupt", "invalid", "unexpected"} {
		if strings.HasPrefix(err.Error(), prefix) {
			return true
		}
	}
	return false
}

func (u *unpacker) tar(r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return broken(err)
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader: // a comment, as git writes one
			continue
		case tar.TypeDir:
			err = u.folder(h.Name)
		case tar.TypeReg, tar.TypeGNUSparse:
			if h.Size > u.lim.Bytes-u.written {
				return tooBig(u.lim)
			}
			err = u.file(h.Name, tr, h.Mode&0o111 != 0)
		case tar.TypeLink:
			err = &Refused{Name: h.Name, Reason: "is a hard link; only plain files and folders are allowed"}
		default:
			err = &Refused{Name: h.Name, Reason: "is " + kind(h.FileInfo().Mode().Type())}
		}
		if err != nil {
			return err
		}
	}
}

func (u *unpacker) zip(r io.ReaderAt, size int64) error {
	u.packed = size
	if err := checkDirectory(r, size, u.lim); err != nil {
		return broken(err)
	}
	bounded := &directoryReader{r: r, left: maxDirectory + 2*longestEnd}
	z, err := zip.NewReader(bounded, size)
	if err != nil {
		return broken(err)
	}
	bounded.open = true
	for _, f := range z.File {
		mode := f.Mode()
		switch {
		case f.Flags&1 != 0:
			err = &Refused{Name: f.Name, Reason: "is encrypted"}
		case mode.IsDir() || strings.HasSuffix(f.Name, "/"):
			err = u.folder(f.Name)
		case !mode.IsRegular():
			err = &Refused{Name: f.Name, Reason: "is " + kind(mode.Type())}
		default:
			err = u.zipped(f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) zipped(f *zip.File) error {
	in, err := f.Open()
	if err != nil {
		return broken(err)
	}
	defer func() { _ = in.Close() }()
	return u.file(f.Name, contextReader{u.ctx, in}, f.Mode()&0o111 != 0)
}

func (u *unpacker) folder(name string) error {
	name, err := u.names.add(name, true)
	if err != nil {
		return err
	}
	return u.mkdir(name)
}

func (u *unpacker) mkdir(name string) error {
	if name == "." {
		return nil
	}
	err := u.root.Mkdir(name, 0o755)
	if errors.Is(err, fs.ErrNotExist) {
		if err := u.mkdir(path.Dir(name)); err != nil {
			return err
		}
		err = u.root.Mkdir(name, 0o755)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil // names has seen to it that it is a folder
	case err != nil:
		return err
	}
	return errors.Join(u.take(OnDisk(0)), u.root.Chmod(name, 0o755)) // whatever the umask
}

// take counts what goes onto the disk.
func (u *unpacker) take(bytes int64) error {
	if u.room -= bytes; u.room < 0 {
		return ErrNoRoom
	}
	return nil
}

func (u *unpacker) file(name string, r io.Reader, exec bool) (err error) {
	if name, err = u.names.add(name, false); err != nil {
		return err
	}
	if err := u.mkdir(path.Dir(name)); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if exec {
		mode = 0o755
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return &Refused{Name: name, Reason: "is the same as another name on this system"}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := u.take(OnDisk(0)); err != nil {
		return err
	}
	if err := u.copy(f, r); err != nil {
		return err
	}
	return f.Chmod(mode)
}

// copy writes a file's bytes as they come: what an archive declares of them is no matter.
func (u *unpacker) copy(w io.Writer, r io.Reader) error {
	if u.buf == nil {
		u.buf = make([]byte, 128<<10)
	}
	var size int64
	for {
		n, err := r.Read(u.buf)
		if u.written += int64(n); u.written > u.lim.Bytes {
			return tooBig(u.lim)
		}
		if u.written > ratioFree && u.written/u.lim.Ratio > u.packed {
			return &Refused{Reason: fmt.Sprintf("it unpacks to more than %d times its size", u.lim.Ratio)}
		}
		if err := u.take(OnDisk(size+int64(n)) - OnDisk(size)); err != nil {
			return err
		}
		size += int64(n)
		if _, err := w.Write(u.buf[:n]); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return broken(err)
		}
	}
}

// clear takes away all that was written.
func (u *unpacker) clear() error {
	dir, err := u.root.Open(".")
	if err != nil {
		return err
	}
	all, err := dir.Readdirnames(-1)
	err = errors.Join(err, dir.Close())
	for _, name := range all {
		err = errors.Join(err, u.root.RemoveAll(name))
	}
	return err
}
