package wasm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare/sandbox/wasm/wasmtest"
)

// BenchmarkFirstStart is what Python costs whose machine code has not been used for long:
// all that a helper reads comes from the disk.
func BenchmarkFirstStart(b *testing.B) {
	eachBench(b, func(b *testing.B, r *Runtime) {
		for b.Loop() {
			b.StopTimer()
			for _, dir := range []string{r.compiled.folder, wasmtest.Python(b), wasmtest.Helper(b)} {
				if err := forgotten(dir); err != nil {
					b.Fatal(err)
				}
			}
			b.StartTimer()
			script(b, r, "pass", nil)
		}
	})
}

// forgotten has the system drop from its memory what it keeps of the files in a folder.
func forgotten(dir string) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
	})
}
