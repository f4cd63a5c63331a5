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

// systemTrees clones all that the new root shows of the host's system. They, and those
// of the mounts, are taken before anything is mounted: no mount of ours can hide one.
// Their attributes are set later, all at once.
func systemTrees() ([]tree, error) {
	all := make([]tree, 0, 64)
	add := func(name string) error {
		t := tree{target: name}
		var err error
		t.fd, err = unix.OpenTree(unix.AT_FDCWD, "/"+name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err == unix.ENOENT || err == unix.ENOTDIR { // this system has none
			return nil
		}
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstat(t.fd, &st)
		}
		if err != nil {
			return fmt.Errorf("mount /%s: %w", name, err)
		}
		t.folder = st.Mode&unix.S_IFMT == unix.S_IFDIR
		all = append(all, t)
		return nil
	}
	for _, dir := range systemFolders {
		if isLink("/" + dir) {
			continue // skeleton makes it anew
		}
		if err := add(dir); err != nil {
			return nil, err
		}
	}
	for _, file := range etcFiles {
		if err := add("etc/" + file); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func isLink(name string) bool {
	_, err := os.Readlink(name)
	return err == nil
}

// ownTrees clones the devices and the mounts, with their attributes.
func ownTrees(mounts []order) ([]tree, error) {
	var all []tree
	for _, dev := range devices {
		fd, err := cloneTree("/dev/"+dev, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
		if err != nil {
			return nil, fmt.Errorf("mount /dev/%s: %w", dev, err)
		}
		all = append(all, tree{fd: fd, target: "dev/" + dev})
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
	system, err := systemTrees()
	if err != nil {
		return err
	}
	own, err := ownTrees(mounts)
	if err != nil {
		return err
	}
	// /usr exists on every system, and its copy is already taken.
	if err := unix.Mount("tmpfs", "/usr", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("mount the new root: %w", err)
	}
	if err := unix.Chdir("/usr"); err != nil {
		return err
	}
	if err := skeleton(); err != nil {
		return err
	}
	if err := attach(system); err != nil {
		return err
	}
	// Everything of the system at once, below included; the root itself when it is full.
	if err := unix.MountSetattr(unix.AT_FDCWD, ".", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: treeAttr(false), Propagation: unix.MS_PRIVATE}); err != nil {
		return fmt.Errorf("make the system folders read-only: %w", err)
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, ".", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("fill the root: %w", err)
	}
	if err := attach(own); err != nil {
		return err
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
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_set: treeAttr(false)}); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	return nil
}

// skeleton makes the new root's own folders, links and texts, in the working folder.
func skeleton() error {
	for _, dir := range []string{"dev", "dev/shm", "etc", "proc", "tmp", "var", "run"} {
		if err := unix.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("make /%s: %w", dir, err)
		}
	}
	for _, dir := range systemFolders {
		if to, err := os.Readlink("/" + dir); err == nil {
			if err := unix.Symlink(to, dir); err != nil {
				return fmt.Errorf("link /%s: %w", dir, err)
			}
		}
	}
	for name, to := range devLinks {
		if err := unix.Symlink(to, "dev/"+name); err != nil {
			return fmt.Errorf("link /dev/%s: %w", name, err)
		}
	}
	for name, text := range etcTexts {
		if err := writeFile("etc/"+name, text); err != nil {
			return err
		}
	}
	return errors.Join(unix.Symlink("/proc/mounts", "etc/mtab"), unix.Symlink("/tmp", "var/tmp"))
}

func attach(all []tree) error {
	for _, t := range all {
		err := t.place()
		if err == nil {
			err = unix.MoveMount(t.fd, "", unix.AT_FDCWD, t.target, unix.MOVE_MOUNT_F_EMPTY_PATH)
		}
		if err := errors.Join(err, unix.Close(t.fd)); err != nil {
			return fmt.Errorf("mount /%s: %w", t.target, err)
		}
	}
	return nil
}

// place makes what the tree is mounted on.
func (t tree) place() error {
	err := t.make()
	if err == unix.ENOENT {
		if err = os.MkdirAll(path.Dir(t.target), 0o755); err == nil {
			err = t.make()
		}
	}
	if err == unix.EEXIST { // a text of our own that the host's file takes the place of, or a mount's parent
		return nil
	}
	return err
}

func (t tree) make() error {
	if t.folder {
		return unix.Mkdir(t.target, 0o755)
	}
	fd, err := unix.Open(t.target, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
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
	for _, name := range []string{"proc/sys", "proc/irq", "proc/bus", "proc/fs"} {
		if err := cover(name, name, treeAttr(false)|unix.MOUNT_ATTR_NOEXEC); err != nil {
			return err
		}
	}
	for _, name := range procMasked {
		if err := cover("dev/null", "proc/"+name, 0); err != nil {
			return err
		}
	}
	return nil
}

// cover mounts a copy of one path over another, if that exists.
func cover(name, over string, attr uint64) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err == unix.ENOENT {
		return nil
	}
	if err == nil && attr != 0 {
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attr})
	}
	if err == nil {
		err = unix.MoveMount(fd, "", unix.AT_FDCWD, over, unix.MOVE_MOUNT_F_EMPTY_PATH)
		_ = unix.Close(fd)
	}
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("cover /%s: %w", over, err)
	}
	return nil
}
