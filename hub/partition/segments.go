package partition

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spare-compute/spare/hub/media"
)

// A segment is one stretch of the film in a file of its own.
type segment struct {
	media.Segment
	path string
	from int // its packets are packets[from:to]
	to   int
}

// wrapping is a container for segments. mp4 and mov keep the exact time base, the times
// themselves, rotation and colour, and what is hidden before the first frame; nut holds
// every codec, exact times too, but none of the rest.
type wrapping struct {
	format string
	exact  bool // it keeps the times as given; otherwise a segment may be shifted as a whole
}

var (
	wrapMP4 = wrapping{"mp4", true}
	wrapMOV = wrapping{"mov", true}
	wrapNUT = wrapping{"nut", false}
)

func wrappingFor(codec string) wrapping {
	switch codec {
	case "h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mpeg1video":
		return wrapMP4
	case "prores", "dnxhd", "mjpeg", "dvvideo", "cfhd", "qtrle", "png", "h263", "svq3":
		return wrapMOV
	}
	return wrapNUT
}

// cut makes the segments that begin at the given packets and proves that they hold
// every frame. Where a cut turns out to lose frames, the film becomes one segment.
func (f *film) cut(ctx context.Context, starts []int) ([]segment, error) {
	wrap := wrappingFor(f.track.Codec)
	segments, err := f.cutAt(ctx, starts, wrap)
	if err != nil {
		return nil, err
	}
	why := f.mustDecode()
	if why == "" {
		return segments, nil
	}
	whole, err := f.shownTimes(ctx, f.input("error"), f.in.Dir, f.track.Index)
	if err != nil {
		return nil, err
	}
	f.decoded = true
	lost, err := f.countDecoded(ctx, segments, whole)
	if err != nil {
		return nil, err
	}
	if lost != 0 && len(segments) > 1 {
		f.warnings = append(f.warnings, fmt.Sprintf("the film cannot be cut without losing frames (%s); it is one segment", why))
		if segments, err = f.cutAt(ctx, []int{0}, wrap); err != nil {
			return nil, err
		}
		if lost, err = f.countDecoded(ctx, segments, whole); err != nil {
			return nil, err
		}
	}
	if lost != 0 {
		return nil, refuse("input %q: of its %d frames, %d can be taken out of the file without loss (%s); re-encode it once with  ffmpeg -i IN -c:v libx264 -crf 12 -c:a copy OUT.mkv",
			f.name, len(whole), len(whole)-lost, why)
	}
	return segments, nil
}

// mustDecode tells why packets alone do not say how many frames are shown; "" if they do.
func (f *film) mustDecode() string {
	switch {
	case !f.packets[0].Key:
		return "it begins in the middle of a group of pictures"
	case f.track.Field != "" && f.track.Field != "progressive":
		return "it is interlaced"
	}
	key := int64(0)
	for i, p := range f.packets {
		switch {
		case p.Damaged:
			return "it has damaged packets"
		case i == 0:
			key = p.PTS
		case p.PTS < key && !p.Hidden:
			return "its first pictures need pictures that are not in the file"
		}
	}
	switch f.track.Codec {
	case "h264", "hevc", "av1", "vp9", "prores", "dnxhd", "mjpeg", "ffv1", "dvvideo", "cfhd", "huffyuv", "ffvhuff", "utvideo", "png", "qtrle":
		return ""
	}
	return "its codec, " + f.track.Codec + ", may hold packets that show no frame"
}

// cutAt copies the film into segments and reads them back.
func (f *film) cutAt(ctx context.Context, starts []int, wrap wrapping) ([]segment, error) {
	dir := filepath.Join(f.in.Work, "segments")
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("empty a scratch folder: %w", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a scratch folder: %w", err)
	}
	_, err := f.in.Media.Do(ctx, media.Job{Tool: "ffmpeg", Args: f.cutArgs(starts, wrap), Read: f.in.Dir, Write: dir})
	var tool *media.ErrTool
	if errors.As(err, &tool) {
		return nil, refuse("input %q cannot be cut: %s", f.name, tool.Sentence)
	}
	if err != nil {
		return nil, err
	}
	segments := make([]segment, len(starts))
	for i, from := range starts {
		to := len(f.packets)
		if i+1 < len(starts) {
			to = starts[i+1]
		}
		segments[i] = segment{path: filepath.Join(dir, segmentName(i)), from: from, to: to}
	}
	made, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the segments: %w", err)
	}
	if len(made) != len(segments) {
		return nil, refuse("input %q cannot be cut: ffmpeg made %d segments of %d", f.name, len(made), len(segments))
	}
	f.describe(segments)
	return segments, f.readBack(ctx, dir, segments, wrap)
}

func segmentName(i int) string { return fmt.Sprintf("%06d", i) }

// cutArgs shift the film so that its first frame is shown at 0, and cut by packet number.
func (f *film) cutArgs(starts []int, wrap wrapping) []string {
	args := f.input("error", "-itsoffset", micros(-f.tb.Micros(f.first)))
	args = append(args, "-map", fmt.Sprintf("0:%d", f.track.Index), "-c", "copy", "-copyinkf",
		"-map_metadata", "-1", "-map_metadata:s:v", fmt.Sprintf("0:s:%d", f.track.Index), "-map_chapters", "-1")
	if wrap.exact {
		args = append(args, "-avoid_negative_ts", "disabled")
	}
	// Without a cut the first packet still is a start; a frame number that never comes
	// keeps the muxer from cutting by time.
	numbers := []string{strconv.Itoa(len(f.packets) + 1)}
	if len(starts) > 1 {
		numbers = numbers[:0]
		for _, s := range starts[1:] {
			numbers = append(numbers, strconv.Itoa(s))
		}
	}
	args = append(args, "-f", "segment", "-segment_format", wrap.format, "-segment_frames", strings.Join(numbers, ","))
	if wrap.exact {
		scale := strconv.FormatInt(f.tb.Den, 10)
		args = append(args, "-segment_format_options", "video_track_timescale="+scale+":movie_timescale="+scale)
	}
	return append(args, media.Out("%06d"))
}

