package assemble

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/media"
)

// found is what a file really holds, by its packets.
type found struct {
	tb     media.Rational
	pts    []int64 // of the film's frames, in showing order
	dtsOK  bool    // decoding times rise and are never after showing times
	sounds []sound
}

// sound is one audio track, by its packets.
type sound struct {
	packets  int
	gaps     int     // places where a packet does not begin where the one before ended
	duration float64 // seconds
	start    float64
	next     float64 // where the next packet should begin
}

// gapSlack is what may lie between two packets: Matroska rounds times to 1 ms.
const gapSlack = 0.0021

// check reads the output back and holds it against what it must be.
func (f *film) check(ctx context.Context, d folder, out string) (spare.Summary, error) {
	stat, err := os.Stat(filepath.Join(d.out, out))
	if err != nil {
		return nil, err
	}
	f.bytes = stat.Size()
	var track media.Stream
	var got found
	err = together(
		func() (err error) { track, err = f.checkTracks(ctx, filepath.Join(d.out, out)); return err },
		func() (err error) { got, err = f.readBack(ctx, d.out, out, true, len(f.audio) > 0); return err },
	)
	if err != nil {
		return nil, err
	}
	f.length = track.Duration
	if err := f.checkFilm(got); err != nil {
		return nil, err
	}
	if len(f.audio) > 0 {
		if err := f.checkSounds(got, f.given); err != nil {
			return nil, err
		}
	}
	return f.report(track, got), nil
}

// checkTracks counts the output's tracks, and returns the film.
func (f *film) checkTracks(ctx context.Context, file string) (media.Stream, error) {
	info, err := f.in.Media.Probe(ctx, file)
	if err != nil {
		return media.Stream{}, err
	}
	films := info.Video()
	switch {
	case len(films) != 1:
		err = fmt.Errorf("it has %d video tracks, not 1", len(films))
	case len(info.Of("audio")) != len(f.audio):
		err = fmt.Errorf("it has %d audio tracks, not %d", len(info.Of("audio")), len(f.audio))
	case len(info.Of("subtitle")) != f.subtitles:
		err = fmt.Errorf("it has %d subtitle tracks, not %d", len(info.Of("subtitle")), f.subtitles)
	case films[0].Rotation != f.parts[0].rotated:
		err = fmt.Errorf("it is turned by %d degrees and its parts by %d", films[0].Rotation, f.parts[0].rotated)
	default:
		return films[0], nil
	}
	return media.Stream{}, err
}

// readBack lists the packets of a file's film and of its sound.
func (f *film) readBack(ctx context.Context, dir, file string, film, audio bool) (found, error) {
	lists := filepath.Join(f.in.Work, "lists")
	if err := os.MkdirAll(lists, 0o755); err != nil {
		return found{}, fmt.Errorf("make a scratch folder: %w", err)
	}
	defer os.RemoveAll(lists)
	args := append(slices.Clone(quiet), "-copyts", "-i", media.In(file))
	got := found{dtsOK: true}
	if film {
		args = append(args, "-map", "0:V:0", "-c", "copy", "-copyinkf", "-f", "framecrc", media.Out("film"))
	}
	if audio {
		args = append(args, "-map", "0:a", "-c", "copy", "-f", "framecrc", media.Out("sound"))
	}
	if _, err := f.in.Media.Do(ctx, media.Job{Tool: "ffmpeg", Args: args, Read: dir, Write: lists}); err != nil {
		return found{}, err
	}
	if film {
		last := int64(math.MinInt64)
		err := eachPacket(filepath.Join(lists, "film"), func(_ int, tb media.Rational, p media.Packet) error {
			got.dtsOK = got.dtsOK && p.DTS > last && p.PTS >= p.DTS
			got.tb, last = tb, p.DTS
			if !p.Hidden {
				got.pts = append(got.pts, p.PTS)
			}
			return nil
		})
		if err != nil {
			return found{}, err
		}
		slices.Sort(got.pts)
	}
	if audio {
		if err := eachPacket(filepath.Join(lists, "sound"), got.takeSound); err != nil {
			return found{}, err
		}
	}
	return got, nil
}

func eachPacket(list string, each func(int, media.Rational, media.Packet) error) error {
	r, err := os.Open(list)
	if err != nil {
		return fmt.Errorf("read a packet list: %w", err)
	}
	defer r.Close()
	_, err = media.ReadPackets(r, each)
	return err
}

func (g *found) takeSound(n int, tb media.Rational, p media.Packet) error {
	for len(g.sounds) <= n {
		g.sounds = append(g.sounds, sound{})
	}
	s := &g.sounds[n]
	if p.Hidden {
		return nil
	}
	at := tb.Seconds(p.PTS)
	switch {
	case s.packets == 0:
		s.start = at
	case math.Abs(at-s.next) > gapSlack:
		s.gaps++
	}
	s.packets++
	s.duration += tb.Seconds(p.Duration)
	s.next = at + tb.Seconds(p.Duration)
	return nil
}

