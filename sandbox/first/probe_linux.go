package first

import (
	"syscall"
	"unsafe"
)

// ProbeEnv marks this very program when it runs as what is contained, to try the walls
// from inside. Root is never that, and to anybody else all that is tried is forbidden
// outside, too.
const ProbeEnv = "SPARE_SANDBOX_PROBE=1"

// ownProgram is this very program, whatever the root.
const ownProgram = "/proc/self/exe"

// unruled is a file in a probe's root that all may read by its mode, and nobody by
// Landlock's rules.
const unruled = "unruled"

func probing() bool {
	mark, _ := syscall.Getenv(ProbeEnv[:len(ProbeEnv)-2])
	return mark == "1" && syscall.Getuid() != 0
}

// A trial tries a wall from inside, and says in half a sentence what got through, or "".
type trial struct {
	wall string
	try  func() string
}

var trials = []trial{
	{WallUser, tryUser},
	{WallRoot, tryRoot},
	{WallRights, tryRights},
	{WallPrivileges, func() string { return wants(got(prctlGet(prGetNoNewPrivs)) == 1, "it is not set") }},
	{WallNested, tryNested},
	{WallLimits, tryLimits},
	{WallSeccomp, trySeccomp},
	{WallLandlock, tryLandlock},
	{WallProc, tryProc},
	{WallUndumpable, func() string {
		_, link := readlink("/proc/1/exe")
		return wants(!link, "its program's file can be reached")
	}},
	{WallDescriptors, tryDescriptors},
}

// namespaceFiles are the walls that the parent judges, by comparing them with its own.
var namespaceFiles = [][2]string{
	{WallMounts, "mnt"}, {WallPIDs, "pid"}, {WallNetwork, "net"}, {WallIPC, "ipc"}, {WallUTS, "uts"}, {WallCgroups, "cgroup"},
}

// NamespaceFile is the file in /proc/self/ns that a namespace's wall is seen in, or "".
func NamespaceFile(wall string) string {
	for _, n := range namespaceFiles {
		if n[0] == wall {
			return "/proc/self/ns/" + n[1]
		}
	}
	return ""
}

// Tried lists the walls that a probe speaks of.
func Tried() []string {
	var all []string
	for _, t := range trials {
		all = append(all, t.wall)
	}
	for _, n := range namespaceFiles {
		all = append(all, n[0])
	}
	return all
}

// try tries every wall and says, one a line and with tabs between: the wall, and what got
// through. Then it becomes the interpreter, which adds its version.
func try() {
	say := func(what, found string) {
		line := what + "\t" + found + "\n"
		_, _ = syscall.Write(1, []byte(line))
	}
	for _, t := range trials {
		say(t.wall, t.try())
	}
	for _, n := range namespaceFiles {
		to, _ := readlink(NamespaceFile(n[0]))
		say(n[0], to)
	}
	if port := proxyPort(); port != 0 {
		say(ProbeProxy, tryProxy(port))
	}
	if python, errno := lookup("python3", syscall.Environ()); errno == 0 {
		say(ProbePython, "")
		err := syscall.Exec(python, []string{"python3", "-c", "import sys, json, socket; print(sys.version.split()[0])"}, syscall.Environ())
		say(ProbePython, err.Error())
	}
	syscall.Exit(0)
}

// Of what is no wall: the way out, and the line after which the interpreter writes its own.
const (
	ProbeProxy  = "proxy"
	ProbePython = "python3"
)

func wants(ok bool, otherwise string) string {
	if ok {
		return ""
	}
	return otherwise
}

// got is a call's result, or -1.
func got(n uintptr, e syscall.Errno) int {
	if e != 0 {
		return -1
	}
	return int(n)
}

func prctlGet(option uintptr) (uintptr, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, option, 0, 0, 0, 0, 0)
	return n, e
}

func tryUser() string {
	text := readFile("/proc/self/uid_map", make([]byte, 4<<10))
	lines, words := 0, 0
	for line := range parts(string(text), '\n') {
		for word := range parts(line, ' ') {
			if word != "" {
				words++
			}
		}
		lines++
	}
	if syscall.Getuid() != ID || lines != 2 || words != 3 { // one line and its end
		return "other users of the host are mapped"
	}
	return ""
}

