// Command attack is a module that tries what it must not. Each of its words is one
// attack; it prints "ok" when all of it was refused, and else what was not.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	rw = "/spare/rw"
	ro = "/spare/ro"
)

var attacks = map[string]func(){
	"links":     links,
	"follow":    follow,
	"outside":   outside,
	"readonly":  readonly,
	"world":     world,
	"names":     names,
	"network":   network,
	"processes": processes,
	"handles":   handles,
	"files":     files,
	"account":   account,
	"looks":     looks,
	"balloon":   balloon,
	"loop":      func() { spin() },
	"flood":     flood,
	"small":     small,
	"large":     large,
	"sparse":    sparse,
	"deleted":   deleted,
	"tmp":       tmp,
	"recurse":   func() { fmt.Println(recurse(1)) },
	"sleep":     func() { fmt.Println("begun"); time.Sleep(time.Hour) },
	"exit":      func() { n, _ := strconv.Atoi(os.Args[2]); os.Exit(n) },
	"show":      show,
}

var bad []string

func main() {
	attack := attacks[os.Args[1]]
	if attack == nil {
		fmt.Println("no attack", os.Args[1])
		os.Exit(2)
	}
	attack()
	if len(bad) > 0 {
		fmt.Println(strings.Join(bad, "\n"))
		os.Exit(1)
	}
	fmt.Println("ok")
}

// denied complains unless the step failed.
func denied(what string, err error) {
	if err == nil {
		bad = append(bad, what)
	}
}

// allowed complains unless the step went well.
func allowed(what string, err error) {
	if err != nil {
		bad = append(bad, fmt.Sprintf("%s: %v", what, err))
	}
}

func links() {
	denied("symlink to a folder of the host", os.Symlink("/etc", rw+"/link"))
	denied("symlink upwards", os.Symlink("../../..", rw+"/up"))
	allowed("write a file", os.WriteFile(rw+"/file", nil, 0o600))
	denied("hard link", os.Link(rw+"/file", rw+"/hard"))
	denied("hard link of a read-only file", os.Link(ro+"/file", rw+"/hard"))
}

// follow finds links that somebody else left in its folders.
func follow() {
	for _, name := range []string{rw + "/out/passwd", rw + "/absolute", rw + "/up/etc/passwd", ro + "/absolute"} {
		_, err := os.ReadFile(name)
		denied("read through "+name, err)
		_, err = os.Stat(name)
		denied("stat through "+name, err)
	}
	denied("write through a link", os.WriteFile(rw+"/victim-link", []byte("x"), 0o600))
	denied("append through a link", appendTo(rw+"/victim-link"))
	denied("make a file through a link", os.WriteFile(rw+"/out-rw/new", nil, 0o600))
	denied("make a folder through a link", os.Mkdir(rw+"/out-rw/dir", 0o700))
	denied("rename through a link", os.Rename(rw+"/inside", rw+"/out-rw/inside"))
	denied("remove through a link", os.Remove(rw+"/out-rw/victim"))
	_, err := os.ReadDir(rw + "/out-rw")
	denied("list through a link", err)
	text, err := os.ReadFile(rw + "/good")
	allowed("read through a link that stays inside", err)
	if string(text) != "inside" {
		bad = append(bad, "the good link leads to "+string(text))
	}
}

func appendTo(name string) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		f.Close()
	}
	return err
}

func outside() {
	for _, name := range []string{
		"/etc/passwd", "/etc/shadow", "/proc/self/maps", "/proc/self/environ", "/proc/1/root/etc/passwd", "/sys/kernel", "/dev/mem", "/root/.ssh",
		"/spare/rw/../../etc/passwd", "/spare/rw/../../../../etc/passwd", "../../../../etc/passwd", "/spare-wasm/entry/module.wasm", "/spare-wasm/report",
	} {
		_, err := os.Stat(name)
		denied("stat "+name, err)
		_, err = os.ReadFile(name)
		denied("read "+name, err)
	}
	// The file system is asked directly too, past what Go's library does to a path.
	fd, err := syscall.Open(rw, syscall.O_RDONLY, 0)
	allowed("open a folder", err)
	for _, name := range []string{"..", "../..", "../../etc/passwd", "./../x/../../etc", "a/../../../etc/passwd"} {
		_, err := syscall.Openat(fd, name, syscall.O_RDONLY, 0)
		denied("openat "+name, err)
	}
}

