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
	{"etc/passwd", passwdLine + "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
	{"etc/group", groupLine + "nogroup:x:65534:\n"},
	{"etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"},
	{"etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"},
	{"etc/resolv.conf", ""},
	{"etc/hostname", hostname + "\n"},
}

const (
	hostname   = "spare"
	passwdLine = "spare:x:1000:1000:Spare:/tmp:/bin/sh\n"
	groupLine  = "spare:x:1000:\n"
)

// devLinks are the usual ones.
var devLinks = [][2]string{
	{"dev/fd", "/proc/self/fd"},
	{"dev/stdin", "/proc/self/fd/0"},
	{"dev/stdout", "/proc/self/fd/1"},
	{"dev/stderr", "/proc/self/fd/2"},
}

// A tree is a detached mount and where it goes, relative to the new root.
type tree struct {
	fd     int
	target string
	folder bool
}

// A root is what the program will find at /: folders, links and texts of its own, and
// trees of the host or of an image. Paths are relative to it.
type root struct {
	folders []string    // before the folders in them
	links   [][2]string // name, target
	texts   [][2]string // name, content
	trees   []tree
	system  []string // what of it programs read and execute
	tmp     bool     // /var/tmp is a folder, which /tmp is to cover
}

// ownFolders are made in every root.
var ownFolders = []string{"dev", "dev/shm", "proc", "run", "tmp"}

// join is a list of its own, so that what is appended to it leaves the others alone.
func join[T any](a []T, more ...T) []T {
	return append(append(make([]T, 0, len(a)+len(more)+32), a...), more...)
}

