package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Places say where the paths of a Spec really are, for runtimes on systems where a
// program sees the host's own folders under the host's own names. There a mount is no
// more than a permission, so what the Spec says in inner paths (arguments, variables, the
// working folder) is put into the host's words before the program starts.
//
// A mounted folder is where it is on the host. A mounted file has a name of its own only
// inside, so it is shown in the run's view, a folder that is laid out as the inner paths
// are: a variable may name the folder that the file is in. /tmp is a folder of the run.
type places struct {
	folders   []place // longest inner path first
	view      string
	tmp       string
	separator string // of a path's parts: "/", or "\" on Windows
	list      string // of a list of paths: ":", or ";" on Windows
}

type place struct {
	inner, host string
	file        bool
	writable    bool
}

// newPlaces makes the run's own folders in home, which is empty, and finds out where the
// mounts really are: walls go by real paths, not by links to them.
func newPlaces(s Spec, home string) (*places, error) {
	p := &places{
		view: filepath.Join(home, "view"), tmp: filepath.Join(home, "tmp"),
		separator: string(filepath.Separator), list: string(filepath.ListSeparator),
	}
	for _, dir := range []string{p.view, p.tmp} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	for _, m := range s.Mounts {
		host, err := filepath.EvalSymlinks(m.Host)
		if err == nil {
			host, err = filepath.Abs(host)
		}
		var info fs.FileInfo
		if err == nil {
			info, err = os.Stat(host)
		}
		if err == nil && !info.IsDir() && !info.Mode().IsRegular() {
			err = errors.New("it is neither a folder nor a plain file")
		}
		if err == nil && info.Mode().IsRegular() && m.Writable {
			err = errors.New("a single file cannot be shown writable here; mount its folder")
		}
		if err != nil {
			return nil, fmt.Errorf("mount %s in the sandbox: %w", m.Host, err)
		}
		p.folders = append(p.folders, place{inner: m.Inner, host: host, file: !info.IsDir(), writable: m.Writable})
	}
	slices.SortFunc(p.folders, func(a, b place) int { return len(b.inner) - len(a.inner) })
	return p, p.show()
}

// show puts the mounted files into the view: as another name of the same file, or as a
// copy where that cannot be. Of mounted folders it has those above.
func (p *places) show() error {
	for _, f := range p.folders {
		name := filepath.Join(p.view, filepath.FromSlash(f.inner))
		err := os.MkdirAll(filepath.Dir(name), 0o700)
		if err == nil && f.file {
			err = another(f.host, name)
		}
		if err != nil {
			return fmt.Errorf("show %s in the sandbox: %w", f.host, err)
		}
	}
	return nil
}

// another gives a file another name. On Windows that would change who may read the file
// itself: rights come from the folder that it was last put in.
func another(from, name string) error {
	if runtime.GOOS != "windows" && os.Link(from, name) == nil {
		return nil
	}
	return copyTo(name, from)
}

func copyTo(name, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// host is where an inner path is. It reports false for a path that is nothing of the
// run's: it means the same on the host.
func (p *places) host(inner string) (string, bool) {
	if !path.IsAbs(inner) {
		return "", false
	}
	clean := path.Clean(inner)
	join := func(base, rest string) string { return base + strings.ReplaceAll(rest, "/", p.separator) }
	for _, f := range p.folders {
		switch {
		case f.file && clean == f.inner, within(f.inner, clean) && clean != f.inner && clean != "/":
			// The file itself, or a folder above a mount. Above folders there is nothing to
			// see, but a name that can be opened.
			return join(p.view, clean), true
		case !f.file && within(clean, f.inner):
			return join(f.host, clean[len(f.inner):]), true
		}
	}
	for _, tmp := range []string{"/tmp", "/var/tmp", "/dev/shm"} {
		if within(clean, tmp) {
			return join(p.tmp, clean[len(tmp):]), true
		}
	}
	return "", false
}

// text is a word of the Spec in the host's words, if it is an inner path.
func (p *places) text(word string) string {
	if host, ok := p.host(word); ok {
		return host
	}
	return word
}

// arguments are argv in the host's words: arguments that are inner paths, and options
// that name one after "=". What only mentions a path is the program's own business.
func (p *places) arguments(argv []string) []string {
	all := make([]string, len(argv))
	for i, a := range argv {
		all[i] = p.text(a)
		if name, value, ok := strings.Cut(a, "="); ok && strings.HasPrefix(name, "-") {
			all[i] = name + "=" + p.text(value)
		}
	}
	return all
}

// environment is env in the host's words, with what every program needs. path is where
// the host's programs are, in the host's words already.
func (p *places) environment(env []string, path ...string) []string {
	all := make([]string, 0, len(env)+6)
	for _, v := range env {
		name, value, ok := strings.Cut(v, "=")
		switch {
		case !ok:
			continue
		case strings.HasSuffix(name, "PATH"): // PATH, PYTHONPATH, …
			parts := strings.Split(value, ":")
			for i := range parts {
				parts[i] = p.text(parts[i])
			}
			value = strings.Join(parts, p.list)
		default:
			value = p.text(value)
		}
		all = append(all, name+"="+value)
	}
	for _, v := range [][2]string{
		{"PATH", strings.Join(path, p.list)},
		{"HOME", p.tmp},
		{"TMPDIR", p.tmp},
		{"LANG", "C.UTF-8"},
	} {
		if !slices.ContainsFunc(all, func(has string) bool { return strings.HasPrefix(has, v[0]+"=") }) {
			all = append(all, v[0]+"="+v[1])
		}
	}
	return all
}

// dir is the working folder in the host's words.
func (p *places) dir(inner string) string {
	if inner == "" {
		return p.tmp
	}
	return p.text(inner)
}

// readable and writable are the folders and files a program may use, in the host's words.
// What is writable is readable too.
func (p *places) readable() []string {
	all := []string{p.view}
	for _, f := range p.folders {
		if !f.writable {
			all = append(all, f.host)
		}
	}
	return all
}

func (p *places) writable() []string {
	all := []string{p.tmp}
	for _, f := range p.folders {
		if f.writable {
			all = append(all, f.host)
		}
	}
	return all
}

// unservedNatively refuses what a runtime cannot do that runs the host's own programs
// behind walls without a network.
func unservedNatively(name string, s Spec) error {
	missing := ""
	switch {
	case s.Image != nil:
		missing = "runs no images; the engine runtime does"
	case s.Network != NoNetwork:
		missing = "has no network to offer"
	case s.Deterministic:
		missing = "is not deterministic; the wasm runtime is"
	case len(s.GPUs) > 0:
		missing = "passes no GPU through; the engine runtime does"
	}
	if missing == "" {
		return nil
	}
	return fmt.Errorf("run in the sandbox: the %s runtime %s", name, missing)
}

// find looks a program up in folders, as a shell would. Endings are tried after the name
// as it is.
func find(name string, folders, endings []string) (string, error) {
	for _, dir := range folders {
		for _, ending := range append([]string{""}, endings...) {
			file := filepath.Join(dir, name+ending)
			info, err := os.Stat(file)
			if err == nil && info.Mode().IsRegular() && (info.Mode()&0o111 != 0 || ending != "") {
				return file, nil
			}
		}
	}
	return "", &StartError{Program: name, Err: fs.ErrNotExist}
}
