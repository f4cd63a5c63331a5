package assemble

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spare-compute/spare/hub/media"
	"github.com/spare-compute/spare/sandbox"
)

// A folder is the scratch space of one join: in holds the parts under plain names, out
// what ffmpeg writes.
type folder struct{ path, in, out string }

func (d folder) remove() { os.RemoveAll(d.path) }

// handOver moves the finished film to its place.
func (d folder) handOver(file, to, name string) error {
	root, err := os.OpenRoot(to)
	if err != nil {
		return fmt.Errorf("open the output folder: %w", err)
	}
	defer root.Close()
	if err := root.MkdirAll(filepath.Dir(filepath.FromSlash(name)), 0o755); err != nil {
		return fmt.Errorf("place %s: %w", name, err)
	}
	if err := os.Rename(filepath.Join(d.out, file), filepath.Join(to, filepath.FromSlash(name))); err != nil {
		return fmt.Errorf("place %s: %w", name, err)
	}
	return nil
}

// gather links the parts into one folder.
func (f *film) gather(name string) (folder, error) {
	path := filepath.Join(f.in.Work, name)
	d := folder{path: path, in: filepath.Join(path, "in"), out: filepath.Join(path, "out")}
	for _, dir := range []string{d.in, d.out} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return d, fmt.Errorf("make a scratch folder: %w", err)
		}
	}
	put := func(p *piece, as string) error {
		p.file = as
		return p.put(d.in, as)
	}
	for _, p := range f.parts {
		if err := put(p, fmt.Sprintf("%06d", p.chunk)); err != nil {
			return d, err
		}
	}
	if f.other != nil {
		return d, put(f.other, "other")
	}
	return d, nil
}

// listAtOnce is how many parts one ffmpeg lists; each costs it an open file.
const listAtOnce = 48

var quiet = []string{"-hide_banner", "-nostdin", "-v", "error", "-y", "-protocol_whitelist", "file"}

// listParts learns every part's frames and coding.
func (f *film) listParts(ctx context.Context, d folder) error {
	for parts := range slices.Chunk(f.parts, listAtOnce) {
		args := append(slices.Clone(quiet), "-copyts")
		for _, p := range parts {
			args = append(args, "-i", media.In(p.file))
		}
		for i, p := range parts {
			args = append(args, "-map", fmt.Sprintf("%d:V:0", i), "-c", "copy", "-copyinkf", "-f", "framecrc", media.Out(p.file))
		}
		if _, err := f.in.Media.Do(ctx, media.Job{Tool: "ffmpeg", Args: args, Read: d.in, Write: d.out}); err != nil {
			return f.blame(ctx, d, parts, err)
		}
		for _, p := range parts {
			if err := f.readPart(filepath.Join(d.out, p.file), p); err != nil {
				return err
			}
		}
	}
	return f.alike()
}

// lookAtFirst learns from the first part what a list of packets does not tell.
func (f *film) lookAtFirst(ctx context.Context, d folder) error {
	first, err := f.in.Media.Probe(ctx, filepath.Join(d.in, f.parts[0].file))
	if err != nil {
		return fmt.Errorf("%s of chunk %d: %w", f.name, f.parts[0].chunk, err)
	}
	if len(first.Video()) == 0 {
		return fmt.Errorf("%s of chunk %d has no video track", f.name, f.parts[0].chunk)
	}
	f.parts[0].rotated = first.Video()[0].Rotation
	return nil
}

