package bundle

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// maxDirectory bounds the list of contents of a zip, in bytes. The standard library
// keeps about six times as much of it in memory before anybody sees the first name, and
// 100,000 files with names of a hundred bytes stay below it.
const maxDirectory = 16 << 20

// The marks of a zip's end, and how long what they begin is without its comment.
const (
	endMark     = "PK\x05\x06"
	endLen      = 22
	locatorMark = "PK\x06\x07"
	locatorLen  = 20
	end64Mark   = "PK\x06\x06"
	end64Len    = 56
	longestEnd  = 65 << 10 // with its comment, as far from the end of the file as one is looked for
)

// entries is how many a list of contents may have: the names are counted again, and
// closer, as they are unpacked.
func (l Limits) entries() uint64 { return 2*uint64(l.Files) + extraFolders }

// checkDirectory refuses a zip whose own record says that its list of contents is too
// long: as many places as that says are made before the list is read. What is no zip at
// all is left to the reader of zips to refuse.
func checkDirectory(r io.ReaderAt, size int64, lim Limits) error {
	tail := make([]byte, min(size, longestEnd))
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return err
	}
	// The last mark is where every reader of zips begins, and a comment may hold more.
	for at := len(tail); ; {
		if at = bytes.LastIndex(tail[:at], []byte(endMark)); at < 0 {
			return nil
		}
		if len(tail)-at < endLen {
			continue
		}
		end := tail[at:]
		entries, length := binary.LittleEndian.Uint16(end[10:]), binary.LittleEndian.Uint32(end[12:])
		if entries == math.MaxUint16 {
			entries = 0 // the record for large archives says it
		}
		if length == math.MaxUint32 {
			length = 0
		}
		if err := sizes(uint64(entries), uint64(length), lim); err != nil {
			return err
		}
		return checkEnd64(r, size-int64(len(end)), lim)
	}
}

// checkEnd64 looks at the record for large archives, which a locator before the end
// names. It counts wherever there is one, whether the end asks for it or not.
func checkEnd64(r io.ReaderAt, endAt int64, lim Limits) error {
	locator, record := make([]byte, locatorLen), make([]byte, end64Len)
	if endAt < locatorLen {
		return nil
	}
	if _, err := r.ReadAt(locator, endAt-locatorLen); err != nil {
		return err
	}
	at := int64(binary.LittleEndian.Uint64(locator[8:]))
	if string(locator[:4]) != locatorMark || at < 0 {
		return nil
	}
	if _, err := r.ReadAt(record, at); err != nil || string(record[:4]) != end64Mark {
		return nil // the reader of zips will say so
	}
	return sizes(binary.LittleEndian.Uint64(record[32:]), binary.LittleEndian.Uint64(record[40:]), lim)
}

func sizes(entries, length uint64, lim Limits) error {
	if entries > lim.entries() {
		return &Refused{Reason: fmt.Sprintf("it lists %d files and folders; at most %d are taken", entries, lim.entries())}
	}
	if length > maxDirectory {
		return longDirectory()
	}
	return nil
}

func longDirectory() error {
	return &Refused{Reason: fmt.Sprintf("its list of contents is longer than %d MiB", maxDirectory>>20)}
}

// directoryReader lets no more be read than the longest list of contents and what lies
// around it, until it is opened: the record at a zip's end may lie.
type directoryReader struct {
	r    io.ReaderAt
	left int
	open bool
}

func (d *directoryReader) ReadAt(p []byte, off int64) (int, error) {
	if d.left -= len(p); !d.open && d.left < 0 {
		return 0, longDirectory()
	}
	return d.r.ReadAt(p, off)
}
