package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/node"
	"github.com/spare-compute/spare/node/device"
	"github.com/spare-compute/spare/publisher"
)

func statusCommand(data *string) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what this node is and does, and why",
		Long: `Status shows the device, what can run on it and why not, the state and its reason,
the hubs and the current work. Of a node that is not running it shows what lies on disk.`,
		Example: `  spare-node status
  spare-node status --json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := node.Ask(cmd.Context(), *data)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), render(s, time.Now()))
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// render is a status for people.
func render(s node.Status, now time.Time) string {
	var b strings.Builder
	line := func(name, format string, values ...any) {
		fmt.Fprintf(&b, "%-9s %s\n", name, fmt.Sprintf(format, values...))
	}
	line("node", "%s  (%s)", s.Device.Name, s.Node.Short())
	line("state", "%s: %s", s.State, s.Reason.Detail)
	line("data", "%s", s.Data)
	d := s.Device
	line("system", "%s", joined(" ", d.OS+"/"+d.Arch, d.Distro, d.Kernel))
	line("cpu", "%s", joined(", ", d.CPU.Model, fmt.Sprintf("%d cores", d.CPU.Cores)))
	line("memory", "%s", amount(d.Memory))
	line("disk", "%s", amount(d.Disk)+fullNote(d.Disk))
	for _, g := range d.GPUs {
		line("gpu", "%s", joined(" ", g.Model, size(g.Memory), g.Driver))
	}
	if d.Battery != nil {
		line("power", "%s", battery(d.Battery))
	}
	line("lends", "%d cores, %s memory, %s disk", d.Offer.Cores, orUnknown(size(d.Offer.Memory)), orUnknown(size(d.Offer.Disk)))
	for _, r := range d.Runtimes {
		line("runtime", "%s", runtimeLine(r))
	}
	for _, t := range d.Tools {
		line("tool", "%s", device.Describe(t))
	}
	for _, h := range s.Hubs {
		line("hub", "%s", hubLine(h, s.Running, now))
	}
	for _, w := range s.Work {
		phase := w.Phase
		if w.Frozen {
			phase = "frozen where it is, holding " + size(uint64(w.Memory)) + ","
		}
		line("work", "%s chunk %d of %q: %s for %s", w.App, w.Chunk, w.Job, phase, now.Sub(w.Since).Round(time.Second))
	}
	return b.String()
}

func runtimeLine(r spare.Capability) string {
	if !r.OK {
		return fmt.Sprintf("%s: off: %s", r.Runtime, r.Reason)
	}
	platforms := make([]string, len(r.Platforms))
	for i, p := range r.Platforms {
		platforms[i] = string(p)
	}
	s := fmt.Sprintf("%s: works for %s", r.Runtime, strings.Join(platforms, ", "))
	for i, f := range r.Features {
		s += []string{" with ", ", "}[min(i, 1)] + string(f)
	}
	if len(r.Missing) > 0 {
		s += "; walls it lacks: " + strings.Join(r.Missing, "; ")
	}
	if r.Reason != "" {
		s += " (" + r.Reason + ")"
	}
	return s
}

func hubLine(h node.HubStatus, running bool, now time.Time) string {
	s := fmt.Sprintf("%s (%s), pool %s", h.Name, h.Key.Short(), h.Pool)
	switch {
	case !running:
	case h.Link.Connected:
		s += ": connected to " + h.Link.Address
		if h.Link.Since != nil {
			s += " for " + now.Sub(*h.Link.Since).Round(time.Second).String()
		}
	default:
		s += ": not connected"
		if h.Link.Error != "" {
			s += ": " + h.Link.Error
		}
	}
	if h.RequireSignature {
		s += "; runs only what is signed by " + signers(h.Publishers)
	}
	if h.Pending > 0 {
		s += fmt.Sprintf("; %d results to hand over", h.Pending)
	}
	return s
}

func signers(keys []publisher.ID) string {
	if len(keys) == 0 {
		return "a trusted publisher, and trusts none: join again with a new ticket"
	}
	var names []string
	for _, k := range keys {
		names = append(names, k.Short())
	}
	return strings.Join(names, " or ")
}

func battery(b *spare.Battery) string {
	s := "on battery"
	if b.OnAC {
		s = "on mains"
	}
	if b.Percent != nil {
		s += fmt.Sprintf(", battery at %.0f %%", *b.Percent)
	}
	return s
}

func amount(a *spare.Amount) string {
	if a == nil {
		return "not known"
	}
	free := size(a.Free)
	if free == "" {
		free = "0 MiB"
	}
	return fmt.Sprintf("%s, %s free", size(a.Total), free)
}

// diskLow is what a disk has left, in bytes, when hardly any work can still come.
const diskLow = 16 << 20

// fullNote says what to do about a disk without room.
func fullNote(disk *spare.Amount) string {
	if disk == nil || disk.Free >= diskLow {
		return ""
	}
	return "; it is full: free some space, or nothing new can run here"
}

// size is a number of bytes for people, "" for none.
func size(n uint64) string {
	switch {
	case n == 0:
		return ""
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
}

func orUnknown(s string) string {
	if s == "" {
		return "unlimited"
	}
	return s
}

// joined joins what is not empty.
func joined(sep string, parts ...string) string {
	var some []string
	for _, p := range parts {
		if p != "" {
			some = append(some, p)
		}
	}
	return strings.Join(some, sep)
}
