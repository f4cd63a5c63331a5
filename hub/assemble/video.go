package assemble

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/media"
)

// video joins what an App made of the segments of the video partition, without loss.
// Files that share a path over the chunks are the parts of one output; the last chunk's
// file, if there is one, gives the sound and the subtitles. Files that are no video are
// handed on as passthrough does.
//
// What it made it reads back and holds against the notes of the partition. It returns an
// error rather than a film that lacks frames, a track, or the right length.
type video struct{}

type videoConfig struct {
	Tracks string `json:"tracks"`
}

func (video) ConfigSchema() []byte {
	return []byte(`{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "video",
  "description": "Joins encoded segments without loss and adds sound and subtitles. The output's frame count equals the source's; where the App changed the frame rate, its duration does, within a frame.",
  "type": "object",
  "properties": {
    "tracks": {"enum": ["any", "sound", "all"], "default": "any", "title": "Tracks", "description": "all: it is an error if an output lacks a sound or subtitle track of the source. sound: if it lacks a sound track. any: what is missing is told in the job's summary."}
  },
  "additionalProperties": false
}
`)
}

// A film is one output while it is joined.
type film struct {
	in    Input
	notes media.Notes
	cfg   videoConfig
	name  string   // slash-separated, relative to the output folder
	parts []*piece // of the segments, in chunk order
	other *piece   // of the last chunk, nil if there is none

	preserved bool           // the App kept every frame
	rate      media.Rational // even frame rate of the output; zero where frames are not evenly spaced
	scale     int64          // ticks per second of the output's film track
	starts    []int64        // of each part, microseconds from the film's first frame
	audio     []media.OtherTrack
	subtitles int
	given     found // the last chunk's sound
	bytes     int64
	length    float64 // seconds, as the output's container says; 0 if it does not
}

// A piece is one part of a film.
type piece struct {
	result
	file     string // its name in the folder of the join
	header   media.Track
	pts      []int64 // of the frames shown, in showing order
	end      int64   // where the last frame ends
	firstDTS int64
	lastDTS  int64
	packets  int
	latest   int64 // PTS of the packet shown last
	latestAt int   // its number in the part
	rotated  int
}

func (video) Assemble(ctx context.Context, in Input) (spare.Summary, error) {
	var cfg videoConfig
	if err := decode(in.Config, &cfg); err != nil {
		return nil, err
	}
	var notes media.Notes
	if len(in.Notes) == 0 {
		return nil, errors.New("the video merge needs the notes of the video partition: use both in one template")
	}
	if err := json.Unmarshal(in.Notes, &notes); err != nil || notes.Version != media.NotesVersion || len(notes.Segments) == 0 {
		return nil, errors.New("the partition's notes are not those of this release's video partition; run the job again")
	}
	all, err := results(in.Parts)
	if err != nil {
		return nil, err
	}
	films, rest := group(all, len(notes.Segments))
	if len(films) == 0 {
		return nil, fmt.Errorf("no chunk made a video: found %s; the App must write an .mp4, .mov, .mkv or .webm under the same name for each chunk", list(all))
	}
	var sums []spare.Summary
	for i, f := range films {
		f.in, f.notes, f.cfg = in, notes, cfg
		sum, err := f.join(ctx, fmt.Sprintf("join-%d", i))
		if err != nil {
			return nil, err
		}
		sums = append(sums, sum)
	}
	if err := place(rest, flatNames(rest), in.Out); err != nil {
		return nil, err
	}
	return summary(notes, sums, rest), nil
}

// summary is the first film's, with the list of all.
func summary(notes media.Notes, films []spare.Summary, rest []result) spare.Summary {
	out := spare.Summary{}
	for k, v := range films[0] {
		if k != "name" {
			out[k] = v
		}
	}
	out["outputs"] = films
	if len(rest) > 0 {
		out["other_files"] = len(rest)
	}
	if len(notes.Warnings) > 0 {
		out["warnings"] = notes.Warnings
	}
	return out
}

var filmTypes = []string{".mp4", ".m4v", ".mov", ".mkv", ".webm"}

// group sorts results into films and the rest. A film is a path with a video's ending
// that at least one segment has a file at; chunk n and above are not segments.
func group(all []result, segments int) (films []*film, rest []result) {
	byName := map[string]*film{}
	for _, r := range all {
		if r.chunk < segments && slices.Contains(filmTypes, strings.ToLower(path.Ext(r.name))) && byName[r.name] == nil {
			byName[r.name] = &film{name: r.name}
			films = append(films, byName[r.name])
		}
	}
	for _, r := range all {
		f := byName[r.name]
		switch {
		case f == nil:
			rest = append(rest, r)
		case r.chunk < segments:
			f.parts = append(f.parts, &piece{result: r})
		default:
			f.other = &piece{result: r}
		}
	}
	slices.SortFunc(films, func(a, b *film) int { return natural(a.name, b.name) })
	return films, rest
}

func list(all []result) string {
	if len(all) == 0 {
		return "no file at all"
	}
	var names []string
	for _, r := range all[:min(len(all), 5)] {
		names = append(names, fmt.Sprintf("%s of chunk %d", r.name, r.chunk))
	}
	if len(all) > 5 {
		names = append(names, "…")
	}
	return strings.Join(names, ", ")
}

// join makes one output and proves it.
func (f *film) join(ctx context.Context, folder string) (spare.Summary, error) {
	dir, err := f.gather(folder)
	if err != nil {
		return nil, err
	}
	defer dir.remove()
	err = together(
		func() error { return f.listParts(ctx, dir) },
		func() error { return f.lookAtFirst(ctx, dir) },
		func() error { return f.lookAtOther(ctx, dir) },
	)
	if err != nil {
		return nil, err
	}
	if err := f.timing(); err != nil {
		return nil, err
	}
	out, err := f.mux(ctx, dir)
	if err != nil {
		return nil, err
	}
	sum, err := f.check(ctx, dir, out)
	if err != nil {
		return nil, fmt.Errorf("the joined %s is wrong and is not handed over: %w", f.name, err)
	}
	return sum, dir.handOver(out, f.in.Out, f.name)
}

// together does steps side by side, since of a step on a short film the start of the tool
// takes longest. The error is that of the first step that has one, whichever ended first.
func together(steps ...func() error) error {
	errs := make([]error, len(steps))
	var all sync.WaitGroup
	for i, step := range steps {
		all.Go(func() { errs[i] = step() })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *film) mp4() bool {
	switch strings.ToLower(path.Ext(f.name)) {
	case ".mp4", ".m4v", ".mov":
		return true
	}
	return false
}

// format is ffmpeg's name for the output's container.
func (f *film) format() string {
	switch strings.ToLower(path.Ext(f.name)) {
	case ".mp4", ".m4v":
		return "mp4"
	case ".mov":
		return "mov"
	case ".webm":
		return "webm"
	}
	return "matroska"
}
