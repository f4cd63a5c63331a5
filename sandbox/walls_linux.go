package sandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare/sandbox/first"
)

// has reports whether a wall is to stand. All do, but in this package's own tests, which
// prove that what a wall stops gets through without it.
func (l linux) has(wall string) bool { return !slices.Contains(l.without, wall) }

// ownUser reports whether programs run as ownID.
func (l linux) ownUser() bool { return ownOwner() && l.has(first.WallOwnUser) }

// walls adds to the orders what the first process needs for the walls that this process
// computes or opens for it. It may add to r.theirs and comes before start.
func (r *run) walls(l linux) error {
	r.orders.Without = l.without
	r.orders.Probe = l.probing
	if l.has(first.WallSeccomp) && l.has(first.WallPrivileges) { // the kernel takes no filter without it
		r.orders.Filter = filterFor(r.spec.Network)
	}
	return r.image(l)
}

// image shows an image's files instead of the system's folders.
func (r *run) image(l linux) error {
	if r.spec.Image == nil {
		return nil
	}
	r.orders.Image = r.spec.Image.Folder
	if !l.ownUser() {
		return nil
	}
	// As with mounts: root reaches folders that the first process does not.
	fd, err := cloneTree(r.spec.Image.Folder, false)
	switch {
	case errors.Is(err, unix.EPERM):
		return nil
	case err != nil:
		return fmt.Errorf("mount the image %s: %w", r.spec.Image.Folder, err)
	}
	r.orders.ImageFD = first.MountFD + len(r.theirs)
	r.theirs = append(r.theirs, os.NewFile(uintptr(fd), r.spec.Image.Folder))
	return nil
}

// namespaces are the flags of the namespaces, by their walls' names.
var namespaces = map[string]uintptr{
	first.WallMounts: unix.CLONE_NEWNS, first.WallPIDs: unix.CLONE_NEWPID, first.WallNetwork: unix.CLONE_NEWNET,
	first.WallIPC: unix.CLONE_NEWIPC, first.WallUTS: unix.CLONE_NEWUTS, first.WallCgroups: unix.CLONE_NEWCGROUP,
}

// attributes are the namespaces of the first process. Its capabilities in them are
// ambient, else they would be lost when it is executed with an id other than 0.
func (l linux) attributes(n Network) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: first.ID, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: first.ID, HostID: os.Getegid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP, unix.CAP_SYS_RESOURCE},
		Pdeathsig:   syscall.SIGKILL,
		Setsid:      true,
	}
	for wall, flag := range namespaces {
		if l.has(wall) || wall == first.WallPIDs {
			a.Cloneflags |= flag
		}
	}
	if n == Outbound { // the first process brings its loopback up
		a.AmbientCaps = append(a.AmbientCaps, unix.CAP_NET_ADMIN)
	}
	if l.ownUser() { // the host's root is not even mapped inside, and is left for good
		a.UidMappings[0].HostID, a.GidMappings[0].HostID = ownID, ownID
		a.GidMappingsEnableSetgroups = true
		a.Credential = &syscall.Credential{Uid: first.ID, Gid: first.ID}
	}
	if l.ownUser() && !l.has(first.WallUser) { // all the host's ids, as they are
		a.UidMappings[0] = syscall.SysProcIDMap{Size: 1 << 16}
		a.GidMappings[0] = a.UidMappings[0]
		a.Credential = &syscall.Credential{Uid: ownID, Gid: ownID}
	}
	return a
}
