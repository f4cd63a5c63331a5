// Package device finds out what this machine is and what really works on it: the
// spare.Device a node reports. It owns the providers for battery and graphics, which
// gopsutil does not have, and the probes of runtimes and tools, which prove a
// capability by using it. A value that cannot be read is absent, never zero.
// It decides nothing: package policy does. Package node calls it.
package device

import (
	"cmp"
	"context"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/shirou/gopsutil/v3/common"
	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/host"
	"github.com/shirou/gopsutil/v3/load"
	"github.com/shirou/gopsutil/v3/mem"
	"github.com/shirou/gopsutil/v3/net"

	"github.com/spare-compute/spare"
)

// Power tells the state of the machine's battery, nil where it has none.
type Power interface {
	Battery(ctx context.Context) (*spare.Battery, error)
}

// Graphics lists the machine's graphics processors.
type Graphics interface {
	GPUs(ctx context.Context) ([]spare.GPU, error)
}

// Config says where to look. The zero value looks at this machine.
type Config struct {
	Volume   string   // a folder on the cache volume
	Sys      string   // instead of /sys; HOST_SYS if empty
	Proc     string   // instead of /proc; HOST_PROC if empty
	Commands Commands // how vendors' programs are run
	Power    Power
	Graphics Graphics
}

// A Reader reads the device. It is safe for concurrent use.
type Reader struct {
	volume   string
	env      common.EnvMap
	power    Power
	graphics Graphics
}

// NewReader returns a reader of this machine, or of what cfg puts in its place.
func NewReader(cfg Config) *Reader {
	sys := cmp.Or(cfg.Sys, os.Getenv("HOST_SYS"), "/sys")
	proc := cmp.Or(cfg.Proc, os.Getenv("HOST_PROC"), "/proc")
	if cfg.Commands == nil {
		cfg.Commands = System{}
	}
	r := &Reader{
		volume:   cmp.Or(cfg.Volume, "."),
		env:      common.EnvMap{common.HostSysEnvKey: sys, common.HostProcEnvKey: proc},
		power:    cfg.Power,
		graphics: cfg.Graphics,
	}
	if r.power == nil {
		r.power = systemPower(sys, cfg.Commands)
	}
	if r.graphics == nil {
		r.graphics = vendors{sys: os.DirFS(sys), commands: cfg.Commands, goos: runtime.GOOS, cpuModel: r.cpuModel}
	}
	return r
}

func (r *Reader) ctx(ctx context.Context) context.Context {
	return context.WithValue(ctx, common.EnvKey, r.env)
}

// Read reads all that the system tells: everything but runtimes, tools and offer.
func (r *Reader) Read(ctx context.Context) spare.Device {
	ctx = r.ctx(ctx)
	d := spare.Device{OS: runtime.GOOS, Arch: runtime.GOARCH, Software: spare.Version}
	d.Name, _ = os.Hostname()
	if name, _, version, err := host.PlatformInformationWithContext(ctx); err == nil {
		d.Distro = strings.TrimSpace(name + " " + version)
	}
	if kernel, err := host.KernelVersionWithContext(ctx); err == nil {
		d.Kernel = kernel
	}
	if boot, err := host.BootTimeWithContext(ctx); err == nil && boot > 0 {
		t := time.Unix(int64(boot), 0).UTC()
		d.Boot = &t
	}
	d.CPU = r.cpu(ctx)
	d.Network = interfaces(ctx)
	if gpus, err := r.graphics.GPUs(ctx); err == nil {
		d.GPUs = gpus
	}
	return r.Refresh(ctx, d)
}

