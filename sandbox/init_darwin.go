package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// firstEnv marks a run's first step: this program, executed again.
const firstEnv = "SPARE_SANDBOX_FIRST=1"

// Descriptors of the first step beyond stdin, stdout and stderr.
const (
	ordersFD = 3 // its orders come in
	faultFD  = 4 // what went wrong goes out; its end is the sign of a good start
)

// seatbeltOrders are what the first step of a run is told: this very program, executed
// again to take limits on itself before it becomes sandbox-exec.
type seatbeltOrders struct {
	Argv   []string // of sandbox-exec
	Env    []string
	Dir    string
	Limits []seatbeltLimit
	Nice   bool
}

// Init must be the first line of main. In a run's first step it takes the run's limits on
// itself, becomes sandbox-exec, and never returns; everywhere else it does nothing.
func Init() {
	if os.Getenv("SPARE_SANDBOX_FIRST") != "1" {
		return
	}
	if err := firstStep(); err != nil {
		_, _ = unix.Write(faultFD, []byte(err.Error()))
	}
	os.Exit(126)
}

func firstStep() error {
	unix.CloseOnExec(ordersFD)
	unix.CloseOnExec(faultFD)
	var o seatbeltOrders
	if err := json.NewDecoder(os.NewFile(ordersFD, "orders")).Decode(&o); err != nil {
		return fmt.Errorf("read the orders: %w", err)
	}
	if err := os.Chdir(o.Dir); err != nil {
		return fmt.Errorf("enter the working folder: %w", err)
	}
	if o.Nice {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 19); err != nil {
			return fmt.Errorf("lower the priority: %w", err)
		}
	}
	for _, l := range o.Limits {
		if err := limit(l); err != nil {
			return fmt.Errorf("set resource limit %d to %d: %w", l.What, l.Value, err)
		}
	}
	if err := syscall.Exec(o.Argv[0], o.Argv, o.Env); err != nil {
		return fmt.Errorf("execute %s: %w", o.Argv[0], err)
	}
	return nil
}

// limit sets a limit, or leaves a stricter one of the owner's.
func limit(l seatbeltLimit) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(l.What, &now); err != nil {
		return err
	}
	value := min(l.Value, now.Max)
	return syscall.Setrlimit(l.What, &syscall.Rlimit{Cur: value, Max: value})
}
