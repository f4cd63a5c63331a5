package wasm

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/tetratelabs/wazero/sys"
)

// A deterministic program's clock begins at clockStart, goes on by clockStep each time it
// is looked at, and jumps when the program sleeps. A loop that waits for a moment ends.
var clockStart = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

const clockStep = sys.ClockResolution(time.Millisecond)

// chunkEnv names the chunk of a task: its programs draw other random numbers than those
// of the next chunk, and the same in every run.
const chunkEnv = "CHUNK_NUMBER="

// virtual is the time and chance of a deterministic program.
type virtual struct {
	passed int64 // nanoseconds since clockStart
	random io.Reader
}

func newVirtual(env []string) *virtual {
	seed := "spare"
	for _, v := range env {
		if strings.HasPrefix(v, chunkEnv) {
			seed = v
		}
	}
	return &virtual{random: rand.NewChaCha8(sha256.Sum256([]byte(seed)))}
}

func (v *virtual) nanotime() int64 {
	v.passed += int64(clockStep)
	return v.passed
}

func (v *virtual) walltime() (int64, int32) {
	t := clockStart.Add(time.Duration(v.nanotime()))
	return t.Unix(), int32(t.Nanosecond())
}

func (v *virtual) sleep(ns int64) { v.passed += max(0, ns) }
