package partition_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spare-compute/spare/hub/media"
	"github.com/spare-compute/spare/hub/media/mediatest"
	"github.com/spare-compute/spare/hub/partition"
)

// cutVideo cuts a file into segments of two seconds.
func cutVideo(t *testing.T, file string) (paths []string, notes media.Notes, err error) {
	t.Helper()
	keep := t.TempDir()
	s, _ := partition.Lookup("video")
	raw, err := s.Partition(t.Context(), partition.Input{
		Dir: filepath.Dir(file), Files: []string{filepath.Base(file)}, Work: t.TempDir(), Media: tools,
		Config: json.RawMessage(`{"segment_seconds":2}`),
	}, func(_ context.Context, c partition.Chunk) error {
		to := filepath.Join(keep, filepath.Base(c.Path))
		paths = append(paths, to)
		return os.Rename(c.Path, to)
	})
	if err != nil {
		return nil, notes, err
	}
	if err := json.Unmarshal(raw, &notes); err != nil {
		t.Fatal(err)
	}
	return paths, notes, nil
}

func TestVideo_SegmentsHoldEveryFrame(t *testing.T) {
	for _, c := range []struct {
		clip     mediatest.Clip
		segments int
		other    string // the last chunk's tracks
		decoded  bool
	}{
		{mediatest.Plain("8"), 4, "audio aac", false},
		{mediatest.Film, 4, "audio opus", false},
		{mediatest.Phone, 5, "audio aac", false},
		{mediatest.OpenGOP, 1, "audio aac", false}, // each keyframe but the first has pictures that lean back
		{mediatest.OneGOP, 1, "audio aac", false},
		{mediatest.TwoLanguages, 4, "audio aac, audio aac, subtitle subrip", false},
		{mediatest.Silent, 3, "", false},
		{mediatest.Odd, 2, "", false},
		{mediatest.Late, 3, "audio aac", false},
		{mediatest.Broadcast, 4, "audio mp2", false},
		{mediatest.Trimmed, 3, "audio aac", false},
		{mediatest.Web, 3, "audio vorbis", true},
		{mediatest.Recorder, 1, "audio mp2", true},
	} {
		t.Run(c.clip.Name, func(t *testing.T) {
			t.Parallel()
			file := c.clip.Write(t, t.TempDir())
			paths, notes, err := cutVideo(t, file)
			if err != nil {
				t.Fatal(err)
			}
			if len(notes.Segments) != c.segments || notes.Video.Decoded != c.decoded {
				t.Errorf("%d segments, decoded %t; want %d, %t", len(notes.Segments), notes.Video.Decoded, c.segments, c.decoded)
			}
			var others []string
			if notes.Other != nil {
				for _, o := range notes.Other.Tracks {
					others = append(others, o.Type+" "+o.Codec)
				}
			}
			if got := strings.Join(others, ", "); got != c.other {
				t.Errorf("last chunk: %q, want %q", got, c.other)
			}
			want := len(notes.Segments)
			if c.other != "" {
				want++
			}
			if len(paths) != want {
				t.Fatalf("%d chunks, want %d", len(paths), want)
			}
			sum, at := 0, int64(0)
			for i, s := range notes.Segments {
				n := mediatest.Frames(t, paths[i])
				sum += n
				if int64(n) != s.Frames || s.Start != at {
					t.Errorf("segment %d: %d frames from %d, notes say %d from %d", i, n, at, s.Frames, s.Start)
				}
				at = s.End
			}
			if whole := mediatest.Frames(t, file); sum != whole || notes.Video.Frames != int64(whole) {
				t.Errorf("%d frames in the segments, %d in the notes, %d in the source", sum, notes.Video.Frames, whole)
			}
		})
	}
}

