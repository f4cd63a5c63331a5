// Package service runs the node under the system's service manager (systemd, launchd,
// Windows services) and installs it there. In a terminal it runs in the foreground
// and ends on Ctrl-C. It knows nothing of hubs or work; cmd/spare-node calls it.
package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/kardianos/service"
)

// Name is what the service managers call the node.
const Name = "spare-node"

// NoRestart is the exit status after which a service manager leaves the node stopped:
// the hub does not want it any more, and asking again every few seconds helps nobody.
const NoRestart = 3

// Options are what an installed service needs to know.
type Options struct {
	Data string // the data folder
	User string // whom it runs as; empty: the manager's default
}

func config(o Options) (*service.Config, error) {
	data, err := filepath.Abs(o.Data)
	if err != nil {
		return nil, fmt.Errorf("find the data folder %s: %w", o.Data, err)
	}
	return &service.Config{
		Name:        Name,
		DisplayName: "Spare node",
		Description: "Spare node: lends what this machine does not need",
		UserName:    o.User,
		Arguments:   []string{"run", "--data", data},
		Option: service.KeyValue{
			"SystemdScript":          systemdUnit,
			"RunAtLoad":              true,
			"OnFailure":              "restart",
			"OnFailureDelayDuration": "5s",
			"DelayedAutoStart":       runtime.GOOS == "windows",
		},
	}, nil
}

// systemdUnit is the unit, in the few words kardianos/service's templates know. The
// walls are those that leave the node's own sandbox the calls it needs (namespaces,
// mounts, a fresh /proc). No idle scheduling here: the heartbeat must live; what the
// node starts is put at idle priority by the node.
const systemdUnit = `[Unit]
Description={{Description}}
Wants=network-online.target
After=network-online.target
{{range Dependencies}}{{.}}
{{end}}
[Service]
ExecStart={{Path | cmdEscape}}{{range Arguments}} {{. | cmd}}{{end}}
{{if UserName}}User={{UserName}}
{{end}}Restart=on-failure
RestartSec=5
RestartPreventExitStatus=3
CPUWeight=10
IOWeight=10
OOMScoreAdjust=500
Delegate=cpu memory pids io
NoNewPrivileges=yes
PrivateDevices=yes
PrivateMounts=yes
DevicePolicy=closed
ProtectKernelModules=yes
ProtectClock=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
UMask=0077

[Install]
WantedBy=multi-user.target
`

// program adapts a Run function to the manager's Start and Stop.
type program struct {
	run  func(context.Context) error
	stop context.CancelFunc
	done chan struct{}
	err  error
}

func (p *program) Start(service.Service) error {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	go func() {
		defer close(p.done)
		p.err = p.run(ctx)
	}()
	return nil
}

func (p *program) Stop(service.Service) error {
	p.stop()
	<-p.done
	return p.err
}

// Run calls run until the service manager, or whoever sits at the terminal, asks to
// stop; then run's context ends and Run returns what run returns.
func Run(run func(context.Context) error) error {
	p := &program{run: run, done: make(chan struct{})}
	if runtime.GOOS != "windows" || service.Interactive() {
		// Every manager but Windows' stops a service by a signal, as a terminal does.
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
		defer signal.Stop(signals)
		_ = p.Start(nil)
		select {
		case <-signals:
		case <-p.done:
		}
		return p.Stop(nil)
	}
	s, err := service.New(p, &service.Config{Name: Name})
	if err != nil {
		return fmt.Errorf("run as a service: %w", err)
	}
	if err := s.Run(); err != nil {
		return err
	}
	return p.err
}

// Control does one of "install", "uninstall", "start" and "stop".
func Control(action string, o Options) error {
	cfg, err := config(o)
	if err != nil {
		return err
	}
	s, err := service.New(&program{done: make(chan struct{})}, cfg)
	if errors.Is(err, service.ErrNoServiceSystemDetected) {
		return fmt.Errorf("%s the service: no service manager was found here; use \"spare-node run\" in the foreground", action)
	}
	if err != nil {
		return fmt.Errorf("%s the service: %w", action, err)
	}
	if err := service.Control(s, action); err != nil {
		return fmt.Errorf("%s the service %s with %s: %w; it usually takes an administrator", action, Name, service.Platform(), err)
	}
	return nil
}
