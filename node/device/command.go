package device

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"time"
)

// Commands runs one of the system's own programs and gives back what it printed.
type Commands interface {
	Output(ctx context.Context, name string, args ...string) ([]byte, error)
}

// commandLimit bounds a vendor's program; some hang when the driver is broken.
const commandLimit = 10 * time.Second

// System runs programs of this machine, at idle priority.
type System struct{}

// Output runs name from PATH for at most ten seconds.
func (System) Output(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", name, err)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout = &out
	cmd.WaitDelay = time.Second
	beforeStart(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run %s: %w", name, err)
	}
	afterStart(cmd)
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("run %s: %w", name, err)
	}
	return out.Bytes(), nil
}
