package first

import (
	"errors"
	"syscall"
)

// Orders is all the first process is told at its start. They travel in a format of their
// own: a general decoder, cold in a new process, costs more than building the walls does.
type Orders struct {
	Argv, Env []string
	Dir       string
	Mounts    []Mount
	CPUs      []int // processors; none = all
	Memory    int64 // bytes
	Counted   bool  // a control group holds the memory too
	Processes int
	Files     int
	CPU       int64 // nanoseconds
	Disk      int64 // bytes
	Tmp       int64 // bytes
	Nice      bool
	Image     string   // folder of an image's files; "" = the host's system folders
	ImageFD   int      // descriptor of its detached tree, or 0 if it must be made from the path
	Proxy     int64    // port on its own loopback to listen on for the parent; 0 = none
	ProxyFD   int      // the socket by which the parent gets that listener
	Probe     bool     // run this very program as what tries the walls, instead of Argv
	Filter    []byte   // seccomp program, as the kernel takes it; none = no filter
	Without   []string // walls that are left out; tests only
}

// Mount is one mount. FD is the descriptor of the detached tree, or 0 if the first
// process must make it from the path.
type Mount struct {
	FD       int
	Host     string
	Inner    string
	Folder   bool
	Writable bool
}

// Report is what the first process says: at the end, what failed or how it went; before,
// with Answer, that it has done what it was ordered to, or why not (Failed).
type Report struct {
	Answer  Order
	Failed  string // the walls could not be built
	NoStart string // the program could not be executed
	Errno   int    // of NoStart

	Status int   // wait status of the program
	Kill   Kill  // why it was killed, if it was
	CPU    int64 // nanoseconds
	MaxRSS int64 // bytes, of the largest process
	Peak   int64 // bytes, sampled over all processes
}

// Kill is why a run was ended. The first process decides on some; the others come as
// orders, one byte each, on the control pipe.
type Kill int64

// The reasons to end a run.
const (
	KillNone Kill = iota
	KillMemory
	KillTime
	KillDisk
	KillCancel
)

var errCut = errors.New("the message between the sandbox's processes is cut off")

// A codec writes or reads the fields of a message in one fixed order, so that both
// directions are one piece of code.
type codec struct {
	buf     []byte
	reading bool
	err     error
}

// int is eight bytes, least first.
func (c *codec) int(v *int64) {
	if !c.reading {
		for shift := 0; shift < 64; shift += 8 {
			c.buf = append(c.buf, byte(*v>>shift))
		}
		return
	}
	*v = 0
	if len(c.buf) < 8 {
		c.err, c.buf = errCut, nil
		return
	}
	for i := range 8 {
		*v |= int64(c.buf[i]) << (8 * i)
	}
	c.buf = c.buf[8:]
}

func (c *codec) text(v *string) {
	n := int64(len(*v))
	c.int(&n)
	if !c.reading {
		c.buf = append(c.buf, *v...)
		return
	}
	if n < 0 || n > int64(len(c.buf)) {
		c.err, c.buf = errCut, nil
		return
	}
	*v, c.buf = string(c.buf[:n]), c.buf[n:]
}

func (c *codec) bool(v *bool) {
	var n int64
	if *v {
		n = 1
	}
	c.int(&n)
	*v = n == 1
}

func number[T ~int | ~int64 | ~byte](c *codec, v *T) {
	n := int64(*v)
	c.int(&n)
	*v = T(n)
}

// list codes a list whose elements one codes.
func list[T any](c *codec, v *[]T, one func(*T)) {
	n := int64(len(*v))
	c.int(&n)
	if c.reading {
		if n < 0 || n > int64(len(c.buf)) { // an element takes more than a byte
			c.err, c.buf = errCut, nil
			return
		}
		*v = make([]T, n)
	}
	for i := range *v {
		one(&(*v)[i])
	}
}

func (o *Orders) code(c *codec) {
	list(c, &o.Argv, c.text)
	list(c, &o.Env, c.text)
	c.text(&o.Dir)
	list(c, &o.Mounts, func(m *Mount) {
		number(c, &m.FD)
		c.text(&m.Host)
		c.text(&m.Inner)
		c.bool(&m.Folder)
		c.bool(&m.Writable)
	})
	list(c, &o.CPUs, func(n *int) { number(c, n) })
	c.int(&o.Memory)
	c.bool(&o.Counted)
	number(c, &o.Processes)
	number(c, &o.Files)
	c.int(&o.CPU)
	c.int(&o.Disk)
	c.int(&o.Tmp)
	c.bool(&o.Nice)
	c.text(&o.Image)
	number(c, &o.ImageFD)
	c.int(&o.Proxy)
	number(c, &o.ProxyFD)
	c.bool(&o.Probe)
	filter := string(o.Filter)
	c.text(&filter)
	o.Filter = []byte(filter)
	list(c, &o.Without, c.text)
}

func (r *Report) code(c *codec) {
	number(c, &r.Answer)
	c.text(&r.Failed)
	c.text(&r.NoStart)
	number(c, &r.Errno)
	number(c, &r.Status)
	number(c, &r.Kill)
	c.int(&r.CPU)
	c.int(&r.MaxRSS)
	c.int(&r.Peak)
}

// Message is Orders or a Report.
type Message interface{ code(*codec) }

// Encode is a message with its length in front.
func Encode(m Message) []byte {
	c := &codec{}
	m.code(c)
	head := &codec{buf: make([]byte, 0, 8+len(c.buf))}
	size := int64(len(c.buf))
	head.int(&size)
	return append(head.buf, c.buf...)
}

const maxMessage = 64 << 20 // far above what the kernel takes as arguments of a program

// Decode reads one message.
func Decode(r interface{ Read([]byte) (int, error) }, m Message) error {
	head := make([]byte, 8)
	if err := readFull(r, head); err != nil {
		return err
	}
	var size int64
	(&codec{buf: head, reading: true}).int(&size)
	if size < 0 || size > maxMessage {
		return errCut
	}
	c := &codec{buf: make([]byte, size), reading: true}
	if err := readFull(r, c.buf); err != nil {
		return err
	}
	m.code(c)
	if c.err == nil && len(c.buf) > 0 {
		return errCut
	}
	return c.err
}

func readFull(r interface{ Read([]byte) (int, error) }, b []byte) error {
	for len(b) > 0 {
		n, err := r.Read(b)
		if n == 0 && err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// control is the pipe that orders come in by.
type control struct{}

func (control) Read(b []byte) (int, error) {
	n, err := syscall.Read(controlFD, b)
	for err == syscall.EINTR {
		n, err = syscall.Read(controlFD, b)
	}
	if n <= 0 && err == nil {
		err = errCut
	}
	return max(n, 0), err
}
