package sandbox

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

var writeCalls = flag.Bool("calls", false, "write the engines' filter of system calls into seccomp.json")

// The engines' format allows or refuses a call if each of some of its arguments, all 64
// bits of it under a mask, has one value. It has no order, and what no entry says gets the
// default. So the clauses of a rule, of which the first that holds counts, are taken apart
// into cases of which no two can hold at once.

// A bits is what is asked of an argument: that mask leaves value of it.
type bits struct{ mask, value uint32 }

// A term asks something of some arguments.
type term map[int]bits

// and is the term that asks both; there is none if they contradict each other.
func (t term) and(o term) (term, bool) {
	all := maps.Clone(t)
	for arg, b := range o {
		a := all[arg]
		if common := a.mask & b.mask; a.value&common != b.value&common {
			return nil, false
		}
		all[arg] = bits{a.mask | b.mask, a.value | b.value}
	}
	return all, true
}

func product(a, b []term) (all []term) {
	for _, t := range a {
		for _, o := range b {
			if both, ok := t.and(o); ok {
				all = append(all, both)
			}
		}
	}
	return all
}

// terms are the cases in which a condition holds, and in which not.
func (c condition) terms() (holds, fails []term) {
	mask := c.mask
	if mask == 0 {
		mask = 0xffffffff
	}
	for _, v := range c.values {
		holds = append(holds, term{c.arg: {mask, v}})
	}
	// The values that are left, by the bits they have in common, highest first: where none
	// is left, all others of these bits fail.
	var split func(asked bits, left []uint32)
	split = func(asked bits, left []uint32) {
		if len(left) == 0 {
			fails = append(fails, term{c.arg: asked})
			return
		}
		bit := uint32(1) << 31
		for ; bit != 0 && mask&^asked.mask&bit == 0; bit >>= 1 {
		}
		if bit == 0 {
			return
		}
		for _, v := range []uint32{0, bit} {
			split(bits{asked.mask | bit, asked.value | v}, slices.DeleteFunc(slices.Clone(left), func(l uint32) bool { return l&bit != v }))
		}
	}
	split(bits{}, c.values)
	return holds, fails
}

// A decided is what one case answers.
type decided struct {
	term   term
	answer uint32
}

// cases takes a rule apart.
func (r rule) cases() (all []decided) {
	rest := []term{{}}
	for _, c := range r.clauses {
		holds, fails := rest, []term(nil)
		for _, w := range c.when {
			yes, no := w.terms()
			fails = append(fails, product(holds, no)...)
			holds = product(holds, yes)
		}
		for _, t := range holds {
			all = append(all, decided{t, c.answer})
		}
		rest = fails
	}
	for _, t := range rest {
		all = append(all, decided{t, r.otherwise})
	}
	return all
}

type (
	profileArg struct {
		Index    int    `json:"index"`
		Value    uint32 `json:"value"`
		ValueTwo uint32 `json:"valueTwo"`
		Op       string `json:"op"`
	}
	profileCalls struct {
		Names    []string     `json:"names"`
		Action   string       `json:"action"`
		ErrnoRet *uint32      `json:"errnoRet,omitempty"`
		Args     []profileArg `json:"args,omitempty"`
	}
	profileArch struct {
		Architecture     string   `json:"architecture"`
		SubArchitectures []string `json:"subArchitectures"`
	}
	profileFile struct {
		DefaultAction   string         `json:"defaultAction"`
		DefaultErrnoRet uint32         `json:"defaultErrnoRet"`
		ArchMap         []profileArch  `json:"archMap"`
		Syscalls        []profileCalls `json:"syscalls"`
	}
)

// profileEntry answers calls; what the default answers needs none.
func profileEntry(answer uint32, args []profileArg, names ...string) (e profileCalls, needed bool) {
	e = profileCalls{Names: names, Action: "SCMP_ACT_ALLOW", Args: args}
	if answer != allow {
		errno := answer &^ nothing
		e.Action, e.ErrnoRet = "SCMP_ACT_ERRNO", &errno
	}
	return e, answer != refuse
}

func callNames(calls []call) (all []string) {
	for _, c := range calls {
		all = append(all, c.name)
	}
	return all
}

