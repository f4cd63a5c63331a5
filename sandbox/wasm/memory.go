package wasm

import (
	"sync/atomic"

	"github.com/tetratelabs/wazero/experimental"
)

// maxMemory is what a module can address.
const maxMemory = 4 << 30

// memory gives a module its linear memory: address space for all that it may have is
// set aside at once, and taken up as the memory grows, so that growing copies nothing.
type memory struct {
	limit   uint64
	peak    atomic.Int64
	refused atomic.Bool // it asked for more than its limit, or than the machine has
}

func newMemory(limit int64) *memory {
	if limit <= 0 || limit > maxMemory {
		limit = maxMemory
	}
	return &memory{limit: uint64(limit)}
}

// Allocate implements experimental.MemoryAllocator.
func (m *memory) Allocate(_, most uint64) experimental.LinearMemory {
	l := &linear{memory: m}
	l.space, l.err = reserve(min(most, m.limit))
	return l
}

// linear is one module's memory. A module has one.
type linear struct {
	*memory
	space []byte // set aside; the first used bytes are taken up
	used  uint64
	err   error
}

// Reallocate implements experimental.LinearMemory.
func (l *linear) Reallocate(size uint64) []byte {
	if l.err != nil || size > uint64(len(l.space)) {
		l.refused.Store(true)
		return nil
	}
	if size > l.used {
		if commit(l.space, l.used, size) != nil {
			l.refused.Store(true)
			return nil
		}
		l.used = size
		l.peak.Store(max(l.peak.Load(), int64(size)))
	}
	return l.space[:size:size]
}

// Free implements experimental.LinearMemory. The process ends with the run.
func (l *linear) Free() {}
