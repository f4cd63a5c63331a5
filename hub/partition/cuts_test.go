package partition

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/spare-compute/spare/hub/media"
)

// gop lists packets from a drawing: letters are frames in decoding order, I a keyframe;
// the numbers are when they are shown.
func gop(kinds string, pts ...int64) []media.Packet {
	packets := make([]media.Packet, len(pts))
	for i, at := range pts {
		packets[i] = media.Packet{PTS: at, DTS: int64(i), Duration: 1, Key: kinds[i] == 'I'}
	}
	return packets
}

func TestSafeStarts_AreKeyframesThatNothingLeansAcross(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []media.Packet
		want []int
	}{
		{"closed groups", gop("IPBIPB", 0, 2, 1, 3, 5, 4), []int{0, 3}},
		{"open group: a picture shown before the keyframe follows it", gop("IPBIBP", 0, 2, 1, 4, 3, 5), []int{0}},
		{"a late picture of the first group is shown after the second keyframe", gop("IPIP", 0, 3, 2, 4), []int{0}},
		{"one keyframe", gop("IPPP", 0, 1, 2, 3), []int{0}},
		{"no keyframe", gop("PPPP", 0, 1, 2, 3), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []int
			for i, ok := range safeStarts(c.in) {
				if ok {
					got = append(got, i)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestEvenStarts_GoToTheNearestSafePacket(t *testing.T) {
	packets := make([]media.Packet, 100)
	for i := range packets {
		packets[i] = media.Packet{PTS: int64(i), Duration: 1, Key: i%12 == 0}
	}
	safe := safeStarts(packets)
	for _, c := range []struct {
		n    int
		want []int
	}{
		{1, []int{0}},
		{2, []int{0, 48}},
		{4, []int{0, 24, 48, 72}},
		{100, []int{0, 12, 24, 36, 48, 60, 72, 84, 96}},
	} {
		if got := evenStarts(packets, safe, 0, 100, c.n); !slices.Equal(got, c.want) {
			t.Errorf("%d segments: starts %v, want %v", c.n, got, c.want)
		}
	}
}

func TestEvenStarts_AreSafeAndRise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 200).Draw(t, "packets")
		packets := make([]media.Packet, n)
		at := int64(0)
		for i := range packets {
			packets[i] = media.Packet{PTS: at, Duration: 1, Key: i == 0 || rapid.Bool().Draw(t, "key")}
			at += rapid.Int64Range(1, 50).Draw(t, "gap")
		}
		safe := safeStarts(packets)
		want := rapid.IntRange(1, 300).Draw(t, "segments")
		starts := evenStarts(packets, safe, 0, at, want)
		if starts[0] != 0 || len(starts) > want {
			t.Fatalf("starts %v of at most %d", starts, want)
		}
		for i, s := range starts[1:] {
			if s <= starts[i] || !safe[s] {
				t.Fatalf("starts %v: %d does not rise or is not safe", starts, s)
			}
		}
	})
}

func TestEvenRate_KnowsRoundedTimesFromUnevenOnes(t *testing.T) {
	film := media.Rational{Num: 24000, Den: 1001}
	ms := media.Rational{Num: 1, Den: 1000}
	times := func(n int, rate media.Rational, tb media.Rational) []int64 {
		out := make([]int64, n)
		for i := range out {
			out[i] = media.Rational{Num: rate.Den, Den: rate.Num}.Rescale(int64(i), tb)
		}
		return out
	}
	if got := evenRate(times(100_000, film, ms), ms, media.Rational{Num: 24, Den: 1}); got != film {
		t.Errorf("film rounded to milliseconds: %s, want %s", got, film)
	}
	late := times(300, media.Rational{Num: 30, Den: 1}, ms)
	late[150] += 5
	if got := evenRate(late, ms, media.Rational{Num: 30, Den: 1}); got.Known() {
		t.Errorf("a frame that is 5 ms late: %s, want none", got)
	}
	dropped := slices.Delete(times(300, media.Rational{Num: 30, Den: 1}, ms), 100, 101)
	if got := evenRate(dropped, ms, media.Rational{Num: 30, Den: 1}); got.Known() {
		t.Errorf("a frame is missing: %s, want none", got)
	}
}
