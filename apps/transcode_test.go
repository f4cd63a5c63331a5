package apps_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/assemble"
	"github.com/spare-compute/spare/hub/media"
	"github.com/spare-compute/spare/hub/media/mediatest"
	"github.com/spare-compute/spare/hub/partition"
)

// A job is a clip on its whole way: cut, transcoded chunk by chunk, joined.
type job struct {
	clip   mediatest.Clip
	params map[string]any
	cut    string // settings of the partition; "" means segments of two seconds
}

type done struct {
	source  string // the clip
	out     string // the output folder
	notes   media.Notes
	summary spare.Summary
	log     string // of all chunks
}

// film is the path of an output.
func (d done) film(name string) string { return filepath.Join(d.out, filepath.FromSlash(name)) }

// run takes the job through; it stops at the first stage that refuses.
func (j job) run(t *testing.T) (done, error) {
	t.Helper()
	d := done{out: t.TempDir()}
	dir := t.TempDir()
	d.source = j.clip.Write(t, dir)
	s, _ := partition.Lookup("video")
	var parts []assemble.Part
	cut := j.cut
	if cut == "" {
		cut = `{"segment_seconds": 2}`
	}
	notes, err := s.Partition(t.Context(), partition.Input{
		Dir: dir, Files: []string{j.clip.Name}, Work: t.TempDir(), Media: tools, Config: json.RawMessage(cut),
	}, func(_ context.Context, c partition.Chunk) error {
		part, log, err := j.transcode(t, len(parts), c)
		d.log += log
		parts = append(parts, part)
		return err
	})
	if err != nil {
		return d, fmt.Errorf("partition: %w", err)
	}
	if err := json.Unmarshal(notes, &d.notes); err != nil {
		t.Fatal(err)
	}
	m, _ := assemble.Lookup("video")
	d.summary, err = m.Assemble(t.Context(), assemble.Input{
		Parts: parts, Notes: notes, Config: json.RawMessage(`{"tracks": "sound"}`), JobName: "clip", Out: d.out, Work: t.TempDir(), Source: dir, Media: tools,
	})
	if err != nil {
		return d, fmt.Errorf("merge: %w", err)
	}
	return d, nil
}

// transcode runs the App on one chunk as a node does.
func (j job) transcode(t *testing.T, n int, c partition.Chunk) (assemble.Part, string, error) {
	t.Helper()
	task := t.TempDir()
	if err := os.Rename(c.Path, filepath.Join(task, "data.bin")); err != nil {
		t.Fatal(err)
	}
	params := maps.Clone(j.params)
	maps.Copy(params, c.Params)
	dir, log, err := runApp(t, "video-transcoding", task, params, n)
	return assemble.Part{Chunk: n, Dir: dir}, log, err
}

// runApp runs an App's main.py by the plain contract.
func runApp(t *testing.T, app, task string, params map[string]any, chunk int) (results, log string, err error) {
	t.Helper()
	results = t.TempDir()
	raw, err := json.Marshal(params)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-B", "main.py")
	cmd.Dir = filepath.Join(app, "app")
	cmd.Env = []string{
		"PATH=/usr/bin:/bin", "TASK_DIR=" + task, "TASK_RESULTS_DIR=" + results, "APP_PARAMS=" + string(raw),
		fmt.Sprint("CHUNK_NUMBER=", chunk), "JOB_NAME=clip", "SPARE_CORES=1",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("chunk %d: %s", chunk, strings.TrimSpace(string(out)))
	}
	return results, string(out), err
}

// fast are parameters for one output and a quick encode; more are further output_params.
func fast(video map[string]any, more ...map[string]any) map[string]any {
	v := map[string]any{
		"codec": "libx264", "codec_params": map[string]any{"preset": "veryfast"},
		"bitrate": map[string]any{"rate_control_mode": "constant_quality", "crf": 23},
	}
	maps.Copy(v, video)
	params := map[string]any{"video": v, "audio": map[string]any{"audio_codec": "AAC", "audio_bitrate": "96k"}}
	for _, m := range more {
		maps.Copy(params, m)
	}
	return map[string]any{"outputs": []any{map[string]any{"output_type": "mp4", "output_params": params}}}
}

