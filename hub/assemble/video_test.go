package assemble_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/assemble"
	"github.com/spare-compute/spare/hub/media/mediatest"
	"github.com/spare-compute/spare/hub/partition"
)

// A cutFilm is a clip of 8 s at 30 frames a second in four segments, and its sound.
type cutFilm struct {
	dir    string
	chunks []string
	notes  json.RawMessage
}

func cutPlain(t *testing.T) cutFilm {
	t.Helper()
	c := cutFilm{dir: t.TempDir()}
	keep := t.TempDir()
	clip := mediatest.Plain("8")
	clip.Write(t, c.dir)
	s, _ := partition.Lookup("video")
	var err error
	c.notes, err = s.Partition(t.Context(), partition.Input{
		Dir: c.dir, Files: []string{clip.Name}, Work: t.TempDir(), Media: tools, Config: json.RawMessage(`{"segments":4}`),
	}, func(_ context.Context, chunk partition.Chunk) error {
		to := filepath.Join(keep, fmt.Sprint(len(c.chunks)))
		c.chunks = append(c.chunks, to)
		return os.Rename(chunk.Path, to)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.chunks) != 5 {
		t.Fatalf("%d chunks, want 5", len(c.chunks))
	}
	return c
}

// encode makes each chunk's film.mp4 as an App that knows nothing of Spare would.
func (c cutFilm) encode(t *testing.T, args func(chunk int) []string) []assemble.Part {
	t.Helper()
	var out []assemble.Part
	for i, file := range c.chunks {
		dir := t.TempDir()
		if a := args(i); a != nil {
			mediatest.FFmpeg(t, append(append([]string{"-i", file}, a...), filepath.Join(dir, "film.mp4"))...)
		}
		out = append(out, assemble.Part{Chunk: i, Dir: dir})
	}
	return out
}

func (c cutFilm) join(t *testing.T, in []assemble.Part, config string) (string, spare.Summary, error) {
	t.Helper()
	s, _ := assemble.Lookup("video")
	out := t.TempDir()
	sum, err := s.Assemble(t.Context(), assemble.Input{
		Parts: in, Notes: c.notes, Config: json.RawMessage(config), Out: out, Work: t.TempDir(), Source: c.dir, Media: tools,
	})
	if left, _ := os.ReadDir(out); err != nil && len(left) > 0 {
		t.Errorf("a refused join left %v in the output", left)
	}
	return out, sum, err
}

var quick = []string{"-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"}

func TestVideo_JoinsWhatAPlainAppMakes(t *testing.T) {
	c := cutPlain(t)
	in := c.encode(t, func(int) []string { return quick })
	if err := os.WriteFile(filepath.Join(in[1].Dir, "notes.txt"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, sum, err := c.join(t, in, `{"tracks":"all"}`)
	if err != nil {
		t.Fatal(err)
	}
	if n := mediatest.Frames(t, filepath.Join(out, "film.mp4")); n != 240 || sum["frames_out"] != 240 {
		t.Errorf("%d frames, summary %v; want 240", n, sum)
	}
	times := mediatest.Times(t, filepath.Join(out, "film.mp4"))
	for i := 1; i < len(times); i++ {
		if times[i]-times[i-1] != times[1]-times[0] {
			t.Fatalf("frame %d comes %d ticks after the one before, others %d", i, times[i]-times[i-1], times[1]-times[0])
		}
	}
	if got := read(t, out)["notes.txt"]; got != "kept" {
		t.Errorf("notes.txt holds %q", got)
	}
}

func TestVideo_JoinsPartsWithOtherHeaders(t *testing.T) {
	c := cutPlain(t)
	out, _, err := c.join(t, c.encode(t, func(i int) []string {
		return append([]string{"-level:v", fmt.Sprintf("%d.0", 3+i%2)}, quick...)
	}), "")
	if err != nil {
		t.Fatal(err)
	}
	if n := mediatest.Frames(t, filepath.Join(out, "film.mp4")); n != 240 {
		t.Errorf("a decoder shows %d frames of 240", n)
	}
}

func TestVideo_RefusesAWrongFilm(t *testing.T) {
	c := cutPlain(t)
	only := func(chunk int, args ...string) func(int) []string {
		return func(i int) []string {
			if i == chunk {
				return append(args, quick...)
			}
			return quick
		}
	}
	for _, w := range []struct {
		name, config string
		args         func(int) []string
		want         string
	}{
		{"a chunk without a file", "", func(i int) []string {
			if i == 2 {
				return nil
			}
			return quick
		}, "chunk 2 made no such file"},
		{"a lost frame", "", only(1, "-frames:v", "59"), "chunk 1 has 59 frames and its segment 60"},
		{"a frame too many", "", only(3, "-vf", "tpad=stop=1:stop_mode=clone"), "chunk 3 has 61 frames and its segment 60"},
		{"changed times", "", only(0, "-vf", "setpts=PTS*1.5", "-fps_mode", "passthrough"), "chunk 0 has as many frames as its segment but they span 2.967 s"},
		{"another size", "", only(2, "-s", "160x90"), "chunk 2 h264 160x90"},
		{"another time scale", "", only(2, "-video_track_timescale", "12345"), "one time scale"},
		{"a new rate with a hole", "", func(i int) []string {
			if i == 2 {
				return nil
			}
			return append([]string{"-vf", "fps=15"}, quick...)
		}, "the parts before chunk 3 last 4.000 s and their segments 6.000 s"},
		{"sound left out", `{"tracks":"sound"}`, func(i int) []string {
			if i == 4 {
				return nil
			}
			return quick
		}, "left out 1 of 1 audio tracks"},
		{"half of the sound", "", only(4, "-t", "4"), "its sound is -4.0"},
	} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := c.join(t, c.encode(t, w.args), w.config)
			if err == nil || !strings.Contains(err.Error(), w.want) {
				t.Errorf("got %v, want %q", err, w.want)
			}
		})
	}
}

func TestVideo_RefusesWhatIsNoVideo(t *testing.T) {
	c := cutPlain(t)
	in := c.encode(t, func(int) []string { return quick })
	if err := os.WriteFile(filepath.Join(in[1].Dir, "film.mp4"), []byte("no film"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.join(t, in, ""); err == nil || !strings.Contains(err.Error(), "film.mp4 of chunk 1: not a video ffmpeg can read") {
		t.Errorf("got %v", err)
	}
	texts := parts(t, map[string]string{"a.txt": "1"})
	if _, _, err := c.join(t, texts, ""); err == nil || !strings.Contains(err.Error(), "no chunk made a video: found a.txt of chunk 0") {
		t.Errorf("got %v", err)
	}
	c.notes = nil
	if _, _, err := c.join(t, in, ""); err == nil || !strings.Contains(err.Error(), "needs the notes of the video partition") {
		t.Errorf("got %v", err)
	}
}

func TestVideo_SaysWhatTheAppLeftOut(t *testing.T) {
	c := cutPlain(t)
	_, sum, err := c.join(t, c.encode(t, func(i int) []string {
		if i == 4 {
			return nil
		}
		return quick
	}), "")
	if err != nil {
		t.Fatal(err)
	}
	if left := fmt.Sprint(sum["left_out"]); !strings.Contains(left, "1 of 1 audio tracks") {
		t.Errorf("left_out is %s", left)
	}
}
