package partition

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spare-compute/spare/hub/media"
)

// A film is a video file that has been listed and found whole.
type film struct {
	in    Input
	name  string
	info  media.Info
	track media.Stream // the one film track

	tb      media.Rational
	packets []media.Packet // in decoding order, PTS as in the source
	safe    []bool         // by packet: a segment may begin there
	first   int64          // PTS of the first frame shown
	last    int64          // PTS of the last frame shown
	end     int64          // where the last frame ends
	rate    media.Rational // even frame rate; zero where frames are not evenly spaced
	zero    float64        // seconds in the source at which its earliest track begins
	decoded bool           // frames were counted by decoding

	other       string // file with the tracks beside the film, "" if there are none
	otherTracks []media.OtherTrack
	otherStart  float64
	leftOut     []string
	warnings    []string
}

// containers are the formats that hold timed frames. Everything else ffmpeg opens (a
// text as a terminal recording, one picture, a play list) is no film.
var containers = []string{
	"mov", "matroska", "mpegts", "mpeg", "avi", "flv", "asf", "ogg", "nut", "mxf", "gxf", "rm", "wtv", "ivf", "mpegtsraw", "3gp", "mp4", "webm",
}

func openFilm(ctx context.Context, in Input, name string) (*film, error) {
	file, err := in.open(name)
	if err != nil {
		return nil, err
	}
	stat, err := file.Stat()
	file.Close()
	if err != nil {
		return nil, fmt.Errorf("open input %q: %w", name, err)
	}
	if stat.Size() == 0 {
		return nil, refuse("input %q is empty (0 bytes); upload it again", name)
	}
	info, err := in.Media.Probe(ctx, filepath.Join(in.Dir, name))
	var bad *media.ErrUnreadable
	if errors.As(err, &bad) {
		return nil, refuse("input %q: %v", name, bad)
	}
	if err != nil {
		return nil, err
	}
	f := &film{in: in, name: name, info: info}
	if err := f.choose(); err != nil {
		return nil, err
	}
	if err := f.list(ctx); err != nil {
		return nil, err
	}
	if strings.Contains(info.Format, "mpegts") && stat.Size()%188 != 0 {
		f.warnings = append(f.warnings, "the file ends in the middle of a transport packet; what can be read was processed")
	}
	return f, nil
}

// choose picks the film track, or says why there is none to cut.
func (f *film) choose() error {
	if !slices.ContainsFunc(strings.Split(f.info.Format, ","), func(n string) bool { return slices.Contains(containers, n) }) {
		return refuse("input %q: not a video: ffmpeg reads it as %q", f.name, f.info.Format)
	}
	tracks := f.info.Video()
	switch len(tracks) {
	case 1:
		f.track = tracks[0]
	case 0:
		return refuse("input %q has no video track (it has: %s)", f.name, describe(f.info.Streams))
	default:
		return refuse("input %q has %d video tracks and Spare cuts one: keep one with  ffmpeg -i IN -map 0 -map -0:v -map 0:v:0 -c copy OUT", f.name, len(tracks))
	}
	if f.track.Codec == "" || f.track.Codec == "unknown" {
		return refuse("input %q: ffmpeg on the hub does not know its video codec (%s)", f.name, f.track.CodecTag)
	}
	if f.track.Width == 0 || f.track.Height == 0 {
		return refuse("input %q: its video track says no picture size; the file is damaged or cut off", f.name)
	}
	f.zero = f.track.Start
	for _, s := range f.info.Of("audio") {
		f.zero = min(f.zero, s.Start)
	}
	return nil
}

func describe(streams []media.Stream) string {
	var words []string
	for _, s := range streams {
		word := s.Type + " " + s.Codec
		if s.Picture {
			word = "cover picture " + s.Codec
		}
		words = append(words, strings.TrimSpace(word))
	}
	return strings.Join(words, ", ")
}

// carried lists the tracks of the last chunk and says what stays behind and why.
func (f *film) carried() (tracks []media.Stream, leftOut []string) {
	for _, s := range f.info.Streams {
		switch {
		case s.Index == f.track.Index:
		case s.Picture && (s.Codec == "mjpeg" || s.Codec == "png"): // the merge takes it from the source
		case s.Picture:
			leftOut = append(leftOut, fmt.Sprintf("track %d, cover picture (%s): only JPEG and PNG covers are kept", s.Index, s.Codec))
		case s.Type == "audio", s.Type == "subtitle":
			tracks = append(tracks, s)
		case s.Type == "attachment" && f.matroska():
			tracks = append(tracks, s)
		default:
			what := s.Codec
			if what == "" || what == "none" {
				what = s.CodecTag
			}
			leftOut = append(leftOut, fmt.Sprintf("track %d, %s (%s): neither picture, sound nor subtitle", s.Index, s.Type, what))
		}
	}
	if !slices.ContainsFunc(tracks, func(s media.Stream) bool { return s.Type == "audio" || s.Type == "subtitle" }) {
		for _, s := range tracks {
			leftOut = append(leftOut, fmt.Sprintf("track %d, %s (%s): attached for tracks that are not there", s.Index, s.Type, s.Codec))
		}
		tracks = nil
	}
	return tracks, leftOut
}

