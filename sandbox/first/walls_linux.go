package first

// The names of the walls, as a probe reports them. Orders.Without takes them.
const (
	WallUser        = "user namespace"
	WallMounts      = "mount namespace"
	WallPIDs        = "pid namespace"
	WallNetwork     = "network namespace"
	WallIPC         = "ipc namespace"
	WallUTS         = "uts namespace"
	WallCgroups     = "cgroup namespace"
	WallRoot        = "own root"
	WallRights      = "no capabilities"
	WallPrivileges  = "no_new_privs"
	WallNested      = "no nested user namespaces"
	WallLimits      = "resource limits"
	WallSeccomp     = "seccomp"
	WallLandlock    = "landlock"
	WallMemoryWatch = "memory watch"
	WallProc        = "masked proc"
	WallOwnUser     = "own user"
	WallUndumpable  = "undumpable first process"
	WallDescriptors = "closed descriptors"
	WallCPUTime     = "cpu time"
)

// has reports whether a wall is to stand. All do, but in tests that prove that what it
// stops gets through without it.
func (o *Orders) has(wall string) bool {
	for _, w := range o.Without {
		if w == wall {
			return false
		}
	}
	return true
}
