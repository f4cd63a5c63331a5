// Package mediatest makes the clips that tests of cutting and joining need, and looks
// at results with ffprobe directly. It is for tests only.
package mediatest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// FFmpeg runs ffmpeg on the machine itself; tests make their inputs with it.
func FFmpeg(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ffmpeg", append([]string{"-hide_banner", "-loglevel", "error", "-nostdin", "-y"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ffmpeg %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// A Clip is a film to test with.
type Clip struct {
	Name string // of the file
	Make func(t testing.TB, file string)
	key  string // equal clips have equal keys; "" is made anew each time
}

// Write puts the clip into dir and returns its path. Clips that are package variables
// are made once in a test run.
func (c Clip) Write(t testing.TB, dir string) string {
	t.Helper()
	file := filepath.Join(dir, c.Name)
	made.Lock()
	m := made.clips[c.key]
	if m == nil {
		m = &clip{}
		if c.key != "" {
			made.clips[c.key] = m
		}
	}
	made.Unlock()
	m.Lock()
	defer m.Unlock()
	if m.bytes != nil {
		if err := os.WriteFile(file, m.bytes, 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	c.Make(t, file)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m.bytes = b
	return file
}

// made holds the clips of this test run: each is a few hundred kilobytes.
var made = struct {
	sync.Mutex
	clips map[string]*clip
}{clips: map[string]*clip{}}

type clip struct {
	sync.Mutex
	bytes []byte
}

// test sources, small so that many fit into a test run
const (
	picture = "testsrc2=s=320x180:rate="
	sound   = "sine=f=440:r=48000:samples_per_frame=1024"
)

func from(args ...string) func(testing.TB, string) {
	return func(t testing.TB, file string) {
		t.Helper()
		FFmpeg(t, append(slices.Clone(args), file)...)
	}
}

func lavfi(src string) []string { return []string{"-f", "lavfi", "-i", src} }

func x264(gop string) []string {
	return []string{"-c:v", "libx264", "-preset", "veryfast", "-g", gop, "-keyint_min", gop, "-sc_threshold", "0", "-bf", "2", "-pix_fmt", "yuv420p"}
}

func args(parts ...[]string) []string { return slices.Concat(parts...) }

// Plain is an ordinary clip: H.264 with B-frames and closed groups, stereo sound, mp4.
func Plain(seconds string) Clip {
	return Clip{"plain.mp4", from(args(lavfi(picture+"30"), lavfi(sound), []string{"-t", seconds}, x264("30"), []string{"-c:a", "aac", "-ac", "2"})...), "plain" + seconds}
}

// Film is 23.976 frames a second with sound, in Matroska (times rounded to 1 ms).
var Film = Clip{"film.mkv", from(args(lavfi(picture+"24000/1001"), lavfi(sound), []string{"-t", "8"}, x264("24"), []string{"-c:a", "libopus"})...), "film.mkv"}

// Phone is a phone's clip: uneven frame times, rotated, with sound, 90 kHz mp4.
var Phone = Clip{"phone.mp4", func(t testing.TB, file string) {
	t.Helper()
	flat := file + ".flat.mp4"
	FFmpeg(t, args(lavfi(picture+"60"), lavfi(sound), []string{
		"-t", "10", "-vf", "select='not(mod(n\\,2))+lt(mod(n\\,37)\\,5)-eq(mod(n\\,50)\\,20)',settb=1/90000,setpts=PTS+mod(N*37\\,11)*60",
		"-fps_mode", "passthrough", "-enc_time_base", "1:90000", "-video_track_timescale", "90000",
	}, x264("30"), []string{"-c:a", "aac", flat})...)
	FFmpeg(t, "-i", flat, "-c", "copy", "-metadata:s:v:0", "rotate=90", file)
	os.Remove(flat)
}, "phone.mp4"}

// OpenGOP is HEVC, 10 bits, whose groups of pictures lean on the ones before.
var OpenGOP = Clip{"open-gop.mkv", from(args(lavfi(picture+"24000/1001"), lavfi(sound), []string{
	"-t", "6", "-c:v", "libx265", "-preset", "ultrafast",
	"-x265-params", "log-level=error:open-gop=1:keyint=24:min-keyint=24:bframes=3:b-adapt=0:scenecut=0", "-pix_fmt", "yuv420p10le", "-c:a", "aac",
})...), "open-gop.mkv"}

// OneGOP has one keyframe in the whole clip.
var OneGOP = Clip{"one-gop.mp4", from(args(lavfi(picture+"25"), lavfi(sound), []string{"-t", "8"}, x264("100000"), []string{"-c:a", "aac"})...), "one-gop.mp4"}

// TwoLanguages has two audio tracks and subtitles, with chapters and a title.
var TwoLanguages = Clip{"two-languages.mkv", func(t testing.TB, file string) {
	t.Helper()
	subs := file + ".srt"
	if err := os.WriteFile(subs, []byte("1\n00:00:01,000 --> 00:00:02,500\nHello\n\n2\n00:00:04,000 --> 00:00:05,000\nGood bye\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	meta := file + ".ffmeta"
	if err := os.WriteFile(meta, []byte(";FFMETADATA1\ntitle=Two Languages\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=3000\ntitle=First\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=3000\nEND=8000\ntitle=Second\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	FFmpeg(t, args(lavfi(picture+"30"), lavfi(sound), lavfi("sine=f=880:r=48000:samples_per_frame=1024"), []string{
		"-i", subs, "-i", meta, "-map", "0:v", "-map", "1:a", "-map", "2:a", "-map", "3:s", "-map_metadata", "4", "-map_chapters", "4", "-t", "8",
	}, x264("30"), []string{
		"-c:a", "aac", "-c:s", "srt", "-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=deu", "-metadata:s:s:0", "language=fra", file,
	})...)
	os.Remove(subs)
	os.Remove(meta)
}, "two-languages.mkv"}

// Silent has no sound.
var Silent = Clip{"silent.mp4", from(args(lavfi(picture+"30"), []string{"-t", "6"}, x264("30"))...), "silent.mp4"}

// Odd has an odd width and height and 4:4:4 colour, which allows them.
var Odd = Clip{"odd.mkv", from(args(lavfi("testsrc2=s=640x360:rate=25"), []string{
	"-t", "4", "-vf", "format=yuv444p,scale=321:181", "-c:v", "libx264", "-preset", "veryfast", "-g", "25", "-pix_fmt", "yuv444p",
})...), "odd.mkv"}

// Late begins its picture 0.7 s after its sound.
var Late = Clip{"late.mp4", func(t testing.TB, file string) {
	t.Helper()
	plain := Plain("6").Write(t, t.TempDir())
	FFmpeg(t, "-itsoffset", "0.7", "-i", plain, "-i", plain, "-map", "0:v", "-map", "1:a", "-c", "copy", file)
}, "late.mp4"}

// Broadcast is a transport stream that starts at 1.4 s and 90 kHz.
var Broadcast = Clip{"broadcast.ts", from(args(lavfi(picture+"25"), lavfi(sound), []string{"-t", "8"}, x264("25"), []string{"-c:a", "mp2", "-muxdelay", "0.7"})...), "broadcast.ts"}

// Trimmed begins, by its edit list, in the middle of a group of pictures.
var Trimmed = Clip{"trimmed.mp4", func(t testing.TB, file string) {
	t.Helper()
	plain := Plain("8").Write(t, t.TempDir())
	FFmpeg(t, "-ss", "1.5", "-i", plain, "-c", "copy", file)
}, "trimmed.mp4"}

// Web is VP8 and Vorbis in WebM: a codec that mp4 cannot hold.
var Web = Clip{"web.webm", from(args(lavfi(picture+"30"), lavfi(sound), []string{"-t", "6", "-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "30", "-c:a", "libvorbis"})...), "web.webm"}

// Recorder is MPEG-2, interlaced marks and open groups, in a program stream.
var Recorder = Clip{"recorder.mpg", from(args(lavfi(picture+"25"), lavfi(sound), []string{
	"-t", "6", "-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-b:v", "1M", "-c:a", "mp2",
})...), "recorder.mpg"}

// Times are the PTS of a file's video packets in showing order, in ticks; hidden ones
// are not among them.
func Times(t testing.TB, file string) []int64 {
	t.Helper()
	out := probe(t, file, "-select_streams", "V:0", "-show_entries", "packet=pts,flags", "-of", "csv=p=0")
	var times []int64
	for line := range strings.Lines(out) {
		pts, flags, _ := strings.Cut(strings.TrimSpace(line), ",")
		n, err := strconv.ParseInt(pts, 10, 64)
		if err != nil || strings.Contains(flags, "D") {
			continue
		}
		times = append(times, n)
	}
	slices.Sort(times)
	return times
}

// Frames decodes a file's film and counts what is shown.
func Frames(t testing.TB, file string) int {
	t.Helper()
	out := probe(t, file, "-count_frames", "-select_streams", "V:0", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0")
	first, _, _ := strings.Cut(strings.TrimSpace(out), "\n") // a transport stream is listed once more for its program
	n, err := strconv.Atoi(strings.Trim(first, ", "))
	if err != nil {
		t.Fatalf("count the frames of %s: %q", file, out)
	}
	return n
}

func probe(t testing.TB, file string, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "ffprobe", append(append([]string{"-v", "error"}, args...), file)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("ffprobe %s: %v\n%s", file, err, errs.String())
	}
	return out.String()
}

// SSIM compares two films frame by frame: 1 is equal.
func SSIM(t testing.TB, a, b string) float64 {
	t.Helper()
	const graph = "[0:v]settb=1/1000,setpts=N[a];[1:v]settb=1/1000,setpts=N[b];[a][b]ssim"
	out, err := exec.CommandContext(t.Context(), "ffmpeg", "-hide_banner", "-nostdin", "-i", a, "-i", b, "-lavfi", graph, "-an", "-f", "null", "-").CombinedOutput()
	if err != nil {
		t.Fatalf("compare %s with %s: %v\n%s", a, b, err, out)
	}
	_, after, _ := strings.Cut(string(out), "All:")
	value, _, _ := strings.Cut(after, " ")
	s, err := strconv.ParseFloat(value, 64)
	if err != nil {
		t.Fatalf("compare %s with %s: no SSIM in %s", a, b, out)
	}
	return s
}