// micros writes microseconds as ffmpeg reads a time.
func micros(us int64) string {
	sign := ""
	if us < 0 {
		sign, us = "-", -us
	}
	return fmt.Sprintf("%s%d.%06d", sign, us/1_000_000, us%1_000_000)
}

// describe fills in what each segment shows and when.
func (f *film) describe(segments []segment) {
	for i := range segments {
		s := &segments[i]
		shown := shownTimes(f.packets[s.from:s.to])
		s.Frames = int64(len(shown))
		if len(shown) > 0 {
			s.Start, s.Last = shown[0]-f.first, shown[len(shown)-1]-f.first
		}
		s.End = f.end - f.first
		if i > 0 {
			segments[i-1].End = s.Start
		}
	}
}

// readBackAtOnce is how many segments one ffmpeg lists; each costs it an open file.
const readBackAtOnce = 48

// readBack compares the segments with the list, packet for packet.
func (f *film) readBack(ctx context.Context, dir string, segments []segment, wrap wrapping) error {
	lists, err := f.in.workDir("readback")
	if err != nil {
		return err
	}
	defer os.RemoveAll(lists)
	for group := range slices.Chunk(segments, readBackAtOnce) {
		args := []string{"-hide_banner", "-nostdin", "-v", "error", "-y", "-copyts"}
		for _, s := range group {
			args = append(args, "-i", media.In(filepath.Base(s.path)))
		}
		for i, s := range group {
			args = append(args, "-map", fmt.Sprintf("%d:v:0", i), "-c", "copy", "-copyinkf", "-f", "framecrc", media.Out(filepath.Base(s.path)))
		}
		if _, err := f.in.Media.Do(ctx, media.Job{Tool: "ffmpeg", Args: args, Read: dir, Write: lists}); err != nil {
			return fmt.Errorf("read the segments of input %q back: %w", f.name, err)
		}
		for _, s := range group {
			if err := f.compare(filepath.Join(lists, filepath.Base(s.path)), s, wrap); err != nil {
				return err
			}
		}
	}
	return nil
}

// compare holds one segment's packet list against the source's.
func (f *film) compare(list string, s segment, wrap wrapping) error {
	want := f.packets[s.from:s.to]
	n, wrong := 0, -1
	var shift int64
	err := eachPacket(list, func(_ int, tb media.Rational, p media.Packet) error {
		if n < len(want) && wrong < 0 {
			got := tb.Rescale(p.PTS, f.tb) - (want[n].PTS - f.first)
			if n == 0 {
				shift = got
			}
			if got != shift || (wrap.exact && shift != 0) || p.Hidden != want[n].Hidden {
				wrong = n
			}
		}
		n++
		return nil
	})
	if err != nil {
		return err
	}
	switch {
	case n != len(want):
		return refuse("input %q cannot be cut without loss: the segment from %.3f s holds %d frames of %d", f.name, f.tb.Seconds(s.Start), n, len(want))
	case wrong >= 0:
		return refuse("input %q cannot be cut without loss: frame %d of the segment from %.3f s changes its time", f.name, wrong, f.tb.Seconds(s.Start))
	}
	return nil
}

// shownTimes decodes one track and gives the time of every frame that comes out.
func (f *film) shownTimes(ctx context.Context, input []string, dir string, track int) ([]int64, error) {
	out, err := f.in.workDir("decode")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(out)
	// wrapped_avframe hands frames on without coding them, so the list costs no more
	// than the decoding.
	args := append(slices.Clone(input), "-map", fmt.Sprintf("0:%d", track), "-c:v", "wrapped_avframe",
		"-fps_mode", "passthrough", "-enc_time_base", "-1", "-f", "framecrc", media.Out("frames"))
	if _, err := f.in.Media.Do(ctx, media.Job{Tool: "ffmpeg", Args: args, Read: dir, Write: out}); err != nil {
		var tool *media.ErrTool
		if errors.As(err, &tool) {
			return nil, refuse("input %q cannot be decoded: %s", f.name, tool.Sentence)
		}
		return nil, err
	}
	var times []int64
	err = eachPacket(filepath.Join(out, "frames"), func(_ int, tb media.Rational, p media.Packet) error {
		times = append(times, tb.Rescale(p.PTS, f.tb))
		return nil
	})
	return times, err
}

// countDecoded decodes every segment, corrects what it shows, and tells how many frames
// of the whole are missing.
func (f *film) countDecoded(ctx context.Context, segments []segment, whole []int64) (lost int, err error) {
	lost = len(whole)
	at := 0
	for i := range segments {
		s := &segments[i]
		input := []string{"-hide_banner", "-nostdin", "-v", "error", "-y", "-copyts", "-i", media.In(filepath.Base(s.path))}
		times, err := f.shownTimes(ctx, input, filepath.Dir(s.path), 0)
		if err != nil {
			return 0, err
		}
		if len(times) == 0 || at+len(times) > len(whole) {
			return max(1, lost), nil
		}
		lost -= len(times)
		s.Frames = int64(len(times))
		s.Start, s.Last = whole[at]-whole[0], whole[at+len(times)-1]-whole[0]
		if i > 0 {
			segments[i-1].End = s.Start
		}
		at += len(times)
	}
	if lost == 0 {
		f.first, f.last = whole[0], whole[len(whole)-1]
		f.end = max(f.end, f.last+1)
		segments[len(segments)-1].End = f.end - f.first
	}
	return lost, nil
}