func readonly() {
	denied("write", os.WriteFile(ro+"/new", nil, 0o600))
	denied("overwrite", os.WriteFile(ro+"/file", nil, 0o600))
	denied("append", appendTo(ro+"/file"))
	denied("truncate", os.Truncate(ro+"/file", 0))
	denied("mkdir", os.Mkdir(ro+"/dir2", 0o700))
	denied("remove", os.Remove(ro+"/file"))
	denied("rmdir", os.Remove(ro+"/dir"))
	denied("rename", os.Rename(ro+"/file", ro+"/file2"))
	denied("move in", os.Rename(rw+"/inside", ro+"/inside"))
	denied("move out", os.Rename(ro+"/file", rw+"/file"))
	denied("times", os.Chtimes(ro+"/file", time.Unix(1, 0), time.Unix(1, 0)))
	denied("overwrite a mounted file", os.WriteFile("/spare/one/data.bin", nil, 0o600))
	denied("remove a mounted file", os.Remove("/spare/one/data.bin"))
	text, err := os.ReadFile(ro + "/file")
	allowed("read", err)
	if string(text) != "ro" {
		bad = append(bad, "the read-only file holds "+string(text))
	}
}

// world is the tree itself: what is above the mounts is nobody's.
func world() {
	for _, dir := range []string{"/spare", "/spare/one"} {
		denied("write in "+dir, os.WriteFile(filepath.Join(dir, "new"), nil, 0o600))
		denied("mkdir in "+dir, os.Mkdir(filepath.Join(dir, "newdir"), 0o700))
	}
	denied("remove a mount", os.Remove(rw))
	denied("rename a mount", os.Rename(rw, "/spare/other"))
	denied("remove a folder above", os.Remove("/spare/one"))
	list, err := os.ReadDir("/spare")
	allowed("list /spare", err)
	var got []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, []string{"one", "ro", "rw"}) {
		bad = append(bad, fmt.Sprint("/spare holds ", got))
	}
}

func names() {
	for _, name := range []string{"con", "NUL.txt", "a:b", "a\\b", "..\\..\\etc", "a|b", "end.", "end ", "tab\t", strings.Repeat("x", 300), "\xff\xfe", "COM1"} {
		denied(fmt.Sprintf("make %q", name), os.WriteFile(rw+"/"+name, nil, 0o600))
		denied(fmt.Sprintf("mkdir %q", name), os.Mkdir(rw+"/"+name, 0o700))
	}
}

// These are all the functions for sockets that WASI has. They can use one that somebody
// has opened for the module, and open none.

//go:wasmimport wasi_snapshot_preview1 sock_accept
func sockAccept(fd, flags int32, result *int32) int32

//go:wasmimport wasi_snapshot_preview1 sock_recv
func sockRecv(fd int32, iovs *[2]uint32, count, flags int32, size *uint32, outFlags *uint32) int32

//go:wasmimport wasi_snapshot_preview1 sock_send
func sockSend(fd int32, iovs *[2]uint32, count, flags int32, size *uint32) int32

//go:wasmimport wasi_snapshot_preview1 sock_shutdown
func sockShutdown(fd, how int32) int32

