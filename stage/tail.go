package stage

import (
	"bytes"
	"strings"
	"sync"
)

// LogLimit is how many bytes of an App's output are kept: the last ones.
const LogLimit = 64 << 10

// tail keeps the end of what is written to it, from the start of a line on.
type tail struct {
	mu  sync.Mutex
	buf []byte
	cut bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-LogLimit):]...)
	// Twice the limit may gather before the front is moved off: writes stay cheap.
	if len(t.buf) > 2*LogLimit {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-LogLimit:]...)
		t.cut = true
	}
	return len(p), nil
}

// Bytes is the tail; a line that lost its beginning is left out.
func (t *tail) Bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, cut := t.buf, t.cut
	if len(b) > LogLimit {
		b, cut = b[len(b)-LogLimit:], true
	}
	if cut {
		if i := bytes.IndexByte(b, '\n'); i >= 0 && i+1 < len(b) {
			b = b[i+1:]
		}
	}
	return bytes.Clone(b)
}

// LastLine is the last line that says anything, at most 500 bytes of it.
func (t *tail) LastLine() string {
	const most = 500
	b := bytes.TrimSpace(t.Bytes())
	b = b[bytes.LastIndexByte(b, '\n')+1:]
	// A progress display overwrites its line; what stands at the end is what was last seen.
	b = b[bytes.LastIndexByte(b, '\r')+1:]
	return strings.ToValidUTF8(string(b[:min(len(b), most)]), "\uFFFD")
}