func (f *film) matroska() bool { return strings.Contains(f.info.Format, "matroska") }
func (f *film) mov() bool      { return strings.Contains(f.info.Format, "mov") }

// list reads the whole file once: every packet of the film, the other tracks' packets,
// and the other tracks themselves into the last chunk.
func (f *film) list(ctx context.Context) error {
	dir, err := f.in.workDir("list")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tracks, leftOut := f.carried()
	f.leftOut = leftOut
	text, err := f.read(ctx, dir, tracks)
	var tool *media.ErrTool
	if errors.As(err, &tool) && len(tracks) > 0 {
		if _, alone := f.read(ctx, dir, nil); alone == nil {
			return refuse("input %q: its tracks beside the film (%s) cannot be carried: %s", f.name, describe(tracks), tool.Sentence)
		}
	}
	if errors.As(err, &tool) {
		return refuse("input %q: not a video ffmpeg can read (%s)", f.name, tool.Sentence)
	}
	if err != nil {
		return err
	}
	if err := f.readFilm(dir); err != nil {
		return err
	}
	ends, err := f.readOthers(dir, tracks)
	if err != nil {
		return err
	}
	return f.whole(text, ends)
}

// read runs ffmpeg over the source.
func (f *film) read(ctx context.Context, dir string, tracks []media.Stream) (stderr string, err error) {
	args := f.input("error")
	film := []string{"-map", fmt.Sprintf("0:%d", f.track.Index), "-c", "copy", "-copyinkf"}
	args = append(args, film...)
	args = append(args, "-f", "framecrc", media.Out("film.txt"))
	if f.track.Codec == "h264" {
		// A keyframe mark in H.264 may stand on a picture from which only later ones can
		// be decoded. NAL type 5, an IDR picture, is where a decoder can really begin.
		args = append(args, film...)
		args = append(args, "-bsf:v", "filter_units=pass_types=5", "-f", "framecrc", media.Out("idr.txt"))
	}
	var timed, all []string
	for _, s := range tracks {
		m := []string{"-map", fmt.Sprintf("0:%d", s.Index)}
		all = append(all, m...)
		if s.Type != "attachment" {
			timed = append(timed, m...)
		}
	}
	if len(tracks) > 0 {
		args = append(args, timed...)
		args = append(args, "-c", "copy", "-f", "framecrc", media.Out("others.txt"))
		args = append(args, all...)
		args = append(args, "-c", "copy", "-map_chapters", "-1", "-output_ts_offset", seconds(-f.zero), "-f", f.otherFormat(), media.Out("other"))
	}
	return f.in.Media.Do(ctx, media.Job{Tool: "ffmpeg", Args: args, Read: f.in.Dir, Write: dir})
}

// otherFormat keeps the source's family: it holds all its codecs, and its way to tell a
// decoder how much silence comes before the sound.
func (f *film) otherFormat() string {
	if f.mov() {
		return "mov"
	}
	return "matroska"
}

// input are the arguments up to and including the source.
func (f *film) input(level string, before ...string) []string {
	args := []string{"-hide_banner", "-nostdin", "-v", level, "-y", "-protocol_whitelist", "file", "-copyts", "-fflags", "+genpts"}
	args = append(args, before...)
	return append(args, "-i", media.In(f.name))
}

func seconds(s float64) string { return fmt.Sprintf("%.6f", s) }

// readFilm takes in the film's packets.
func (f *film) readFilm(dir string) error {
	idr := map[int64]bool{}
	if f.track.Codec == "h264" {
		err := eachPacket(filepath.Join(dir, "idr.txt"), func(_ int, _ media.Rational, p media.Packet) error {
			idr[p.DTS] = true
			return nil
		})
		if err != nil {
			return err
		}
	}
	err := eachPacket(filepath.Join(dir, "film.txt"), func(_ int, tb media.Rational, p media.Packet) error {
		if !p.HasPTS() {
			return refuse("input %q: frame %d has no time; put the film into a container that keeps time, such as mp4 or mkv", f.name, len(f.packets))
		}
		if f.track.Codec == "h264" && !idr[p.DTS] {
			p.Key = false
		}
		f.tb = tb
		f.packets = append(f.packets, p)
		return nil
	})
	if err != nil {
		return err
	}
	if len(f.packets) == 0 || !f.tb.Known() {
		return refuse("input %q: its video track holds no frame", f.name)
	}
	f.safe = safeStarts(f.packets)
	shown := shownTimes(f.packets)
	if len(shown) == 0 {
		return refuse("input %q: none of its frames is ever shown", f.name)
	}
	f.first, f.last = shown[0], shown[len(shown)-1]
	f.rate = evenRate(shown, f.tb, f.track.Rate, f.track.AvgRate)
	f.end = f.last + f.lastDuration(len(shown))
	return nil
}

