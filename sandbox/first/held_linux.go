package first

import "syscall"

// heldPause is the number of samples between two looks at memory that no process has
// mapped: a look asks for each open file's name. It is one more for each heldNames of them,
// which take some 5 ms, but no more than heldLongest.
const (
	heldPause   = 5
	heldNames   = 2000
	heldLongest = 25
)

// held is memory that processes hold without having it mapped: in memfds, and in System V
// segments. Where a control group counts, the parent sees it, and more: also a memfd in a
// message that nobody has received yet.
func (w *watch) held() int64 {
	if w.counted {
		return 0
	}
	if w.wait--; w.wait > 0 {
		return w.lastHeld
	}
	w.lastHeld = w.segments()
	look := memfds{seen: map[uint64]bool{}, queues: buffers{}}
	for _, pid := range w.processes() {
		// Threads need not share their descriptors, and the first may have ended before
		// the others: then it has none.
		for _, thread := range w.numbers("/proc/" + pid + "/task") {
			dir := "/proc/" + thread + "/fd/" // it is there, though not listed
			for _, fd := range w.numbers(dir) {
				look.at(dir + fd)
			}
		}
	}
	w.lastHeld, w.buffers = w.lastHeld+look.bytes, look.queues.bytes()
	w.wait = min(heldPause+look.names/heldNames, heldLongest)
	return w.lastHeld
}

// memfds adds up those that are open.
type memfds struct {
	names  int // of files that were looked at
	bytes  int64
	seen   map[uint64]bool // by their inodes
	queues buffers         // what else is open
}

func (m *memfds) at(fd string) {
	m.names++
	name, _ := readlink(fd)
	m.queues.add(name)
	const memfd = "/memfd:"
	if len(name) < len(memfd) || name[:len(memfd)] != memfd {
		return
	}
	var st syscall.Stat_t
	if syscall.Stat(fd, &st) == nil && !m.seen[st.Ino] {
		m.seen[st.Ino] = true
		m.bytes += st.Blocks * 512
	}
}

// buffers are the pipes and sockets that are open. What is in them cannot be asked, so
// those beyond the first few dozen count as full: no usual program fills so many.
type buffers map[string]int64

const (
	pipeBytes   = 64 << 10 // a pipe holds 16 pages; the filter denies it more
	socketBytes = 208 << 10
	freeBuffers = 64
)

func (b buffers) add(name string) {
	for prefix, size := range map[string]int64{"pipe:[": pipeBytes, "socket:[": socketBytes} {
		if len(name) > len(prefix) && name[:len(prefix)] == prefix {
			b[name] = size
		}
	}
}

func (b buffers) bytes() (sum int64) {
	if len(b) <= freeBuffers {
		return 0
	}
	for _, size := range b {
		sum += size
	}
	return sum - freeBuffers*pipeBytes
}

// segments adds up the System V segments of this namespace, whether attached or not.
func (w *watch) segments() (sum int64) {
	const file = "/proc/sysvipc/shm"
	text := readFile(file, w.text[:])
	if len(text) == len(w.text) {
		text = readFile(file, make([]byte, 1<<20)) // 4,096 segments, as many as a namespace may have
	}
	const rss = 15 // the column, of 16
	for line := range parts(string(text), '\n') {
		column := 0
		for i := range len(line) {
			if line[i] != ' ' && (i == 0 || line[i-1] == ' ') {
				if column++; column == rss {
					sum += digits([]byte(line[i:])) // the heading has none
				}
			}
		}
	}
	return sum
}
