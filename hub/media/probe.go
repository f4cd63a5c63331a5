package media

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Info is what a media file says of itself.
type Info struct {
	Format   string // ffmpeg's name of the container, "mov,mp4,m4a,3gp,3g2,mj2"
	Duration float64
	Start    float64
	BitRate  int64 // bits per second, 0 if unknown
	Tags     map[string]string
	Streams  []Stream
	Chapters []Chapter
}

// A Stream is one track.
type Stream struct {
	Index     int
	Type      string // "video", "audio", "subtitle", "data", "attachment"
	Codec     string
	CodecTag  string
	Profile   string
	Width     int
	Height    int
	PixFmt    string
	Field     string // field order: "progressive", "tt", … or "" if unknown
	Aspect    Rational
	Rotation  int // degrees of the display matrix, as ffprobe reports it
	TimeBase  Rational
	Rate      Rational // lowest rate that holds every timestamp, as guessed
	AvgRate   Rational
	StartPTS  *int64 // nil if unknown
	Start     float64
	Duration  float64 // 0 if the container does not say
	Frames    int64   // as listed by the container; 0 if it does not say
	BitRate   int64   // bits per second, 0 if unknown
	Channels  int
	Hertz     int
	Colour    Colour
	Tags      map[string]string
	Picture   bool   // cover art, not a film
	HeaderSum string // digest of the codec's global header, "" if it has none
}

// Colour says how samples are to be shown; "" is unknown.
type Colour struct {
	Range     string `json:"range,omitempty"`
	Space     string `json:"space,omitempty"`
	Transfer  string `json:"transfer,omitempty"`
	Primaries string `json:"primaries,omitempty"`
}

// Language is the track's language tag, "" if it has none.
func (s Stream) Language() string {
	if l := s.Tags["language"]; l != "und" {
		return l
	}
	return ""
}

// A Chapter is a named part of a file.
type Chapter struct {
	Start float64 `json:"start"` // seconds
	End   float64 `json:"end"`
	Title string  `json:"title,omitempty"`
}

// Video lists the film tracks: video streams that are not cover art.
func (i Info) Video() []Stream {
	return i.pick(func(s Stream) bool { return s.Type == "video" && !s.Picture })
}

// Of lists the tracks of one type.
func (i Info) Of(typ string) []Stream {
	return i.pick(func(s Stream) bool { return s.Type == typ })
}

func (i Info) pick(want func(Stream) bool) []Stream {
	var out []Stream
	for _, s := range i.Streams {
		if want(s) {
			out = append(out, s)
		}
	}
	return out
}

// ErrUnreadable says that ffmpeg cannot read a file as media, and why.
type ErrUnreadable struct{ Sentence string }

func (e *ErrUnreadable) Error() string {
	return fmt.Sprintf("not a video ffmpeg can read (%s)", e.Sentence)
}

const maxProbeAnswer = 32 << 20 // bytes of JSON; a file with ten thousand chapters stays below

// Probe reads a file's headers.
func (t *Tools) Probe(ctx context.Context, file string) (Info, error) {
	out := &capWriter{max: maxProbeAnswer}
	text, err := t.Do(ctx, Job{
		Tool: "ffprobe",
		Args: []string{
			"-v", "error", "-protocol_whitelist", "file", "-of", "json", "-show_format",
			"-show_streams", "-show_chapters", "-show_data_hash", "sha256", "-i", In(filepath.Base(file)),
		},
		Read: filepath.Dir(file), Stdout: out,
	})
	var tool *ErrTool
	if errors.As(err, &tool) {
		return Info{}, &ErrUnreadable{Sentence: tool.Sentence}
	}
	if err != nil {
		return Info{}, err
	}
	info, err := parseInfo(out.Bytes())
	if err != nil {
		return Info{}, fmt.Errorf("read ffprobe's answer: %w", err)
	}
	if len(info.Streams) == 0 {
		why := Sentence(text)
		if why == "" {
			why = "no track in it"
		}
		return Info{}, &ErrUnreadable{Sentence: why}
	}
	return info, nil
}