// checkFilm compares frames and times with the parts', and so with the source's.
func (f *film) checkFilm(got found) error {
	want := 0
	for _, p := range f.parts {
		want += len(p.pts)
	}
	if len(got.pts) != want {
		return fmt.Errorf("it has %d frames and its parts %d", len(got.pts), want)
	}
	if f.preserved && int64(want) != f.notes.Video.Frames {
		return fmt.Errorf("it has %d frames and the source %d", want, f.notes.Video.Frames)
	}
	if !got.dtsOK {
		return errors.New("its decoding times do not rise")
	}
	n := 0
	for k, p := range f.parts {
		begin := f.videoShift() + float64(f.starts[k])/1e6
		slack := 1.01*got.tb.Float() + 1.01*p.header.TimeBase.Float() + 2e-6
		for _, pts := range p.pts {
			want := begin + p.header.TimeBase.Seconds(pts-p.pts[0])
			if at := got.tb.Seconds(got.pts[n]); math.Abs(at-want) > slack {
				return fmt.Errorf("frame %d (of chunk %d) is at %.4f s and should be at %.4f s", n, p.chunk, at, want)
			}
			if n > 0 && got.pts[n] <= got.pts[n-1] {
				return fmt.Errorf("frame %d is shown at %.4f s, not after the frame before", n, got.tb.Seconds(got.pts[n]))
			}
			n++
		}
	}
	if d := f.duration(got); math.Abs(d-f.notes.Video.Duration) > f.frame()+f.sourceFrame() {
		return fmt.Errorf("it lasts %.3f s and the source %.3f s", d, f.notes.Video.Duration)
	}
	return f.checkEven(got)
}

// checkEven looks for holes where frames should be evenly spaced.
func (f *film) checkEven(got found) error {
	if !f.rate.Known() {
		return nil
	}
	frame := 1 / f.rate.Float() / got.tb.Float() // ticks
	for i := 1; i < len(got.pts); i++ {
		if d := float64(got.pts[i] - got.pts[i-1]); d < frame/2-1 || d > frame*3/2+1 {
			return fmt.Errorf("frame %d comes %.4f s after the one before at %s frames a second", i, d*got.tb.Float(), f.rate)
		}
	}
	return nil
}

// checkSounds compares the sound with what the App made, and its length with the source's.
func (f *film) checkSounds(got, given found) error {
	if len(got.sounds) != len(given.sounds) {
		return fmt.Errorf("%d of %d audio tracks have sound", len(got.sounds), len(given.sounds))
	}
	for i, s := range got.sounds {
		g := given.sounds[i]
		switch {
		case s.packets != g.packets || math.Abs(s.duration-g.duration) > gapSlack:
			return fmt.Errorf("audio track %d lasts %.3f s and should last %.3f s", i, s.duration, g.duration)
		case s.gaps > g.gaps:
			return fmt.Errorf("audio track %d has %d gaps that the App's file has not", i, s.gaps-g.gaps)
		case math.Abs(s.start-g.start-f.otherShift()) > gapSlack:
			return fmt.Errorf("audio track %d begins at %.3f s and should begin at %.3f s", i, s.start, g.start+f.otherShift())
		}
	}
	if src := f.sourceSound(); src != nil && len(got.sounds) > 0 {
		drift := (got.sounds[0].duration - src.Duration) - (f.duration(got) - f.notes.Video.Duration)
		if math.Abs(drift) > f.frame()+audioFrame {
			return fmt.Errorf("against the film, its sound is %.3f s longer than the source's", drift)
		}
	}
	return nil
}

// audioFrame is the longest packet of a common audio codec, in seconds: a codec pads the
// last one. HE-AAC at 32 kHz makes 64 ms.
const audioFrame = 0.064

func (f *film) sourceSound() *media.OtherTrack {
	if f.notes.Other == nil {
		return nil
	}
	for _, t := range f.notes.Other.Tracks {
		if t.Type == "audio" {
			return &t
		}
	}
	return nil
}

// duration is how long the film lasts, its last frame included.
func (f *film) duration(got found) float64 {
	switch {
	case f.rate.Known():
		return float64(len(got.pts)) / f.rate.Float()
	case f.length > 0:
		return f.length
	}
	return f.notes.Video.Duration // Matroska does not say how long its last frame stays
}

// frame is how long a frame of the output lasts, on average.
func (f *film) frame() float64 {
	if f.rate.Known() {
		return 1 / f.rate.Float()
	}
	return f.sourceFrame()
}

// report is what the join knows about its output.
func (f *film) report(track media.Stream, got found) spare.Summary {
	seconds := f.duration(got)
	sum := spare.Summary{
		"name": f.name, "bytes": f.bytes,
		"frames_in": f.notes.Video.Frames, "frames_out": len(got.pts), "frames_preserved": f.preserved,
		"duration_in": round(f.notes.Video.Duration), "duration": round(seconds),
		"timestamps_monotone": true, // checkFilm has let it pass
		"codec":               track.Codec, "width": track.Width, "height": track.Height,
		"audio_tracks": len(f.audio), "subtitle_tracks": f.subtitles,
		"segments": len(f.parts),
	}
	if f.rate.Known() {
		sum["frame_rate"] = f.rate.String()
	}
	if seconds > 0 {
		sum["bitrate"] = int64(float64(f.bytes) * 8 / seconds)
	}
	if len(got.sounds) > 0 {
		sum["audio_duration"] = round(got.sounds[0].duration)
		sum["av_difference"] = round(math.Abs(got.sounds[0].duration - seconds))
		sum["audio_gaps"] = got.sounds[0].gaps
		if src := f.sourceSound(); src != nil {
			sum["av_difference_in"] = round(math.Abs(src.Duration - f.notes.Video.Duration))
		}
	}
	if left := f.leftOut(); len(left) > 0 {
		sum["left_out"] = left
	}
	return sum
}

// round keeps microseconds.
func round(s float64) float64 { return math.Round(s*1e6) / 1e6 }