// lastDuration is how long the last frame shown stays.
func (f *film) lastDuration(frames int) int64 {
	if f.rate.Known() {
		return media.Rational{Num: f.rate.Den, Den: f.rate.Num}.Rescale(1, f.tb)
	}
	for _, p := range f.packets {
		if p.PTS == f.last && p.Duration > 0 {
			return p.Duration
		}
	}
	if frames > 1 {
		return max(1, (f.last-f.first)/int64(frames-1))
	}
	return max(1, media.Rational{Num: 1, Den: 25}.Rescale(1, f.tb))
}

// averageRate is frames by time.
func (f *film) averageRate() media.Rational {
	if f.rate.Known() {
		return f.rate
	}
	return f.track.AvgRate
}

// eachPacket reads one packet list.
func eachPacket(path string, each func(int, media.Rational, media.Packet) error) error {
	r, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the packet list: %w", err)
	}
	defer r.Close()
	_, err = media.ReadPackets(r, each)
	return err
}

// readOthers takes in when the other tracks begin and end, and keeps their chunk. ends
// is, by track number in the source, the second at which the last packet ends.
func (f *film) readOthers(dir string, tracks []media.Stream) (ends map[int]float64, err error) {
	ends = map[int]float64{f.track.Index: f.tb.Seconds(f.end)}
	if len(tracks) == 0 {
		return ends, nil
	}
	var timed []media.Stream
	for _, s := range tracks {
		if s.Type != "attachment" {
			timed = append(timed, s)
		}
	}
	starts := map[int]float64{}
	err = eachPacket(filepath.Join(dir, "others.txt"), func(n int, tb media.Rational, p media.Packet) error {
		if n >= len(timed) || !p.HasPTS() || p.Hidden {
			return nil
		}
		index, at := timed[n].Index, tb.Seconds(p.PTS)
		if s, ok := starts[index]; !ok || at < s {
			starts[index] = at
		}
		ends[index] = max(ends[index], tb.Seconds(p.PTS+p.Duration))
		return nil
	})
	if err != nil {
		return nil, err
	}
	f.keepOthers(timed, starts, ends)
	if len(f.otherTracks) == 0 {
		return ends, nil
	}
	f.other = filepath.Join(f.in.Work, "other")
	if err := os.Rename(filepath.Join(dir, "other"), f.other); err != nil {
		return nil, fmt.Errorf("keep the other tracks: %w", err)
	}
	return ends, nil
}

// longestPacket bounds, in seconds, what a container may skip inside one audio packet.
const longestPacket = 0.2

// keepOthers notes the tracks of the last chunk. A track without a packet is no track.
func (f *film) keepOthers(timed []media.Stream, starts, ends map[int]float64) {
	for _, s := range timed {
		start, ok := starts[s.Index]
		if late := s.Start - start; s.Type == "audio" && late > 0 && late < longestPacket {
			start = s.Start // the container says to skip the beginning of the first packet
		}
		if !ok {
			f.leftOut = append(f.leftOut, fmt.Sprintf("track %d, %s (%s): it is empty", s.Index, s.Type, s.Codec))
			continue
		}
		f.otherTracks = append(f.otherTracks, media.OtherTrack{
			Type: s.Type, Codec: s.Codec, Language: s.Language(), Title: s.Tags["title"],
			Start: start - f.zero, Duration: ends[s.Index] - start,
		})
	}
	audio := false
	for _, t := range f.otherTracks {
		if t.Type == "audio" && (!audio || t.Start < f.otherStart) {
			f.otherStart, audio = t.Start, true
		}
	}
}

// shortfall is how many seconds may be missing at a track's end before the file counts
// as cut off: containers round, and some count the last frame twice.
const shortfall = 0.5

// whole checks that what was read is all that the file says it holds.
func (f *film) whole(stderr string, ends map[int]float64) error {
	for _, sign := range []string{"partial file", "File ended prematurely", "ended prematurely at pos", "Truncating packet"} {
		if strings.Contains(stderr, sign) {
			return f.cutOff(ends, media.Sentence(stderr))
		}
	}
	for _, s := range f.info.Streams {
		end, listed := ends[s.Index]
		if listed && s.Duration > 0 && f.mov() && s.Start+s.Duration-end > shortfall {
			return f.cutOff(ends, fmt.Sprintf("its %s track says it lasts %.1f s", s.Type, s.Duration))
		}
	}
	if f.matroska() || f.info.Format == "avi" || f.info.Format == "flv" || f.info.Format == "asf" {
		var last float64
		for _, end := range ends {
			last = max(last, end)
		}
		if f.info.Start+f.info.Duration-last > shortfall+2*f.frameSeconds() {
			return f.cutOff(ends, fmt.Sprintf("it says it lasts %.1f s", f.info.Duration))
		}
	}
	return nil
}

func (f *film) frameSeconds() float64 {
	if r := f.averageRate().Float(); r > 0 {
		return 1 / r
	}
	return 0
}

func (f *film) cutOff(ends map[int]float64, why string) error {
	return refuse("input %q is cut off in the middle: %s, and its film can be read up to %.1f s; upload the whole file, or make the rest a file of its own with  ffmpeg -i IN -c copy OUT",
		f.name, why, ends[f.track.Index]-f.zero)
}