func network() {
	if f, err := os.Open(rw + "/inside"); err == nil {
		defer f.Close()
	}
	var got int32
	var iov [2]uint32
	var size, flags uint32
	for fd := range int32(100) {
		for what, errno := range map[string]int32{
			"accept": sockAccept(fd, 0, &got), "receive": sockRecv(fd, &iov, 1, 0, &size, &flags),
			"send": sockSend(fd, &iov, 1, 0, &size), "shutdown": sockShutdown(fd, 1),
		} {
			if errno == 0 {
				bad = append(bad, fmt.Sprint(what, " on ", fd))
			}
		}
	}
	_, err := net.DialTimeout("tcp", "127.0.0.1:80", time.Second)
	denied("dial", err)
}

func processes() {
	denied("run a program", exec.Command("/bin/sh", "-c", "echo").Run())
	_, err := os.StartProcess("/bin/sh", []string{"sh"}, &os.ProcAttr{})
	denied("start a process", err)
	denied("signal another process", syscall.Kill(1, syscall.SIGKILL))
}

// handles opens what it can: the limit stops it, and closing gives all back.
func handles() {
	var open []*os.File
	for range 5000 {
		f, err := os.Open(ro + "/file")
		if err != nil {
			break
		}
		open = append(open, f)
	}
	if len(open) < 10 || len(open) > 64 {
		bad = append(bad, fmt.Sprint("opened ", len(open), " files; 64 are allowed"))
	}
	for _, f := range open {
		f.Close()
	}
	_, err := os.ReadFile(ro + "/file")
	allowed("open one after closing all", err)
}

// files does what honest programs do.
func files() {
	dir := rw + "/work"
	allowed("mkdir", os.MkdirAll(dir+"/a/b", 0o700))
	f, err := os.Create(dir + "/f")
	allowed("create", err)
	_, err = f.WriteString("hello world")
	allowed("write", err)
	_, err = f.WriteAt([]byte("J"), 0)
	allowed("write at", err)
	_, err = f.Seek(-5, io.SeekEnd)
	allowed("seek", err)
	rest, err := io.ReadAll(f)
	if allowed("read", err); string(rest) != "world" {
		bad = append(bad, "read "+string(rest))
	}
	info, err := f.Stat()
	if allowed("stat", err); info.Size() != 11 {
		bad = append(bad, fmt.Sprint("size ", info.Size()))
	}
	allowed("truncate", f.Truncate(5))
	allowed("close", f.Close())
	a, err := os.OpenFile(dir+"/f", os.O_APPEND|os.O_WRONLY, 0)
	allowed("open to append", err)
	_, err = a.WriteString("!")
	allowed("append", err)
	allowed("close", a.Close())
	text, _ := os.ReadFile(dir + "/f")
	if string(text) != "Jello!" {
		bad = append(bad, "holds "+string(text))
	}
	allowed("rename", os.Rename(dir+"/f", dir+"/a/g"))
	allowed("write the one to replace", os.WriteFile(dir+"/a/h", []byte("old"), 0o600))
	allowed("replace", os.Rename(dir+"/a/g", dir+"/a/h"))
	text, _ = os.ReadFile(dir + "/a/h")
	if !bytes.Equal(text, []byte("Jello!")) {
		bad = append(bad, "after the rename it holds "+string(text))
	}
	wantErr("open a missing file", errOf(os.Open(dir+"/none")), fs.ErrNotExist)
	wantErr("make what is there", errOf(os.OpenFile(dir+"/a/h", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)), fs.ErrExist)
	wantErr("mkdir what is there", os.Mkdir(dir+"/a", 0o700), fs.ErrExist)
	wantErr("remove a full folder", syscall.Rmdir(dir+"/a"), syscall.ENOTEMPTY)
	wantErr("open below a file", errOf(os.Open(dir+"/a/h/x")), syscall.ENOTDIR)
	wantErr("unlink a folder", syscall.Unlink(dir+"/a"), syscall.EISDIR)
	wantErr("rmdir a file", syscall.Rmdir(dir+"/a/h"), syscall.ENOTDIR)
	wantErr("write a folder", errOf(os.OpenFile(dir+"/a", os.O_RDWR, 0)), syscall.EISDIR)
	wantErr("move a folder into itself", os.Rename(dir+"/a", dir+"/a/b/c"), syscall.EINVAL)
	allowed("remove all", os.RemoveAll(dir))
	wantErr("look at what is removed", errOf(os.Stat(dir)), fs.ErrNotExist)
}

