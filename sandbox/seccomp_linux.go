package sandbox

import (
	"encoding/binary"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// The answers of a filter. An errno is added to refuse; with none, nothing is done and
// the call succeeds.
const (
	allow   = uint32(unix.SECCOMP_RET_ALLOW)
	kill    = uint32(unix.SECCOMP_RET_KILL_PROCESS)
	nothing = uint32(unix.SECCOMP_RET_ERRNO)
	refuse  = nothing | uint32(unix.EPERM)
	absent  = nothing | uint32(unix.ENOSYS)
)

// A condition looks at the low half of an argument: the kernel reads no more of those
// that are looked at here. It holds if what mask leaves of it is one of the values.
type condition struct {
	arg    int
	mask   uint32 // 0 = all
	values []uint32
}

// A clause answers a call if all its conditions hold.
type clause struct {
	when   []condition
	answer uint32
}

// A rule decides on a call by its arguments: the first clause that holds answers, or else
// otherwise does.
type rule struct {
	call
	clauses   []clause
	otherwise uint32
}

func is(arg int, values ...uint32) condition { return condition{arg: arg, values: values} }

func masked(arg int, mask uint32, values ...uint32) condition {
	return condition{arg: arg, mask: mask, values: values}
}

// on answers a call if all conditions hold.
func on(answer uint32, when ...condition) clause { return clause{when, answer} }

const (
	newNamespaces  = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	perLinux       = 0
	askPersonality = 0xffffffff // changes nothing
	prioProcess    = 0          // setpriority(2)'s PRIO_PROCESS …
	prioGroup      = 1          // … and PRIO_PGRP; PRIO_USER would reach the first process
	ioprioProcess  = 1          // the same of ioprio_set(2)
	ioprioGroup    = 2
	self           = 0 // how most calls name who calls
	firstProcess   = 1 // its number inside
	setuidBit      = 0o4000
	// What makes open(2) look at the mode at all.
	makesFile = unix.O_CREAT | 0o20000000 // __O_TMPFILE
)

// rules are those calls that programs need in part.
func rules(n Network) []rule {
	// The first process has the program's user id, so the kernel would let the program
	// slow it down, or starve it. Its limits it could change by the number of any thread.
	notFirst := func(arg int) []clause { return []clause{on(refuse, is(arg, firstProcess))} }
	// A file that runs as the node's user does harm outside, where others may find it.
	notSetuid := func(mode int) []clause { return []clause{on(refuse, masked(mode, setuidBit, setuidBit))} }
	notMadeSetuid := func(flags, mode int) []clause {
		return []clause{on(allow, masked(flags, makesFile, 0)), on(refuse, masked(mode, setuidBit, setuidBit))}
	}
	notDevice := func(mode int) []clause {
		return append(notSetuid(mode), on(refuse, masked(mode, unix.S_IFMT, unix.S_IFCHR, unix.S_IFBLK)))
	}
	return []rule{
		{call{"clone", 56, 220}, []clause{on(allow, masked(0, newNamespaces, 0))}, refuse},
		{call{"personality", 135, 92}, []clause{on(allow, is(0, perLinux, askPersonality))}, refuse},
		// Typing into a terminal, or giving it another driver.
		{call{"ioctl", 16, 29}, []clause{on(refuse, is(1, unix.TIOCSTI, unix.TIOCLINUX, unix.TIOCSETD, unix.TIOCCONS))}, allow},
		// Buffers are the kernel's memory. Larger ones are not had, and programs that wish for
		// them go on without.
		{call{"setsockopt", 54, 208}, []clause{on(nothing, is(1, unix.SOL_SOCKET), is(2, unix.SO_SNDBUF, unix.SO_RCVBUF))}, allow},
		{call{"fcntl", 72, 25}, []clause{on(refuse, is(1, unix.F_SETPIPE_SZ))}, allow},
		{call{"socket", 41, 198}, sockets(n), nothing | uint32(unix.EAFNOSUPPORT)},
		{call{"socketpair", 53, 199}, []clause{on(allow, is(0, unix.AF_UNIX))}, nothing | uint32(unix.EAFNOSUPPORT)},
		{call{"prlimit64", 302, 261}, []clause{on(allow, is(0, self))}, refuse},
		// The processors it was given it keeps: without control groups nothing else holds it to them.
		{call{"sched_setaffinity", 203, 122}, notFirst(0), nothing},
		{call{"sched_setscheduler", 144, 119}, notFirst(0), allow},
		{call{"sched_setparam", 142, 118}, notFirst(0), allow},
		{call{"sched_setattr", 314, 274}, notFirst(0), allow},
		{call{"setpriority", 141, 140}, append(notFirst(1), on(allow, is(0, prioProcess, prioGroup))), refuse},
		{call{"ioprio_set", 251, 30}, append(notFirst(1), on(allow, is(0, ioprioProcess, ioprioGroup))), refuse},
		{call{"renameat2", 316, 276}, []clause{on(refuse, masked(4, unix.RENAME_WHITEOUT, unix.RENAME_WHITEOUT))}, allow}, // it leaves a device
		{call{"mknod", 133, -1}, notDevice(1), allow},
		{call{"mknodat", 259, 33}, notDevice(2), allow},
		{call{"chmod", 90, -1}, notSetuid(1), allow},
		{call{"fchmod", 91, 52}, notSetuid(1), allow},
		{call{"fchmodat", 268, 53}, notSetuid(2), allow},
		{call{"fchmodat2", 452, 452}, notSetuid(2), allow},
		{call{"creat", 85, -1}, notSetuid(1), allow},
		{call{"open", 2, -1}, notMadeSetuid(1, 2), allow},
		{call{"openat", 257, 56}, notMadeSetuid(2, 3), allow},
	}
}

// sockets are those among processes inside and, for libraries that list the network's
// interfaces and addresses, rtnetlink's. With a proxy to call, also TCP's, and UDP's,
// without which getaddrinfo does not sort addresses. No others: their protocols are old
// or rare code in the kernel, and AF_VSOCK passes all network namespaces by.
func sockets(n Network) []clause {
	const family, kind, protocol = 0, 1, 2
	all := []clause{
		on(allow, is(family, unix.AF_UNIX)),
		on(allow, is(family, unix.AF_NETLINK), is(protocol, unix.NETLINK_ROUTE)),
	}
	if n == Outbound {
		internet := is(family, unix.AF_INET, unix.AF_INET6)
		all = append(all,
			on(allow, internet, masked(kind, 0xf, unix.SOCK_STREAM, unix.SOCK_DGRAM), is(protocol, 0, unix.IPPROTO_TCP, unix.IPPROTO_UDP)),
			on(nothing|uint32(unix.EPROTONOSUPPORT), internet))
	}
	return all
}

// An architecture of system calls.
type architecture struct {
	audit   uint32 // its AUDIT_ARCH_… number
	foreign uint32 // bit of the numbers of another set of calls in the same architecture
	number  func(call) int
}

var architectures = map[string]architecture{
	// The bit is x32's, the same calls with short pointers.
	"amd64": {unix.AUDIT_ARCH_X86_64, 1 << 30, func(c call) int { return c.amd64 }},
	"arm64": {unix.AUDIT_ARCH_AARCH64, 0, func(c call) int { return c.arm64 }},
}

var filters = map[Network]func() []byte{
	NoNetwork: sync.OnceValue(func() []byte { return filterOn(runtime.GOARCH, NoNetwork) }),
	Outbound:  sync.OnceValue(func() []byte { return filterOn(runtime.GOARCH, Outbound) }),
}

// filterFor is the filter of system calls for a program, as the kernel takes it, or nil
// where this architecture has none.
func filterFor(n Network) []byte { return filters[n]() }

// Filter is the filter of system calls that programs without a network get, in the form
// that the kernel takes, and with it other sandboxes (bubblewrap's --seccomp, for one). It
// is nil on architectures that have none.
func Filter() []byte { return slices.Clone(filterFor(NoNetwork)) }

func filterOn(arch string, n Network) []byte {
	a, known := architectures[arch]
	if !known {
		return nil
	}
	var raw []byte
	for _, i := range a.program(n) {
		raw = binary.LittleEndian.AppendUint16(raw, i.Code)
		raw = append(raw, i.Jt, i.Jf)
		raw = binary.LittleEndian.AppendUint32(raw, i.K)
	}
	return raw
}

// program is the whole filter: calls of another architecture end the process, since the
// same number means something else there.
func (a architecture) program(n Network) []unix.SockFilter {
	tree := search(a.spans(n))
	return append([]unix.SockFilter{
		load(offArch),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: a.audit, Jt: 1},
		answer(kill),
		load(offNumber),
	}, tree...)
}

