// Package policy decides whether this machine works now, and with how much of itself.
// Decide is a pure function of device, preferences and clock; the preferences are the
// owner's, kept in a file that Load reads strictly. It never measures and never acts:
// package node reads the device, asks here, and does what is answered.
package policy

import (
	"fmt"
	"time"

	"github.com/spare-compute/spare"
)

// The codes of a Decision's reason, beside those of package spare.
const (
	ReasonAllowed   = "allowed"    // nothing stands against working
	ReasonOnBattery = "on_battery" // the owner lends the machine on mains power only
)

// Limits are what may be used while working.
type Limits struct {
	Cores  int    // at least 1
	Memory uint64 // bytes; 0 = not known, no limit of ours
	Disk   uint64 // bytes the cache may hold
}

// A Decision is the answer to "may it work now?".
type Decision struct {
	Run    bool
	Limits Limits
	Reason spare.Reason
}

// Decide answers for one moment. The clock is there for the owner's hours; the first
// policy does not look at it.
func Decide(d spare.Device, p Prefs, _ time.Time) Decision {
	dec := Decision{Run: true, Limits: limits(d, p)}
	if p.When == WhenAC && d.Battery != nil && !d.Battery.OnAC {
		dec.Run = false
		detail := "the machine runs on its battery"
		if d.Battery.Percent != nil {
			detail = fmt.Sprintf("the machine runs on its battery (%.0f %%)", *d.Battery.Percent)
		}
		dec.Reason = spare.Reason{Code: ReasonOnBattery, Detail: detail + "; it works again on mains power, or with when=always"}
		return dec
	}
	detail := "working is always allowed"
	if p.When == WhenAC {
		detail = "the machine is on mains power"
	}
	dec.Reason = spare.Reason{Code: ReasonAllowed, Detail: detail}
	return dec
}

const (
	// defaultDisk bounds the cache where the owner said nothing.
	defaultDisk = 20 << 30
	// memoryShare leaves the owner a quarter of the memory where he said nothing.
	memoryNumerator, memoryDenominator = 3, 4
)

func limits(d spare.Device, p Prefs) Limits {
	l := Limits{Cores: max(1, d.CPU.Cores), Memory: uint64(p.Memory), Disk: uint64(p.Disk)}
	if p.Cores > 0 {
		l.Cores = min(l.Cores, p.Cores)
	}
	if d.Memory != nil {
		if l.Memory == 0 {
			l.Memory = d.Memory.Total / memoryDenominator * memoryNumerator
		}
		l.Memory = min(l.Memory, d.Memory.Total)
	}
	if l.Disk == 0 {
		l.Disk = defaultDisk
		if d.Disk != nil {
			l.Disk = min(l.Disk, d.Disk.Total/4)
		}
	}
	return l
}

// Offer is the limits in the words of the device report.
func (l Limits) Offer() spare.Offer {
	return spare.Offer{Cores: l.Cores, Memory: l.Memory, Disk: l.Disk}
}