func errOf[T any](_ T, err error) error { return err }

func wantErr(what string, err, want error) {
	if !errors.Is(err, want) {
		bad = append(bad, fmt.Sprintf("%s: %v, want %v", what, err, want))
	}
}

// account writes 100,000 bytes and keeps 30,000 of them.
func account() {
	allowed("write", os.WriteFile(rw+"/a", make([]byte, 70_000), 0o600))
	allowed("write", os.WriteFile(rw+"/b", make([]byte, 30_000), 0o600))
	f, err := os.OpenFile(rw+"/b", os.O_RDWR, 0)
	allowed("open", err)
	for range 10 { // the same bytes again
		_, err = f.WriteAt(make([]byte, 30_000), 0)
		allowed("overwrite", err)
	}
	f.Close()
	allowed("remove", os.Remove(rw+"/a"))
}

// looks lists a large folder as often as an honest program may.
func looks() {
	for range 400 {
		list, err := os.ReadDir(ro + "/many")
		if err != nil || len(list) != 3000 {
			bad = append(bad, fmt.Sprintf("list: %d names, %v", len(list), err))
			return
		}
	}
}

var kept [][]byte

func balloon() {
	for {
		b := make([]byte, 8<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		kept = append(kept, b)
	}
}

var n uint64

func spin() {
	for {
		n++
	}
}

func recurse(n int) int { return recurse(n+1) + 1 }

func flood() {
	line := bytes.Repeat([]byte("spam "), 1000)
	for range 5000 {
		os.Stdout.Write(line)
		os.Stderr.Write(line)
	}
}

func small() {
	for i := 0; ; i++ {
		if f, err := os.Create(rw + "/" + strconv.Itoa(i)); err == nil {
			f.Close()
		}
	}
}

func large() {
	f, _ := os.Create(rw + "/large")
	for {
		f.Write(make([]byte, 1<<20))
	}
}

func sparse() {
	f, _ := os.Create(rw + "/sparse")
	_, err := f.WriteAt([]byte("x"), 1<<40)
	denied("write far behind the end", err)
	denied("truncate to a tebibyte", f.Truncate(1<<40))
}

// deleted fills files that it has already removed.
func deleted() {
	for i := 0; ; i++ {
		name := rw + "/" + strconv.Itoa(i)
		f, err := os.Create(name)
		if err != nil {
			continue
		}
		os.Remove(name)
		f.Write(make([]byte, 1<<20))
	}
}

// tmp fills /tmp, which is bounded, and goes on when that is full.
func tmp() {
	f, err := os.Create("/tmp/f")
	allowed("create", err)
	var sum int
	for err == nil && sum < 1<<30 {
		var n int
		n, err = f.Write(make([]byte, 1<<20))
		sum += n
	}
	denied("fill /tmp with a gibibyte", err)
	f.Close()
	allowed("empty it", os.Remove("/tmp/f"))
	allowed("use it again", os.WriteFile("/tmp/g", make([]byte, 1<<20), 0o600))
}

// show prints all that a deterministic run must not depend on.
func show() {
	fmt.Println(os.Args, os.Environ())
	fmt.Println(time.Now().UnixNano(), time.Since(time.Now()))
	_ = filepath.WalkDir("/", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			fmt.Println(name, err)
			return nil
		}
		info, err := d.Info()
		if err != nil {
			fmt.Println(name, err)
			return nil
		}
		fmt.Println(name, info.Mode(), info.Size(), info.ModTime().UnixNano(), info.Sys())
		return nil
	})
}
