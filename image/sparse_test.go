package image_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// sparse is a tar whose one file claims to be huge and holds nothing, in GNU's sparse
// format 1.0. Package tar reads it and does not write it.
func sparse(t *testing.T, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	header := func(name string, kind byte, length int) {
		h := make([]byte, 512)
		copy(h, name)
		copy(h[100:], "0000644\x000000000\x000000000\x00")
		copy(h[124:], fmt.Sprintf("%011o\x00%011o\x00", length, 0))
		h[156] = kind
		copy(h[257:], "ustar\x0000")
		copy(h[148:], "        ")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		b.Write(h)
	}
	body := func(s string) {
		b.WriteString(s)
		b.WriteString(strings.Repeat("\x00", (512-len(s)%512)%512))
	}
	var records string
	for _, kv := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=big", fmt.Sprintf("GNU.sparse.realsize=%d", size)} {
		n := len(kv) + 3 // a space, a line break and at least one digit
		for len(fmt.Sprint(n))+len(kv)+2 != n {
			n++
		}
		records += fmt.Sprintf("%d %s\n", n, kv)
	}
	header("PaxHeaders/big", 'x', len(records))
	body(records)
	holes := fmt.Sprintf("1\n%d\n0\n", size)
	header("GNUSparseFile.0/big", '0', 512)
	body(holes)
	b.Write(make([]byte, 1024))
	return b.Bytes()
}
