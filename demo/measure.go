package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"

	"github.com/spare-compute/spare/demo/grid"
)

// measured is what a media file really holds, found by decoding and listing it.
type measured struct {
	path string
	keys []float64 // seconds, of its key frames

	Codec    string
	Width    int
	Height   int
	Frames   int
	Monotone bool    // every picture is shown after the one before, every packet decoded so
	FrameDur float64 // seconds, of the longest frame
	Video    float64 // seconds
	Audio    float64 // seconds; 0 = no sound
	AudioGap float64 // seconds, the largest hole or overlap between packets of sound
	Bitrate  float64 // bits a second, of the whole file
	Size     int64
}

// listing is what ffprobe prints.
type listing struct {
	Streams []struct {
		Kind     string `json:"codec_type"`
		Codec    string `json:"codec_name"`
		Width    int
		Height   int
		Duration string
		Start    string `json:"start_time"`
		Rate     string `json:"avg_frame_rate"`
	}
	Format struct {
		Duration string
	}
	Frames []struct {
		Key  int    `json:"key_frame"`
		Time string `json:"best_effort_timestamp_time"`
	}
	Packets []struct {
		Kind     string `json:"codec_type"`
		PTS      string `json:"pts_time"`
		DTS      string `json:"dts_time"`
		Duration string `json:"duration_time"`
	}
}

func probe(ctx context.Context, path string, args ...string) (listing, error) {
	var l listing
	args = append([]string{"-v", "error", "-of", "json"}, append(args, path)...)
	text, err := grid.Output(ctx, nil, "ffprobe", args...)
	if err != nil {
		return l, fmt.Errorf("look into %s: %w", path, err)
	}
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return l, fmt.Errorf("look into %s: %w", path, err)
	}
	return l, nil
}

// measure decodes the pictures of a file and lists its packets.
func measure(ctx context.Context, path string) (measured, error) {
	m := measured{path: path, Monotone: true}
	info, err := os.Stat(path)
	if err != nil {
		return m, err
	}
	m.Size = info.Size()
	about, err := probe(ctx, path, "-show_streams", "-show_format")
	if err != nil {
		return m, err
	}
	rate := 0.0
	for _, s := range about.Streams {
		switch {
		case s.Kind == "video" && m.Codec == "":
			m.Codec, m.Width, m.Height = s.Codec, s.Width, s.Height
			m.Video, rate = number(s.Duration), ratio(s.Rate)
		case s.Kind == "audio" && m.Audio == 0:
			m.Audio = number(s.Duration)
		}
	}
	if m.Codec == "" {
		return m, fmt.Errorf("%s holds no video", path)
	}
	if whole := number(about.Format.Duration); whole > 0 {
		m.Bitrate = float64(m.Size) * 8 / whole
	}
	if rate > 0 {
		m.FrameDur = 1 / rate
	}
	if err := m.lookAtFrames(ctx); err != nil {
		return m, err
	}
	return m, m.lookAtPackets(ctx)
}

func (m *measured) lookAtFrames(ctx context.Context) error {
	l, err := probe(ctx, m.path, "-select_streams", "v:0", "-show_entries", "frame=key_frame,best_effort_timestamp_time")
	if err != nil {
		return err
	}
	m.Frames = len(l.Frames)
	last := math.Inf(-1)
	for _, f := range l.Frames {
		t := number(f.Time)
		if t <= last {
			m.Monotone = false
		}
		last = t
		if f.Key == 1 {
			m.keys = append(m.keys, t)
		}
	}
	if m.Video == 0 && m.Frames > 0 { // containers that do not say it for the stream
		m.Video = last - number(l.Frames[0].Time) + m.FrameDur
	}
	return nil
}

func (m *measured) lookAtPackets(ctx context.Context) error {
	l, err := probe(ctx, m.path, "-show_entries", "packet=codec_type,pts_time,dts_time,duration_time")
	if err != nil {
		return err
	}
	last := map[string]float64{}
	soundEnd, first := math.NaN(), math.NaN()
	for _, p := range l.Packets {
		if dts, err := strconv.ParseFloat(p.DTS, 64); err == nil {
			if before, seen := last[p.Kind]; seen && dts <= before {
				m.Monotone = false
			}
			last[p.Kind] = dts
		}
		if p.Kind != "audio" {
			continue
		}
		pts := number(p.PTS)
		if math.IsNaN(first) {
			first = pts
		} else {
			m.AudioGap = max(m.AudioGap, math.Abs(pts-soundEnd))
		}
		soundEnd = pts + number(p.Duration)
	}
	if m.Audio == 0 && !math.IsNaN(first) {
		m.Audio = soundEnd - max(first, 0)
	}
	return nil
}

// AV is by how much sound and picture differ in length, in seconds.
func (m measured) AV() float64 { return math.Abs(m.Audio - m.Video) }

var ssimLine = regexp.MustCompile(`SSIM .*All:([0-9.]+)`)

// ssim compares a file with the source picture by picture, at the file's size.
func ssim(ctx context.Context, file, source measured) (float64, error) {
	graph := fmt.Sprintf(
		"[0:v:0]settb=1/1000,setpts=N,format=yuv420p[a];[1:v:0]settb=1/1000,setpts=N,scale=%d:%d:flags=bicubic,format=yuv420p[b];[a][b]ssim",
		file.Width, file.Height,
	)
	_, text, err := grid.OutputBoth(ctx, nil, "ffmpeg", "-hide_banner", "-nostdin", "-v", "info", "-i", file.path, "-i", source.path,
		"-lavfi", graph, "-fps_mode", "passthrough", "-an", "-f", "null", "-")
	if err != nil {
		return 0, fmt.Errorf("compare %s with %s: %w", file.path, source.path, err)
	}
	found := ssimLine.FindStringSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("compare %s with %s: ffmpeg printed no SSIM", file.path, source.path)
	}
	return strconv.ParseFloat(found[1], 64)
}

// number reads one of ffprobe's numbers; what it does not know counts as 0.
func number(s string) float64 {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0
	}
	return f
}

// ratio reads "30000/1001".
func ratio(s string) float64 {
	var a, b float64
	if n, err := fmt.Sscanf(s, "%f/%f", &a, &b); err != nil || n != 2 || b == 0 {
		return 0
	}
	return a / b
}
