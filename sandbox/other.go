//go:build !linux && !darwin && !windows

package sandbox

import (
	"runtime"

	"github.com/spare-compute/spare"
)

// Init does nothing here: no runtime of this system starts inside this program.
func Init() {}

// Default is empty: this system has no runtime yet.
func Default() []Runtime { return nil }

// Unavailable says why this system offers no runtime.
func Unavailable() spare.Capability {
	return spare.Capability{
		Runtime: "none",
		Reason:  "Spare has no sandbox for " + runtime.GOOS + " yet, so this node takes no work; a Linux node does",
	}
}
