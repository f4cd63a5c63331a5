package device

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spare-compute/spare"
)

// vendors lists graphics processors by asking each vendor's own program, which alone
// knows memory and driver, and then the PCI bus for those whose program is missing.
type vendors struct {
	sys      fs.FS
	commands Commands
	goos     string
	cpuModel func(context.Context) string
}

// GPUs never fails: what no source knows is not listed.
func (v vendors) GPUs(ctx context.Context) ([]spare.GPU, error) {
	var gpus []spare.GPU
	if out, err := v.commands.Output(ctx, "nvidia-smi",
		"--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"); err == nil {
		gpus = append(gpus, parseNvidia(out)...)
	}
	switch v.goos {
	case "linux":
		if out, err := v.commands.Output(ctx, "rocm-smi",
			"--showproductname", "--showmeminfo", "vram", "--showdriverversion", "--json"); err == nil {
			gpus = append(gpus, parseROCm(out)...)
		}
		for _, g := range drmGPUs(v.sys) {
			known := slices.ContainsFunc(gpus, func(k spare.GPU) bool { return k.Vendor == g.Vendor })
			if !known || g.Vendor == "intel" {
				gpus = append(gpus, g)
			}
		}
	case "darwin":
		// On Apple silicon the graphics processor is part of the chip and named after it.
		if model := v.cpuModel(ctx); strings.HasPrefix(model, "Apple") {
			gpus = append(gpus, spare.GPU{Vendor: "apple", Model: model})
		}
	}
	return gpus, nil
}

// parseNvidia reads nvidia-smi's CSV: name, memory in MiB, driver.
func parseNvidia(out []byte) []spare.GPU {
	r := csv.NewReader(bytes.NewReader(out))
	r.TrimLeadingSpace = true
	r.FieldsPerRecord = 3
	rows, err := r.ReadAll()
	if err != nil {
		return nil // an error message of the driver, not a list
	}
	var gpus []spare.GPU
	for _, row := range rows {
		g := spare.GPU{Vendor: "nvidia", Model: strings.TrimSpace(row[0])}
		if mib, err := strconv.ParseUint(strings.TrimSpace(row[1]), 10, 44); err == nil {
			g.Memory = mib << 20
		}
		if driver := strings.TrimSpace(row[2]); !strings.HasPrefix(driver, "[") {
			g.Driver = driver
		}
		if g.Model != "" {
			gpus = append(gpus, g)
		}
	}
	return gpus
}

// parseROCm reads rocm-smi's JSON: an object per card, and one named "system".
func parseROCm(out []byte) []spare.GPU {
	var cards map[string]map[string]string
	if err := json.Unmarshal(out, &cards); err != nil {
		return nil
	}
	driver := field(cards["system"], "driver version")
	var gpus []spare.GPU
	for _, name := range slices.Sorted(maps.Keys(cards)) {
		if !strings.HasPrefix(name, "card") {
			continue
		}
		card := cards[name]
		model := cmp.Or(field(card, "card series"), field(card, "card model"), field(card, "device name"))
		if model == "" {
			continue
		}
		g := spare.GPU{Vendor: "amd", Model: model, Driver: driver}
		if b, err := strconv.ParseUint(field(card, "vram total memory (b)"), 10, 64); err == nil {
			g.Memory = b
		}
		gpus = append(gpus, g)
	}
	return gpus
}

// field finds a key without regard to case: releases of rocm-smi differ in it.
func field(m map[string]string, key string) string {
	for k, v := range m {
		if strings.EqualFold(k, key) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

var (
	drmCard    = regexp.MustCompile(`^card\d+$`)
	pciVendors = map[string]string{"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
)

// drmGPUs lists the cards the kernel drives, by the numbers of the PCI bus.
func drmGPUs(sys fs.FS) []spare.GPU {
	entries, err := fs.ReadDir(sys, "class/drm")
	if err != nil {
		return nil
	}
	var gpus []spare.GPU
	for _, e := range entries {
		if !drmCard.MatchString(e.Name()) {
			continue
		}
		dir := path.Join("class/drm", e.Name(), "device")
		vendor, ok := pciVendors[word(sys, dir, "vendor")]
		if !ok {
			continue // virtual and management adapters compute nothing
		}
		g := spare.GPU{Vendor: vendor, Model: fmt.Sprintf("%s %s", vendor, cmp.Or(word(sys, dir, "device"), "unknown"))}
		if b, err := strconv.ParseUint(word(sys, dir, "mem_info_vram_total"), 10, 64); err == nil {
			g.Memory = b
		}
		gpus = append(gpus, g)
	}
	return gpus
}
