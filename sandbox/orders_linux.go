package sandbox

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"time"
)

// orders is all the first process is told at its start. They travel in a format of their
// own: a general decoder, cold in a new process, costs more than building the walls does.
type orders struct {
	Argv, Env []string
	Dir       string
	Mounts    []order
	CPUs      []int
	Memory    int64
	Processes int
	Files     int
	CPU       time.Duration
	Disk      int64
	Tmp       int64
	Nice      bool
}

// order is one mount. FD is the descriptor of the detached tree, or 0 if the first
// process must make it from the path.
type order struct {
	FD       int
	Host     string
	Inner    string
	Folder   bool
	Writable bool
}

// report is what the first process says at the end: either what failed or how it went.
type report struct {
	Failed  string // the walls could not be built
	NoStart string // the program could not be executed
	Errno   int    // of NoStart

	Status int // wait status of the program
	Cause  Cause
	CPU    time.Duration
	MaxRSS int64 // bytes, of the largest process
	Peak   int64 // bytes, sampled over all processes
}

var errShort = errors.New("the message between the sandbox's processes is cut off")

// A codec writes or reads the fields of a message in one fixed order, so that both
// directions are one piece of code.
type codec struct {
	buf     []byte
	reading bool
	err     error
}

func (c *codec) int(v *int64) {
	if !c.reading {
		c.buf = binary.AppendVarint(c.buf, *v)
		return
	}
	n, size := binary.Varint(c.buf)
	if size <= 0 {
		c.err, c.buf = errShort, nil
		return
	}
	*v, c.buf = n, c.buf[size:]
}

func (c *codec) text(v *string) {
	n := int64(len(*v))
	c.int(&n)
	if !c.reading {
		c.buf = append(c.buf, *v...)
		return
	}
	if n < 0 || n > int64(len(c.buf)) {
		c.err, c.buf = errShort, nil
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

// number codes any kind of whole number.
func number[T ~int | ~int64](c *codec, v *T) {
	n := int64(*v)
	c.int(&n)
	*v = T(n)
}

// list codes a list whose elements one codes.
func list[T any](c *codec, v *[]T, one func(*T)) {
	n := int64(len(*v))
	c.int(&n)
	if c.reading {
		if n < 0 || n > int64(len(c.buf)) { // an element takes at least a byte
			c.err = errShort
			return
		}
		*v = make([]T, n)
	}
	for i := range *v {
		one(&(*v)[i])
	}
}

func (o *orders) code(c *codec) {
	list(c, &o.Argv, c.text)
	list(c, &o.Env, c.text)
	c.text(&o.Dir)
	list(c, &o.Mounts, func(m *order) {
		number(c, &m.FD)
		c.text(&m.Host)
		c.text(&m.Inner)
		c.bool(&m.Folder)
		c.bool(&m.Writable)
	})
	list(c, &o.CPUs, func(n *int) { number(c, n) })
	c.int(&o.Memory)
	number(c, &o.Processes)
	number(c, &o.Files)
	number(c, &o.CPU)
	c.int(&o.Disk)
	c.int(&o.Tmp)
	c.bool(&o.Nice)
}

func (r *report) code(c *codec) {
	c.text(&r.Failed)
	c.text(&r.NoStart)
	number(c, &r.Errno)
	number(c, &r.Status)
	c.text((*string)(&r.Cause))
	number(c, &r.CPU)
	c.int(&r.MaxRSS)
	c.int(&r.Peak)
}

type message interface{ code(*codec) }

// encode is a message with its length in front.
func encode(m message) []byte {
	c := &codec{buf: make([]byte, 4, 1024)}
	m.code(c)
	binary.BigEndian.PutUint32(c.buf, uint32(len(c.buf)-4))
	return c.buf
}

// decode reads one message. Both ends are this program, so its length is trusted as far
// as an int32 goes.
func decode(r io.Reader, m message) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > math.MaxInt32 {
		return errShort
	}
	c := &codec{buf: make([]byte, n), reading: true}
	if _, err := io.ReadFull(r, c.buf); err != nil {
		return err
	}
	m.code(c)
	if c.err == nil && len(c.buf) > 0 {
		return errShort
	}
	return c.err
}