func TestTranscode_KeepsEveryFrameOfHardClips(t *testing.T) {
	for _, clip := range []mediatest.Clip{
		mediatest.Plain("8"), mediatest.Film, mediatest.Phone, mediatest.OpenGOP, mediatest.OneGOP,
		mediatest.TwoLanguages, mediatest.Silent, mediatest.Odd, mediatest.Late, mediatest.Broadcast,
		mediatest.Trimmed, mediatest.Web, mediatest.Recorder,
	} {
		t.Run(clip.Name, func(t *testing.T) {
			t.Parallel()
			d, err := job{clip: clip, params: fast(nil)}.run(t)
			if err != nil {
				t.Fatal(err)
			}
			film := d.film("clip.mp4")
			if in, out := mediatest.Frames(t, d.source), mediatest.Frames(t, film); in != out || d.summary["frames_out"] != out {
				t.Errorf("%d frames in, %d out, summary says %v", in, out, d.summary["frames_out"])
			}
			times := mediatest.Times(t, film)
			for i := 1; i < len(times); i++ {
				if times[i] <= times[i-1] {
					t.Fatalf("frame %d is at %d, the one before at %d", i, times[i], times[i-1])
				}
			}
			in, err := tools.Probe(t.Context(), d.source)
			if err != nil {
				t.Fatal(err)
			}
			out, err := tools.Probe(t.Context(), film)
			if err != nil {
				t.Fatal(err)
			}
			for _, typ := range []string{"audio", "subtitle"} {
				if a, b := len(in.Of(typ)), len(out.Of(typ)); a != b {
					t.Errorf("%d %s tracks in, %d out", a, typ, b)
				}
			}
			checkSync(t, d, in, out)
		})
	}
}

// checkSync compares when sound and film begin, and how long they last.
func checkSync(t *testing.T, d done, in, out media.Info) {
	t.Helper()
	if len(in.Of("audio")) == 0 {
		return
	}
	frame := d.notes.Video.Duration / float64(d.notes.Video.Frames)
	lead := d.notes.Video.Start - d.notes.Other.Start
	if got := out.Video()[0].Start - out.Of("audio")[0].Start; math.Abs(got-lead) > 0.003 {
		t.Errorf("the film begins %.4f s after the sound, in the source %.4f s", got, lead)
	}
	before := d.notes.Other.Tracks[0].Duration - d.notes.Video.Duration
	after := out.Of("audio")[0].Duration - out.Video()[0].Duration
	if math.Abs(after-before) > frame {
		t.Errorf("sound and film differ by %.4f s, in the source by %.4f s", after, before)
	}
}

func TestTranscode_KeepsUnevenTimes(t *testing.T) {
	d, err := job{clip: mediatest.Phone, params: fast(nil)}.run(t)
	if err != nil {
		t.Fatal(err)
	}
	in, out := mediatest.Times(t, d.source), mediatest.Times(t, d.film("clip.mp4")) // both in 1/90000 s
	for i := range in {
		if diff := (out[i] - out[0]) - (in[i] - in[0]); diff < -2 || diff > 2 {
			t.Fatalf("frame %d is at %d ticks, in the source at %d", i, out[i]-out[0], in[i]-in[0])
		}
	}
	info, err := tools.Probe(t.Context(), d.film("clip.mp4"))
	if err != nil {
		t.Fatal(err)
	}
	if f := info.Video()[0]; f.Width != 180 || f.Height != 320 || f.Rotation != 0 {
		t.Errorf("the turned clip came out as %dx%d turned by %d", f.Width, f.Height, f.Rotation)
	}
}

func TestTranscode_KeepsLanguagesChaptersAndTitle(t *testing.T) {
	d, err := job{clip: mediatest.TwoLanguages, params: fast(nil)}.run(t)
	if err != nil {
		t.Fatal(err)
	}
	info, err := tools.Probe(t.Context(), d.film("clip.mp4"))
	if err != nil {
		t.Fatal(err)
	}
	var langs []string
	for _, s := range append(info.Of("audio"), info.Of("subtitle")...) {
		langs = append(langs, s.Language())
	}
	if got := strings.Join(langs, " "); got != "eng deu fra" {
		t.Errorf("languages %q", got)
	}
	if len(info.Chapters) != 2 || info.Chapters[1].Title != "Second" || info.Tags["title"] != "Two Languages" {
		t.Errorf("chapters %v, tags %v", info.Chapters, info.Tags)
	}
}

func TestTranscode_IsAsGoodAsTheWholeEncode(t *testing.T) {
	d, err := job{clip: mediatest.Plain("10"), params: fast(nil), cut: `{"segments": 2}`}.run(t)
	if err != nil {
		t.Fatal(err)
	}
	whole := filepath.Join(t.TempDir(), "whole.mp4")
	mediatest.FFmpeg(t, "-i", d.source, "-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-threads", "1", "-c:a", "aac", "-b:a", "96k", whole)
	ours, theirs := mediatest.SSIM(t, d.film("clip.mp4"), d.source), mediatest.SSIM(t, whole, d.source)
	if ours < theirs-0.003 {
		t.Errorf("SSIM %.5f, of the whole encode %.5f", ours, theirs)
	}
	a, b := size(t, d.film("clip.mp4")), size(t, whole)
	if r := a / b; r < 0.95 || r > 1.05 {
		t.Errorf("%.0f bytes, %.3f times the whole encode's", a, r)
	}
}

