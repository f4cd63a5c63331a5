package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/media/mediatest"
)

// streams counts a file's tracks of each kind.
func streams(t *testing.T, file string) map[string]int {
	t.Helper()
	out, err := exec.Command("ffprobe", "-v", "error", "-show_entries", "stream=codec_type", "-of", "csv=p=0", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for kind := range strings.FieldsSeq(string(out)) {
		found[strings.Trim(kind, ",")]++
	}
	return found
}

// The hard clips go the whole way: cut by the hub, encoded by nodes, joined and checked.
func TestVideo_HardClipsKeepEveryFrameAndTrack(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.addNodes("a", "b")
	for _, clip := range []mediatest.Clip{
		mediatest.Phone, mediatest.OpenGOP, mediatest.OneGOP, mediatest.TwoLanguages, mediatest.Silent,
	} {
		t.Run(clip.Name, func(t *testing.T) {
			source := clip.Write(t, t.TempDir())
			out := t.TempDir()
			stdout, stderr, code := g.try("spare", "run", source, "--template", "video-transcoding@v0.2", "--preset", "web-480p", "-o", out)
			if code != 0 {
				t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
			}
			made, err := filepath.Glob(filepath.Join(out, "*.mp4"))
			if err != nil || len(made) != 1 {
				entries, _ := os.ReadDir(out)
				t.Fatalf("results %v (%v), want one mp4", entries, err)
			}
			if in, got := mediatest.Frames(t, source), mediatest.Frames(t, made[0]); in != got {
				t.Errorf("%d frames in and %d out", in, got)
			}
			times := mediatest.Times(t, made[0])
			for i := 1; i < len(times); i++ {
				if times[i] <= times[i-1] {
					t.Fatalf("frame %d is shown at %d, after one at %d", i, times[i], times[i-1])
				}
			}
			before, after := streams(t, source), streams(t, made[0])
			for _, kind := range []string{"video", "audio", "subtitle"} {
				if before[kind] != after[kind] {
					t.Errorf("%d %s tracks in and %d out", before[kind], kind, after[kind])
				}
			}
		})
	}
}

func TestVideo_CutOffInTheMiddleIsRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.addNodes("a")
	whole, err := os.ReadFile(mediatest.Plain("4").Write(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	g.refused([]string{"cut.mp4"}, "spare", "run", g.file("cut.mp4", string(whole[:len(whole)*2/3])),
		"--template", "video-transcoding@v0.2", "--preset", "web-480p", "-o", out)
	if left, err := os.ReadDir(out); err != nil || len(left) > 0 {
		t.Errorf("a refused video left %v (%v)", left, err)
	}
}

func TestVideo_NodeWithoutFFmpegTheJobSaysWhichEncoderItWaitsFor(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.join("bare")
	// The machine's ffmpeg is hidden from this node alone, in a mount namespace of its own.
	hide := `mount --bind /dev/null "$(command -v ffmpeg)" && exec spare-node run --data "$1"`
	flags := "-m"
	if os.Geteuid() != 0 {
		flags = "-rm"
	}
	g.nodes["bare"] = g.start("unshare", flags, "sh", "-c", hide, "sh", g.path("bare"))
	g.until(30*time.Second, "the node is connected", func() bool {
		nodes, err := g.client().Nodes(t.Context())
		return err == nil && len(nodes) == 1 && nodes[0].State != spare.NodeOffline
	})
	id := g.submit("video-transcoding@v0.2", mediatest.Plain("4").Write(t, t.TempDir()), "--preset", "archive-x265")
	g.until(30*time.Second, "the job says what it waits for", func() bool {
		p, err := g.client().Progress(t.Context(), id)
		return err == nil && len(p.Waiting) > 0 && p.Waiting[0].Code == spare.ReasonNeedsTool
	})
	if out := g.must("spare", "job", "why", id); !strings.Contains(out, "no connected node offers ffmpeg with libx265") {
		t.Errorf("spare job why printed:\n%s", out)
	}
}