// A span of numbers, up to the next one's, has one answer or one rule.
type span struct {
	from uint32
	code []unix.SockFilter
}

func (a architecture) spans(n Network) []span {
	code := map[int][]unix.SockFilter{}
	for _, list := range []struct {
		calls  []call
		answer uint32
	}{{allowedCalls, allow}, {absentCalls, absent}, {idleCalls, nothing}} {
		for _, c := range list.calls {
			code[a.number(c)] = []unix.SockFilter{answer(list.answer)}
		}
	}
	for _, r := range rules(n) {
		code[a.number(r.call)] = r.compile()
	}
	var all []span
	add := func(from uint32, c []unix.SockFilter) {
		if len(all) == 0 || !slices.Equal(all[len(all)-1].code, c) {
			all = append(all, span{from, c})
		}
	}
	for nr := range newest + 1 {
		c, decided := code[nr]
		if !decided {
			c = []unix.SockFilter{answer(refuse)}
		}
		add(uint32(nr), c)
	}
	add(newest+1, []unix.SockFilter{answer(absent)})
	if a.foreign != 0 {
		add(a.foreign, []unix.SockFilter{answer(kill)})
		add(2*a.foreign, []unix.SockFilter{answer(absent)})
	}
	return all
}

// Offsets in struct seccomp_data; of an argument's two halves the low one comes first on
// both architectures.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func answer(a uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: a}
}