func (f *film) readPart(list string, p *piece) error {
	r, err := os.Open(list)
	if err != nil {
		return fmt.Errorf("list chunk %d: %w", p.chunk, err)
	}
	defer os.Remove(list) // ffmpeg writes the film into the same folder
	defer r.Close()
	tracks, err := media.ReadPackets(r, func(_ int, _ media.Rational, k media.Packet) error {
		if p.packets == 0 {
			p.firstDTS = k.DTS
		}
		p.lastDTS = k.DTS
		if len(p.pts) == 0 || k.PTS > p.latest {
			p.latest, p.latestAt = k.PTS, p.packets
		}
		p.packets++
		if !k.Hidden && k.HasPTS() {
			p.pts = append(p.pts, k.PTS)
			p.end = max(p.end, k.PTS+k.Duration)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list chunk %d: %w", p.chunk, err)
	}
	p.header = tracks[0]
	if len(p.pts) == 0 || !p.header.TimeBase.Known() {
		return fmt.Errorf("%s of chunk %d holds no frame", p.name, p.chunk)
	}
	slices.Sort(p.pts)
	return nil
}

// blame finds the part that made ffmpeg fail.
func (f *film) blame(ctx context.Context, d folder, parts []*piece, err error) error {
	var tool *media.ErrTool
	if !errors.As(err, &tool) {
		return err
	}
	for _, p := range parts {
		info, err := f.in.Media.Probe(ctx, filepath.Join(d.in, p.file))
		if err != nil {
			return fmt.Errorf("%s of chunk %d: %w", p.name, p.chunk, err)
		}
		if len(info.Video()) == 0 {
			return fmt.Errorf("%s of chunk %d has no video track", p.name, p.chunk)
		}
	}
	return err
}

// alike checks that the parts can follow each other in one track.
func (f *film) alike() error {
	first := f.parts[0]
	for _, p := range f.parts[1:] {
		a, b := first.header, p.header
		switch {
		case a.Codec != b.Codec || a.Size != b.Size:
			return fmt.Errorf("%s: chunk %d is %s %s and chunk %d %s %s; an App must encode all chunks alike", f.name, first.chunk, a.Codec, a.Size, p.chunk, b.Codec, b.Size)
		case a.TimeBase != b.TimeBase:
			return fmt.Errorf("%s: chunk %d counts time in %s s and chunk %d in %s s; an App must set one time scale (-video_track_timescale)", f.name, first.chunk, a.TimeBase, p.chunk, b.TimeBase)
		case a.Header != b.Header && a.Codec != "h264" && a.Codec != "vp9":
			return fmt.Errorf("%s: the %s headers of chunk %d and chunk %d differ; an App must encode all chunks with the same settings", f.name, a.Codec, first.chunk, p.chunk)
		}
	}
	return nil
}

// sameHeaders reports whether one global header serves all parts.
func (f *film) sameHeaders() bool {
	for _, p := range f.parts[1:] {
		if p.header.Header != f.parts[0].header.Header {
			return false
		}
	}
	return true
}

// lookAtOther learns the tracks of the last chunk's file and counts what is missing.
func (f *film) lookAtOther(ctx context.Context, d folder) error {
	if f.other != nil {
		info, err := f.in.Media.Probe(ctx, filepath.Join(d.in, f.other.file))
		if err != nil {
			return fmt.Errorf("%s of chunk %d: %w", f.name, f.other.chunk, err)
		}
		for _, s := range info.Of("audio") {
			f.audio = append(f.audio, media.OtherTrack{Type: s.Type, Codec: s.Codec, Language: s.Language(), Start: s.Start, Duration: s.Duration})
		}
		f.subtitles = len(info.Of("subtitle"))
	}
	if len(f.audio) > 0 {
		var err error
		if f.given, err = f.readBack(ctx, d.in, f.other.file, false, true); err != nil {
			return err
		}
	}
	var missing []string
	switch f.cfg.Tracks {
	case "all":
		missing = f.missing("audio", "subtitle")
	case "sound":
		missing = f.missing("audio")
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s: the App left out %s", f.name, strings.Join(missing, " and "))
	}
	return nil
}

// missing tells which of the last chunk's tracks the output will not have.
func (f *film) missing(types ...string) []string {
	var out []string
	has := map[string]int{"audio": len(f.audio), "subtitle": f.subtitles}
	for _, typ := range types {
		if want := f.notes.Other.Count(typ); has[typ] < want {
			out = append(out, fmt.Sprintf("%d of %d %s tracks", want-has[typ], want, typ))
		}
	}
	return out
}

// leftOut lists the source's tracks that the output does not have.
func (f *film) leftOut() []string {
	return append(slices.Clone(f.notes.LeftOut), f.missing("audio", "subtitle")...)
}

// otherShift is by how many seconds the last chunk's tracks must be moved. ffmpeg moves
// the first sound to 0 unless it is told to copy times: then nothing is left to do.
func (f *film) otherShift() float64 {
	if len(f.audio) == 0 {
		return 0
	}
	start := f.audio[0].Start
	for _, a := range f.audio {
		start = min(start, a.Start)
	}
	const near = 0.005 // containers round starts to 1 ms, AAC frames are 21 ms
	if math.Abs(start-f.notes.Other.Start) < near {
		return 0
	}
	return f.notes.Other.Start - start
}

// videoShift is when the film begins after the earliest track.
func (f *film) videoShift() float64 {
	if f.other == nil {
		return 0
	}
	return f.notes.Video.Start
}

// mux writes the output in one pass of copying.
func (f *film) mux(ctx context.Context, d folder) (string, error) {
	if err := f.writeList(d); err != nil {
		return "", err
	}
	if err := f.writeMetadata(d); err != nil {
		return "", err
	}
	convert := "0"
	if !f.sameHeaders() {
		convert = "1" // headers go into the stream, before each keyframe
	}
	args := append(slices.Clone(quiet), "-copyts",
		"-itsoffset", fmt.Sprintf("%.6f", f.videoShift()), "-f", "concat", "-safe", "1", "-auto_convert", convert, "-i", media.In("list"),
		"-f", "ffmetadata", "-i", media.In("metadata"))
	maps := []string{"-map", "0:v:0"}
	next := 2
	if f.other != nil {
		args = append(args, "-itsoffset", fmt.Sprintf("%.6f", f.otherShift()), "-i", media.In(f.other.file))
		maps = append(maps, "-map", fmt.Sprintf("%d:a?", next), "-map", fmt.Sprintf("%d:s?", next))
		next++
	}
	job := media.Job{Tool: "ffmpeg", Read: d.in, Write: d.out}
	pictures := f.pictures()
	if len(pictures) > 0 {
		args = append(args, "-i", innerSource+"/"+f.notes.Source)
		job.Mounts = []sandbox.Mount{{Host: f.in.Source, Inner: innerSource}}
	}
	for i, n := range pictures {
		maps = append(maps, "-map", fmt.Sprintf("%d:%d", next, n), fmt.Sprintf("-disposition:v:%d", i+1), "attached_pic")
	}
	args = append(args, maps...)
	args = append(args, "-c", "copy", "-map_metadata", "1", "-map_chapters", "1")
	args = append(args, f.lastDuration()...)
	args = append(args, f.container()...)
	job.Args = append(args, media.Out("film"))
	if _, err := f.in.Media.Do(ctx, job); err != nil {
		return "", fmt.Errorf("join %s: %w", f.name, err)
	}
	return "film", nil
}

const innerSource = "/spare/source"

// pictures are the cover pictures to take from the source.
func (f *film) pictures() []int {
	if !f.mp4() || f.in.Source == "" || !filepath.IsLocal(f.notes.Source) {
		return nil
	}
	if _, err := os.Stat(filepath.Join(f.in.Source, f.notes.Source)); err != nil {
		return nil
	}
	return f.notes.Pictures
}

// container are the arguments for the output's container.
func (f *film) container() []string {
	args := []string{"-f", f.format()}
	if !f.mp4() {
		return args
	}
	scale := fmt.Sprint(f.scale)
	args = append(args, "-video_track_timescale", scale, "-movie_timescale", scale, "-movflags", "+faststart")
	if f.parts[0].header.Codec == "hevc" && f.sameHeaders() {
		args = append(args, "-tag:v:0", "hvc1") // Apple's players take no other
	}
	if r := f.parts[0].rotated; r != 0 {
		args = append(args, "-metadata:s:v:0", fmt.Sprintf("rotate=%d", (360+r)%360))
	}
	return args
}

// writeList tells ffmpeg's concat demuxer where each part begins: at the sum of the
// durations before it. They are differences of rounded starts, so errors do not add up.
func (f *film) writeList(d folder) error {
	var b strings.Builder
	b.WriteString("ffconcat version 1.0\n")
	for i, p := range f.parts {
		fmt.Fprintf(&b, "file %s\n", p.file)
		if i+1 < len(f.parts) {
			us := f.starts[i+1] - f.starts[i]
			fmt.Fprintf(&b, "duration %d.%06d\n", us/1_000_000, us%1_000_000)
		}
	}
	return os.WriteFile(filepath.Join(d.in, "list"), []byte(b.String()), 0o644)
}

// writeMetadata carries the source's tags and chapters over.
func (f *film) writeMetadata(d folder) error {
	escape := strings.NewReplacer(`\`, `\\`, "=", `\=`, ";", `\;`, "#", `\#`, "\n", "\\\n", "\x00", "")
	var b strings.Builder
	b.WriteString(";FFMETADATA1\n")
	for k, v := range f.notes.Tags {
		fmt.Fprintf(&b, "%s=%s\n", escape.Replace(k), escape.Replace(v))
	}
	for _, c := range f.notes.Chapters {
		fmt.Fprintf(&b, "[CHAPTER]\nTIMEBASE=1/1000000\nSTART=%d\nEND=%d\ntitle=%s\n", int64(c.Start*1e6), int64(c.End*1e6), escape.Replace(c.Title))
	}
	return os.WriteFile(filepath.Join(d.in, "metadata"), []byte(b.String()), 0o644)
}