func tryRoot() string {
	var st syscall.Statfs_t
	if syscall.Statfs("/", &st) != nil || st.Type != tmpfsMagic {
		return "its root is another file system"
	}
	if err := syscall.Mkdir("/spare-probe", 0o700); err != syscall.EROFS {
		return "its root can be written to"
	}
	if err := syscall.Access("/etc/shadow", 0); err != syscall.ENOENT {
		return "the host's accounts are in it"
	}
	return ""
}

func tryRights() string {
	header := [2]uint32{capabilityVersion3, 0}
	var held [6]uint32
	if _, _, e := syscall.RawSyscall(syscall.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&held)), 0); e != 0 || held != [6]uint32{} {
		return "it holds capabilities"
	}
	for c := uintptr(0); c < 64; c++ {
		if n, _, e := syscall.RawSyscall(syscall.SYS_PRCTL, prCapbsetRead, c, 0); e == 0 && n != 0 {
			return "it can gain capabilities"
		}
	}
	if syscall.Mount("tmpfs", "/tmp", "tmpfs", 0, "") == nil {
		return "it can mount"
	}
	return ""
}

func tryNested() string {
	if text := readFile("/proc/sys/user/max_user_namespaces", make([]byte, 16)); string(text) != "0\n" {
		return "the kernel's count of them is not 0"
	}
	pid, _, e := syscall.RawSyscall6(syscall.SYS_CLONE, syscall.CLONE_NEWUSER|uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if e != 0 {
		return ""
	}
	if pid == 0 {
		for {
			_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	return "it can make one"
}

func tryLimits() string {
	var core, files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_CORE, &core) != nil || core.Max != 0 || syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) != nil {
		return "they are not set"
	}
	files.Cur, files.Max = files.Max+1, files.Max+1
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, syscall.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&files)), 0, 0, 0); e == 0 {
		return "it can raise them"
	}
	return ""
}

func trySeccomp() string {
	if got(prctlGet(prGetSeccomp)) != seccompFiltered {
		return "no filter of system calls is installed"
	}
	// Our own answer to a call on a file that is not open. Another's filter, a service
	// manager's say, would let it through to the kernel, which finds that out.
	none := ^uintptr(0)
	if _, _, e := syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, none, syscall.SOL_SOCKET, syscall.SO_SNDBUF, 0, 0, 0); e != 0 {
		return "the filter of system calls is not the sandbox's own"
	}
	return ""
}

func tryLandlock() string {
	version := LandlockVersion()
	if version == 0 {
		return "this kernel has none, or its lsm= list leaves it out"
	}
	if !HasLandlock(version) {
		return "this kernel's is too old to be of use: it needs Linux 5.19"
	}
	fd, err := syscall.Open("/"+unruled, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err == nil {
		_ = syscall.Close(fd)
		return "it reads a file outside its folders"
	}
	return ""
}

func tryProc() string {
	var null, keys syscall.Stat_t
	if syscall.Stat("/dev/null", &null) == nil && syscall.Stat("/proc/keys", &keys) == nil && keys.Rdev != null.Rdev {
		return "/proc/keys shows the host's"
	}
	fd, err := syscall.Open("/proc/sys/kernel/core_pattern", syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err == nil {
		_ = syscall.Close(fd)
		return "settings of the kernel can be written to"
	}
	return ""
}

func tryDescriptors() string {
	for fd := uintptr(3); fd < 256; fd++ {
		if _, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, fd, syscall.F_GETFD, 0); e == 0 {
			return "descriptor " + itoa(int64(fd)) + " came along"
		}
	}
	return ""
}

// proxyPort is where the variables say that the way out is, or 0.
func proxyPort() int {
	url, _ := syscall.Getenv("HTTP_PROXY")
	at := len(url)
	for at > 0 && url[at-1] >= '0' && url[at-1] <= '9' {
		at--
	}
	return int(digits([]byte(url[at:])))
}

// tryProxy asks the proxy for an address that is nobody's. Any answer will do.
func tryProxy(port int) string {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = syscall.Close(fd) }()
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err.Error()
	}
	if _, err := syscall.Write(fd, []byte("CONNECT 192.0.2.1:9 HTTP/1.1\r\nHost: 192.0.2.1:9\r\n\r\n")); err != nil {
		return err.Error()
	}
	answer := make([]byte, 8)
	if n, err := syscall.Read(fd, answer); err != nil || n < len("HTTP/") || string(answer[:5]) != "HTTP/" {
		return "it does not answer"
	}
	return ""
}
