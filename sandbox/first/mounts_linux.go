package first

import "syscall"

// devices are all the device nodes there are inside.
var devices = []string{"null", "zero", "full", "random", "urandom"}

// procMasked are files and folders of /proc that tell of the host to anyone who asks: its
// keys, modules, drivers and disks, and what its processors are busy with, from which
// even keystrokes can be told. They read empty. What tells of processors, memory and load
// as a whole stays, because language runtimes size themselves by it.
var procMasked = []string{
	"acpi", "asound", "bus", "cmdline", "diskstats", "driver", "fs", "interrupts", "irq", "kallsyms", "kcore", "key-users", "keys", "latency_stats",
	"locks", "mdstat", "modules", "partitions", "pressure", "sched_debug", "schedstat", "scsi", "softirqs", "sysrq-trigger", "timer_list", "timer_stats", "tty",
}

// Masked lists what of /proc reads empty inside.
func Masked() []string { return join(procMasked) }

const (
	writableTree = mountAttrNosuid | mountAttrNodev
	readOnlyTree = writableTree | mountAttrReadOnly
)

// cloneTree makes a detached copy of the mounts at a path and below, with attributes set.
func cloneTree(name string, attr uint64) (int, error) {
	fd, err := openTree(name)
	if err != nil {
		return -1, err
	}
	if err := setTreeAttr(fd, attr); err != nil {
		_ = syscall.Close(fd)
		return -1, err
	}
	return fd, nil
}

// ownTrees clones the devices and the mounts, with their attributes.
func ownTrees(mounts []Mount) ([]tree, error) {
	var all []tree
	for _, dev := range devices {
		fd, err := cloneTree("/dev/"+dev, mountAttrReadOnly|mountAttrNosuid|mountAttrNoexec)
		if err != nil {
			return nil, fault("mount /dev/"+dev, err)
		}
		all = append(all, tree{fd: fd, target: "dev/" + dev})
	}
	for _, m := range mounts {
		t := tree{fd: m.FD, target: m.Inner[1:], folder: m.Folder}
		if t.fd == 0 {
			attr := uint64(readOnlyTree)
			if m.Writable {
				attr = writableTree
			}
			var err error
			if t.fd, err = cloneTree(m.Host, attr); err != nil {
				return nil, fault("mount "+m.Host, err)
			}
		}
		all = append(all, t)
	}
	return all, nil
}

// stand is where the new root is built: /usr exists on every system, and what is wanted
// of the host's is taken before.
const stand = "/usr"

// buildRoot makes the root that the program sees and moves this process into it. It
// returns the names of what the program may read and execute of it.
func buildRoot(o *Orders) (system []string, err error) {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return nil, fault("make the mounts private", err)
	}
	own, err := ownTrees(o.Mounts)
	if err != nil {
		return nil, err
	}
	r, err := shownRoot(o)
	if err != nil {
		return nil, err
	}
	if o.Probe {
		r.texts = join(r.texts, [2]string{unruled, ""})
	}
	if err := syscall.Mount("tmpfs", stand, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=755,size=1m"); err != nil {
		return nil, fault("mount the new root", err)
	}
	if err := syscall.Chdir(stand); err != nil {
		return nil, err
	}
	if err := r.skeleton(); err != nil {
		return nil, err
	}
	if err := attach(r.trees); err != nil {
		return nil, err
	}
	if o.has(WallRoot) {
		// Everything of the system at once, below included; the root itself when it is full.
		if err := mountSetattr(atCwd, ".", atRecursive, &mountAttr{set: readOnlyTree}); err != nil {
			return nil, fault("make the system folders read-only", err)
		}
		if err := mountSetattr(atCwd, ".", 0, &mountAttr{clear: mountAttrReadOnly}); err != nil {
			return nil, fault("fill the root", err)
		}
	}
	if err := attach(own); err != nil {
		return nil, err
	}
	if err := kernelFolders(o, r); err != nil {
		return nil, err
	}
	if err := enter(); err != nil {
		return nil, err
	}
	if o.has(WallProc) && o.has(WallPIDs) {
		if err := mask(); err != nil {
			return nil, err
		}
	}
	return r.system, nil
}

// shownRoot decides what the program finds at /.
func shownRoot(o *Orders) (*root, error) {
	switch {
	case !o.has(WallRoot):
		r, err := imageRoot("/", o.Mounts, nil)
		if err == nil {
			r.system = join(systemFolders, "etc")
		}
		return r, err
	case o.Image == "":
		return hostRoot()
	}
	fd := o.ImageFD
	if fd == 0 {
		var err error
		if fd, err = cloneTree(o.Image, readOnlyTree); err != nil {
			return nil, fault("mount the image "+o.Image, err)
		}
	}
	err := moveMount(fd, stand)
	_ = syscall.Close(fd)
	if err != nil {
		return nil, fault("mount the image "+o.Image, err)
	}
	return imageRoot(stand+"/", o.Mounts, imageTexts(stand+"/"))
}

