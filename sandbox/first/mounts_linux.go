package first

import "syscall"

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
var etcTexts = [][2]string{
	{"passwd", "spare:x:1000:1000:Spare:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
	{"group", "spare:x:1000:\nnogroup:x:65534:\n"},
	{"hosts", "127.0.0.1 localhost\n::1 localhost\n"},
	{"nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"},
	{"resolv.conf", ""},
	{"hostname", hostname + "\n"},
}

const hostname = "spare"

// devices are all the device nodes there are inside.
var devices = []string{"null", "zero", "full", "random", "urandom"}

// links are the usual ones.
var links = [][2]string{
	{"dev/fd", "/proc/self/fd"},
	{"dev/stdin", "/proc/self/fd/0"},
	{"dev/stdout", "/proc/self/fd/1"},
	{"dev/stderr", "/proc/self/fd/2"},
	{"etc/mtab", "/proc/mounts"},
	{"var/tmp", "/tmp"},
}

// procMasked are files of /proc that tell of the host to anyone who asks. They read
// empty. The others that tell much, or reach into the kernel, are for the host's root,
// which is not even mapped inside.
var procMasked = []string{"keys", "key-users", "kallsyms", "modules", "cmdline", "mdstat", "partitions", "diskstats"}

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
		t.fd, err = openTree("/" + name)
		if err == syscall.ENOENT || err == syscall.ENOTDIR { // this system has none
			return nil
		}
		var st syscall.Stat_t
		if err == nil {
			err = syscall.Fstat(t.fd, &st)
		}
		if err != nil {
			return fault("mount /"+name, err)
		}
		t.folder = st.Mode&syscall.S_IFMT == syscall.S_IFDIR
		all = append(all, t)
		return nil
	}
	for _, dir := range systemFolders {
		if _, link := readlink("/" + dir); link {
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

// ownTrees clones the devices and the mounts, with their attributes.
func ownTrees(mounts []Mount) ([]tree, error) {
	var all []tree
	for _, dev := range devices {
		fd, err := cloneTree("/dev/"+dev, mountAttrNosuid|mountAttrNoexec)
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

// buildRoot makes the root that the program sees and moves this process into it.
func buildRoot(mounts []Mount, tmp int64) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fault("make the mounts private", err)
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
	if err := syscall.Mount("tmpfs", "/usr", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=755,size=1m"); err != nil {
		return fault("mount the new root", err)
	}
	if err := syscall.Chdir("/usr"); err != nil {
		return err
	}
	if err := skeleton(); err != nil {
		return err
	}
	if err := attach(system); err != nil {
		return err
	}
	// Everything of the system at once, below included; the root itself when it is full.
	if err := mountSetattr(atCwd, ".", atRecursive, &mountAttr{set: readOnlyTree}); err != nil {
		return fault("make the system folders read-only", err)
	}
	if err := mountSetattr(atCwd, ".", 0, &mountAttr{clear: mountAttrReadOnly}); err != nil {
		return fault("fill the root", err)
	}
	if err := attach(own); err != nil {
		return err
	}
	if err := kernelFolders(tmp); err != nil {
		return err
	}
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
func skeleton() error {
	for _, dir := range []string{"dev", "dev/shm", "etc", "proc", "tmp", "var", "run"} {
		if err := syscall.Mkdir(dir, 0o755); err != nil {
			return fault("make /"+dir, err)
		}
	}
	for _, dir := range systemFolders {
		if to, link := readlink("/" + dir); link {
			if err := syscall.Symlink(to, dir); err != nil {
				return fault("link /"+dir, err)
			}
		}
	}
	for _, l := range links {
		if err := syscall.Symlink(l[1], l[0]); err != nil {
			return fault("link /"+l[0], err)
		}
	}
	for _, f := range etcTexts {
		if err := writeFile("etc/"+f[0], f[1]); err != nil {
			return fault("write /etc/"+f[0], err)
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
func kernelFolders(tmp int64) error {
	const flags = syscall.MS_NOSUID | syscall.MS_NODEV
	size := "mode=1777,nr_inodes=65536,size=" + itoa(tmp)
	for _, dir := range []string{"tmp", "dev/shm"} {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, size); err != nil {
			return fault("mount /"+dir, err)
		}
	}
	if err := syscall.Mount("proc", "proc", "proc", flags|syscall.MS_NOEXEC, ""); err != nil {
		return fault("mount /proc", err)
	}
	// From here on nobody inside gets another user namespace, and with it new rights.
	if err := writeFile("proc/sys/user/max_user_namespaces", "0"); err != nil {
		return fault("close user namespaces", err)
	}
	if err := cover("proc/sys", "proc/sys", readOnlyTree|mountAttrNoexec); err != nil {
		return err
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
