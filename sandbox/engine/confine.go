package engine

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spare-compute/spare/sandbox"
)

// What engines leave open by default is closed here: their own filter of system calls is
// made for any server's program, and their masks leave the machine's hardware in view.

// procMasked are files and folders of /proc that tell of the host to anyone who asks: the
// linux runtime's list. Podman masks them. Docker has no word for it, and runc mounts
// nothing over /proc: there its own shorter list stands.
var procMasked = []string{
	"acpi", "asound", "bus", "cmdline", "diskstats", "driver", "fs", "interrupts", "irq", "kallsyms", "kcore", "key-users", "keys", "latency_stats",
	"locks", "mdstat", "modules", "partitions", "pressure", "sched_debug", "schedstat", "scsi", "softirqs", "sysrq-trigger", "timer_list", "timer_stats", "tty",
}

// sysMasked are the folders of /sys that every kernel has but for fs, where the container's
// own control groups are: language runtimes size themselves by these.
var sysMasked = []string{"block", "bus", "class", "dev", "devices", "firmware", "kernel", "module"}

// sysMaybe are those that not every kernel has.
var sysMaybe = []string{
	"hypervisor", "power", "fs/bcachefs", "fs/bpf", "fs/btrfs", "fs/erofs", "fs/ext4", "fs/f2fs", "fs/fuse", "fs/nfs", "fs/nilfs2", "fs/ntfs3", "fs/pstore",
	"fs/resctrl", "fs/selinux", "fs/smackfs", "fs/tmpfs", "fs/virtiofs", "fs/xfs", "fs/zonefs",
}

// forGPU is what the libraries of a GPU's vendor find it by.
var forGPU = []string{"/proc/driver", "/sys/bus", "/sys/class", "/sys/dev", "/sys/devices", "/sys/module"}

// masks are arguments that hide the machine's hardware and the kernel's own files.
func (o order) masks() (a []string) {
	hide := func(root string, names []string) (all []string) {
		for _, n := range names {
			if path := root + n; len(o.devices) == 0 || !slices.Contains(forGPU, path) {
				all = append(all, path)
			}
		}
		return all
	}
	sys := hide("/sys/", sysMasked)
	if o.engine.podman { // what is not there it leaves alone
		all := slices.Concat(hide("/proc/", procMasked), sys, hide("/sys/", sysMaybe))
		return []string{"--security-opt", "mask=" + strings.Join(all, ":")}
	}
	if !o.engine.remote { // only here can be seen which there are
		for _, path := range hide("/sys/", sysMaybe) {
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				sys = append(sys, path)
			}
		}
	}
	for _, path := range sys {
		a = append(a, "--tmpfs", path+":ro,nosuid,nodev,noexec,size=4k")
	}
	return a
}

// writeFilter writes the filter of system calls for the engine into a folder.
func (e *engine) writeFilter(dir string) (file string, err error) {
	file = filepath.Join(dir, "seccomp.json")
	if err := os.WriteFile(file, sandbox.Profile(), 0o600); err != nil {
		return "", err
	}
	if e.podman && runtime.GOOS == "windows" {
		return inMachine(file), nil
	}
	return file, nil
}

// inMachine is where podman's machine on Windows has a file: there podman looks for it in
// the machine, by the name as it stands. Docker's client reads it here.
func inMachine(file string) string {
	drive, rest, ok := strings.Cut(file, ":")
	if !ok || len(drive) != 1 {
		return file
	}
	return "/mnt/" + strings.ToLower(drive) + strings.ReplaceAll(rest, `\`, "/")
}
