// Package clip makes the video that the demo and the benchmarks work on, and encodes a
// video without Spare, to compare with. It runs ffmpeg and an official App and keeps
// nothing but the files it is asked for.
package clip

import (
	"context"
	"fmt"
	"strings"

	"github.com/spare-compute/spare/demo/grid"
)

const rate = 30 // frames a second

// A scene is a stretch of the made clip: one of ffmpeg's own pictures and its sound.
type scene struct {
	seconds float64
	picture string // a lavfi source; %s is size and rate
	sound   string
}

// scenes make one minute whose cuts fall where no fixed length of chunk would put them, with
// still, slow, fast and noisy stretches, so that the distance between key frames varies much.
var scenes = []scene{
	{4.1, "testsrc2=%s", "sine=f=330:r=48000"},
	{9.7, "mandelbrot=s=320x180:r=30:start_scale=2.5:end_scale=0.02:end_pts=300,scale=1280:720:flags=bilinear", "sine=f=220:b=4:r=48000"},
	{2.3, "smptehdbars=%s", "anoisesrc=c=pink:r=48000:a=0.2:seed=3"},
	{7.9, "gradients=s=640x360:r=30:seed=7:speed=0.02:n=6,scale=1280:720:flags=bilinear", "sine=f=440:b=2:r=48000"},
	{1.2, "rgbtestsrc=%s", "sine=f=880:r=48000"},
	{11.3, "life=s=320x180:r=30:mold=12:ratio=0.12:seed=5:death_color=#204060:life_color=#f0e0b0,scale=1280:720:flags=neighbor", "sine=f=262:b=3:r=48000"},
	{5.6, "testsrc2=%s,scroll=h=0.004:v=0.002,negate", "anoisesrc=c=brown:r=48000:a=0.4:seed=9"},
	{8.4, "gradients=s=320x180:r=30:seed=21:speed=0.05:type=radial,scale=1280:720:flags=bilinear,drawgrid=w=160:h=160:t=4:c=white@0.5", "sine=f=523:b=5:r=48000"},
	{3.0, "color=c=black:%s,drawgrid=w=64:h=64:t=2:c=white@0.6", "anullsrc=r=48000:cl=mono"},
	{6.5, "mandelbrot=s=320x180:r=30:start_x=-0.745:start_y=0.11:start_scale=0.5:end_scale=0.05:end_pts=400,scale=1280:720:flags=bilinear", "sine=f=659:b=2:r=48000"},
}

// Make renders the scenes in one run of ffmpeg: B-frames that refer to each other, key
// frames at the cuts and up to ten seconds apart.
func Make(ctx context.Context, path string) error {
	var args []string
	var graph, order strings.Builder
	for i, sc := range scenes {
		picture := sc.picture
		if strings.Contains(picture, "%s") {
			picture = fmt.Sprintf(picture, fmt.Sprintf("s=1280x720:r=%d", rate))
		}
		frames := int(sc.seconds*rate + 0.5)
		args = append(args, "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sc.sound)
		fmt.Fprintf(&graph, "[%d:v]trim=end_frame=%d,setpts=N/%d/TB,format=yuv420p,setsar=1[v%d];", 2*i, frames, rate, i)
		fmt.Fprintf(&graph, "[%d:a]atrim=end_sample=%d,asetpts=N/SR/TB,aformat=sample_fmts=fltp:sample_rates=48000:channel_layouts=stereo[a%d];",
			2*i+1, frames*48000/rate, i)
		fmt.Fprintf(&order, "[v%d][a%d]", i, i)
	}
	fmt.Fprintf(&graph, "%sconcat=n=%d:v=1:a=1[v][a]", order.String(), len(scenes))
	args = append([]string{"-hide_banner", "-nostdin", "-v", "error", "-y"}, args...)
	args = append(
		args, "-filter_complex", graph.String(), "-map", "[v]", "-map", "[a]",
		"-c:v", "libx264", "-preset", "superfast", "-crf", "22", "-bf", "3", "-b_strategy", "1", "-refs", "3",
		"-g", fmt.Sprint(10*rate), "-keyint_min", "10", "-sc_threshold", "40", "-x264-params", "b-pyramid=normal",
		"-r", fmt.Sprint(rate), "-c:a", "aac", "-b:a", "128k", "-movflags", "+faststart", path,
	)
	if _, err := grid.Output(ctx, nil, "ffmpeg", args...); err != nil {
		return fmt.Errorf("make the clip: %w", err)
	}
	return nil
}
