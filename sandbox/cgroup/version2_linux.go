package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// leaf is the group that a process with a delegated group moves itself into.
const leaf = "spare-node"

// controllers2 are version 2's controllers of the features that have one.
var controllers2 = map[Feature]string{Memory: "memory", Pids: "pids", CPU: "cpu", IO: "io"}

// version2 finds where groups of version 2 can be made, and what they do there.
func (h host) version2(m mount, own string) (tree, map[Feature]string) {
	lacks := map[Feature]string{}
	all := func(why string) (tree, map[Feature]string) {
		for _, f := range Features {
			lacks[f] = why
		}
		return tree{}, lacks
	}
	if !m.rw {
		return all("the control groups at " + m.point + " are mounted read-only")
	}
	base, err := h.home(m, own)
	if err != nil {
		return all(err.Error())
	}
	for _, f := range Features {
		if c := controllers2[f]; c != "" {
			if err := enable(base, c); err != nil {
				lacks[f] = err.Error()
			}
		}
	}
	t := tree{base: base, top: m.point, v2: true, has: map[Feature]bool{}, make: h.make}
	dir, end, err := t.trial()
	if err != nil {
		return all(refusal(err, h.uid))
	}
	defer end()
	t.into, t.kill = h.born(dir) == nil, there(dir, "cgroup.kill")
	for _, f := range Features {
		switch {
		case lacks[f] != "":
		case there(dir, filesOf2[f]...):
			t.has[f] = true
		default:
			lacks[f] = fmt.Sprintf("the kernel's control groups at %s have no %s", m.point, strings.Join(filesOf2[f], " and no "))
		}
	}
	return t, lacks
}

// home is the group that others may be made in: one that is delegated to this process
// or, for root, that of the whole machine.
func (h host) home(m mount, own string) (string, error) {
	dir, visible := m.folder(own)
	if visible && filepath.Base(dir) == leaf && (h.uid != 0 || delegated(filepath.Dir(dir)) || filepath.Dir(dir) == m.point) {
		return filepath.Dir(dir), writable(filepath.Dir(dir), h.uid) // moved there before, or by systemd
	}
	switch {
	case visible && isRoot(dir):
		return dir, writable(dir, h.uid)
	case visible && (dir == m.point || delegated(dir)): // all of a container's, or all of a service's
		return dir, h.moveAll(dir)
	case visible && h.uid != 0 && ownedBy(dir, h.uid):
		return dir, h.moveAlone(dir)
	case h.uid == 0 && isRoot(m.point):
		return m.point, writable(m.point, h.uid)
	}
	return "", fmt.Errorf("this process has no control group of its own. %s", delegate)
}

// isRoot reports whether a group is the machine's outermost, which alone has no type and
// may have processes beside its subgroups.
func isRoot(dir string) bool { return !there(dir, "cgroup.type") && there(dir, "cgroup.procs") }

// delegated reports whether systemd has marked a group as left to its service.
func delegated(dir string) bool {
	var value [4]byte
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		if n, err := unix.Getxattr(dir, name, value[:]); err == nil && string(value[:n]) == "1" {
			return true
		}
	}
	return false
}

func ownedBy(dir string, uid int) bool {
	info, err := os.Stat(dir)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == uid
}

// writable says what is missing where groups cannot be made and filled.
func writable(dir string, uid int) error {
	for _, file := range []string{dir, filepath.Join(dir, "cgroup.procs")} {
		if err := unix.Access(file, unix.W_OK); err != nil {
			return errors.New(refusal(&os.PathError{Op: "write", Path: file, Err: err}, uid))
		}
	}
	return nil
}

// moveAlone moves this process into the leaf if nothing else is in its group: a terminal's
// group, say, is the user's too, but with the shell in it.
func (h host) moveAlone(dir string) error {
	pids, err := members(dir)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(pids, func(pid int) bool { return pid != h.pid }) {
		return fmt.Errorf("this process shares its control group %s with others. %s", dir, delegate)
	}
	return h.moveAll(dir)
}

// moveAll moves all processes of a group into its leaf, also those started meanwhile.
func (h host) moveAll(dir string) error {
	if err := writable(dir, h.uid); err != nil {
		return err
	}
	in := filepath.Join(dir, leaf)
	if err := h.make(in); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make room in the control group: %w", err)
	}
	for range 3 {
		pids, err := members(dir)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			// One that cannot be moved shows when the controllers are switched on.
			_ = put(filepath.Join(in, "cgroup.procs"), strconv.Itoa(pid))
		}
	}
	return nil
}

// members lists the processes of a group. Those of other containers have no number here.
func members(dir string) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("list a control group's processes: %w", err)
	}
	return numbers(string(text)), nil
}

func numbers(text string) []int {
	var pids []int
	for word := range strings.FieldsSeq(text) {
		if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// enable switches a controller on for the groups below.
func enable(base, controller string) error {
	offered, err := os.ReadFile(filepath.Join(base, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read the control group's controllers: %w", err)
	}
	if !slices.Contains(strings.Fields(string(offered)), controller) {
		return fmt.Errorf("the control group %s is offered no %s controller", base, controller)
	}
	file := filepath.Join(base, "cgroup.subtree_control")
	on, err := os.ReadFile(file)
	if err == nil && slices.Contains(strings.Fields(string(on)), controller) {
		return nil
	}
	if err := put(file, "+"+controller); err != nil {
		return fmt.Errorf("switch on the %s controller of the control group %s: %w", controller, base, err)
	}
	return nil
}

// put writes a file that is there.
func put(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