// enter makes the working folder the root and lets go of the old one.
func enter() error {
	if err := syscall.PivotRoot(".", "."); err != nil {
		return fault("pivot_root", err)
	}
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return fault("let go of the old root", err)
	}
	if err := syscall.Chdir("/"); err != nil {
		return err
	}
	if err := mountSetattr(atCwd, "/", 0, &mountAttr{set: readOnlyTree}); err != nil {
		return fault("make the root read-only", err)
	}
	return nil
}

// skeleton makes the new root's own folders, links and texts, in the working folder.
func (r *root) skeleton() error {
	for _, dir := range r.folders {
		if err := syscall.Mkdir(dir, 0o755); err != nil {
			return fault("make /"+dir, err)
		}
	}
	for _, l := range r.links {
		if err := syscall.Symlink(l[1], l[0]); err != nil {
			return fault("link /"+l[0], err)
		}
	}
	for _, f := range r.texts {
		if err := writeFile(f[0], f[1]); err != nil {
			return fault("write /"+f[0], err)
		}
	}
	return nil
}

func attach(all []tree) error {
	for _, t := range all {
		err := t.place()
		if err == nil {
			err = moveMount(t.fd, t.target)
		}
		_ = syscall.Close(t.fd)
		if err != nil {
			return fault("mount /"+t.target, err)
		}
	}
	return nil
}

// place makes what the tree is mounted on.
func (t tree) place() error {
	err := t.make()
	if err == syscall.ENOENT {
		for i := range t.target {
			if t.target[i] == '/' {
				_ = syscall.Mkdir(t.target[:i], 0o755) // may be there; if it failed, what follows does
			}
		}
		err = t.make()
	}
	if err == syscall.EEXIST { // a text of our own that the host's file takes the place of, or a mount's parent
		return nil
	}
	return err
}

func (t tree) make() error {
	if t.folder {
		return syscall.Mkdir(t.target, 0o755)
	}
	fd, err := syscall.Open(t.target, syscall.O_CREAT|syscall.O_EXCL|syscall.O_WRONLY|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return syscall.Close(fd)
}

// kernelFolders mounts /proc and the private memory folders in the working folder.
func kernelFolders(o *Orders, r *root) error {
	const flags = syscall.MS_NOSUID | syscall.MS_NODEV
	size := "mode=1777,nr_inodes=65536,size=" + itoa(o.Tmp)
	for _, dir := range []string{"tmp", "dev/shm"} {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, size); err != nil {
			return fault("mount /"+dir, err)
		}
	}
	if r.tmp {
		if err := cover("tmp", "var/tmp", 0); err != nil {
			return err
		}
	}
	if !o.has(WallPIDs) { // the host's, which shows the host's processes
		return cover("/proc", "proc", 0)
	}
	if err := syscall.Mount("proc", "proc", "proc", flags|syscall.MS_NOEXEC, ""); err != nil {
		return fault("mount /proc", err)
	}
	if o.has(WallNested) {
		// From here on nobody inside gets another user namespace, and with it new rights.
		if err := writeFile("proc/sys/user/max_user_namespaces", "0"); err != nil {
			return fault("close user namespaces", err)
		}
		// Watches count for the host's user too, who must keep some.
		_ = writeFile("proc/sys/user/max_inotify_instances", "16")
		_ = writeFile("proc/sys/user/max_inotify_watches", "4096")
	}
	if !o.has(WallProc) {
		return nil
	}
	return cover("proc/sys", "proc/sys", readOnlyTree|mountAttrNoexec)
}

// mask covers what is masked of /proc: files with the null device, folders with an empty
// one. It comes when those are read-only, which what covers then is too.
func mask() error {
	for _, name := range procMasked {
		var st syscall.Stat_t
		name = "/proc/" + name
		if syscall.Lstat(name, &st) != nil {
			continue
		}
		blank := "/dev/null"
		if st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			blank = "/run"
		}
		if err := syscall.Mount(blank, name, "", syscall.MS_BIND, ""); err != nil && err != syscall.ENOENT {
			return fault("cover "+name, err)
		}
	}
	return nil
}

// cover mounts a copy of one path over another, if that exists.
func cover(name, over string, attr uint64) error {
	fd, err := openTree(name)
	if err == syscall.ENOENT {
		return nil
	}
	if err == nil && attr != 0 {
		err = setTreeAttr(fd, attr)
	}
	if err == nil {
		err = moveMount(fd, over)
		_ = syscall.Close(fd)
	}
	if err != nil && err != syscall.ENOENT {
		return fault("cover /"+over, err)
	}
	return nil
}
