package cgroup

import (
	"os/exec"
	"syscall"
	"testing"
)

// BenchmarkGroup compares starting a program with starting it in a group of its own.
func BenchmarkGroup(b *testing.B) {
	b.Run("without", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("/bin/true").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	g := Find()
	if !g.Any() {
		b.Skip(g)
	}
	b.Run("with", func(b *testing.B) {
		for b.Loop() {
			group, err := g.New(Limits{Memory: 1 << 30, Processes: 100, CPUs: 0.5, Idle: true})
			if err != nil {
				b.Fatal(err)
			}
			cmd := exec.Command("/bin/true")
			cmd.SysProcAttr = &syscall.SysProcAttr{}
			err = group.Start(cmd.SysProcAttr, func() (int, error) { return 0, cmd.Start() })
			if err == nil {
				err = group.Share()
			}
			if err == nil {
				err = cmd.Wait()
			}
			if err == nil {
				err = group.Remove()
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
