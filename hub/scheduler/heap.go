package scheduler

import "time"

// A heap is a binary heap whose items know their place, so that any of them can be
// moved or taken out in O(log n).
type heap[T any] struct {
	items []T
	less  func(a, b T) bool
	place func(item T, index int) // -1 once it is out
}

func (h *heap[T]) len() int { return len(h.items) }

func (h *heap[T]) push(item T) {
	h.items = append(h.items, item)
	h.place(item, len(h.items)-1)
	h.up(len(h.items) - 1)
}

func (h *heap[T]) remove(i int) T {
	last := len(h.items) - 1
	item := h.items[i]
	if i != last {
		h.swap(i, last)
	}
	var zero T
	h.items[last] = zero
	h.items = h.items[:last]
	if i < last {
		h.fix(i)
	}
	h.place(item, -1)
	return item
}

// fix restores the order after the item at i changed.
func (h *heap[T]) fix(i int) {
	if !h.down(i) {
		h.up(i)
	}
}

func (h *heap[T]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(h.items[i], h.items[parent]) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h *heap[T]) down(i int) (moved bool) {
	for {
		child := 2*i + 1
		if child >= len(h.items) {
			return moved
		}
		if r := child + 1; r < len(h.items) && h.less(h.items[r], h.items[child]) {
			child = r
		}
		if !h.less(h.items[child], h.items[i]) {
			return moved
		}
		h.swap(i, child)
		i, moved = child, true
	}
}

func (h *heap[T]) swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.place(h.items[i], i)
	h.place(h.items[j], j)
}

// A timer is a time at which something is due. Exactly one of its owners is set: a
// lease to end, a task to queue, or a node's back-off from an App to lift.
type timer struct {
	at      time.Time
	index   int // in Core.timers, -1 = not set
	attempt *attempt
	task    *task
	app     *nodeApp
}

func newTimers() heap[*timer] {
	return heap[*timer]{
		less:  func(a, b *timer) bool { return a.at.Before(b.at) },
		place: func(t *timer, i int) { t.index = i },
	}
}

// set makes t due at at, earlier or later than before.
func (c *Core) set(t *timer, at time.Time) {
	t.at = at
	if t.index < 0 {
		c.timers.push(t)
		return
	}
	c.timers.fix(t.index)
}

func (c *Core) unset(t *timer) {
	if t.index >= 0 {
		c.timers.remove(t.index)
	}
}