// engineProfile is the filter for a program without a network.
func engineProfile() profileFile {
	p := profileFile{
		DefaultAction: "SCMP_ACT_ERRNO", DefaultErrnoRet: uint32(unix.EPERM),
		// Without others: a 32-bit program's calls have other numbers and take other ways.
		ArchMap: []profileArch{{"SCMP_ARCH_X86_64", []string{}}, {"SCMP_ARCH_AARCH64", []string{}}},
	}
	add := func(answer uint32, args []profileArg, names ...string) {
		if e, needed := profileEntry(answer, args, names...); needed {
			p.Syscalls = append(p.Syscalls, e)
		}
	}
	add(allow, nil, callNames(allowedCalls)...)
	add(absent, nil, callNames(absentCalls)...)
	add(nothing, nil, callNames(idleCalls)...)
	for _, r := range rules(NoNetwork) {
		for _, c := range r.cases() {
			var args []profileArg
			for _, arg := range slices.Sorted(maps.Keys(c.term)) {
				b := c.term[arg]
				args = append(args, profileArg{arg, b.mask, b.value, "SCMP_CMP_MASKED_EQ"})
			}
			add(c.answer, args, r.name)
		}
	}
	return p
}

// lines is JSON with one entry a line, so that a change shows as one.
func (p profileFile) lines(t testing.TB) []byte {
	t.Helper()
	text := func(v any) []byte {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\"defaultAction\":%s,\"defaultErrnoRet\":%d,\"archMap\":%s,\"syscalls\":[\n", text(p.DefaultAction), p.DefaultErrnoRet, text(p.ArchMap))
	for i, s := range p.Syscalls {
		if i > 0 {
			b.WriteString(",\n")
		}
		b.Write(text(s))
	}
	b.WriteString("\n]}\n")
	return b.Bytes()
}

func TestProfile_IsTheFiltersOwnLists(t *testing.T) {
	want := engineProfile().lines(t)
	if *writeCalls {
		if err := os.WriteFile("seccomp.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(Profile(), want) {
		t.Error("seccomp.json is not what the lists give: go test ./sandbox -run TestProfile -calls")
	}
}

// answer is what the profile as written says of a call, after the format's rules.
func (p profileFile) answer(t testing.TB, name string, args []uint64) uint32 {
	t.Helper()
	var answers []uint32
	for _, s := range p.Syscalls {
		holds := slices.Contains(s.Names, name)
		for _, a := range s.Args {
			var v uint64
			if a.Index < len(args) {
				v = args[a.Index]
			}
			holds = holds && a.Op == "SCMP_CMP_MASKED_EQ" && v&uint64(a.Value) == uint64(a.ValueTwo)
		}
		switch {
		case !holds:
		case s.ErrnoRet != nil:
			answers = append(answers, nothing|*s.ErrnoRet)
		default:
			answers = append(answers, allow)
		}
	}
	switch len(answers) {
	case 0:
		return nothing | p.DefaultErrnoRet
	case 1:
		return answers[0]
	}
	t.Errorf("%s %x has %d answers", name, args, len(answers))
	return 0
}

// TestProfile_DecidesAsTheFilterDoes runs both on the calls of the filter's own test and
// on arguments around those that rules look at, also with a high half that kernels ignore.
func TestProfile_DecidesAsTheFilterDoes(t *testing.T) {
	var p profileFile
	if err := json.Unmarshal(Profile(), &p); err != nil {
		t.Fatal(err)
	}
	run := machine(t, "amd64", NoNetwork)
	check := func(name string, args ...uint64) {
		nr := number(t, "amd64", name)
		if nr < 0 {
			return
		}
		if got, want := p.answer(t, name, args), run(unix.AUDIT_ARCH_X86_64, uint32(nr), args...); got != want {
			t.Errorf("%s %x: %#x, and the filter says %#x", name, args, got, want)
		}
	}
	for _, d := range decisions {
		check(d.name, d.args...)
	}
	for _, r := range rules(NoNetwork) {
		near := []uint64{0, 1, 2, 3, 0xffffffff, 1 << 32, 1<<32 | 1}
		for _, c := range r.clauses {
			for _, w := range c.when {
				for _, v := range w.values {
					near = append(near, uint64(v), uint64(v)+1, uint64(v)-1, uint64(v)|1<<32, uint64(w.mask), uint64(v)|0x40, uint64(v)|0o100)
				}
			}
		}
		for _, a := range near {
			for _, b := range near {
				check(r.name, a, b, a, b)
				check(r.name, a, b, b, a)
				check(r.name, 0, a, a, b)
			}
		}
	}
}
