package scheduler

import (
	"slices"
	"strings"

	"github.com/spare-compute/spare"
)

// A fit is how far a node's device gets through a class's requirements: the first one
// it does not satisfy, or fitOK. The order is the order in which reasons tell more: a
// node of the wrong pool says little about tools.
type fit uint8

const (
	fitPool fit = iota
	fitPlatform
	fitOS
	fitArch
	fitGPU
	fitTool
	fitCPU
	fitMemory
	fitDisk
	fitOK
)

const gib = 1 << 30

// fitOf checks a node against a class. What a device does not report it does not have.
func fitOf(n *spare.Node, cl *class) fit {
	need, d := &cl.needs, &n.Device
	switch {
	case cl.pool != "" && n.Pool != cl.pool:
		return fitPool
	case cl.around.Platform != "" && !runs(d, cl.around):
		return fitPlatform
	case len(need.OS) > 0 && !slices.Contains(need.OS, d.OS):
		return fitOS
	case len(need.Arch) > 0 && !slices.Contains(need.Arch, d.Arch):
		return fitArch
	case len(need.GPU) > 0 && !hasGPU(d, need.GPU):
		return fitGPU
	case !hasTools(d, need.Tools):
		return fitTool
	case need.MinCPU > cores(d):
		return fitCPU
	case need.MinMemory != 0 && !(need.MinMemory <= memory(d)):
		return fitMemory
	case need.MinDisk != 0 && !(need.MinDisk <= disk(d)):
		return fitDisk
	}
	return fitOK
}

// runs reports whether one of the device's runtimes serves the App: the node itself
// chooses by the same rule.
func runs(d *spare.Device, around spare.Environment) bool {
	i, _ := around.Choose(d.Runtimes)
	return i >= 0
}

// hasGPU reports whether one of the models is there; "RTX 4090" matches "NVIDIA GeForce
// RTX 4090".
func hasGPU(d *spare.Device, models []string) bool {
	for _, g := range d.GPUs {
		have := strings.ToLower(g.Vendor + " " + g.Model)
		for _, m := range models {
			if strings.Contains(have, strings.ToLower(m)) {
				return true
			}
		}
	}
	return false
}

func hasTools(d *spare.Device, specs []string) bool {
	for _, s := range specs {
		if !hasTool(d, s) {
			return false
		}
	}
	return true
}

func hasTool(d *spare.Device, spec string) bool {
	name, feature, some := strings.Cut(spec, ":")
	for i := range d.Tools {
		if d.Tools[i].Name == name && (!some || slices.Contains(d.Tools[i].Features, feature)) {
			return true
		}
	}
	return false
}

// toolWords puts a tool spec in words: "ffmpeg:libx265" is "ffmpeg with libx265".
func toolWords(spec string) string {
	name, feature, some := strings.Cut(spec, ":")
	if !some {
		return name
	}
	return name + " with " + feature
}

func cores(d *spare.Device) int {
	if d.Offer.Cores > 0 {
		return d.Offer.Cores
	}
	return d.CPU.Cores
}

// memory and disk are in GiB: what the owner offers, or else what there is.
func memory(d *spare.Device) float64 {
	switch {
	case d.Offer.Memory > 0:
		return float64(d.Offer.Memory) / gib
	case d.Memory != nil:
		return float64(d.Memory.Total) / gib
	}
	return 0
}

func disk(d *spare.Device) float64 {
	switch {
	case d.Disk == nil:
		return float64(d.Offer.Disk) / gib
	case d.Offer.Disk > 0:
		return float64(min(d.Offer.Disk, d.Disk.Free)) / gib
	}
	return float64(d.Disk.Free) / gib
}
