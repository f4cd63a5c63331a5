package device

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"testing"
	"testing/fstest"

	"github.com/spare-compute/spare"
)

// printed stands for vendors' programs: what each prints, by name.
type printed map[string]string

func (p printed) Output(_ context.Context, name string, _ ...string) ([]byte, error) {
	out, ok := p[name]
	if !ok {
		return nil, errors.New("not installed")
	}
	return []byte(out), nil
}

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func percent(p float64) *float64 { return &p }

func TestSysfsPower_JoinsBatteriesAndLeavesOutPeripherals(t *testing.T) {
	supply := func(files map[string]string) fstest.MapFS {
		fsys := fstest.MapFS{"class/power_supply": {Mode: os.ModeDir}}
		for name, content := range files {
			fsys["class/power_supply/"+name] = &fstest.MapFile{Data: []byte(content + "\n")}
		}
		return fsys
	}
	for name, c := range map[string]struct {
		sys  fstest.MapFS
		want *spare.Battery
		fail bool
	}{
		"laptop on mains": {
			sys: supply(map[string]string{
				"AC/type": "Mains", "AC/online": "1",
				"BAT0/type": "Battery", "BAT0/status": "Charging", "BAT0/capacity": "55",
			}),
			want: &spare.Battery{Percent: percent(55), Charging: true, OnAC: true},
		},
		"laptop on battery": {
			sys: supply(map[string]string{
				"AC/type": "Mains", "AC/online": "0",
				"BAT0/type": "Battery", "BAT0/status": "Discharging", "BAT0/capacity": "80",
			}),
			want: &spare.Battery{Percent: percent(80)},
		},
		"two batteries count by their size": {
			sys: supply(map[string]string{
				"ADP1/type": "Mains", "ADP1/online": "0",
				"BAT0/type": "Battery", "BAT0/status": "Discharging", "BAT0/capacity": "100", "BAT0/energy_full": "10",
				"BAT1/type": "Battery", "BAT1/status": "Unknown", "BAT1/capacity": "0", "BAT1/energy_full": "30",
			}),
			want: &spare.Battery{Percent: percent(25)},
		},
		"no mains shown, draining":     {sys: supply(map[string]string{"B/type": "Battery", "B/status": "Discharging"}), want: &spare.Battery{}},
		"no mains shown, not draining": {sys: supply(map[string]string{"B/type": "Battery", "B/status": "Full"}), want: &spare.Battery{OnAC: true}},
		"charge that makes no sense is absent": {
			sys:  supply(map[string]string{"B/type": "Battery", "B/status": "Full", "B/capacity": "4000"}),
			want: &spare.Battery{OnAC: true},
		},
		"desktop with a mouse": {sys: supply(map[string]string{"hid/type": "Battery", "hid/scope": "Device", "hid/capacity": "3"})},
		"empty bay":            {sys: supply(map[string]string{"BAT1/type": "Battery", "BAT1/present": "0"})},
		"desktop":              {sys: supply(nil)},
		"no power_supply":      {sys: fstest.MapFS{}, fail: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := sysfsPower{c.sys}.Battery(t.Context())
			if (err != nil) != c.fail || !reflect.DeepEqual(got, c.want) {
				t.Errorf("Battery = %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestPmset_ReadsWhatMacOSPrints(t *testing.T) {
	for name, c := range map[string]struct {
		out  string
		want *spare.Battery
	}{
		"battery": {
			"Now drawing from 'Battery Power'\n -InternalBattery-0 (id=4653155)\t85%; discharging; 4:35 remaining present: true\n",
			&spare.Battery{Percent: percent(85)},
		},
		"charging": {
			"Now drawing from 'AC Power'\n -InternalBattery-0 (id=4653155)\t40%; charging; 1:10 remaining present: true\n",
			&spare.Battery{Percent: percent(40), Charging: true, OnAC: true},
		},
		"full": {
			"Now drawing from 'AC Power'\n -InternalBattery-0 (id=4653155)\t100%; charged; 0:00 remaining present: true\n",
			&spare.Battery{Percent: percent(100), OnAC: true},
		},
		"desktop": {"Now drawing from 'AC Power'\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := pmsetPower{printed{"pmset": c.out}}.Battery(t.Context())
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("Battery = %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestWindowsStatus_UnknownIsAbsent(t *testing.T) {
	for name, c := range map[string]struct {
		status windowsStatus
		want   *spare.Battery
	}{
		"desktop":         {windowsStatus{ACLine: 1, Flag: 128, Percent: 255}, nil},
		"unknown":         {windowsStatus{ACLine: 255, Flag: 255, Percent: 255}, nil},
		"on battery":      {windowsStatus{ACLine: 0, Flag: 1, Percent: 70}, &spare.Battery{Percent: percent(70)}},
		"charging":        {windowsStatus{ACLine: 1, Flag: 8, Percent: 70}, &spare.Battery{Percent: percent(70), Charging: true, OnAC: true}},
		"charge unknown":  {windowsStatus{ACLine: 1, Flag: 0, Percent: 255}, &spare.Battery{OnAC: true}},
		"mains not known": {windowsStatus{ACLine: 255, Flag: 0, Percent: 50}, &spare.Battery{Percent: percent(50), OnAC: true}},
	} {
		if got := c.status.battery(); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

const rocm = `{"card0": {"Card Series": "Radeon RX 7900 XTX", "VRAM Total Memory (B)": "25753026560"},
"system": {"Driver version": "6.7.0"}}`

func TestVendors_AskEachVendorThenTheBus(t *testing.T) {
	bus := fstest.MapFS{
		"class/drm/card0/device/vendor":              {Data: []byte("0x8086\n")},
		"class/drm/card0/device/device":              {Data: []byte("0x46a6\n")},
		"class/drm/card0-HDMI-A-1/status":            {Data: []byte("connected")},
		"class/drm/card1/device/vendor":              {Data: []byte("0x1002\n")},
		"class/drm/card1/device/device":              {Data: []byte("0x744c\n")},
		"class/drm/card1/device/mem_info_vram_total": {Data: []byte("25753026560\n")},
		"class/drm/card2/device/vendor":              {Data: []byte("0x1af4\n")}, // virtual
		"class/drm/renderD128/device/vendor":         {Data: []byte("0x8086\n")},
	}
	intel := spare.GPU{Vendor: "intel", Model: "intel 0x46a6"}
	for name, c := range map[string]struct {
		v    vendors
		want []spare.GPU
	}{
		"nvidia-smi": {
			vendors{sys: fstest.MapFS{}, goos: "linux", commands: printed{"nvidia-smi": "NVIDIA H200, 143771, 570.133.20\nTesla T4, [N/A], 570.133.20\n"}},
			[]spare.GPU{
				{Vendor: "nvidia", Model: "NVIDIA H200", Memory: 143771 << 20, Driver: "570.133.20"},
				{Vendor: "nvidia", Model: "Tesla T4", Driver: "570.133.20"},
			},
		},
		"nvidia-smi without a driver": {
			vendors{sys: fstest.MapFS{}, goos: "linux", commands: printed{"nvidia-smi": "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"}},
			nil,
		},
		"rocm-smi and an Intel chip": {
			vendors{sys: bus, goos: "linux", commands: printed{"rocm-smi": rocm}},
			[]spare.GPU{{Vendor: "amd", Model: "Radeon RX 7900 XTX", Memory: 25753026560, Driver: "6.7.0"}, intel},
		},
		"the bus alone": {
			vendors{sys: bus, goos: "linux", commands: printed{}},
			[]spare.GPU{intel, {Vendor: "amd", Model: "amd 0x744c", Memory: 25753026560}},
		},
		"Apple silicon": {
			vendors{sys: fstest.MapFS{}, goos: "darwin", commands: printed{}, cpuModel: func(context.Context) string { return "Apple M3" }},
			[]spare.GPU{{Vendor: "apple", Model: "Apple M3"}},
		},
		"none": {vendors{sys: fstest.MapFS{}, goos: "linux", commands: printed{}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.v.GPUs(t.Context())
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("GPUs = %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func FuzzVendorOutput(f *testing.F) {
	f.Add([]byte("NVIDIA H200, 143771, 570.133.20\n"))
	f.Add([]byte(rocm))
	f.Fuzz(func(t *testing.T, out []byte) {
		for _, g := range append(parseNvidia(out), parseROCm(out)...) {
			if g.Model == "" {
				t.Error("a processor without a name")
			}
		}
		parsePmset(string(out))
	})
}

func TestReader_ReadsInjectedRoots(t *testing.T) {
	proc := tree(t, map[string]string{
		"meminfo": "MemTotal:        8000000 kB\nMemFree:         1000000 kB\nMemAvailable:    5000000 kB\n",
		"loadavg": "1.25 0.50 0.10 1/200 4711\n",
		"stat":    "cpu0 1 1 1 1\ncpu1 1 1 1 1\ncpu2 1 1 1 1\nbtime 1700000000\n",
		"cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Test CPU @ 3GHz\ncpu MHz\t\t: 3000.0\nflags\t\t: fpu avx2 sse4_2 vmx\n\nprocessor\t: 1\n\nprocessor\t: 2\n\n",
	})
	sys := tree(t, map[string]string{
		"class/power_supply/AC/type": "Mains", "class/power_supply/AC/online": "1",
		"class/power_supply/BAT0/type": "Battery", "class/power_supply/BAT0/capacity": "55",
		"class/hwmon/hwmon0/name": "coretemp", "class/hwmon/hwmon0/temp1_input": "61000", "class/hwmon/hwmon0/temp1_label": "Package id 0",
		"class/hwmon/hwmon1/name": "nvme", "class/hwmon/hwmon1/temp1_input": "80000",
	})
	t.Setenv("HOST_SYS", sys)
	r := NewReader(Config{Volume: t.TempDir(), Proc: proc, Commands: printed{}})
	d := r.Read(t.Context())
	if runtime.GOOS == "linux" {
		if d.Memory == nil || d.Memory.Total != 8000000<<10 || d.Memory.Free != 5000000<<10 {
			t.Errorf("memory = %+v", d.Memory)
		}
		if d.Load1 == nil || *d.Load1 != 1.25 {
			t.Errorf("load = %v", d.Load1)
		}
		if d.CPU.Cores != 3 || d.CPU.Model != "Test CPU @ 3GHz" || !reflect.DeepEqual(d.CPU.Features, []string{"avx2", "sse4_2"}) {
			t.Errorf("cpu = %+v", d.CPU)
		}
		if d.Temperature == nil || *d.Temperature != 61 {
			t.Errorf("temperature = %v, want the processor's 61 and not the disk's 80", d.Temperature)
		}
		if d.Battery == nil || !d.Battery.OnAC || *d.Battery.Percent != 55 {
			t.Errorf("battery = %+v", d.Battery)
		}
	}
	if d.Disk == nil || d.Disk.Total == 0 || d.OS != runtime.GOOS || d.Arch != runtime.GOARCH || d.Software != spare.Version {
		t.Errorf("device = %+v", d)
	}
}

func TestReader_WhatCannotBeReadIsAbsent(t *testing.T) {
	nothing := t.TempDir()
	r := NewReader(Config{Volume: filepath.Join(nothing, "gone"), Sys: nothing, Proc: nothing, Commands: printed{}})
	d := r.Read(t.Context())
	if runtime.GOOS == "linux" && (d.Memory != nil || d.Battery != nil || d.Temperature != nil || d.Boot != nil) {
		t.Errorf("values came from nowhere: %+v", d)
	}
	if d.Disk != nil || d.GPUs != nil {
		t.Errorf("values came from nowhere: %+v", d)
	}
	if d.CPU.Cores < 1 {
		t.Errorf("cores = %d; the program itself runs on one", d.CPU.Cores)
	}
}

func TestChanged_SmallWanderingIsNoNews(t *testing.T) {
	base := func() spare.Device {
		return spare.Device{
			Memory: &spare.Amount{Total: 16 << 30, Free: 8 << 30}, Disk: &spare.Amount{Total: 100 << 30, Free: 50 << 30},
			Load1: percent(1), Temperature: percent(50), Battery: &spare.Battery{Percent: percent(50), OnAC: true},
		}
	}
	for name, c := range map[string]struct {
		change func(*spare.Device)
		want   bool
	}{
		"nothing":         {func(*spare.Device) {}, false},
		"some memory":     {func(d *spare.Device) { d.Memory.Free -= 1 << 30 }, false},
		"much memory":     {func(d *spare.Device) { d.Memory.Free -= 6 << 30 }, true},
		"some disk":       {func(d *spare.Device) { d.Disk.Free -= 1 << 30 }, false},
		"much disk":       {func(d *spare.Device) { d.Disk.Free -= 10 << 30 }, true},
		"a little warmer": {func(d *spare.Device) { d.Temperature = percent(60) }, false},
		"much warmer":     {func(d *spare.Device) { d.Temperature = percent(70) }, true},
		"charge":          {func(d *spare.Device) { d.Battery.Percent = percent(45) }, false},
		"unplugged":       {func(d *spare.Device) { d.Battery.OnAC = false }, true},
		"battery gone":    {func(d *spare.Device) { d.Battery = nil }, true},
		"load unreadable": {func(d *spare.Device) { d.Load1 = nil }, true},
		"a tool":          {func(d *spare.Device) { d.Tools = []spare.Tool{{Name: "ffmpeg"}} }, true},
		"the offer":       {func(d *spare.Device) { d.Offer.Cores = 1 }, true},
	} {
		now := base()
		c.change(&now)
		if got := Changed(base(), now); got != c.want {
			t.Errorf("%s: Changed = %v", name, got)
		}
	}
}
