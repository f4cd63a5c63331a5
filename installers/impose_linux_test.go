package installers_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
)

// What systemd would do for a service, done by a process for itself where no systemd runs.
// systemd.exec(5) says what each line means; the comments here say only how it is done.

// unit is the [Service] part of a unit file. A setting that is given again adds to the
// list, as systemd has it for the lists that are used here.
type unit map[string][]string

func parseUnit(text string) unit {
	u, section := unit{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = line
		}
		key, value, ok := strings.Cut(line, "=")
		if ok && section == "[Service]" && !strings.HasPrefix(line, "#") {
			u[key] = append(u[key], value)
		}
	}
	return u
}

// A setting is done by impose or, without one, is a filter of system calls, which come last.
type setting struct {
	key, value string // "" is any
	impose     func(state string) error
	asRoot     bool // an ordinary user cannot do it; the other settings are tested all the same
}

// elsewhere are the settings that change nothing of what a process may do, or that systemd
// does from outside: the tests put the process into a delegated control group.
var elsewhere = []string{
	"Type", "ExecStart", "Restart", "RestartSec", "RestartPreventExitStatus", "TimeoutStopSec", "KillMode", "Group", "StateDirectory",
	"StateDirectoryMode", "CPUWeight", "IOWeight", "Delegate", "RemoveIPC", "LimitNOFILE",
	"SystemCallErrorNumber",   // goes with SystemCallFilter
	"SystemCallArchitectures", // every filter looks at it
	"DevicePolicy",            // closed: no more devices than PrivateDevices shows
	"AmbientCapabilities",     // there are none in an empty bounding set
	"CapabilityBoundingSet",   // always given up: none of these units keeps any
	"NoNewPrivileges", "User", // likewise
}

// imposed is what a unit's settings do to the process, in the order in which systemd does it.
var imposed = []setting{
	{"PrivateMounts", "yes", func(string) error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "") }, true},
	{"PrivateTmp", "yes", func(string) error { return errors.Join(emptyFolder("/tmp", "1777"), emptyFolder("/var/tmp", "1777")) }, true},
	{"PrivateDevices", "yes", func(string) error { return privateDevices() }, true},
	{"ProtectHome", "yes", func(string) error { return hide("/home", "/root", "/run/user") }, true},
	{"ProtectKernelModules", "yes", func(string) error { return hide("/usr/lib/modules") }, true},
	{"ProtectSystem", "strict", readOnly, true},
	{"UMask", "0077", func(string) error { unix.Umask(0o077); return nil }, false},
	{"OOMScoreAdjust", "500", func(string) error { return os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0) }, false},
	{"ProtectClock", "yes", nil, false},
	{"RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX AF_NETLINK", nil, false},
	{"RestrictRealtime", "yes", nil, false},
	{"RestrictSUIDSGID", "yes", nil, false},
	{"LockPersonality", "yes", nil, false},
	{"SystemCallFilter", "", nil, false},
}

// impose puts this process, whose thread is locked and whose mount namespace is its own,
// behind a unit's walls. Only what lies at state can be written.
func (u unit) impose(state string, uid int) error {
	for key, values := range u {
		known := slices.Contains(elsewhere, key)
		for _, i := range imposed {
			known = known || key == i.key && (i.value == "" || slices.Equal(values, []string{i.value}))
		}
		if !known {
			return fmt.Errorf("the unit says %s=%s, and this test does not know how to do that", key, strings.Join(values, " "))
		}
	}
	root := os.Getuid() == 0
	filters, err := u.filters() // made while programs can be asked
	if err != nil {
		return err
	}
	for _, i := range imposed {
		if _, said := u[i.key]; said && i.impose != nil && (root || !i.asRoot) {
			if err := i.impose(state); err != nil {
				return fmt.Errorf("%s: %w", i.key, err)
			}
		}
	}
	if err := becomeNobody(uid); err != nil {
		return err
	}
	for _, f := range filters {
		if err := seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Policy: f}); err != nil {
			return err
		}
	}
	return nil
}

