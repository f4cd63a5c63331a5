package wasm

import (
	"encoding/binary"
	"fmt"
)

// maxElements is how many elements a module's tables may have together at its start:
// wazero makes them all at once, eight bytes each. CPython has some 8,000.
const maxElements = 4 << 20

// bounded refuses a module whose tables would take the machine's memory before there is
// anything to watch. What it does not understand it leaves to wazero to refuse.
func bounded(mod []byte) error {
	var refused error
	_ = sections(mod, func(id byte, _, body []byte) error {
		if id == tableSection && refused == nil {
			refused = boundedTables(body)
		}
		return refused
	})
	return refused
}

func boundedTables(body []byte) error {
	next := func() (uint64, bool) {
		v, n := binary.Uvarint(body)
		if n <= 0 {
			return 0, false
		}
		body = body[n:]
		return v, true
	}
	count, ok := next()
	var sum uint64
	for i := uint64(0); ok && i < count; i++ {
		if len(body) < 2 {
			return nil
		}
		limits := body[1]
		body = body[2:] // the type of the elements, and which limits follow
		least, _ := next()
		if limits&1 != 0 {
			_, ok = next()
		}
		if sum += least; sum > maxElements {
			return fmt.Errorf("its tables begin with more than %d elements", maxElements)
		}
	}
	return nil
}
