//go:build !linux && !darwin && !windows

package device

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spare-compute/spare"
)

type noPower struct{}

func systemPower(string, Commands) Power { return noPower{} }

func (noPower) Battery(context.Context) (*spare.Battery, error) {
	return nil, fmt.Errorf("read battery: not known how on %s", runtime.GOOS)
}