func TestVideo_KeepsExactTimesOfAnUnevenClip(t *testing.T) {
	file := mediatest.Phone.Write(t, t.TempDir())
	paths, notes, err := cutVideo(t, file)
	if err != nil {
		t.Fatal(err)
	}
	if notes.Video.Rate.Known() {
		t.Errorf("frame rate %s for uneven frames", notes.Video.Rate)
	}
	var got []int64
	for i := range notes.Segments {
		got = append(got, mediatest.Times(t, paths[i])...)
	}
	want := mediatest.Times(t, file)
	if len(got) != len(want) {
		t.Fatalf("%d times, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i]-want[0] {
			t.Fatalf("frame %d is at %d, in the source at %d", i, got[i], want[i])
		}
	}
}

func TestVideo_TellsWhereTracksBegin(t *testing.T) {
	_, notes, err := cutVideo(t, mediatest.Late.Write(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if d := notes.Video.Start - notes.Other.Start; d < 0.699 || d > 0.701 {
		t.Errorf("the film begins %.4f s after the sound, want 0.7 s", d)
	}
}

func TestVideo_ReadsWhatThereIsOfACutBroadcast(t *testing.T) {
	dir := t.TempDir()
	file := mediatest.Broadcast.Write(t, dir)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, whole[:len(whole)*2/3/188*188+100], 0o644); err != nil {
		t.Fatal(err)
	}
	_, notes, err := cutVideo(t, file)
	if err != nil {
		t.Fatal(err)
	}
	if n := mediatest.Frames(t, file); notes.Video.Frames != int64(n) || n < 100 {
		t.Errorf("%d frames in the notes, a decoder shows %d", notes.Video.Frames, n)
	}
	if len(notes.Warnings) == 0 {
		t.Error("no warning that the file ends in the middle of a packet")
	}
}

func TestVideo_SaysWhatIsLeftOut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "timecode.mov")
	mediatest.FFmpeg(t, "-f", "lavfi", "-i", "testsrc2=s=160x90:rate=25", "-t", "2", "-timecode", "01:00:00:00", "-c:v", "libx264", "-pix_fmt", "yuv420p", file)
	_, notes, err := cutVideo(t, file)
	if err != nil {
		t.Fatal(err)
	}
	if len(notes.LeftOut) != 1 || !strings.Contains(notes.LeftOut[0], "tmcd") {
		t.Errorf("left out: %q, want the timecode track", notes.LeftOut)
	}
}

func TestVideo_RefusesWithTheExactReason(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	half := func(file string) []byte {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return b[:len(b)/2]
	}
	made := func(name string, args ...string) string {
		file := filepath.Join(dir, name)
		mediatest.FFmpeg(t, append(args, file)...)
		return file
	}
	plain := mediatest.Plain("4").Write(t, dir)
	for _, c := range []struct{ name, file, want string }{
		{"empty", write("empty.mp4", nil), "is empty (0 bytes)"},
		{"text", write("notes.txt", []byte(strings.Repeat("This is no video.\n", 50))), "not a video"},
		{"text named as a video", write("notes.mp4", []byte(strings.Repeat("This is no video.\n", 50))), "not a video ffmpeg can read"},
		{"picture", made("a.png", "-f", "lavfi", "-i", "testsrc2=s=64x64", "-frames:v", "1"), "not a video"},
		{"sound only", made("a.m4a", "-f", "lavfi", "-i", "sine", "-t", "1", "-c:a", "aac"), "has no video track (it has: audio aac)"},
		{"mp4 without its index", write("half.mp4", half(plain)), "moov atom not found"},
		{"mp4 cut after its index", write("half-fast.mp4", half(made("fast.mp4", "-i", plain, "-c", "copy", "-movflags", "+faststart"))), "is cut off in the middle"},
		{"mkv cut off", write("half.mkv", half(made("whole.mkv", "-i", plain, "-c", "copy"))), "is cut off in the middle"},
		{"two films", made("two.mkv", "-i", plain, "-map", "0:v", "-map", "0:v", "-c", "copy"), "has 2 video tracks"},
		{"no times", made("raw.h264", "-i", plain, "-map", "0:v", "-c", "copy", "-bsf:v", "h264_mp4toannexb"), "not a video"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := cutVideo(t, c.file)
			var refused *partition.Refused
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a refusal with %q", err, c.want)
			}
		})
	}
}