func size(t *testing.T, file string) float64 {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return float64(info.Size())
}

func TestTranscode_NewFrameRateFitsOverTheCuts(t *testing.T) {
	for _, c := range []struct {
		clip mediatest.Clip
		fps  any
		mode string
		want string // rate of the output
		n    int    // frames
	}{
		{mediatest.Plain("8"), "24", "", "24/1", 192},
		{mediatest.Plain("8"), 50, "", "50/1", 400},
		{mediatest.Plain("8"), "50", "avoid", "30/1", 240},
		{mediatest.Plain("8"), "29.97", "", "30000/1001", 240},
		{mediatest.Film, "25", "", "25/1", 200},
		{mediatest.Phone, "25", "avoid", "25/1", 250},
		{mediatest.Phone, "1", "", "1/1", 10},
	} {
		t.Run(fmt.Sprint(c.clip.Name, c.fps, c.mode), func(t *testing.T) {
			t.Parallel()
			d, err := job{clip: c.clip, params: fast(map[string]any{"frame_rate": map[string]any{"fps": c.fps, "up_mode": c.mode}})}.run(t)
			if err != nil {
				t.Fatal(err)
			}
			if d.summary["frames_out"] != c.n || d.summary["frame_rate"] != c.want {
				t.Errorf("%v frames at %v, want %d at %s", d.summary["frames_out"], d.summary["frame_rate"], c.n, c.want)
			}
			whole := filepath.Join(t.TempDir(), "whole.mp4")
			if c.clip.Name != "plain.mp4" || c.mode == "avoid" {
				return // another clip's times are rounded, and the whole encode's grid begins elsewhere
			}
			rate, err := media.ParseRational(c.want)
			if err != nil {
				t.Fatal(err)
			}
			mediatest.FFmpeg(t, "-i", d.source, "-map", "0:v", "-vf", "fps="+rate.String(), "-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-threads", "1", whole)
			if s := mediatest.SSIM(t, d.film("clip.mp4"), whole); s < 0.97 {
				t.Errorf("SSIM %.4f beside the whole encode at that rate: other frames were chosen", s)
			}
		})
	}
}

func TestTranscode_MakesSeveralOutputsAtOnce(t *testing.T) {
	output := func(name, codec string, aspect map[string]any) any {
		return map[string]any{"name": name, "output_type": "mp4", "output_params": map[string]any{
			"aspect": aspect,
			"video":  map[string]any{"codec": codec, "codec_params": map[string]any{"preset": "ultrafast", "cpu_used": 5}},
		}}
	}
	params := map[string]any{
		"output_template": "{{.job_name}} {{if .name}}{{.name}}{{else}}x{{end}}_{{.output_params.Video.Codec}}",
		"outputs": []any{
			output("small one", "libx264", map[string]any{"resolution": map[string]any{"height": "custom", "custom_height": 91}}),
			output("hevc", "libx265", map[string]any{"cropping": map[string]any{"top": 10, "left": 21, "bottom": 0, "right": 0}, "orientation": map[string]any{"rotation": "90"}}),
			output("", "libvpx-vp9", map[string]any{
				"padding":    map[string]any{"final_aspect_ratio": "1:1", "fill_color": "#102030"},
				"resolution": map[string]any{"height": "480p", "avoid_upscaling": true},
			}),
		},
	}
	d, err := job{clip: mediatest.Plain("4"), params: params}.run(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, codec, tag string
		width, height    int
	}{
		{"out_0/clip_small_one_libx264.mp4", "h264", "avc1", 164, 92},
		{"out_1/clip_hevc_libx265.mp4", "hevc", "hvc1", 170, 298},
		{"out_2/clip_x_libvpx-vp9.mp4", "vp9", "vp09", 320, 320},
	} {
		info, err := tools.Probe(t.Context(), d.film(c.name))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		f := info.Video()[0]
		if f.Codec != c.codec || f.CodecTag != c.tag || f.Width != c.width || f.Height != c.height || f.Frames != 120 || len(info.Of("audio")) != 1 {
			t.Errorf("%s: %s (%s) %dx%d, %d frames, %d audio tracks; want %+v with 120 frames and sound", c.name, f.Codec, f.CodecTag, f.Width, f.Height, f.Frames, len(info.Of("audio")), c)
		}
	}
}

