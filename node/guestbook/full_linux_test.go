package guestbook

import (
	"errors"
	"os/signal"
	"syscall"
	"testing"
)

// full makes the disk full for every file that would grow beyond a size, for as long as f
// takes.
func full(t *testing.T, size int64, f func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	now := before
	now.Cur = uint64(size)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &now); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
			t.Error(err)
		}
	}()
	f()
}

func TestBook_FullDiskInMidEntry(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	write(t, b, 5)
	for range 2 {
		var err error
		full(t, b.size+100, func() { err = b.Append(entry(5)) })
		if !errors.Is(err, syscall.EFBIG) {
			t.Errorf("half an entry was written as %v", err)
		}
		whole(t, dir, 5)
	}
	write(t, b, 2)
	if r := whole(t, dir, 7); r.Unsealed != 0 {
		t.Errorf("%+v", r)
	}
}

// Half an entry that cannot be cut off at once is cut off before the next one.
func TestBook_HalfAnEntryThatStays(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	write(t, b, 2)
	path := b.path(1)
	if _, err := b.file.WriteString(`{"seq":3,"prev":"00`); err != nil {
		t.Fatal(err)
	}
	b.torn = true
	if err := syscall.Rename(path, path+".aside"); err != nil {
		t.Fatal(err)
	}
	if err := b.Append(entry(2)); err == nil {
		t.Error("an entry was written behind half a one")
	}
	if err := syscall.Rename(path+".aside", path); err != nil {
		t.Fatal(err)
	}
	write(t, b, 1)
	whole(t, dir, 3)
}