// hostRoot shows the host's system folders. They are taken before anything is mounted: no
// mount of ours can hide one.
func hostRoot() (*root, error) {
	r := &root{folders: join(ownFolders, "etc", "var"), links: devLinks, texts: etcTexts, system: []string{"etc"}}
	r.links = join(r.links, [2]string{"etc/mtab", "/proc/mounts"}, [2]string{"var/tmp", "/tmp"})
	for _, dir := range systemFolders {
		if to, link := readlink("/" + dir); link {
			r.links = append(r.links, [2]string{dir, to})
			continue
		}
		r.system = append(r.system, dir)
		if err := r.take("/", dir); err != nil {
			return nil, err
		}
	}
	for _, file := range etcFiles {
		if err := r.take("/", "etc/"+file); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// take clones a tree, if there is one. Its attributes are set later, with all others'.
func (r *root) take(source, name string) error {
	t := tree{target: name}
	var err error
	t.fd, err = openTree(source + name)
	if err == syscall.ENOENT || err == syscall.ENOTDIR { // this system has none
		return nil
	}
	var st syscall.Stat_t
	if err == nil {
		err = syscall.Fstat(t.fd, &st)
	}
	if err != nil {
		return fault("mount "+source+name, err)
	}
	t.folder = st.Mode&syscall.S_IFMT == syscall.S_IFDIR
	r.trees = append(r.trees, t)
	return nil
}

// imageRoot shows an image's files, which are mounted at source. What the program is
// promised wins over them: devices, /proc, /tmp, its mounts, and the few files that every
// runtime of containers writes.
func imageRoot(source string, mounts []Mount, texts [][2]string) (*root, error) {
	r := &root{folders: join(ownFolders), links: join(devLinks), texts: texts}
	if len(texts) > 0 {
		r.folders, r.system = join(ownFolders, "etc"), []string{"etc"}
	}
	l := layer{root: r, source: source, ours: join(r.folders)}
	for _, t := range texts {
		l.ours = append(l.ours, t[0])
	}
	for _, m := range mounts {
		l.ours = append(l.ours, m.Inner[1:])
	}
	if err := l.lay(""); err != nil {
		return nil, err
	}
	var st syscall.Stat_t
	r.tmp = len(texts) > 0 && isFolder(source+"var", &st) && isFolder(source+"var/tmp", &st)
	return r, nil
}

func isFolder(name string, st *syscall.Stat_t) bool {
	return syscall.Lstat(name, st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFDIR
}

// A layer puts the entries of a source's folders into a root, one by one where something
// of ours goes among them. Links are made anew and never followed: on the way into the
// new root they would lead through the host's.
type layer struct {
	*root
	source string // ends in a slash
	ours   []string
}

// lay goes through a folder; "" is the source itself, any other ends in a slash.
func (l *layer) lay(folder string) error {
	names, err := readFolder(l.source + folder)
	if err != nil {
		return fault("read the image's folder /"+folder, err)
	}
	for _, name := range names {
		if err := l.entry(folder + name); err != nil {
			return err
		}
	}
	return nil
}

func (l *layer) entry(name string) error {
	var st syscall.Stat_t
	if err := syscall.Lstat(l.source+name, &st); err != nil {
		return fault("look at the image's /"+name, err)
	}
	kind := st.Mode & syscall.S_IFMT
	mine, among := l.claimed(name)
	switch {
	case among && kind == syscall.S_IFDIR:
		if !mine {
			l.folders = append(l.folders, name)
			l.shows(name)
		}
		return l.lay(name + "/")
	case mine || among:
		return nil
	case kind == syscall.S_IFLNK:
		if to, ok := readlink(l.source + name); ok {
			l.links = append(l.links, [2]string{name, to})
		}
		return nil
	case kind == syscall.S_IFDIR || kind == syscall.S_IFREG:
		l.shows(name)
		return l.take(l.source, name)
	}
	return nil // devices, sockets and pipes have no place in an image
}

// shows adds to what programs read. What lies deeper is in what was added before.
func (l *layer) shows(name string) {
	for i := range name {
		if name[i] == '/' {
			return
		}
	}
	l.system = append(l.system, name)
}

// claimed reports whether something of ours is at a path, and whether something is below.
func (l *layer) claimed(name string) (at, below bool) {
	for _, o := range l.ours {
		at = at || o == name
		below = below || len(o) > len(name) && o[len(name)] == '/' && o[:len(name)] == name
	}
	if name == "dev" { // nothing of an image's
		below = false
	}
	return at, below
}

// imageTexts are the texts that go into an image's /etc. Its own accounts stay, and get
// the one that programs run as if it is not among them.
func imageTexts(source string) [][2]string {
	// The way to a text must not be a link: it would lead through the host.
	var etc syscall.Stat_t
	if !isFolder(source+"etc", &etc) {
		return etcTexts
	}
	var texts [][2]string
	for _, t := range etcTexts {
		switch t[0] {
		case "etc/passwd":
			t[1] = withLine(smallFile(source+t[0]), passwdLine, t[1])
		case "etc/group":
			t[1] = withLine(smallFile(source+t[0]), groupLine, t[1])
		case "etc/nsswitch.conf":
			var st syscall.Stat_t
			if syscall.Lstat(source+t[0], &st) == nil {
				continue
			}
		}
		texts = append(texts, t)
	}
	return texts
}

// maxAccounts is how much of an image's accounts is looked at.
const maxAccounts = 256 << 10

// smallFile is a plain file's text. A link is not followed: it leads through the host.
func smallFile(name string) string {
	var st syscall.Stat_t
	if syscall.Lstat(name, &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG || st.Size > maxAccounts {
		return ""
	}
	return string(readFile(name, make([]byte, st.Size)))
}

// withLine adds a line to accounts in which nobody has its number, the third field.
func withLine(text, line, otherwise string) string {
	if text == "" {
		return otherwise
	}
	for l := range parts(text, '\n') {
		n := 0
		for field := range parts(l, ':') {
			if n++; n == 3 && field == "1000" {
				return text
			}
		}
	}
	if text[len(text)-1] != '\n' {
		text += "\n"
	}
	return text + line
}

// readFolder lists a folder.
func readFolder(name string) ([]string, error) {
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = syscall.Close(fd) }()
	var names []string
	buf := make([]byte, 16<<10)
	for {
		n, err := syscall.ReadDirent(fd, buf)
		if err != nil || n <= 0 {
			return names, err
		}
		_, _, names = syscall.ParseDirent(buf[:n], -1, names)
	}
}
