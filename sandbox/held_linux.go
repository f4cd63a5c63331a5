package sandbox

import (
	"bufio"
	"bytes"
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
	h := newHolders(dirs)
	for _, pid := range pids {
		h.process(pid)
	}
	return h.held
}

// mostLooks bounds a search to about a second of the processor's time. A run that has more
// open than that, as no usual program does, hides what was not looked at.
const (
	mostLooks   = 250_000
	socketLooks = 6   // what it costs to read of a socket, in looks at a file
	mapsLook    = 512 // bytes of a list of mappings, which cost as much as one look
)

// longestMapping is more bytes than one line of a list of mappings has: a path of up to
// 4 KiB, of which each byte may be written as four.
const longestMapping = 20 << 10

type holders struct {
	held
	seen map[fileID]bool
	own  map[uint64]bool // device numbers of the writable mounts
	left int             // looks that it may still take
}

func newHolders(dirs []string) *holders {
	h := &holders{seen: map[fileID]bool{}, own: map[uint64]bool{}, left: mostLooks}
	for _, dir := range dirs {
		var st unix.Stat_t
		if unix.Stat(dir, &st) == nil {
			h.own[st.Dev] = true
		}
	}
	return h
}

// look reports whether there is time for so many looks more.
func (h *holders) look(n int) bool {
	h.left -= n
	h.hidden = h.hidden || h.left < 0
	return h.left >= 0
}

// process looks at the files of each of its threads, which need not be the same, and at
// what they have mapped, which is. The first thread tells nothing once it has ended.
func (h *holders) process(pid int) {
	before, mapped := "", false
	for _, thread := range threads(pid) {
		if !h.look(1) {
			return
		}
		proc := "/proc/" + thread
		if before == "" || !sameFiles(before, thread) {
			h.open(proc)
		}
		mapped, before = mapped || h.mapped(proc), thread
	}
}

// threads lists a process's threads, the first one first. /proc has a folder for each,
// which it does not list.
func threads(pid int) []string {
	all, _ := entries("/proc/" + strconv.Itoa(pid) + "/task") // it may have ended
	return all
}

// sameFiles reports whether two threads share their descriptors, as most do. If the kernel
// does not tell, they do not.
func sameFiles(a, b string) bool {
	const files = 2 // KCMP_FILES
	x, err := strconv.Atoi(a)
	y, err2 := strconv.Atoi(b)
	if err != nil || err2 != nil {
		return false
	}
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(x), uintptr(y), files, 0, 0, 0)
	return errno == 0 && order == 0
}

// open looks at the open files of a process, and for files on their way in its sockets.
func (h *holders) open(proc string) {
	fds, err := entries(proc + "/fd")
	if errors.Is(err, os.ErrPermission) { // it has made itself undumpable
		h.hidden = true
	}
	for _, fd := range fds {
		var st unix.Stat_t
		if !h.look(1) {
			return
		}
		if unix.Stat(proc+"/fd/"+fd, &st) != nil {
			continue
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			h.file(proc+"/fd/"+fd, &st)
		case unix.S_IFSOCK:
			h.socket(proc+"/fdinfo/"+fd, &st)
		}
	}
}

// socket looks at files that wait in a socket to be received, by whoever has it open.
func (h *holders) socket(info string, st *unix.Stat_t) {
	id := fileID{st.Dev, st.Ino}
	if h.seen[id] || !h.look(socketLooks) {
		return
	}
	h.seen[id] = true
	text, _ := os.ReadFile(info)
	_, waiting, found := strings.Cut(string(text), "scm_fds:")
	if waiting = strings.TrimSpace(waiting); found && !strings.HasPrefix(waiting, "0") {
		h.hidden = true
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

// mapped looks at files that a process has mapped, and perhaps closed, and reports whether
// it was told anything. Only root is told how long they are. Names are those inside, where
// mounts cannot cover folders in memory.
func (h *holders) mapped(proc string) bool {
	maps, err := os.Open(proc + "/maps")
	if err != nil {
		return false
	}
	defer func() { _ = maps.Close() }()
	lines, size := bufio.NewReaderSize(maps, longestMapping), 0
	for {
		line, err := lines.ReadSlice('\n')
		size += len(line)
		if err != nil {
			h.hidden = h.hidden || errors.Is(err, bufio.ErrBufferFull)
			h.look(size / mapsLook)
			return size > 0
		}
		if !bytes.HasSuffix(line, []byte(" (deleted)\n")) {
			continue
		}
		f := strings.Fields(string(line)) // addresses, rights, offset, device, inode, name
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
	first := r.first.Pid
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
