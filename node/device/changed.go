package device

import (
	"reflect"

	"github.com/spare-compute/spare"
)

// Changed reports whether the hub should hear of now, having heard of before. What
// wanders by itself (free memory and disk, load, temperature, charge) counts only
// once it has gone far enough to matter to what may run here: an idle node is quiet.
func Changed(before, now spare.Device) bool {
	if moved(before.Memory, now.Memory, 4) || moved(before.Disk, now.Disk, 20) {
		return true
	}
	if !near(before.Temperature, now.Temperature, 15) || !near(before.Load1, now.Load1, 4) {
		return true
	}
	if (before.Battery == nil) != (now.Battery == nil) {
		return true
	}
	if before.Battery != nil {
		if before.Battery.OnAC != now.Battery.OnAC || !near(before.Battery.Percent, now.Battery.Percent, 10) {
			return true
		}
	}
	for _, d := range []*spare.Device{&before, &now} {
		d.Memory, d.Disk, d.Temperature, d.Load1, d.Battery = nil, nil, nil, nil, nil
	}
	return !reflect.DeepEqual(before, now)
}

// moved reports whether the free part changed by more than one part in share of the total.
func moved(a, b *spare.Amount, share uint64) bool {
	if a == nil || b == nil {
		return a != b
	}
	far := max(a.Free, b.Free) - min(a.Free, b.Free)
	return a.Total != b.Total || far > b.Total/share
}

func near(a, b *float64, within float64) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a-*b <= within && *b-*a <= within
}
