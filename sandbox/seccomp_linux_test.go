package sandbox

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// tables are another project's numbers of system calls, made from the kernel's headers.
var tables = map[string]*arch.Info{"amd64": arch.X86_64, "arm64": arch.AARCH64}

// number is a call's number, or -1 where there is no such call.
func number(t testing.TB, goarch, name string) int {
	t.Helper()
	if goarch == "arm64" && name == "newfstatat" {
		name = "fstatat" // as its kernel header says
	}
	if n, ok := tables[goarch].SyscallNames[name]; ok {
		return n
	}
	return -1
}

func TestFilter_NumbersAreTheKernels(t *testing.T) {
	all := slices.Concat(allowedCalls, absentCalls, idleCalls)
	for _, r := range rules(Outbound) {
		all = append(all, r.call)
	}
	seen := map[string]bool{}
	for _, c := range all {
		if seen[c.name] {
			t.Errorf("%s is decided on twice", c.name)
		}
		seen[c.name] = true
		for goarch, a := range architectures {
			if got, want := a.number(c), number(t, goarch, c.name); got != want {
				t.Errorf("%s on %s is %d, want %d", c.name, goarch, got, want)
			}
		}
	}
	for goarch := range architectures {
		if number(t, goarch, "mseal") != newest {
			t.Errorf("the newest call on %s is %d", goarch, number(t, goarch, "mseal"))
		}
	}
}