func TestTranscode_KeepsTenBitsAndColour(t *testing.T) {
	clip := mediatest.Clip{Name: "hdr.mkv", Make: func(t testing.TB, file string) {
		mediatest.FFmpeg(t, "-f", "lavfi", "-i", "testsrc2=s=320x180:rate=25", "-t", "4", "-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le",
			"-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc", "-color_range", "tv",
			"-x265-params", "log-level=error:open-gop=0:keyint=25:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc", file)
	}}
	for _, codec := range []string{"libx264", "libx265", "libvpx-vp9"} {
		t.Run(codec, func(t *testing.T) {
			t.Parallel()
			d, err := job{clip: clip, params: fast(map[string]any{"codec": codec, "codec_params": map[string]any{"preset": "ultrafast", "cpu_used": 5}})}.run(t)
			if err != nil {
				t.Fatal(err)
			}
			info, err := tools.Probe(t.Context(), d.film("clip.mp4"))
			if err != nil {
				t.Fatal(err)
			}
			f := info.Video()[0]
			want := media.Colour{Range: "tv", Space: "bt2020nc", Transfer: "smpte2084", Primaries: "bt2020"}
			if f.PixFmt != "yuv420p10le" || f.Colour != want {
				t.Errorf("%s with %+v, want yuv420p10le with %+v", f.PixFmt, f.Colour, want)
			}
			if len(d.notes.Segments) != 2 || f.Frames != 100 {
				t.Errorf("%d segments, %d frames; want 2 and 100", len(d.notes.Segments), f.Frames)
			}
		})
	}
}

func TestTranscode_UnevenClipInEveryCodec(t *testing.T) {
	for _, codec := range []string{"libx265", "libvpx-vp9"} {
		t.Run(codec, func(t *testing.T) {
			t.Parallel()
			d, err := job{clip: mediatest.Phone, params: fast(map[string]any{"codec": codec, "codec_params": map[string]any{"preset": "ultrafast", "cpu_used": 5}})}.run(t)
			if err != nil {
				t.Fatal(err)
			}
			if in, out := mediatest.Frames(t, d.source), mediatest.Frames(t, d.film("clip.mp4")); in != out {
				t.Errorf("%d frames in, %d out", in, out)
			}
		})
	}
}

func TestTranscode_KeepsTheCoverPicture(t *testing.T) {
	clip := mediatest.Clip{Name: "cover.mp4", Make: func(t testing.TB, file string) {
		dir := t.TempDir()
		cover := filepath.Join(dir, "cover.jpg")
		mediatest.FFmpeg(t, "-f", "lavfi", "-i", "testsrc2=s=64x64", "-frames:v", "1", cover)
		mediatest.FFmpeg(t, "-i", mediatest.Plain("4").Write(t, dir), "-i", cover, "-map", "0", "-map", "1", "-c", "copy", "-disposition:v:1", "attached_pic", file)
	}}
	d, err := job{clip: clip, params: fast(nil)}.run(t)
	if err != nil {
		t.Fatal(err)
	}
	info, err := tools.Probe(t.Context(), d.film("clip.mp4"))
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Video()) != 1 || len(info.Of("video")) != 2 {
		t.Errorf("%d films and %d video streams, want 1 and 2 (the cover)", len(info.Video()), len(info.Of("video")))
	}
}

func TestTranscode_LastWordsSayWhatToDo(t *testing.T) {
	for _, c := range []struct {
		name   string
		clip   mediatest.Clip
		params map[string]any
		want   string
	}{
		{"cropped away", mediatest.Plain("2"), fast(nil, map[string]any{"aspect": map[string]any{"cropping": map[string]any{"left": 200, "right": 200}}}), "cropping takes 400x0 pixels of a picture of 320x180"},
		{"no target", mediatest.Plain("2"), fast(map[string]any{"bitrate": map[string]any{"rate_control_mode": "constant_bitrate"}}), "give target_bitrate"},
		{"template", mediatest.Plain("2"), map[string]any{"output_template": "{{.nam}}", "outputs": []any{map[string]any{}}}, "output_template: there is no .nam"},
		{"encoder", mediatest.Plain("2"), fast(map[string]any{"codec_params": map[string]any{"profile": "nonsense"}}), "ffmpeg: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := job{clip: c.clip, params: c.params}.run(t)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "Traceback") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestTranscode_ABrokenChunkFailsWithFFmpegsReason(t *testing.T) {
	task := t.TempDir()
	if err := os.WriteFile(filepath.Join(task, "data.bin"), []byte("no video"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, _, err := runApp(t, "video-transcoding", task, fast(nil), 3)
	if err == nil || !strings.Contains(err.Error(), "the chunk is not a video ffmpeg can read (") {
		t.Errorf("got %v", err)
	}
}
