package engine

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"
)

// A GPU reaches a container by name only: an App says which models it can use, and one
// card of such a model is passed, with what its vendor's tools add. NVIDIA's toolkit runs
// hooks as root on the word of images, and has had holes; a version that is not known to
// be good passes nothing, whatever else the owner accepts. AMD's cards are plain devices.

// card is one GPU that could be passed.
type card struct {
	vendor string // "nvidia", "amd"
	model  string
	uuid   string // NVIDIA's
	index  string // NVIDIA's
	render string // AMD's node: "/dev/dri/renderD128"
}

// errNoGPU says that there is none to pass.
var errNoGPU = errors.New("no NVIDIA or AMD GPU that an engine could pass through")

// devices are the arguments that pass one GPU of the models named.
func (e *engine) devices(ctx context.Context, models []string) ([]string, error) {
	if len(models) == 0 {
		return nil, nil
	}
	cards, err := e.cards(ctx)
	if err != nil {
		return nil, fmt.Errorf("pass a GPU to a container: %w", err)
	}
	c, ok := pick(cards, models)
	if !ok {
		return nil, fmt.Errorf("pass a GPU to a container: none here is a %s", strings.Join(models, " or "))
	}
	if c.vendor == "amd" {
		return e.amdArgs(c)
	}
	return e.nvidiaArgs(ctx, c), nil
}

// cards lists what may be passed here: nothing, with the reason, where that is not known
// to be safe.
func (e *engine) cards(ctx context.Context) ([]card, error) {
	if e.remote {
		return nil, errors.New("the engine runs containers in a machine of its own, whose GPU tools cannot be examined")
	}
	nvidia := parseNvidia(output1(ctx, "nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"))
	amd := amdCards(os.DirFS("/sys"), output1(ctx, "rocm-smi", "--showproductname", "--showbus", "--json"))
	var why error
	if len(nvidia) > 0 {
		version := toolkitVersion(string(output1(ctx, "nvidia-ctk", "--version")))
		switch flaws := FlawsOf(e.name(), nvidiaToolkit, version); {
		case version == "":
			why, nvidia = errors.New("NVIDIA's Container Toolkit is not installed, or does not tell its version"), nil
		case len(flaws) > 0:
			why, nvidia = &FlawsError{Flaws: flaws}, nil
		}
	}
	all := append(nvidia, amd...)
	switch {
	case len(all) > 0:
		return all, nil
	case why != nil:
		return nil, why
	}
	return nil, errNoGPU
}

// output1 is what a tool prints, or nothing.
func output1(ctx context.Context, argv ...string) []byte {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.WaitDelay = clientEnv(), time.Second
	out, err := cmd.Output()
	if err != nil {
		return nil
	}
	return out
}

// pick is the first card of a model named; "RTX 4090" means "NVIDIA GeForce RTX 4090".
func pick(cards []card, models []string) (card, bool) {
	for _, c := range cards {
		have := strings.ToLower(c.vendor + " " + c.model)
		if slices.ContainsFunc(models, func(m string) bool { return m != "" && strings.Contains(have, strings.ToLower(m)) }) {
			return c, true
		}
	}
	return card{}, false
}

// parseNvidia reads nvidia-smi's list: index, UUID, name. The UUID is all that goes on.
func parseNvidia(out []byte) (cards []card) {
	r := csv.NewReader(bytes.NewReader(out))
	r.TrimLeadingSpace, r.FieldsPerRecord = true, 3
	rows, err := r.ReadAll()
	if err != nil {
		return nil // an error message of the driver, not a list
	}
	for _, row := range rows {
		c := card{vendor: "nvidia", index: strings.TrimSpace(row[0]), uuid: strings.TrimSpace(row[1]), model: strings.TrimSpace(row[2])}
		if strings.HasPrefix(c.uuid, "GPU-") && plainName(c.uuid) && c.model != "" {
			cards = append(cards, c)
		}
	}
	return cards
}

