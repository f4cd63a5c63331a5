package device

import (
	"context"
	"fmt"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/spare-compute/spare"
)

var getSystemPowerStatus = windows.NewLazySystemDLL("kernel32.dll").NewProc("GetSystemPowerStatus")

type kernelPower struct{}

func systemPower(string, Commands) Power { return kernelPower{} }

func (kernelPower) Battery(context.Context) (*spare.Battery, error) {
	if err := getSystemPowerStatus.Find(); err != nil {
		return nil, fmt.Errorf("read power status: %w", err)
	}
	var s windowsStatus
	ok, _, err := getSystemPowerStatus.Call(uintptr(unsafe.Pointer(&s)))
	if ok == 0 {
		return nil, fmt.Errorf("read power status: %w", err)
	}
	return s.battery(), nil
}
