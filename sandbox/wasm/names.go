package wasm

import (
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"unicode/utf8"

	experimentalsys "github.com/tetratelabs/wazero/experimental/sys"
)

const longestName = 255 // bytes; the usual limit of file systems

// devices are Windows' names that are no files.
var devices = map[string]bool{
	"con": true, "prn": true, "aux": true, "nul": true, "conin$": true, "conout$": true,
	"com0": true, "com1": true, "com2": true, "com3": true, "com4": true, "com5": true, "com6": true, "com7": true, "com8": true, "com9": true,
	"lpt0": true, "lpt1": true, "lpt2": true, "lpt3": true, "lpt4": true, "lpt5": true, "lpt6": true, "lpt7": true, "lpt8": true, "lpt9": true,
}

// portable reports whether a path can exist on every system. What cannot exist on one
// exists on none: a program behaves the same wherever it runs.
func portable(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" {
			continue
		}
		stem, _, _ := strings.Cut(part, ".")
		switch {
		case len(part) > longestName, !utf8.ValidString(part):
			return false
		case strings.ContainsAny(part, `<>:"\|?*`), strings.ContainsFunc(part, func(r rune) bool { return r < ' ' }):
			return false
		case strings.HasSuffix(part, "."), strings.HasSuffix(part, " "):
			return false
		case devices[strings.ToLower(strings.TrimRight(stem, " "))]:
			return false
		}
	}
	return true
}

// errno turns the system's error into the one that every system gives.
func (p place) errno(err error) experimentalsys.Errno {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		if p.belowFile() {
			return experimentalsys.ENOTDIR
		}
		return experimentalsys.ENOENT
	case errors.Is(err, syscall.ENOTEMPTY):
		return experimentalsys.ENOTEMPTY
	case errors.Is(err, fs.ErrExist):
		return experimentalsys.EEXIST
	case errors.Is(err, syscall.EISDIR):
		return experimentalsys.EISDIR
	case errors.Is(err, syscall.ELOOP):
		return experimentalsys.ELOOP
	case errors.Is(err, syscall.ENAMETOOLONG):
		return experimentalsys.ENAMETOOLONG
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EIO):
		return experimentalsys.EIO
	}
	return experimentalsys.EACCES // not allowed, or a link that leads out of its mount
}

// belowFile reports whether a path goes on behind something that is no folder, which
// systems call by different names.
func (p place) belowFile() bool {
	if p.m == nil {
		return false
	}
	for dir := path.Dir(filepath.ToSlash(p.rel)); dir != "."; dir = path.Dir(dir) {
		info, err := p.m.root.Stat(filepath.FromSlash(dir))
		if err == nil {
			return !info.IsDir()
		}
	}
	return false
}
