package assemble

import (
	"errors"
	"fmt"
	"math"

	"github.com/spare-compute/spare/hub/media"
)

// sourceStart is when segment k begins, in seconds from the film's first frame. Where
// frames are evenly spaced it is counted in frames: the container's times are rounded.
func (f *film) sourceStart(k int) float64 {
	v := f.notes.Video
	if v.Rate.Known() {
		var before int64
		for _, s := range f.notes.Segments[:k] {
			before += s.Frames
		}
		return float64(before) / v.Rate.Float()
	}
	return v.TimeBase.Seconds(f.notes.Segments[k].Start)
}

// timing decides where each part goes. An App either kept every frame, then each part
// begins when its segment did; or it made another, even frame rate, then the parts
// follow each other in its grid and must keep up with their segments.
func (f *film) timing() error {
	byChunk := map[int]*piece{}
	for _, p := range f.parts {
		if byChunk[p.chunk] != nil {
			return fmt.Errorf("%s: chunk %d gave it twice", f.name, p.chunk)
		}
		byChunk[p.chunk] = p
	}
	f.preserved = true
	for k, s := range f.notes.Segments {
		if p := byChunk[k]; p == nil || int64(len(p.pts)) != s.Frames {
			f.preserved = false
		}
	}
	var err error
	if f.preserved {
		// A new rate so near the old one that every chunk has as many frames as before
		// shows in their times.
		if err = f.keepTimes(); err != nil && f.newGrid(byChunk) == nil {
			f.preserved, err = false, nil
		}
	} else {
		err = f.newGrid(byChunk)
	}
	if err != nil {
		return fmt.Errorf("join %s: %w", f.name, err)
	}
	f.scale = f.timescale()
	return nil
}

// keepTimes places each part where its segment was.
func (f *film) keepTimes() error {
	f.rate, f.starts = f.notes.Video.Rate, nil
	for k, p := range f.parts {
		f.starts = append(f.starts, int64(math.Round(f.sourceStart(k)*1e6)))
		s, tb := f.notes.Segments[k], f.notes.Video.TimeBase
		in := tb.Seconds(s.Last - s.Start)
		out := p.header.TimeBase.Seconds(p.pts[len(p.pts)-1] - p.pts[0])
		if slack := 2*tb.Float() + 2*p.header.TimeBase.Float() + 0.001; math.Abs(in-out) > slack {
			return fmt.Errorf("chunk %d has as many frames as its segment but they span %.3f s, not %.3f s: the App changed their times", p.chunk, out, in)
		}
	}
	return nil
}

// sameRate is how near two rates are that are one: 30 and 29.97 are two.
const sameRate = 0.0005

// newGrid lays parts of another frame rate end to end.
func (f *film) newGrid(byChunk map[int]*piece) error {
	f.starts = nil
	rate, p := f.partRate()
	if p != nil || !rate.Known() {
		return f.lost(byChunk)
	}
	if src := f.notes.Video.Rate; src.Known() && math.Abs(rate.Float()/src.Float()-1) < sameRate {
		return f.lost(byChunk)
	}
	f.rate = rate
	frame := 1 / rate.Float()
	slack := frame + f.sourceFrame()
	var laid int64
	next := 0
	for k := range f.notes.Segments {
		at := float64(laid) * frame
		if want := f.sourceStart(k); math.Abs(at-want) > slack {
			return fmt.Errorf("the parts before chunk %d last %.3f s and their segments %.3f s: an App that changes the frame rate must fill each segment from its start to its end (parameter segment)", k, at, want)
		}
		if p := byChunk[k]; p != nil { // a segment shorter than a new frame may need none
			f.parts[next] = p
			next++
			f.starts = append(f.starts, int64(math.Round(at*1e6)))
			laid += int64(len(p.pts))
		}
	}
	if total := float64(laid) * frame; math.Abs(total-f.notes.Video.Duration) > slack {
		return fmt.Errorf("the parts last %.3f s together and the source %.3f s", total, f.notes.Video.Duration)
	}
	return nil
}

