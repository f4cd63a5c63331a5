//go:build !linux

package engine

import (
	"fmt"

	"github.com/spare-compute/spare/sandbox"
)

// owner is the user that containers run as. They run in a Linux machine of the engine's
// own, whose way of sharing folders lets any user of it at them.
func (*engine) owner() (uid, gid int) { return remoteOwner, remoteOwner }

func (*engine) share(sandbox.Mount) error { return nil }

// groups are out of reach: containers run on another kernel.
type groups struct{}

func groupsOf(int, string) (groups, bool) { return groups{}, false }

func (groups) read(*use) bool { return false }

func (*run) held() int64 { return 0 }

func heedsTerm(int) bool { return true }

func deviceGroup(device string) (string, error) {
	return "", fmt.Errorf("%s: devices are passed on Linux only", device)
}
