package blob

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// freeSpace is how many bytes this user may still write on the volume of path.
func freeSpace(path string) (int64, error) {
	p, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, err
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(p, &free, nil, nil); err != nil {
		return 0, err
	}
	return int64(min(free, 1<<62)), nil
}

func outOfSpace(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}

// syncDir has nothing to do: NTFS journals renames, and a folder cannot be flushed.
func syncDir(string) error { return nil }

// openForSync opens a file so that its content can be read and flushed, which Windows
// allows only to who may write it.
func openForSync(path string) (*os.File, error) { return os.OpenFile(path, os.O_RDWR, 0) }

// names is how many names a file has; Windows tells it only through an open handle, and
// the hub makes second names on other systems alone.
func names(os.FileInfo) uint64 { return 1 }
