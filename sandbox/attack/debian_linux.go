package attack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// inImage are the packages that an image for the attacks is made of, with all that these
// need: an interpreter, and the few tools that scripts call.
var inImage = []string{"python3-minimal", "libpython3-stdlib", "busybox-static"}

// Debian is the root file system of a small Debian with Python, made from the packages of
// the system that this runs on and kept in the user's cache for the next time. It needs
// apt-get and dpkg-deb, and neither root nor a container engine.
func Debian(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "spare", "test-images", "python-"+runtime.GOARCH)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "making-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	if err := debianIn(ctx, work); err != nil {
		return "", fmt.Errorf("make an image's files from Debian's packages: %w", err)
	}
	if err := os.Rename(filepath.Join(work, "root"), dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
}

func debianIn(ctx context.Context, work string) error {
	root, packages := filepath.Join(work, "root"), filepath.Join(work, "archives")
	for _, err := range []error{
		os.Mkdir(root, 0o755), os.MkdirAll(filepath.Join(packages, "partial"), 0o755), os.WriteFile(filepath.Join(work, "status"), nil, 0o644),
	} {
		if err != nil {
			return err
		}
	}
	// As if nothing were installed: so it fetches all that they need.
	args := []string{
		"-qq", "-y", "--download-only", "--no-install-recommends", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root",
		"-o", "Dir::State::status=" + filepath.Join(work, "status"), "-o", "Dir::Cache::archives=" + packages, "install",
	}
	if out, err := exec.CommandContext(ctx, "apt-get", append(args, inImage...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get: %w: %s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(packages, "*.deb"))
	if err != nil || len(files) == 0 {
		return errors.Join(errors.New("apt-get fetched nothing"), err)
	}
	for _, f := range files {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "--extract", f, root).CombinedOutput(); err != nil {
			return fmt.Errorf("dpkg-deb: %w: %s", err, out)
		}
	}
	return furnish(root)
}

// furnish adds what the packages' own scripts would: the folders that every image has, and
// links to busybox's tools.
func furnish(root string) error {
	var all []error
	for _, d := range []string{"bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var/tmp", "usr/bin"} {
		all = append(all, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	for _, tool := range []string{"sh", "flock", "nohup", "setsid", "sleep", "touch", "echo", "cat"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", tool)); err != nil && !errors.Is(err, fs.ErrExist) {
			all = append(all, err)
		}
	}
	if found, _ := filepath.Glob(filepath.Join(root, "usr/bin/python3.*")); len(found) == 1 {
		link := filepath.Join(root, "usr/bin/python3")
		if err := os.Symlink(strings.TrimPrefix(found[0], filepath.Join(root, "usr/bin")+"/"), link); err != nil && !errors.Is(err, fs.ErrExist) {
			all = append(all, err)
		}
	}
	return errors.Join(append(all, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644))...)
}
