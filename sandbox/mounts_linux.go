package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// systemFolders are the host's programs and libraries. Where one is a link (to usr/bin),
// the link is made anew; what is missing is left out.
var systemFolders = []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix/store", "gnu/store"}

// etcFiles is the little of /etc that interpreters and tools read: where libraries,
// chosen alternatives, certificates and fonts are. Never accounts, keys or settings of
// the machine.
var etcFiles = []string{
	"ld.so.cache", "alternatives", "localtime", "mime.types", "ssl/certs", "ssl/openssl.cnf", "pki/tls/certs", "pki/ca-trust/extracted",
	"crypto-policies", "fonts", "ImageMagick-6", "ImageMagick-7",
	"python3.9", "python3.10", "python3.11", "python3.12", "python3.13", "python3.14",
}

// etcTexts are written anew, so that they tell nothing of the host.
var etcTexts = map[string]string{
	"passwd":        "spare:x:1000:1000:Spare:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
	"group":         "spare:x:1000:\nnogroup:x:65534:\n",
	"hosts":         "127.0.0.1 localhost\n::1 localhost\n",
	"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	"resolv.conf":   "",
	"hostname":      hostname + "\n",
}

const hostname = "spare"

// devices are all the device nodes there are inside.
var devices = []string{"null", "zero", "full", "random", "urandom"}

// devLinks are the usual links in /dev.
var devLinks = map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}

// procMasked are files of /proc that tell of the host or reach into it. They read empty.
var procMasked = []string{"kcore", "keys", "key-users", "kmsg", "kallsyms", "modules", "sched_debug", "timer_list", "sysrq-trigger", "cmdline", "mdstat", "partitions", "diskstats"}

func treeAttr(writable bool) uint64 {
	attr := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if !writable {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	return attr
}

// cloneTree makes a detached copy of the mounts at a path and below, with attributes set.
func cloneTree(name string, attr uint64) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return -1, err
	}
	set := &unix.MountAttr{Attr_set: attr, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, set); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("set its mount attributes: %w", err)
	}
	return fd, nil
}

// A tree is a detached mount and where it goes, relative to the new root.
type tree struct {
	fd     int
	target string
	folder bool
}

// trees clones all that the new root shows of the host. They are taken before anything
// is mounted, so that no mount of ours can hide one.
func trees(mounts []order) ([]tree, error) {
	var all []tree
	add := func(name, target string, attr uint64) error {
		info, err := os.Stat(name)
		if err != nil {
			return nil // this system has none
		}
		fd, err := cloneTree(name, attr)
		if err != nil {
			return fmt.Errorf("mount %s: %w", name, err)
		}
		all = append(all, tree{fd: fd, target: target, folder: info.IsDir()})
		return nil
	}
	for _, dir := range systemFolders {
		if info, err := os.Lstat("/" + dir); err != nil || !info.IsDir() {
			continue
		}
		if err := add("/"+dir, dir, treeAttr(false)); err != nil {
			return nil, err
		}
	}
	for _, file := range etcFiles {
		if err := add("/etc/"+file, "etc/"+file, treeAttr(false)); err != nil {
			return nil, err
		}
	}
	for _, dev := range devices {
		if err := add("/dev/"+dev, "dev/"+dev, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC); err != nil {
			return nil, err
		}
	}
	for _, m := range mounts {
		t := tree{fd: m.FD, target: strings.TrimPrefix(m.Inner, "/"), folder: m.Folder}
		if t.fd == 0 {
			var err error
			if t.fd, err = cloneTree(m.Host, treeAttr(m.Writable)); err != nil {
				return nil, fmt.Errorf("mount %s: %w", m.Host, err)
			}
		}
		all = append(all, t)
	}
	return all, nil
}

// buildRoot makes the root that the program sees and moves this process into it.
func buildRoot(mounts []order, tmp int64) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	all, err := trees(mounts)
	if err != nil {
		return err
	}
	// /usr exists on every system, and its copy is already taken.
	if err := unix.Mount("tmpfs", "/usr", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("mount the new root: %w", err)
	}
	if err := os.Chdir("/usr"); err != nil {
		return err
	}
	if err := skeleton(); err != nil {
		return err
	}
	for _, t := range all {
		if err := t.attach(); err != nil {
			return fmt.Errorf("mount /%s: %w", t.target, err)
		}
	}
	if err := kernelFolders(tmp); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_set: treeAttr(false)}); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	return nil
}

// skeleton makes the new root's own folders, links and texts, in the working folder.
func skeleton() error {
	for _, dir := range []string{"dev/shm", "etc", "proc", "tmp", "var", "run"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, dir := range systemFolders {
		if to, err := os.Readlink("/" + dir); err == nil {
			if err := os.Symlink(to, dir); err != nil {
				return err
			}
		}
	}
	for name, to := range devLinks {
		if err := os.Symlink(to, path.Join("dev", name)); err != nil {
			return err
		}
	}
	for name, text := range etcTexts {
		if err := writeFile("etc/"+name, text); err != nil {
			return err
		}
	}
	return errors.Join(os.Symlink("/proc/mounts", "etc/mtab"), os.Symlink("/tmp", "var/tmp"))
}

func (t tree) attach() error {
	if err := t.place(); err != nil {
		return err
	}
	err := unix.MoveMount(t.fd, "", unix.AT_FDCWD, t.target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	return errors.Join(err, unix.Close(t.fd))
}

// place makes what the tree is mounted on.
func (t tree) place() error {
	if t.folder {
		return os.MkdirAll(t.target, 0o755)
	}
	if err := os.MkdirAll(path.Dir(t.target), 0o755); err != nil {
		return err
	}
	return writeFile(t.target, "")
}

// writeFile does what os.WriteFile does without the poller, which the first process
// would otherwise start for a handful of tiny files.
func writeFile(name, text string) error {
	fd, err := unix.Open(name, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("make /%s: %w", name, err)
	}
	_, err = unix.Write(fd, []byte(text))
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("write /%s: %w", name, err)
	}
	return nil
}

// kernelFolders mounts /proc and the private memory folders in the working folder.
func kernelFolders(tmp int64) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	size := fmt.Sprintf("mode=1777,size=%d,nr_inodes=65536", tmp)
	for _, dir := range []string{"tmp", "dev/shm"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", flags, size); err != nil {
			return fmt.Errorf("mount /%s: %w", dir, err)
		}
	}
	if err := unix.Mount("proc", "proc", "proc", flags|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// From here on nobody inside gets another user namespace, and with it new rights.
	if err := writeFile("proc/sys/user/max_user_namespaces", "0"); err != nil {
		return fmt.Errorf("close user namespaces: %w", err)
	}
	for _, name := range []string{"sys", "irq", "bus", "fs"} {
		if err := cover("proc/"+name, "proc/"+name, treeAttr(false)|unix.MOUNT_ATTR_NOEXEC); err != nil {
			return err
		}
	}
	for _, name := range procMasked {
		if err := cover("dev/null", "proc/"+name, treeAttr(false)&^unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC); err != nil {
			return err
		}
	}
	return nil
}

// cover mounts a copy of one path over another, if that exists.
func cover(name, over string, attr uint64) error {
	if _, err := os.Lstat(over); err != nil {
		return nil
	}
	fd, err := cloneTree(name, attr)
	if err != nil {
		return fmt.Errorf("cover /%s: %w", over, err)
	}
	err = unix.MoveMount(fd, "", unix.AT_FDCWD, over, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("cover /%s: %w", over, err)
	}
	return nil
}
