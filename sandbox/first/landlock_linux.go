package first

import (
	"syscall"
	"unsafe"
)

// Landlock, the kernel's second opinion on every path: even a program that got hold of a
// file outside its root could not open it. Numbers are those of linux/landlock.h; the
// calls' are the same on every architecture.
const (
	sysLandlockCreate   = 444
	sysLandlockAdd      = 445
	sysLandlockRestrict = 446

	landlockVersion = 1 // flag of create: only tell the version
	ruleBeneath     = 1
	rulePort        = 2

	mayExecute   = 1 << 0
	mayWriteFile = 1 << 1
	mayReadFile  = 1 << 2
	mayReadDir   = 1 << 3
	mayMakeChar  = 1 << 6
	mayMakeBlock = 1 << 11
	mayTruncate  = 1 << 14
	mayIoctl     = 1 << 15 // of device files
	mayBind      = 1 << 0  // TCP
	mayConnect   = 1 << 1  // TCP
	scopeAll     = 1<<0 | 1<<1

	mayRead  = mayExecute | mayReadFile | mayReadDir
	ofAFile  = mayExecute | mayWriteFile | mayReadFile | mayTruncate | mayIoctl // what a rule on a file may hold
	openPath = 0x200000                                                         // O_PATH
)

// landlockOldest is the first version that is of use here: before, renaming from one
// folder to another was never allowed.
const landlockOldest = 2

// pathRights are all rights on paths that a version knows.
func pathRights(version int) uint64 {
	switch {
	case version >= 5:
		return 1<<16 - 1
	case version >= 3:
		return 1<<15 - 1
	}
	return 1<<14 - 1
}

// LandlockVersion is the kernel's, or 0 if it has none or lets nobody use it.
func LandlockVersion() int {
	v, _, e := syscall.RawSyscall(sysLandlockCreate, 0, 0, landlockVersion)
	if e != 0 {
		return 0
	}
	return int(v)
}

// HasLandlock reports whether a version can be used here.
func HasLandlock(version int) bool { return version >= landlockOldest }

// landlock makes the rules that the program is put under, or -1 where there are none to
// be had. system are the folders that it reads.
func landlock(o *Orders, system []string) (int, error) {
	version := LandlockVersion()
	if !HasLandlock(version) || !o.has(WallLandlock) || !o.has(WallPrivileges) {
		return -1, nil
	}
	all := pathRights(version)
	attr := struct{ paths, network, scoped uint64 }{all, mayBind | mayConnect, scopeAll}
	size := uintptr(24)
	switch { // an older kernel takes no fields that it does not know
	case version < 4:
		size = 8
	case version < 6:
		size = 16
	}
	fd, _, e := syscall.RawSyscall(sysLandlockCreate, uintptr(unsafe.Pointer(&attr)), size, 0)
	if e != 0 {
		return -1, fault("make Landlock's rules", e)
	}
	for _, r := range pathRules(o, system) {
		if err := allowPath(int(fd), r.name, r.rights&all); err != nil {
			return -1, fault("allow "+r.name+" in Landlock", err)
		}
	}
	if o.Proxy > 0 && version >= 4 {
		port := struct{ rights, port uint64 }{mayConnect, uint64(o.Proxy)}
		if _, _, e := syscall.RawSyscall6(sysLandlockAdd, fd, rulePort, uintptr(unsafe.Pointer(&port)), 0, 0, 0); e != 0 {
			return -1, fault("allow the proxy in Landlock", e)
		}
	}
	return int(fd), nil
}

type pathRule struct {
	name   string
	rights uint64
}

func pathRules(o *Orders, system []string) []pathRule {
	const (
		everything = (1<<16 - 1) &^ (mayMakeChar | mayMakeBlock | mayIoctl)
		inOut      = mayReadFile | mayReadDir | mayWriteFile | mayTruncate
	)
	rules := []pathRule{
		{"/", mayReadDir},
		{"/dev", inOut},
		{"/proc", inOut},
		{"/tmp", everything},
		{"/dev/shm", everything},
	}
	for _, name := range system {
		rules = append(rules, pathRule{"/" + name, mayRead})
	}
	for _, m := range o.Mounts {
		rights := uint64(mayRead)
		if m.Writable {
			rights = everything
		}
		rules = append(rules, pathRule{m.Inner, rights})
	}
	if o.Probe {
		rules = append(rules, pathRule{ownProgram, mayRead})
	}
	return rules
}

// allowPath adds a rule for what is at a path and below, if there is anything.
func allowPath(rules int, name string, rights uint64) error {
	fd, err := syscall.Open(name, openPath|syscall.O_CLOEXEC, 0)
	if err == syscall.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(fd) }()
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		rights &= ofAFile
	}
	// struct landlock_path_beneath_attr is packed: 12 bytes.
	beneath := struct {
		rights [2]uint32
		fd     int32
	}{[2]uint32{uint32(rights), uint32(rights >> 32)}, int32(fd)}
	if _, _, e := syscall.RawSyscall6(sysLandlockAdd, uintptr(rules), ruleBeneath, uintptr(unsafe.Pointer(&beneath)), 0, 0, 0); e != 0 && e != syscall.EBADFD { // a program in memory, which is under no rule
		return e
	}
	return nil
}
