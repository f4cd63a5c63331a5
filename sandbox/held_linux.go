package sandbox

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// held is what processes keep of files that have no name any more.
type held struct {
	tally
	hidden bool // there may be more, which cannot be measured
}

// Magic numbers of file systems in memory, linux/magic.h: what is in them counts as memory.
const (
	tmpfsMagic     = 0x01021994
	hugetlbfsMagic = 0x958458f6
)

// heldBy finds deleted files that processes have open or mapped. Those on the run's own
// volumes count, and those elsewhere but in memory: some file systems give a file another
// device number than its folder.
func heldBy(pids []int, dirs []string) held {
	h := &holders{seen: map[fileID]bool{}, own: map[uint64]bool{}}
	for _, dir := range dirs {
		var st unix.Stat_t
		if unix.Stat(dir, &st) == nil {
			h.own[st.Dev] = true
		}
	}
	for _, pid := range pids {
		proc := "/proc/" + strconv.Itoa(pid)
		h.open(proc)
		h.mapped(proc)
	}
	return h.held
}

type holders struct {
	held
	seen map[fileID]bool
	own  map[uint64]bool // device numbers of the writable mounts
}

// open looks at the open files of a process, and for files on their way in its sockets.
func (h *holders) open(proc string) {
	fds, err := entries(proc + "/fd")
	if errors.Is(err, os.ErrPermission) { // it has made itself undumpable
		h.hidden = true
	}
	for _, fd := range fds {
		var st unix.Stat_t
		if unix.Stat(proc+"/fd/"+fd, &st) != nil {
			continue
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			h.file(proc+"/fd/"+fd, &st)
		case unix.S_IFSOCK:
			text, _ := os.ReadFile(proc + "/fdinfo/" + fd)
			_, waiting, found := strings.Cut(string(text), "scm_fds:")
			if waiting = strings.TrimSpace(waiting); found && !strings.HasPrefix(waiting, "0") {
				h.hidden = true
			}
		}
	}
}

func (h *holders) file(name string, st *unix.Stat_t) {
	id := fileID{st.Dev, st.Ino}
	if st.Nlink > 0 || h.seen[id] {
		return
	}
	h.seen[id], h.seen[fileID{inode: st.Ino}] = true, true
	if !h.own[st.Dev] {
		var fs unix.Statfs_t
		if unix.Statfs(name, &fs) != nil || fs.Type == tmpfsMagic || fs.Type == hugetlbfsMagic {
			return
		}
	}
	h.files++
	h.bytes += claims(st)
}

// mapped looks at files that a process has mapped, and perhaps closed. Only root is told
// how long they are. Names are those inside, where mounts cannot cover folders in memory.
func (h *holders) mapped(proc string) {
	text, err := os.ReadFile(proc + "/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, " (deleted)\n") {
			continue
		}
		f := strings.Fields(line) // addresses, rights, offset, device, inode, name
		if len(f) < 6 || slices.ContainsFunc(inMemory, func(p string) bool { return strings.HasPrefix(f[5], p) }) {
			continue
		}
		file := proc + "/map_files/" + f[0]
		var st unix.Stat_t
		if unix.Stat(file, &st) == nil {
			h.file(file, &st)
			continue
		}
		inode, _ := strconv.ParseUint(f[4], 10, 64)
		if id := (fileID{inode: inode}); !h.seen[id] {
			h.seen[id], h.hidden = true, true
			h.files++
			h.bytes += rangeLength(f[0])
		}
	}
}

// inMemory are how the names of files in memory begin.
var inMemory = []string{"/memfd:", "/SYSV", "/dev/", "/tmp/", "/anon_hugepage", "/[aio]"}

// rangeLength is the length of a range of addresses.
func rangeLength(addresses string) int64 {
	from, to, _ := strings.Cut(addresses, "-")
	a, err := strconv.ParseUint(from, 16, 64)
	b, err2 := strconv.ParseUint(to, 16, 64)
	if err != nil || err2 != nil || b < a {
		return 0
	}
	return int64(b - a)
}

// entries lists a folder's names.
func entries(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return f.Readdirnames(-1)
}

// pids are the run's processes but the first one, which holds no files that matter and
// lets nobody look.
func (r *run) pids() []int {
	first := r.cmd.Process.Pid
	if r.group == nil {
		return below(first)[1:]
	}
	return slices.DeleteFunc(r.group.Pids(), func(pid int) bool { return pid == first })
}

// below lists a process and all that descend from it. What loses its parent inside gets
// the first process as one.
func below(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		proc := "/proc/" + strconv.Itoa(all[i]) + "/task/"
		tasks, _ := entries(proc) // it may have ended
		for _, task := range tasks {
			text, _ := os.ReadFile(proc + task + "/children")
			for word := range strings.FieldsSeq(string(text)) {
				if child, err := strconv.Atoi(word); err == nil {
					all = append(all, child)
				}
			}
		}
	}
	return all
}
