package device

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/spare-compute/spare"
)

// sysfsPower reads Linux's /sys/class/power_supply.
type sysfsPower struct{ sys fs.FS }

// Battery joins all of the machine's batteries into one, weighted by their size.
func (p sysfsPower) Battery(context.Context) (*spare.Battery, error) {
	const class = "class/power_supply"
	entries, err := fs.ReadDir(p.sys, class)
	if err != nil {
		return nil, fmt.Errorf("list batteries: %w", err)
	}
	var b spare.Battery
	var batteries, mains int
	var online, discharging bool
	var sum, weight float64
	for _, e := range entries {
		dir := path.Join(class, e.Name())
		switch word(p.sys, dir, "type") {
		case "Mains", "USB", "Wireless":
			if on := word(p.sys, dir, "online"); on != "" {
				mains++
				online = online || on != "0"
			}
		case "Battery":
			// A mouse or a headset has a battery of its own; an empty bay shows a battery that is not present.
			if word(p.sys, dir, "scope") == "Device" || word(p.sys, dir, "present") == "0" {
				continue
			}
			batteries++
			status := word(p.sys, dir, "status")
			b.Charging = b.Charging || status == "Charging"
			discharging = discharging || status == "Discharging"
			if percent, ok := number(p.sys, dir, "capacity"); ok && percent >= 0 && percent <= 100 {
				w := size(p.sys, dir)
				sum, weight = sum+percent*w, weight+w
			}
		}
	}
	if batteries == 0 {
		return nil, nil
	}
	if weight > 0 {
		percent := sum / weight
		b.Percent = &percent
	}
	// Some machines show no mains at all: then whether the battery drains decides.
	b.OnAC = online || (mains == 0 && !discharging)
	return &b, nil
}

func size(sys fs.FS, dir string) float64 {
	for _, name := range []string{"energy_full", "charge_full"} {
		if n, ok := number(sys, dir, name); ok && n > 0 {
			return n
		}
	}
	return 1
}

func word(sys fs.FS, dir, name string) string {
	b, err := fs.ReadFile(sys, path.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func number(sys fs.FS, dir, name string) (float64, bool) {
	n, err := strconv.ParseFloat(word(sys, dir, name), 64)
	return n, err == nil
}

// pmsetPower asks macOS's pmset.
type pmsetPower struct{ commands Commands }

// Battery runs "pmset -g batt".
func (p pmsetPower) Battery(ctx context.Context) (*spare.Battery, error) {
	out, err := p.commands.Output(ctx, "pmset", "-g", "batt")
	if err != nil {
		return nil, err
	}
	return parsePmset(string(out)), nil
}

var pmsetBattery = regexp.MustCompile(`InternalBattery.*?(\d+)%;\s*([a-zA-Z ]+)`)

// parsePmset reads what pmset prints; a Mac without a battery prints the source alone.
func parsePmset(out string) *spare.Battery {
	m := pmsetBattery.FindStringSubmatch(out)
	if m == nil {
		return nil
	}
	b := &spare.Battery{
		OnAC:     strings.Contains(out, "'AC Power'"),
		Charging: strings.TrimSpace(m[2]) == "charging" || strings.TrimSpace(m[2]) == "finishing charge",
	}
	if percent, err := strconv.ParseFloat(m[1], 64); err == nil {
		b.Percent = &percent
	}
	return b
}

// windowsStatus is what GetSystemPowerStatus fills in.
type windowsStatus struct {
	ACLine      byte // 0 battery, 1 mains, 255 unknown
	Flag        byte // 8 charging, 128 no battery, 255 unknown
	Percent     byte // 255 unknown
	System      byte
	LifeTime    uint32
	FullSeconds uint32
}

func (s windowsStatus) battery() *spare.Battery {
	if s.Flag == 255 || s.Flag&128 != 0 {
		return nil
	}
	b := &spare.Battery{OnAC: s.ACLine != 0, Charging: s.Flag&8 != 0}
	if s.Percent <= 100 {
		percent := float64(s.Percent)
		b.Percent = &percent
	}
	return b
}