// machine runs a filter as the kernel would.
func machine(t testing.TB, goarch string, n Network) func(audit, nr uint32, args ...uint64) uint32 {
	t.Helper()
	var program []bpf.Instruction
	raw := filterOn(goarch, n)
	if len(raw) == 0 || len(raw) > 8*unix.BPF_MAXINSNS {
		t.Fatalf("the filter has %d bytes", len(raw))
	}
	for i := 0; i < len(raw); i += 8 {
		program = append(program, bpf.RawInstruction{
			Op: binary.LittleEndian.Uint16(raw[i:]), Jt: raw[i+2], Jf: raw[i+3], K: binary.LittleEndian.Uint32(raw[i+4:]),
		}.Disassemble())
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return func(audit, nr uint32, args ...uint64) uint32 {
		// The kernel loads words as they lie in memory; this interpreter wants them big end first.
		data := binary.BigEndian.AppendUint32(nil, nr)
		data = binary.BigEndian.AppendUint32(data, audit)
		data = append(data, make([]byte, 8)...) // the instruction pointer
		for i := range 6 {
			var v uint64
			if i < len(args) {
				v = args[i]
			}
			data = binary.BigEndian.AppendUint32(data, uint32(v))
			data = binary.BigEndian.AppendUint32(data, uint32(v>>32))
		}
		got, err := vm.Run(data)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(got)
	}
}

const (
	noFamily   = nothing | uint32(unix.EAFNOSUPPORT)
	noProtocol = nothing | uint32(unix.EPROTONOSUPPORT)
)

// decisions say of each call and its arguments what becomes of it, without and with a proxy.
var decisions = []struct {
	name     string
	args     []uint64
	none     uint32
	outbound uint32 // 0 = the same
}{
	{name: "read", none: allow},
	{name: "newfstatat", none: allow},
	{name: "futex_requeue", none: allow},
	{name: "mseal", none: allow},
	{name: "memfd_create", none: allow},
	{name: "mount", none: refuse},
	{name: "umount2", none: refuse},
	{name: "open_tree", none: refuse},
	{name: "move_mount", none: refuse},
	{name: "fsopen", none: refuse},
	{name: "fsconfig", none: refuse},
	{name: "fsmount", none: refuse},
	{name: "fspick", none: refuse},
	{name: "mount_setattr", none: refuse},
	{name: "pivot_root", none: refuse},
	{name: "chroot", none: refuse},
	{name: "unshare", none: refuse},
	{name: "setns", none: refuse},
	{name: "ptrace", none: refuse},
	{name: "process_vm_readv", none: refuse},
	{name: "process_vm_writev", none: refuse},
	{name: "process_madvise", none: refuse},
	{name: "pidfd_getfd", none: refuse},
	{name: "kcmp", none: refuse},
	{name: "kexec_load", none: refuse},
	{name: "kexec_file_load", none: refuse},
	{name: "init_module", none: refuse},
	{name: "finit_module", none: refuse},
	{name: "delete_module", none: refuse},
	{name: "bpf", none: refuse},
	{name: "perf_event_open", none: refuse},
	{name: "userfaultfd", none: refuse},
	{name: "keyctl", none: refuse},
	{name: "add_key", none: refuse},
	{name: "request_key", none: refuse},
	{name: "open_by_handle_at", none: refuse},
	{name: "name_to_handle_at", none: refuse},
	{name: "fanotify_init", none: refuse},
	{name: "quotactl", none: refuse},
	{name: "quotactl_fd", none: refuse},
	{name: "swapon", none: refuse},
	{name: "swapoff", none: refuse},
	{name: "reboot", none: refuse},
	{name: "settimeofday", none: refuse},
	{name: "clock_settime", none: refuse},
	{name: "clock_adjtime", none: refuse},
	{name: "adjtimex", none: refuse},
	{name: "syslog", none: refuse},
	{name: "acct", none: refuse},
	{name: "sethostname", none: refuse},
	{name: "vhangup", none: refuse},
	{name: "move_pages", none: refuse},
	{name: "iopl", none: refuse},
	{name: "ioperm", none: refuse},
	{name: "modify_ldt", none: refuse},
	{name: "clone3", none: absent},
	{name: "openat2", none: absent},
	{name: "io_uring_setup", none: absent},
	{name: "io_setup", none: absent},
	{name: "shmget", none: absent},
	{name: "msgget", none: absent},
	{name: "semget", none: absent},
	{name: "mq_open", none: absent},
	{name: "memfd_secret", none: absent},
	{name: "sync", none: nothing},
	{name: "clone", args: []uint64{unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SETTLS}, none: allow},
	{name: "clone", args: []uint64{uint64(unix.SIGCHLD)}, none: allow},
	{name: "clone", args: []uint64{unix.CLONE_NEWUSER | uint64(unix.SIGCHLD)}, none: refuse},
	{name: "clone", args: []uint64{unix.CLONE_NEWNS}, none: refuse},
	{name: "clone", args: []uint64{unix.CLONE_NEWCGROUP}, none: refuse},
	{name: "clone", args: []uint64{unix.CLONE_NEWNET}, none: refuse},
	{name: "personality", args: []uint64{0}, none: allow},
	{name: "personality", args: []uint64{0xffffffff}, none: allow},
	{name: "personality", args: []uint64{0x0040000}, none: refuse}, // ADDR_NO_RANDOMIZE
	{name: "personality", args: []uint64{0x0400000}, none: refuse}, // READ_IMPLIES_EXEC
	{name: "ioctl", args: []uint64{0, unix.TCGETS}, none: allow},
	{name: "ioctl", args: []uint64{0, unix.TIOCSTI}, none: refuse},
	{name: "ioctl", args: []uint64{0, unix.TIOCSTI | 1<<32}, none: refuse}, // the kernel drops the high half
	{name: "ioctl", args: []uint64{0, unix.TIOCLINUX}, none: refuse},
	{name: "ioctl", args: []uint64{0, unix.TIOCSETD}, none: refuse},
	{name: "socket", args: []uint64{unix.AF_UNIX, unix.SOCK_STREAM}, none: allow},
	{name: "socket", args: []uint64{unix.AF_NETLINK, unix.SOCK_RAW | unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE}, none: allow},
	{name: "socket", args: []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT}, none: noFamily},
	{name: "socket", args: []uint64{unix.AF_VSOCK, unix.SOCK_STREAM}, none: noFamily},
	{name: "socket", args: []uint64{unix.AF_PACKET, unix.SOCK_RAW}, none: noFamily},
	{name: "socket", args: []uint64{unix.AF_ALG, unix.SOCK_SEQPACKET}, none: noFamily},
	{name: "socket", args: []uint64{unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_NONBLOCK}, none: noFamily, outbound: allow},
	{name: "socket", args: []uint64{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP}, none: noFamily, outbound: allow},
	{name: "socket", args: []uint64{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP}, none: noFamily, outbound: noProtocol},
	{name: "socket", args: []uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP}, none: noFamily, outbound: noProtocol},
	{name: "socketpair", args: []uint64{unix.AF_UNIX, unix.SOCK_STREAM}, none: allow},
	{name: "socketpair", args: []uint64{unix.AF_TIPC, unix.SOCK_STREAM}, none: noFamily},
	{name: "prlimit64", args: []uint64{0, unix.RLIMIT_NOFILE}, none: allow},
	{name: "prlimit64", args: []uint64{1, unix.RLIMIT_NOFILE}, none: refuse},
	{name: "prlimit64", args: []uint64{2, unix.RLIMIT_NOFILE}, none: refuse}, // a thread of the first process
	{name: "renameat2", args: []uint64{0, 0, 0, 0, unix.RENAME_NOREPLACE}, none: allow},
	{name: "renameat2", args: []uint64{0, 0, 0, 0, unix.RENAME_EXCHANGE}, none: allow},
	{name: "renameat2", args: []uint64{0, 0, 0, 0, unix.RENAME_WHITEOUT}, none: refuse},
	{name: "renameat2", args: []uint64{0, 0, 0, 0, unix.RENAME_WHITEOUT | unix.RENAME_NOREPLACE}, none: refuse},
	{name: "sched_setaffinity", args: []uint64{1}, none: refuse},
	{name: "sched_setaffinity", args: []uint64{0}, none: nothing},
	{name: "sched_setaffinity", args: []uint64{7}, none: nothing},
	{name: "setpriority", args: []uint64{unix.PRIO_PROCESS, 1}, none: refuse},
	{name: "setpriority", args: []uint64{unix.PRIO_USER, 0}, none: refuse},
	{name: "setpriority", args: []uint64{unix.PRIO_PROCESS, 0, 10}, none: allow},
	{name: "ioprio_set", args: []uint64{3, 0}, none: refuse},
	{name: "mknod", args: []uint64{0, unix.S_IFIFO | 0o600}, none: allow},
	{name: "mknodat", args: []uint64{0, 0, unix.S_IFIFO | 0o600}, none: allow},
	{name: "mknodat", args: []uint64{0, 0, unix.S_IFCHR | 0o600}, none: refuse},
	{name: "mknodat", args: []uint64{0, 0, unix.S_IFBLK | 0o600}, none: refuse},
	{name: "mknodat", args: []uint64{0, 0, unix.S_IFREG | 0o4600}, none: refuse},
	{name: "chmod", args: []uint64{0, 0o755}, none: allow},
	{name: "chmod", args: []uint64{0, 0o4755}, none: refuse},
	{name: "fchmod", args: []uint64{0, 0o4755}, none: refuse},
	{name: "fchmodat", args: []uint64{0, 0, 0o4755}, none: refuse},
	{name: "fchmodat2", args: []uint64{0, 0, 0o6755}, none: refuse},
	{name: "openat", args: []uint64{0, 0, unix.O_RDONLY, 0o4755}, none: allow}, // the mode means nothing
	{name: "openat", args: []uint64{0, 0, unix.O_CREAT | unix.O_WRONLY, 0o644}, none: allow},
	{name: "openat", args: []uint64{0, 0, unix.O_CREAT | unix.O_WRONLY, 0o4755}, none: refuse},
	{name: "openat", args: []uint64{0, 0, 0o20000000 | unix.O_WRONLY, 0o4755}, none: refuse},
	{name: "open", args: []uint64{0, unix.O_CREAT, 0o4755}, none: refuse},
	{name: "creat", args: []uint64{0, 0o4755}, none: refuse},
}

