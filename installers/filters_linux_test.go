package installers_test

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// refused is how systemd's own filters refuse, whatever SystemCallErrorNumber says: EPERM.
const refused = seccomp.ActionErrno

// filters are those of system calls that a unit's settings stand for.
func (u unit) filters() ([]seccomp.Policy, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return nil, err
	}
	yes := func(key string) bool { return slices.Equal(u[key], []string{"yes"}) }
	var all []seccomp.Policy
	deny := func(action seccomp.Action, calls ...seccomp.NameWithConditions) {
		known := slices.DeleteFunc(calls, func(c seccomp.NameWithConditions) bool { _, is := info.SyscallNames[c.Name]; return !is })
		all = append(all, seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{{NamesWithCondtions: known, Action: action}}})
	}
	denyGroup := func(group string) {
		names, groupErr := expand(group)
		err = errors.Join(err, groupErr)
		all = append(all, seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{{Names: knownOf(info, names), Action: refused}}})
	}
	for key, group := range map[string]string{"ProtectClock": "@clock", "ProtectKernelModules": "@module", "PrivateDevices": "@raw-io"} {
		if yes(key) {
			denyGroup(group)
		}
	}
	if families := u["RestrictAddressFamilies"]; families != nil {
		others, familyErr := otherFamilies(families[0])
		err = errors.Join(err, familyErr)
		deny(seccomp.ActionErrno|seccomp.Action(unix.EAFNOSUPPORT), others)
	}
	if yes("RestrictRealtime") {
		deny(refused, when("sched_setscheduler", not(1, unix.SCHED_NORMAL), not(1, unix.SCHED_BATCH), not(1, unix.SCHED_IDLE)))
	}
	if yes("RestrictSUIDSGID") {
		deny(refused, setsID()...)
		// Its flags lie in memory, where no filter sees them.
		deny(seccomp.ActionErrno|seccomp.Action(unix.ENOSYS), when("openat2", is(0, seccomp.GreaterOrEqual, 0)))
	}
	if yes("LockPersonality") {
		deny(refused, when("personality", not(0, 0)))
	}
	if list := u["SystemCallFilter"]; list != nil {
		policy, listErr := u.allowed(info, list)
		err = errors.Join(err, listErr)
		all = append(all, policy) // last: the others need calls to be installed by
	}
	return all, err
}

// allowed is the list of calls that alone are let through.
func (u unit) allowed(info *arch.Info, list []string) (seccomp.Policy, error) {
	p := seccomp.Policy{DefaultAction: seccomp.ActionKillProcess}
	switch number := strings.Join(u["SystemCallErrorNumber"], " "); number {
	case "":
	case "EPERM":
		p.DefaultAction = refused
	default:
		return p, fmt.Errorf("SystemCallErrorNumber=%s: this test knows EPERM only", number)
	}
	names, err := expand("@default") // which every list has
	for _, word := range strings.Fields(strings.Join(list, " ")) {
		if strings.HasPrefix(word, "~") {
			return p, fmt.Errorf("SystemCallFilter=%s: this test knows lists of what is allowed only", word)
		}
		more, wordErr := expand(word)
		names, err = append(names, more...), errors.Join(err, wordErr)
	}
	p.Syscalls = []seccomp.SyscallGroup{{Names: knownOf(info, names), Action: seccomp.ActionAllow}}
	return p, err
}

// expand is a group of system calls as the systemd that is installed here has it.
func expand(word string) ([]string, error) {
	if !strings.HasPrefix(word, "@") {
		return []string{word}, nil
	}
	out, err := exec.Command("systemd-analyze", "syscall-filter", "--no-pager", word).Output()
	if err != nil {
		return nil, fmt.Errorf("systemd-analyze syscall-filter %s: %w", word, err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if line == "" || line == word || strings.HasPrefix(line, "#") {
			continue
		}
		more, err := expand(line)
		if err != nil {
			return nil, err
		}
		names = append(names, more...)
	}
	return names, nil
}

// knownOf leaves out the calls of other architectures.
func knownOf(info *arch.Info, names []string) []string {
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(n string) bool { _, is := info.SyscallNames[n]; return !is })
}

func when(name string, conditions ...seccomp.Condition) seccomp.NameWithConditions {
	return seccomp.NameWithConditions{Name: name, Conditions: conditions}
}

func is(arg uint32, op seccomp.Operation, value uint64) seccomp.Condition {
	return seccomp.Condition{Argument: arg, Operation: op, Value: value}
}

func not(arg uint32, value uint64) seccomp.Condition { return is(arg, seccomp.NotEqual, value) }

// otherFamilies are the sockets of every family but those.
func otherFamilies(list string) (seccomp.NameWithConditions, error) {
	numbers := map[string]uint64{"AF_UNIX": unix.AF_UNIX, "AF_INET": unix.AF_INET, "AF_INET6": unix.AF_INET6, "AF_NETLINK": unix.AF_NETLINK}
	other := when("socket")
	for _, family := range strings.Fields(list) {
		n, known := numbers[family]
		if !known {
			return other, fmt.Errorf("RestrictAddressFamilies: this test does not know %s", family)
		}
		other.Conditions = append(other.Conditions, not(0, n))
	}
	return other, nil
}

// setsID are the calls that make a file run as its owner or group.
func setsID() (calls []seccomp.NameWithConditions) {
	for _, bit := range []uint64{unix.S_ISUID, unix.S_ISGID} {
		for name, arg := range map[string]uint32{"chmod": 1, "fchmod": 1, "fchmodat": 2, "mkdir": 1, "mkdirat": 2, "mknod": 1, "mknodat": 2, "creat": 1} {
			calls = append(calls, when(name, is(arg, seccomp.BitsSet, bit)))
		}
		calls = append(calls,
			when("open", is(1, seccomp.BitsSet, unix.O_CREAT), is(2, seccomp.BitsSet, bit)),
			when("openat", is(2, seccomp.BitsSet, unix.O_CREAT), is(3, seccomp.BitsSet, bit)))
	}
	return calls
}
