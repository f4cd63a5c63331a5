package wasm

import "sync/atomic"

// fileCost is the least that a file or folder counts for: a million empty files are no
// free gift. It is the same as in the linux runtime.
const fileCost = 4 << 10

func cost(size int64) int64 { return max(size, fileCost) }

// quota counts the bytes that files take, as they are taken.
type quota struct {
	used  atomic.Int64 // negative when more was removed than written
	limit int64        // 0 = none
	over  func()       // called when it is passed; nil: what would pass it fails instead
}

// take counts n bytes more, or fewer, and reports whether they may be taken.
func (q *quota) take(n int64) bool {
	if n <= 0 {
		q.used.Add(n)
		return true
	}
	if used := q.used.Load(); q.limit > 0 && (used > q.limit || n > q.limit-used) {
		if q.over != nil {
			q.used.Add(n)
			q.over()
		}
		return false
	}
	q.used.Add(n)
	return true
}

func (q *quota) written() int64 { return max(0, q.used.Load()) }
