package sandbox

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// What follows is written in the language of sandbox-exec's profiles, where of several
// rules that speak of one operation the last one counts. It is not a stable interface of
// the system's, but one that its own services are described in; a probe runs before
// anything is offered.

// A seatbeltProfile says what a program may do on macOS. All else is denied: the network,
// other processes, the owner's files, devices, services.
type seatbeltProfile struct {
	system   []string // folders and files of the system and the interpreter: read and execute
	readable []string // of the run: read and execute
	writable []string // of the run: also write
}

// seatbeltSystem is what every program of macOS reads at its start, and the tools that an
// App may call. Never the owner's folders, the accounts or the keychains.
var seatbeltSystem = []string{
	"/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/usr/share",
	"/System/Library", "/System/Cryptexes", "/System/Volumes/Preboot/Cryptexes",
	"/Library/Apple/System/Library", "/Library/Apple/usr/lib",
	"/private/etc/localtime", "/private/etc/ssl", "/private/var/db/dyld", "/private/var/db/timezone",
}

// seatbeltDevices are all the devices there are. /dev/fd is the program's own files.
var seatbeltDevices = []string{"/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"}

// seatbeltFacts are the system's values that programs read to know what they run on, by
// the beginnings of their names. Not among them: who else runs.
var seatbeltFacts = []string{
	"hw.", "kern.os", "kern.version", "kern.argmax", "kern.ngroups", "kern.maxfiles", "kern.secure_kernel", "kern.usrstack", "kern.hostname", "kern.iossupportversion",
	"machdep.cpu.", "machdep.ptrauth_enabled", "security.mac.lockdown_mode_state", "sysctl.name2oid", "sysctl.proc_", "vm.loadavg", "vm.pagesize",
}

// seatbeltServices are those that the C library waits for at a program's start: news of
// the time zone, and the log. Neither shows files or people.
var seatbeltServices = []string{"com.apple.system.notification_center", "com.apple.system.logger", "com.apple.logd"}

// text is the profile. It fails for paths that cannot be written down in one.
func (p seatbeltProfile) text() (string, error) {
	run := slices.Concat(p.readable, p.writable)
	read := slices.Concat(p.system, run)
	for _, name := range read {
		if err := checkSeatbeltPath(name); err != nil {
			return "", err
		}
	}
	var b strings.Builder
	rule := func(verb, operations string, filters ...string) {
		fmt.Fprintf(&b, "(%s %s", verb, operations)
		for _, f := range filters {
			b.WriteString("\n  " + f)
		}
		b.WriteString(")\n")
	}
	b.WriteString("(version 1)\n")
	rule("deny", "default")
	rule("allow", "process-fork")
	rule("allow", "process-exec", each("subpath", read)...)
	rule("allow", "process-info*", "(target self)")
	rule("allow", "signal", "(target self)", "(target pgrp)")
	rule("allow", "sysctl-read", each("sysctl-name-prefix", seatbeltFacts)...)
	rule("allow", "mach-lookup", each("global-name", seatbeltServices)...)
	rule("allow", "ipc-posix-shm-read*", `(ipc-posix-name "apple.shm.notification_center")`)
	// What Python's multiprocessing makes, under names that nobody guesses.
	rule("allow", "ipc-posix-sem", `(ipc-posix-name-regex #"^/mp-")`)
	rule("allow", "ipc-posix-shm*", `(ipc-posix-name-regex #"^/psm_")`)
	// Without the root folder itself, though not what is in it, the loader ends a program.
	rule("allow", "file-read*", slices.Concat([]string{`(literal "/")`}, each("subpath", read), each("literal", seatbeltDevices), []string{`(subpath "/dev/fd")`})...)
	rule("allow", "file-read-metadata", each("literal", above(read))...)
	rule("allow", "file-map-executable", each("subpath", read)...)
	rule("allow", "file-write*", each("subpath", p.writable)...)
	rule("allow", "file-write-data", each("literal", seatbeltDevices[:2])...)
	// A program may make neither of these, even where it may write.
	rule("deny", "file-mknod")
	rule("deny", "file-write-setugid")
	rule("deny", "network*")
	return b.String(), nil
}