// search finds a number's span by halving: nine comparisons at most instead of hundreds.
func search(spans []span) []unix.SockFilter {
	if len(spans) == 1 {
		return spans[0].code
	}
	middle := len(spans) / 2
	below, above := search(spans[:middle]), search(spans[middle:])
	compare := unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: spans[middle].from}
	if len(below) <= 255 {
		compare.Jt = uint8(len(below))
		return slices.Concat([]unix.SockFilter{compare}, below, above)
	}
	compare.Jf = 1 // a conditional jump reaches 255 instructions far, this one any
	far := unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(below))}
	return slices.Concat([]unix.SockFilter{compare, far}, below, above)
}

func (r rule) compile() []unix.SockFilter {
	code := []unix.SockFilter{answer(r.otherwise)}
	for _, c := range slices.Backward(r.clauses) {
		code = append(c.compile(), code...)
	}
	return code
}

// compile is code that answers, or falls out of its end if a condition does not hold.
func (c clause) compile() []unix.SockFilter {
	code := []unix.SockFilter{answer(c.answer)}
	for _, w := range slices.Backward(c.when) {
		code = append(w.compile(len(code)), code...)
	}
	return code
}

// compile is code that goes on behind its end if the condition holds, and else skips as
// many instructions more.
func (c condition) compile(skip int) []unix.SockFilter {
	code := []unix.SockFilter{load(offArgs + 8*uint32(c.arg))}
	if c.mask != 0 {
		code = append(code, unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: c.mask})
	}
	for i, v := range c.values {
		left := len(c.values) - 1 - i
		compare := unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: v, Jt: uint8(left)}
		if left == 0 {
			compare.Jf = uint8(skip)
		}
		code = append(code, compare)
	}
	return code
}
