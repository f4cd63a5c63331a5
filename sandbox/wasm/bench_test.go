package wasm

import (
	"os/exec"
	"testing"

	"github.com/spare-compute/spare/sandbox"
)

// BenchmarkStart is what Python costs that does nothing: bare, and in each kind of helper.
func BenchmarkStart(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("python3", "-c", "pass").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	eachBench(b, func(b *testing.B, r *Runtime) {
		for b.Loop() {
			script(b, r, "pass", nil)
		}
	})
}

// darts is the loop of the App montecarlo.
const darts = `
import random
draw = random.Random("1:0").random
inside = 0
for _ in range(500_000):
    x, y = draw(), draw()
    if x * x + y * y <= 1.0:
        inside += 1
`

// BenchmarkDarts is what Python's work costs.
func BenchmarkDarts(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("python3", "-c", darts).Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	eachBench(b, func(b *testing.B, r *Runtime) {
		for b.Loop() {
			script(b, r, darts, nil)
		}
	})
}

func eachBench(b *testing.B, bench func(b *testing.B, r *Runtime)) {
	b.Helper()
	for _, inside := range []sandbox.Runtime{nil, carrier()} {
		name := "alone"
		if inside != nil {
			name = "inside " + inside.Name()
		}
		r := New(config(b, inside))
		script(b, r, "pass", nil) // compiled by now
		b.Run(name, func(b *testing.B) { bench(b, r) })
	}
}