// emptyFolder puts an empty folder in memory where one is.
func emptyFolder(name, mode string) error {
	return unix.Mount("tmpfs", name, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode="+mode)
}

// hide makes folders that nobody enters of those that there are.
func hide(names ...string) error {
	for _, name := range names {
		if real, err := filepath.EvalSymlinks(name); err == nil {
			if err := unix.Mount("tmpfs", real, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "mode=0"); err != nil {
				return fmt.Errorf("hide %s: %w", name, err)
			}
		}
	}
	return nil
}

// privateDevices is a /dev of its own with what belongs to no hardware.
func privateDevices() error {
	const dir = "/tmp" // empty by now, and empty again after
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=4m"); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		var st unix.Stat_t
		err := unix.Stat("/dev/"+name, &st)
		if err == nil {
			err = unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR|0o666, int(st.Rdev))
		}
		if err == nil {
			err = unix.Chmod(filepath.Join(dir, name), 0o666)
		}
		if err != nil {
			return fmt.Errorf("make the device %s: %w", name, err)
		}
	}
	for _, name := range []string{"shm", "pts", "mqueue"} {
		if _, err := os.Stat("/dev/" + name); err != nil {
			continue
		}
		to := filepath.Join(dir, name)
		if err := errors.Join(os.Mkdir(to, 0o755), unix.Mount("/dev/"+name, to, "", unix.MS_BIND|unix.MS_REC, "")); err != nil {
			return fmt.Errorf("keep /dev/%s: %w", name, err)
		}
	}
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	// The old one goes out of sight below it.
	if err := unix.Mount(dir, "/dev", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	return unix.MountSetattr(unix.AT_FDCWD, "/dev", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}

// readOnly makes everything read-only but the state and the kernel's own file systems.
func readOnly(state string) error {
	if err := unix.Mount(state, state, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	list, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(list)) {
		name := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(strings.Fields(line)[4])
		switch top := strings.SplitN(name, "/", 3)[1]; {
		case name == state, slices.Contains([]string{"dev", "proc", "sys"}, top):
			continue
		case slices.Contains([]string{"/tmp", "/var/tmp"}, name): // private, so it may be written
			continue
		}
		err := unix.MountSetattr(unix.AT_FDCWD, name, unix.AT_SYMLINK_NOFOLLOW, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		if err != nil && err != unix.ENOENT && err != unix.EINVAL { // one that another covers
			return fmt.Errorf("make %s read-only: %w", name, err)
		}
	}
	return nil
}

// become gives this thread, which becomes the program, to another user. The calls are made
// raw, since they are for no other thread.
func become(uid int) error {
	if os.Getuid() == uid {
		return nil
	}
	id := uintptr(uid)
	for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS}, {unix.SYS_SETRESGID, id, id, id}, {unix.SYS_SETRESUID, id, id, id}} {
		if _, _, e := unix.RawSyscall6(call[0], call[1], call[2], call[3], 0, 0, 0); e != 0 {
			return fmt.Errorf("become user %d: %w", uid, e)
		}
	}
	return nil
}

// becomeNobody gives up all rights, too, and for good.
func becomeNobody(uid int) error {
	for c := uintptr(0); c < 64 && os.Getuid() == 0; c++ {
		if _, _, e := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); e == unix.EINVAL {
			break
		} else if e != 0 {
			return fmt.Errorf("drop a capability: %w", e)
		}
	}
	if err := become(uid); err != nil {
		return err
	}
	if _, _, e := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e != 0 {
		return fmt.Errorf("set no_new_privs: %w", e)
	}
	return nil
}

// A group is a control group that is left to a user, as Delegate= does it.
type group struct{ dir string }

// delegate makes one. It is nil where there is none of version 2 to be had.
func delegate(uid int) (*group, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	list, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(list)) {
		f := strings.Fields(line)
		if !strings.Contains(line, " - cgroup2 ") || !slices.Contains(strings.Split(f[5], ","), "rw") {
			continue
		}
		g := &group{filepath.Join(f[4], "spare-unit-test-"+rand.Text())}
		for _, c := range []string{"cpu", "memory", "pids", "io"} { // those that version 2 has here
			_ = os.WriteFile(filepath.Join(f[4], "cgroup.subtree_control"), []byte("+"+c), 0)
		}
		if err := os.Mkdir(g.dir, 0o755); err != nil {
			return nil, err
		}
		for _, file := range []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
			err = errors.Join(err, os.Chown(filepath.Join(g.dir, file), uid, uid))
		}
		return g, errors.Join(err, unix.Setxattr(g.dir, "trusted.delegate", []byte("1"), 0))
	}
	return nil, nil
}

// enter has a command started in it.
func (g *group) enter(a *syscall.SysProcAttr) (done func(), err error) {
	if g == nil {
		return func() {}, nil
	}
	fd, err := unix.Open(g.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	a.UseCgroupFD, a.CgroupFD = true, fd
	return func() { _ = unix.Close(fd) }, nil
}

// remove takes it away with all below it. Processes that have ended may still be leaving.
func (g *group) remove() error {
	if g == nil {
		return nil
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		var left []string
		err := filepath.WalkDir(g.dir, func(name string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				left = append(left, name)
			}
			return nil
		})
		for _, dir := range slices.Backward(left) {
			err = errors.Join(err, unix.Rmdir(dir))
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}
