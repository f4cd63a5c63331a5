//go:build unix

package sandbox

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A family is the tree of a program on a system that knows no more of it than who started
// whom: the processes of the leader's group, and those that have left it, as far as they
// were seen before. A process that leaves between two looks, and whose parent ends at
// once, is lost from sight; the walls hold it all the same.
type family struct {
	leader int
	user   int // whose processes they are
	list   func() ([]process, error)

	mu    sync.Mutex
	known map[string]bool // process.key
	gone  bool
}

// process is one process of the machine.
type process struct {
	pid, parent, group, user int
	start                    string // when it began: a number is used again in time
	zombie                   bool
	memory                   int64 // bytes
	cpu                      time.Duration
}

func (p process) key() string { return strconv.Itoa(p.pid) + " " + p.start }

var errGone = errors.New("the program has ended")

// members are the processes that belong to the family now.
func (f *family) members() ([]process, error) {
	all, err := f.list()
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone { // the leader's number may be another's by now
		return nil, errGone
	}
	return f.pick(all), nil
}

// pick finds the family among all processes: children may come before their parents.
func (f *family) pick(all []process) []process {
	in, known := map[int]bool{}, map[string]bool{}
	for added := true; added; {
		added = false
		for _, p := range all {
			if in[p.pid] || p.user != f.user {
				continue
			}
			if p.pid == f.leader || p.group == f.leader || f.known[p.key()] || in[p.parent] {
				in[p.pid], known[p.key()], added = true, true, true
			}
		}
	}
	f.known = known
	var members []process
	for _, p := range all {
		if in[p.pid] && !p.zombie {
			members = append(members, p)
		}
	}
	return members
}

// Use implements tree.
func (f *family) Use() (treeUse, error) {
	members, err := f.members()
	var use treeUse
	for _, p := range members {
		use.memory += p.memory
		use.cpu += p.cpu
	}
	return use, err
}

// Ask implements tree.
func (f *family) Ask() { f.toGroup(syscall.SIGTERM) }

func (f *family) toGroup(s syscall.Signal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.gone {
		_ = syscall.Kill(-f.leader, s)
	}
}

// rounds is how often the family is looked through for members that were just born. One
// that bears faster than it is stopped loses them to the system's limit of processes.
const rounds = 50

// signal sends to every member until no new one is found.
func (f *family) signal(s syscall.Signal) error {
	f.toGroup(s)
	sent := map[string]bool{}
	for range rounds {
		members, err := f.members()
		if err != nil {
			return err
		}
		news := false
		for _, p := range members {
			if !sent[p.key()] {
				sent[p.key()], news = true, true
				_ = syscall.Kill(p.pid, s)
			}
		}
		if !news {
			return nil
		}
	}
	return fmt.Errorf("signal the program's processes: new ones come faster than they are found, %d so far", len(sent))
}

// Pause implements tree.
func (f *family) Pause() error { return f.signal(syscall.SIGSTOP) }

// Resume implements tree.
func (f *family) Resume() error { return f.signal(syscall.SIGCONT) }

// Kill implements tree: it stops all first, so that none is born meanwhile.
func (f *family) Kill() {
	_ = f.signal(syscall.SIGSTOP)
	_ = f.signal(syscall.SIGKILL)
}

// bury ends what the program left behind. It comes when the leader has ended and before it
// is waited for: until then nobody else gets its number.
func (f *family) bury() {
	f.Kill()
	f.mu.Lock()
	f.gone = true
	f.mu.Unlock()
}

// parseProcesses reads the output of ps -o pid=,ppid=,pgid=,uid=,rss=,time=,stat=,lstart=.
func parseProcesses(text string) ([]process, error) {
	var all []process
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) < 8 {
			return nil, fmt.Errorf("read the list of processes: %.80q has too few columns", line)
		}
		var n [5]int
		for i := range n {
			var err error
			if n[i], err = strconv.Atoi(f[i]); err != nil {
				return nil, fmt.Errorf("read the list of processes: %w", err)
			}
		}
		cpu, err := parseCPU(f[5])
		if err != nil {
			return nil, err
		}
		all = append(all, process{
			pid: n[0], parent: n[1], group: n[2], user: n[3], memory: int64(n[4]) << 10, cpu: cpu,
			zombie: strings.HasPrefix(f[6], "Z"), start: strings.Join(f[7:], " "),
		})
	}
	return all, nil
}

// parseCPU reads [[days-]hours:]minutes:seconds[.hundredths].
func parseCPU(s string) (time.Duration, error) {
	fault := fmt.Errorf("read the list of processes: %q is no processor time", s)
	days, rest, ok := strings.Cut(s, "-")
	if !ok {
		days, rest = "0", s
	}
	d, err := strconv.Atoi(days)
	if err != nil {
		return 0, fault
	}
	sum := float64(d) * 24
	parts := strings.Split(rest, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return 0, fault
	}
	if len(parts) == 2 {
		parts = append([]string{"0"}, parts...)
	}
	for i, part := range parts {
		n, err := strconv.ParseFloat(part, 64)
		if err != nil || n < 0 {
			return 0, fault
		}
		if i == 0 {
			sum += n
		} else {
			sum = sum*60 + n
		}
	}
	return time.Duration(sum * float64(time.Second)), nil
}
