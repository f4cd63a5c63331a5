//go:build unix

package bundle

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestCollectResults_TakesPlainFilesOnly(t *testing.T) {
	write := func(name string) func(string) error {
		return func(dir string) error {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644)
		}
	}
	both := func(a, b string) func(string) error {
		return func(dir string) error { return errors.Join(write(a)(dir), write(b)(dir)) }
	}
	for want, spoil := range map[string]func(dir string) error{
		"symbolic link;": func(dir string) error { return os.Symlink("ok", filepath.Join(dir, "l")) },
		"symbolic link":  func(dir string) error { return os.Symlink("/", filepath.Join(dir, "l")) },
		"hard link":      func(dir string) error { return os.Link(filepath.Join(dir, "ok"), filepath.Join(dir, "l")) },
		"named pipe":     func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "p"), 0o644) },
		"socket": func(dir string) error {
			l, err := net.Listen("unix", filepath.Join(dir, "s"))
			if err == nil {
				l.(*net.UnixListener).SetUnlinkOnClose(false)
				err = l.Close()
			}
			return err
		},
		"UTF-8":     write("bad\xff"),
		"control":   write("a\nb"),
		"too long":  write(strings.Repeat(strings.Repeat("n", 200)+"/", 6) + "f"),
		"by case":   both("sub/File", "sub/file"),
		"same file": both("Sub/a", "sub/b"),
		"dot":       write("name."),
		"space":     write("sub /a"),
		"device":    write("sub/Com1.txt"),
		"device on": write("AUX"),
		"store":     write("stream:hidden"),
		"system":    write(`back\slash`),
		"too deep":  write(strings.Repeat("d/", 70) + "f"),
	} {
		dir := folder(t, map[string]string{"ok": "1"})
		if err := spoil(dir); err != nil {
			t.Fatal(want, err)
		}
		var refused *Refused
		if _, err := CollectResults(dir, Limits{}); !errors.As(err, &refused) || !strings.Contains(err.Error(), want) && want != "by case" && want != "same file" {
			t.Errorf("%s: %v", want, err)
		}
		if _, err := PackResult(t.Context(), dir, &bytes.Buffer{}); !errors.As(err, &refused) {
			t.Errorf("%s: packed: %v", want, err)
		}
	}
}

func TestCollectResults_ListsSortedAndCounts(t *testing.T) {
	dir := folder(t, map[string]string{"b": "12", "a/x*": "1", "a-c": ""})
	if err := os.MkdirAll(filepath.Join(dir, "empty", "er"), 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := CollectResults(dir, Limits{})
	want := []Entry{{"a-c", 0, false}, {"a/x", 1, true}, {"b", 2, false}}
	if err != nil || len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("%v, %v", got, err)
	}
	var refused *Refused
	if _, err := CollectResults(dir, Limits{Files: 2}); !errors.As(err, &refused) {
		t.Errorf("three files, two allowed: %v", err)
	}
	if _, err := CollectResults(dir, Limits{Bytes: 2}); !errors.As(err, &refused) {
		t.Errorf("three bytes, two allowed: %v", err)
	}
}

func TestCollectResults_RefusesDevices(t *testing.T) {
	if os.Getuid() != 0 {
		return // only root makes one
	}
	dir := t.TempDir()
	if err := syscall.Mknod(filepath.Join(dir, "null"), syscall.S_IFCHR|0o666, 1<<8|3); err != nil {
		t.Fatal(err)
	}
	var refused *Refused
	if _, err := CollectResults(dir, Limits{}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "device") {
		t.Error(err)
	}
}