// toolkitVersion reads "NVIDIA Container Toolkit CLI version 1.17.8\ncommit: …".
func toolkitVersion(said string) string {
	line, _, _ := strings.Cut(said, "\n")
	_, version, ok := strings.Cut(line, " version ")
	if !ok {
		return ""
	}
	return strings.TrimSpace(version)
}

// nvidiaArgs names the card in the Container Device Interface's way, which leaves the
// image no say; Docker before 28.2 may not know of it, and gets the older way.
func (e *engine) nvidiaArgs(ctx context.Context, c card) []string {
	names := strings.Fields(string(output1(ctx, "nvidia-ctk", "cdi", "list")))
	for _, id := range []string{c.uuid, c.index} {
		device := "nvidia.com/gpu=" + id
		if slices.Contains(names, device) && (e.podman || e.cdi) {
			return []string{"--device", device}
		}
	}
	if e.podman { // it says what is missing
		return []string{"--device", "nvidia.com/gpu=" + c.uuid}
	}
	return []string{"--gpus", "device=" + c.uuid, "--env", "NVIDIA_VISIBLE_DEVICES=" + c.uuid}
}

// amdCards lists AMD's render nodes by the kernel's account, with the names that
// rocm-smi has for them, if it is there.
func amdCards(sys fs.FS, rocm []byte) (cards []card) {
	var known map[string]map[string]string
	_ = json.Unmarshal(rocm, &known) // without it, cards have numbers for names
	entries, err := fs.ReadDir(sys, "class/drm")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "renderD") {
			continue
		}
		dir := path.Join("class/drm", e.Name(), "device")
		if word(sys, path.Join(dir, "vendor")) != "0x1002" {
			continue
		}
		model := "amd " + word(sys, path.Join(dir, "device"))
		if slot := slotOf(sys, dir); slot != "" {
			for _, name := range slices.Sorted(maps.Keys(known)) {
				if strings.EqualFold(valueOf(known[name], "pci bus"), slot) {
					if m := valueOf(known[name], "card series"); m != "" {
						model = m
					}
				}
			}
		}
		cards = append(cards, card{vendor: "amd", model: model, render: "/dev/dri/" + e.Name()})
	}
	return cards
}

// slotOf is a device's place on the PCI bus: "0000:03:00.0".
func slotOf(sys fs.FS, dir string) string {
	text, _ := fs.ReadFile(sys, path.Join(dir, "uevent"))
	for line := range strings.Lines(string(text)) {
		if slot, ok := strings.CutPrefix(strings.TrimSpace(line), "PCI_SLOT_NAME="); ok {
			return slot
		}
	}
	return ""
}

func word(sys fs.FS, name string) string {
	text, _ := fs.ReadFile(sys, name)
	return strings.TrimSpace(string(text))
}

// valueOf finds a key without regard to case: releases of rocm-smi differ in it.
func valueOf(m map[string]string, key string) string {
	for k, v := range m {
		if strings.EqualFold(k, key) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// amdArgs pass the card's render node, the driver's common device, and the groups that
// may open them.
func (e *engine) amdArgs(c card) ([]string, error) {
	args := []string{"--device", "/dev/kfd", "--device", c.render}
	if e.podman && e.rootless {
		if _, crun := e.parts["crun"]; !crun {
			return nil, errors.New("pass a GPU to a container: podman as an ordinary user needs crun for it, to keep the user's groups")
		}
		return append(args, "--group-add", "keep-groups"), nil
	}
	var groups []string
	for _, device := range []string{"/dev/kfd", c.render} {
		gid, err := deviceGroup(device)
		if err != nil {
			return nil, fmt.Errorf("pass a GPU to a container: %w", err)
		}
		if !slices.Contains(groups, gid) {
			groups = append(groups, gid)
			args = append(args, "--group-add", gid)
		}
	}
	return args, nil
}