// lost says which chunk does not have its segment's frames. It never returns nil.
func (f *film) lost(byChunk map[int]*piece) error {
	for k, s := range f.notes.Segments {
		p := byChunk[k]
		if p == nil {
			return fmt.Errorf("chunk %d made no such file, but other chunks did", k)
		}
		if int64(len(p.pts)) != s.Frames {
			return fmt.Errorf("chunk %d has %d frames and its segment %d", k, len(p.pts), s.Frames)
		}
	}
	return errors.New("its frames are neither where the source's are nor evenly spaced at another rate")
}

func (f *film) sourceFrame() float64 {
	if r := f.notes.Video.AvgRate.Float(); r > 0 {
		return 1 / r
	}
	return 0
}

// partRate is the even frame rate of all parts, or a part that does not have it.
func (f *film) partRate() (media.Rational, *piece) {
	var rate media.Rational
	for _, p := range f.parts {
		if len(p.pts) < 2 {
			continue
		}
		span, n := p.pts[len(p.pts)-1]-p.pts[0], int64(len(p.pts)-1)
		// A grid of n steps over span ticks of num/den seconds has n*den/(span*num) steps
		// a second; common rates come out exactly, others as near as the ticks allow.
		if !rate.Known() {
			rate = nearRate(float64(n) / p.header.TimeBase.Seconds(span))
		}
		ticks := 1 / rate.Float() / p.header.TimeBase.Float()
		for i, pts := range p.pts {
			if math.Abs(float64(pts-p.pts[0])-float64(i)*ticks) > 1.01+1e-6*float64(i) {
				return rate, p
			}
		}
	}
	if p := f.parts[0]; !rate.Known() && p.end > p.pts[0] { // one frame in each: how long it stays
		rate = nearRate(1 / p.header.TimeBase.Seconds(p.end-p.pts[0]))
	}
	return rate, nil
}

// nearRate names a measured rate: over 1 or over 1001 where it is within what rounding
// explains, else in thousandths.
func nearRate(r float64) media.Rational {
	for _, den := range []int64{1, 1001} {
		num := math.Round(r * float64(den) / 1000)
		if den == 1 {
			num = math.Round(r)
		} else {
			num *= 1000
		}
		if num > 0 && math.Abs(num/float64(den)/r-1) < 2e-4 {
			return media.Rational{Num: int64(num), Den: den}
		}
	}
	return media.Rational{Num: int64(math.Round(r * 1000)), Den: 1000}
}

// lastDuration are the arguments that make the output end where the source does. The
// encoder of unevenly spaced frames does not know how long the last one stays. mp4 tells
// a film's length twice: by the frame shown last and by the packet decoded last.
func (f *film) lastDuration() []string {
	if f.rate.Known() {
		return nil
	}
	before := 0 // packets of the parts before the last
	for _, p := range f.parts[:len(f.parts)-1] {
		before += p.packets
	}
	first, last := f.parts[0], f.parts[len(f.parts)-1]
	tb := last.header.TimeBase
	end := last.pts[0] + int64(math.Round((f.notes.Video.Duration-float64(f.starts[len(f.starts)-1])/1e6)/tb.Float())) // on the last part's clock
	shown := max(1, end-last.latest)
	decoded := max(1, end-last.lastDTS+first.firstDTS-first.pts[0])
	return []string{"-bsf:v:0", fmt.Sprintf("setts=pts=PTS:dts=DTS:duration=if(eq(N\\,%d)\\,%d\\,if(eq(N\\,%d)\\,%d\\,DURATION))",
		before+last.latestAt, shown, before+last.packets-1, decoded)}
}

// timescale is one that holds every frame's time: of the even rate where there is one,
// else the parts' own.
func (f *film) timescale() int64 {
	scale := f.parts[0].header.TimeBase.Den
	if f.rate.Known() {
		scale = f.rate.Num
	}
	for scale < 10_000 {
		scale *= 2
	}
	return scale
}