type rawStream struct {
	Index       int               `json:"index"`
	Type        string            `json:"codec_type"`
	Codec       string            `json:"codec_name"`
	CodecTag    string            `json:"codec_tag_string"`
	Profile     string            `json:"profile"`
	Width       int               `json:"width"`
	Height      int               `json:"height"`
	PixFmt      string            `json:"pix_fmt"`
	Field       string            `json:"field_order"`
	Aspect      string            `json:"sample_aspect_ratio"`
	TimeBase    string            `json:"time_base"`
	Rate        string            `json:"r_frame_rate"`
	AvgRate     string            `json:"avg_frame_rate"`
	StartPTS    *int64            `json:"start_pts"`
	Start       string            `json:"start_time"`
	Duration    string            `json:"duration"`
	Frames      string            `json:"nb_frames"`
	BitRate     string            `json:"bit_rate"`
	Channels    int               `json:"channels"`
	Hertz       string            `json:"sample_rate"`
	Range       string            `json:"color_range"`
	Space       string            `json:"color_space"`
	Transfer    string            `json:"color_transfer"`
	Primaries   string            `json:"color_primaries"`
	Header      string            `json:"extradata_hash"`
	Tags        map[string]string `json:"tags"`
	Disposition map[string]int    `json:"disposition"`
	SideData    []struct {
		Rotation int `json:"rotation"`
	} `json:"side_data_list"`
}

func parseInfo(b []byte) (Info, error) {
	var raw struct {
		Format struct {
			Name     string            `json:"format_name"`
			Duration string            `json:"duration"`
			Start    string            `json:"start_time"`
			BitRate  string            `json:"bit_rate"`
			Tags     map[string]string `json:"tags"`
		} `json:"format"`
		Streams  []rawStream `json:"streams"`
		Chapters []struct {
			Start string            `json:"start_time"`
			End   string            `json:"end_time"`
			Tags  map[string]string `json:"tags"`
		} `json:"chapters"`
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return Info{}, err
	}
	info := Info{
		Format: raw.Format.Name, Duration: float(raw.Format.Duration), Start: float(raw.Format.Start),
		BitRate: integer(raw.Format.BitRate), Tags: raw.Format.Tags,
	}
	for _, s := range raw.Streams {
		info.Streams = append(info.Streams, s.stream())
	}
	for _, c := range raw.Chapters {
		info.Chapters = append(info.Chapters, Chapter{Start: float(c.Start), End: float(c.End), Title: c.Tags["title"]})
	}
	return info, nil
}

func (s rawStream) stream() Stream {
	out := Stream{
		Index: s.Index, Type: s.Type, Codec: s.Codec, CodecTag: s.CodecTag, Profile: s.Profile,
		Width: s.Width, Height: s.Height, PixFmt: s.PixFmt, Field: known(s.Field),
		Aspect: rational(s.Aspect), TimeBase: rational(s.TimeBase), Rate: rational(s.Rate), AvgRate: rational(s.AvgRate),
		StartPTS: s.StartPTS, Start: float(s.Start), Duration: float(s.Duration),
		Frames: integer(s.Frames), BitRate: integer(s.BitRate), Channels: s.Channels, Hertz: int(integer(s.Hertz)),
		Colour: Colour{known(s.Range), known(s.Space), known(s.Transfer), known(s.Primaries)},
		Tags:   s.Tags, Picture: s.Disposition["attached_pic"] == 1, HeaderSum: s.Header,
	}
	for _, d := range s.SideData {
		if d.Rotation != 0 {
			out.Rotation = d.Rotation
		}
	}
	return out
}

func known(s string) string {
	if s == "unknown" || s == "unspecified" || s == "reserved" {
		return ""
	}
	return s
}

func rational(s string) Rational {
	r, err := ParseRational(s)
	if err != nil {
		return Rational{}
	}
	return r
}

func float(s string) float64 {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0
	}
	return f
}

func integer(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