func each(filter string, values []string) []string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = fmt.Sprintf("(%s %s)", filter, seatbeltQuote(v))
	}
	return all
}

// above are the folders above paths, each once: programs ask for them one by one when
// they find out where a path really leads.
func above(names []string) []string {
	seen := map[string]bool{}
	for _, name := range names {
		for dir := path.Dir(name); dir != "/" && dir != "."; dir = path.Dir(dir) {
			seen[dir] = true
		}
	}
	// These are links on every Mac.
	for _, link := range []string{"/etc", "/tmp", "/var"} {
		seen[link] = true
	}
	all := make([]string, 0, len(seen))
	for dir := range seen {
		all = append(all, dir)
	}
	slices.Sort(all)
	return all
}

// seatbeltQuote writes a string down as the profile's language takes it.
func seatbeltQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// checkSeatbeltPath refuses paths that would mean something else in a profile.
func checkSeatbeltPath(name string) error {
	switch {
	case !path.IsAbs(name) || path.Clean(name) != name:
		return fmt.Errorf("show %q in the sandbox: want a clean absolute path", name)
	case name == "/":
		return errors.New("show / in the sandbox: that is everything")
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }):
		return fmt.Errorf("show %q in the sandbox: its name holds characters that a profile cannot", name)
	}
	return nil
}

type seatbeltLimit struct {
	What  int    // an RLIMIT_ of the system
	Value uint64 // soft and hard
}

// Numbers of macOS's resource limits.
const (
	darwinRlimitCPU    = 0
	darwinRlimitFsize  = 1
	darwinRlimitCore   = 4
	darwinRlimitNproc  = 7
	darwinRlimitNofile = 8
)

// seatbeltLimits are the limits that the kernel keeps of each process, below those that
// the warden keeps of all. running is how many processes the user has already: that limit
// counts all of a user's.
func seatbeltLimits(l Limits, running int) []seatbeltLimit {
	if l.Processes == 0 {
		l.Processes = 1024
	}
	if l.Files == 0 {
		l.Files = 1024
	}
	all := []seatbeltLimit{
		{darwinRlimitCore, 0},
		{darwinRlimitNofile, uint64(l.Files)},
		{darwinRlimitNproc, uint64(l.Processes + running)},
	}
	if l.Disk > 0 {
		all = append(all, seatbeltLimit{darwinRlimitFsize, uint64(l.Disk) + 1<<20})
	}
	if l.CPU > 0 {
		all = append(all, seatbeltLimit{darwinRlimitCPU, uint64(l.CPU.Seconds()) + 2})
	}
	return all
}

// seatbeltArgv starts a program under a profile.
func seatbeltArgv(profile string, argv []string) []string {
	return append([]string{sandboxExec, "-f", profile}, argv...)
}

const sandboxExec = "/usr/bin/sandbox-exec"

// seatbeltFolders are what an interpreter needs of the folders around it, by where it is:
// package managers keep libraries beside it.
func seatbeltFolders(python, prefix string) []string {
	all := []string{path.Dir(python), prefix}
	switch {
	case within(python, "/opt/homebrew"):
		all = append(all, "/opt/homebrew/bin", "/opt/homebrew/Cellar", "/opt/homebrew/opt", "/opt/homebrew/lib", "/opt/homebrew/share")
	case within(python, "/usr/local"):
		all = append(all, "/usr/local/bin", "/usr/local/Cellar", "/usr/local/opt", "/usr/local/lib", "/usr/local/share")
	case within(python, "/opt/local"):
		all = append(all, "/opt/local/bin", "/opt/local/lib", "/opt/local/share", "/opt/local/Library/Frameworks")
	case within(python, "/Library/Developer/CommandLineTools"):
		all = append(all, "/Library/Developer/CommandLineTools/usr", "/Library/Developer/CommandLineTools/Library")
	case within(python, "/Applications/Xcode.app"):
		all = append(all, "/Applications/Xcode.app/Contents/Developer/usr", "/Applications/Xcode.app/Contents/Developer/Library")
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(dir string) bool { return dir == "" || dir == "/" || dir == "/usr" || dir == "." })
}