// Refresh returns d with the values that change by themselves read again. It starts
// no program on Linux and Windows, so it may be called every few seconds.
func (r *Reader) Refresh(ctx context.Context, d spare.Device) spare.Device {
	ctx = r.ctx(ctx)
	d.Memory, d.Disk, d.Load1, d.Temperature, d.Battery = nil, nil, nil, nil, nil
	if m, err := mem.VirtualMemoryWithContext(ctx); err == nil && m.Total > 0 {
		d.Memory = &spare.Amount{Total: m.Total, Free: m.Available}
	}
	if u, err := disk.UsageWithContext(ctx, r.volume); err == nil && u.Total > 0 {
		d.Disk = &spare.Amount{Total: u.Total, Free: u.Free}
	}
	if l, err := load.AvgWithContext(ctx); err == nil && runtime.GOOS != "windows" {
		d.Load1 = &l.Load1 // Windows has no load average; gopsutil would emulate one with a thread of its own
	}
	d.Temperature = hottest(ctx)
	if b, err := r.power.Battery(ctx); err == nil {
		d.Battery = b
	}
	return d
}

// Battery reads the power state alone, which is what the policy asks most often.
func (r *Reader) Battery(ctx context.Context) *spare.Battery {
	b, err := r.power.Battery(r.ctx(ctx))
	if err != nil {
		return nil
	}
	return b
}

// told are the processor features that programs choose their code by.
var told = []string{
	"aes", "asimd", "avx", "avx2", "avx512bw", "avx512f", "avx512vl", "bmi2", "fma", "neon", "sha_ni", "sha2", "sse4_2", "sve", "sve2",
}

func (r *Reader) cpu(ctx context.Context) spare.CPU {
	c := spare.CPU{Cores: runtime.NumCPU()}
	if n, err := cpu.CountsWithContext(ctx, true); err == nil && n > 0 {
		c.Cores = n
	}
	infos, err := cpu.InfoWithContext(ctx)
	if err != nil || len(infos) == 0 {
		return c
	}
	c.Model = strings.TrimSpace(infos[0].ModelName)
	if infos[0].Mhz > 0 {
		mhz := infos[0].Mhz
		c.MHz = &mhz
	}
	for _, f := range infos[0].Flags {
		if f = strings.ToLower(f); slices.Contains(told, f) {
			c.Features = append(c.Features, f)
		}
	}
	slices.Sort(c.Features)
	return c
}

func (r *Reader) cpuModel(ctx context.Context) string { return r.cpu(r.ctx(ctx)).Model }

// hottest is the temperature of the hottest CPU sensor. Disks, radios and batteries
// have sensors too, which say nothing of how hard the processor works.
func hottest(ctx context.Context) *float64 {
	// gopsutil reports sensors it could not read as an error beside those it could.
	sensors, _ := host.SensorsTemperaturesWithContext(ctx)
	var top *float64
	for _, s := range sensors {
		t := s.Temperature
		if !cpuSensor(s.SensorKey) || t <= 0 || t >= 150 {
			continue
		}
		if top == nil || t > *top {
			top = &t
		}
	}
	return top
}

func cpuSensor(key string) bool {
	key = strings.ToLower(key)
	for _, part := range []string{"coretemp", "k10temp", "zenpower", "cpu", "x86_pkg", "soc", "package", "tc0p", "tdie", "tctl"} {
		if strings.Contains(key, part) {
			return true
		}
	}
	return false
}

// interfaces lists what is up. A mobile modem is taken as metered; of others it is not known.
func interfaces(ctx context.Context) []spare.Interface {
	all, err := net.InterfacesWithContext(ctx)
	if err != nil {
		return nil
	}
	var up []spare.Interface
	for _, i := range all {
		if !slices.Contains(i.Flags, "up") || slices.Contains(i.Flags, "loopback") || strings.HasPrefix(i.Name, "veth") {
			continue
		}
		n := spare.Interface{Name: i.Name}
		if modem(i.Name) {
			metered := true
			n.Metered = &metered
		}
		up = append(up, n)
	}
	return up
}

func modem(name string) bool {
	for _, p := range []string{"wwan", "wwp", "ppp", "rmnet", "pdp_ip"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}
