package partition

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/spare-compute/spare/hub/media"
)

// video cuts a film without loss: its frames into segments that each begin where a
// decoder can begin, its other tracks whole into one last chunk. Nothing is encoded.
//
// It reads the file twice: once to list every packet and to copy the other tracks, once
// to cut. Then it reads the segments back and compares them, frame for frame, with the
// list; where packets do not tell how many frames a decoder shows, it decodes both.
type video struct{}

type videoConfig struct {
	Seconds  float64 `json:"segment_seconds"`
	Segments int     `json:"segments"`
}

const (
	defaultSegmentSeconds = 10
	maxSegments           = 10_000 // their numbers go to ffmpeg in one argument of at most 128 KiB
)

func (video) ConfigSchema() []byte {
	return []byte(`{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "video",
  "description": "Cuts a film at keyframes, without loss, into segments of about the same length; every other track (sound, subtitles, attachments) goes whole into one last chunk. A segment's parameters get \"segment\": its number, count, first and end time as fractions of seconds, frames, and the film's frame rate.",
  "type": "object",
  "properties": {
    "segment_seconds": {"type": "number", "minimum": 0.1, "maximum": 86400, "default": 10, "title": "Segment length", "description": "Seconds of film per segment. Segments begin at keyframes, so they may be longer."},
    "segments": {"type": "integer", "minimum": 1, "maximum": 10000, "title": "Segments", "description": "How many segments to make, instead of a length. There may be fewer where the film has fewer keyframes."}
  },
  "not": {"required": ["segment_seconds", "segments"]},
  "additionalProperties": false
}
`)
}

func (v video) Partition(ctx context.Context, in Input, emit Emit) (json.RawMessage, error) {
	var cfg videoConfig
	if err := decode(in.Config, &cfg); err != nil {
		return nil, err
	}
	switch {
	case cfg.Seconds != 0 && cfg.Segments != 0:
		return nil, errors.New("partition settings: give segment_seconds or segments, not both")
	case cfg.Seconds < 0 || cfg.Segments < 0 || cfg.Segments > maxSegments:
		return nil, fmt.Errorf("partition settings: segment_seconds must be above 0 and segments 1 to %d", maxSegments)
	}
	if len(in.Files) != 1 {
		return nil, refuse("the video partition takes one file, not %d; submit each film as a job of its own", len(in.Files))
	}
	film, err := openFilm(ctx, in, in.Files[0])
	if err != nil {
		return nil, err
	}
	segments, err := film.cut(ctx, film.starts(cfg))
	if err != nil {
		return nil, err
	}
	notes, err := json.Marshal(film.notes(segments))
	if err != nil {
		return nil, err
	}
	if err := film.hand(ctx, segments, emit); err != nil {
		return nil, err
	}
	return notes, nil
}

// starts chooses the packets at which segments begin.
func (f *film) starts(cfg videoConfig) []int {
	first, _, end := f.span()
	total := f.tb.Seconds(end - first)
	n := cfg.Segments
	if n == 0 {
		length := cfg.Seconds
		if length == 0 {
			length = defaultSegmentSeconds
		}
		n = int(math.Min(math.Max(math.Round(total/length), 1), maxSegments))
	}
	return evenStarts(f.packets, f.safe, first, end, n)
}

// hand emits the segments and then the other tracks.
func (f *film) hand(ctx context.Context, segments []segment, emit Emit) error {
	count := len(segments)
	before := int64(0) // frames of the segments before
	for i, s := range segments {
		start, end := fraction(f.tb, s.Start), fraction(f.tb, s.End)
		if f.rate.Known() { // the exact time, where the container's is rounded
			frame := media.Rational{Num: f.rate.Den, Den: f.rate.Num}
			start, end = fraction(frame, before), fraction(frame, before+s.Frames)
		}
		before += s.Frames
		params := map[string]any{"segment": map[string]any{
			"kind": "video", "index": i, "count": count, "frames": s.Frames, "start": start, "end": end,
			"frame_rate": rateText(f.rate), "average_frame_rate": rateText(f.averageRate()),
		}}
		if err := hand(ctx, emit, Chunk{Path: s.path, Params: params}); err != nil {
			return err
		}
	}
	if f.other == "" {
		return nil
	}
	params := map[string]any{"segment": map[string]any{"kind": "other", "index": count, "count": count}}
	return hand(ctx, emit, Chunk{Path: f.other, Params: params})
}

// fraction writes ticks as an exact number of seconds, "60060/30000".
func fraction(tb media.Rational, ticks int64) string {
	return media.Rational{Num: ticks * tb.Num, Den: tb.Den}.String()
}

// rateText is a rate as a fraction, "" where it is not known.
func rateText(r media.Rational) string {
	if !r.Known() {
		return ""
	}
	return r.String()
}

// notes is what the merge must know.
func (f *film) notes(segments []segment) media.Notes {
	first, _, end := f.span()
	n := media.Notes{
		Version: media.NotesVersion, Source: f.name,
		Video: media.VideoTrack{
			Codec: f.track.Codec, Width: f.track.Width, Height: f.track.Height, Rotation: f.track.Rotation,
			TimeBase: f.tb, Rate: f.rate, AvgRate: f.averageRate(),
			Start: f.tb.Seconds(first) - f.zero, Duration: f.tb.Seconds(end - first), Decoded: f.decoded,
		},
		LeftOut: f.leftOut, Warnings: f.warnings, Chapters: f.info.Chapters, Tags: f.tags(), Pictures: f.pictures(),
	}
	for _, s := range segments {
		n.Segments = append(n.Segments, s.Segment)
		n.Video.Frames += s.Frames
	}
	if f.other != "" {
		n.Other = &media.Other{Start: f.otherStart, Tracks: f.otherTracks}
	}
	return n
}

// tags are the file's own words about itself, without what only concerns its container.
func (f *film) tags() map[string]string {
	tags := map[string]string{}
	for k, v := range f.info.Tags {
		switch strings.ToLower(k) {
		case "major_brand", "minor_version", "compatible_brands", "encoder", "duration":
		default:
			if len(k) < 100 && len(v) < 4000 {
				tags[k] = v
			}
		}
	}
	return tags
}

// pictures are the cover pictures a merge can take from the source.
func (f *film) pictures() []int {
	var out []int
	for _, s := range f.info.Streams {
		if s.Picture && (s.Codec == "mjpeg" || s.Codec == "png") {
			out = append(out, s.Index)
		}
	}
	return out
}

// span is the film's first and last shown PTS and where the last frame ends.
func (f *film) span() (first, last, end int64) {
	return f.first, f.last, f.end
}

// workDir makes a folder under the scratch folder.
func (in Input) workDir(name string) (string, error) {
	dir := filepath.Join(in.Work, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make a scratch folder: %w", err)
	}
	return dir, nil
}
