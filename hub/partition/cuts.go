package partition

import (
	"math"
	"slices"

	"github.com/spare-compute/spare/hub/media"
)

// safeStarts tells for each packet whether a segment may begin there: it is a keyframe,
// every packet before it is shown before it, and every packet after it is shown after
// it. Where frames that follow a keyframe in the file are shown before it (open GOP)
// they need the frames of the segment before, so no cut is made there.
func safeStarts(packets []media.Packet) []bool {
	safe := make([]bool, len(packets))
	latest := int64(math.MinInt64) // shown latest of all before
	for i, p := range packets {
		safe[i] = p.Key && p.PTS > latest
		latest = max(latest, p.PTS)
	}
	earliest := int64(math.MaxInt64) // shown earliest of all after
	for i := len(packets) - 1; i >= 0; i-- {
		safe[i] = safe[i] && packets[i].PTS < earliest
		earliest = min(earliest, packets[i].PTS)
	}
	return safe
}

// shownTimes are the PTS of the frames that are shown, in showing order.
func shownTimes(packets []media.Packet) []int64 {
	shown := make([]int64, 0, len(packets))
	for _, p := range packets {
		if !p.Hidden {
			shown = append(shown, p.PTS)
		}
	}
	slices.Sort(shown)
	return shown
}

// evenStarts chooses where at most n segments begin: for each of n even shares of the
// time, the safe packet nearest to where it ideally begins. The first is always 0.
func evenStarts(packets []media.Packet, safe []bool, first, end int64, n int) []int {
	starts := []int{0}
	candidate := -1
	share := float64(end-first) / float64(n)
	next := 1
	at := func(i int) float64 { return float64(packets[i].PTS - first) }
	take := func(i int) {
		if i > starts[len(starts)-1] {
			starts = append(starts, i)
		}
	}
	for i := range packets {
		if !safe[i] || i == 0 || packets[i].PTS <= first {
			continue
		}
		// Every share whose ideal beginning lies before this packet is decided between
		// it and the safe packet before.
		for next < n && at(i) >= float64(next)*share {
			ideal := float64(next) * share
			if candidate > 0 && ideal-at(candidate) <= at(i)-ideal {
				take(candidate)
			} else {
				take(i)
			}
			next++
		}
		candidate = i
	}
	if candidate > 0 && next < n && float64(next)*share-at(candidate) < share/2 {
		take(candidate) // the last keyframe serves the share that begins soon after it
	}
	return starts
}

// commonRates are tried where a file does not name its rate rightly.
var commonRates = []media.Rational{
	{Num: 24000, Den: 1001},
	{Num: 24, Den: 1},
	{Num: 25, Den: 1},
	{Num: 30000, Den: 1001},
	{Num: 30, Den: 1},
	{Num: 48, Den: 1},
	{Num: 50, Den: 1},
	{Num: 60000, Den: 1001},
	{Num: 60, Den: 1},
	{Num: 120, Den: 1},
}

// evenRate finds the rate at which every frame is where it should be, within the
// rounding of the time base; the zero Rational if frames are not evenly spaced.
func evenRate(shown []int64, tb media.Rational, named ...media.Rational) media.Rational {
	if len(shown) < 2 {
		for _, r := range named {
			if r.Known() {
				return r
			}
		}
		return media.Rational{}
	}
	for _, r := range append(named, commonRates...) {
		if r.Known() && even(shown, tb, r) {
			return r
		}
	}
	return media.Rational{}
}

func even(shown []int64, tb, rate media.Rational) bool {
	frame := media.Rational{Num: rate.Den, Den: rate.Num}
	ticks := frame.Float() / tb.Float()
	tolerance := 1.0
	if ticks < 4 {
		tolerance = 0 // ticks as coarse as frames leave no room for rounding
	}
	for i, pts := range shown {
		if math.Abs(float64(pts-shown[0])-float64(i)*ticks) > tolerance+1e-6*float64(i) {
			return false
		}
	}
	return true
}
