package main

import (
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/node"
)

func TestStatus_SaysWhetherTheDiskIsFull(t *testing.T) {
	for free, want := range map[uint64]string{
		0:        "disk      64 MiB, 0 MiB free; it is full: free some space, or nothing new can run here\n",
		9 << 20:  "disk      64 MiB, 9 MiB free; it is full: free some space, or nothing new can run here\n",
		32 << 20: "disk      64 MiB, 32 MiB free\n",
	} {
		s := node.Status{Device: spare.Device{Disk: &spare.Amount{Total: 64 << 20, Free: free}}}
		if got := render(s, time.Now()); !strings.Contains(got, want) {
			t.Errorf("%d bytes free: want %q in\n%s", free, want, got)
		}
	}
}