func TestFilter_Decides(t *testing.T) {
	for goarch, a := range architectures {
		for _, n := range []Network{NoNetwork, Outbound} {
			run := machine(t, goarch, n)
			for _, d := range decisions {
				nr := number(t, goarch, d.name)
				if nr < 0 {
					continue // an old call that this architecture never had
				}
				want := d.none
				if n == Outbound && d.outbound != 0 {
					want = d.outbound
				}
				if got := run(a.audit, uint32(nr), d.args...); got != want {
					t.Errorf("%s, network %q: %s(%#x) gets %#x, want %#x", goarch, n, d.name, d.args, got, want)
				}
			}
		}
	}
}

func TestFilter_EveryNumberIsDecided(t *testing.T) {
	for goarch, a := range architectures {
		run := machine(t, goarch, NoNetwork)
		want := map[uint32]uint32{}
		for _, list := range []struct {
			calls  []call
			answer uint32
		}{{allowedCalls, allow}, {absentCalls, absent}, {idleCalls, nothing}} {
			for _, c := range list.calls {
				want[uint32(a.number(c))] = list.answer
			}
		}
		byArgument := map[uint32]bool{}
		for _, r := range rules(NoNetwork) {
			byArgument[uint32(a.number(r.call))] = true
		}
		for nr := range uint32(newest + 1) {
			answer, known := want[nr]
			if !known {
				answer = refuse
			}
			if got := run(a.audit, nr); !byArgument[nr] && got != answer {
				t.Errorf("%s: %s gets %#x, want %#x", goarch, tables[goarch].SyscallNumbers[int(nr)], got, answer)
			}
		}
		for _, nr := range []uint32{newest + 1, 1000, 1<<30 - 1, 1 << 31, 1<<32 - 1} {
			if got := run(a.audit, nr); got != absent {
				t.Errorf("%s: call %d gets %#x", goarch, nr, got)
			}
		}
	}
}

func TestFilter_AnotherArchitectureEndsTheProgram(t *testing.T) {
	for goarch, a := range architectures {
		run := machine(t, goarch, Outbound)
		for _, other := range []uint32{unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_RISCV64, 0} {
			for _, nr := range []uint32{0, 3, 11, 1 << 30} {
				if got := run(other, nr); got != kill {
					t.Errorf("%s: call %d of architecture %#x gets %#x", goarch, nr, other, got)
				}
			}
		}
		if got := run(a.audit, 1<<30|59); goarch == "amd64" && got != kill {
			t.Errorf("execve of x32 gets %#x", got)
		}
	}
	if filterOn("riscv64", NoNetwork) != nil {
		t.Error("there is a filter for an architecture without a table")
	}
}
