package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/demo/clip"
)

// The bounds. Two encodes of the same pictures never are byte for byte the same, because a
// chunk's first frames cannot lean on the ones before; this is how little that may cost.
const (
	ssimLoss    = 0.003            // of 1
	bitrateDiff = 5.0              // per cent
	soundHole   = 0.002            // seconds: more than a container's rounding, less than an AAC frame
	silence     = 10 * time.Second // after which a silent node's work is queued again
)

// A report is everything the demo found.
type report struct {
	Source, Job, Whole measured
	SSIM, WholeSSIM    float64
	Wall, WholeWall    time.Duration
	Total              time.Duration
	Chunks             int
	Attempts           []spare.Attempt
	Killed             string
	KilledAt           time.Time
	Began              time.Time
	Lost               []spare.AttemptID

	names map[spare.NodeID]string
}

// compare measures the two results beside the source.
func compare(ctx context.Context, source measured, j ranJob, w clip.Whole) (r *report, err error) {
	r = &report{
		Source: source, Wall: j.wall, WholeWall: w.Wall, Chunks: j.chunks, Attempts: j.attempts,
		Killed: j.victim, KilledAt: j.killedAt, Began: j.began, Lost: j.held, names: j.names,
	}
	say("decoding both results and comparing them with the source")
	type one struct {
		path string
		into *measured
		ssim *float64
	}
	errs := make(chan error, 2)
	for _, o := range []one{{j.result, &r.Job, &r.SSIM}, {w.Path, &r.Whole, &r.WholeSSIM}} {
		go func() {
			var err error
			if *o.into, err = measure(ctx, o.path); err == nil {
				*o.ssim, err = ssim(ctx, *o.into, source)
			}
			errs <- err
		}()
	}
	return r, errors.Join(<-errs, <-errs)
}

func (r *report) name(id spare.NodeID) string {
	if n, ok := r.names[id]; ok {
		return n
	}
	return id.Short()
}

func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "\nWho did what: %d chunks in %d attempts\n", r.Chunks, len(r.Attempts))
	r.printNodes(w)
	fmt.Fprintf(w, "\nWhat was rescheduled\n")
	r.printRescheduled(w)
	fmt.Fprintf(w, "\nThe result, and the same encode done whole\n")
	r.printMeasures(w)
}

func (r *report) printNodes(w io.Writer) {
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	fmt.Fprintf(t, "  node\tattempts\tchunks accepted\tCPU\tremark\n")
	byName := map[string][]spare.Attempt{}
	for _, name := range r.names {
		byName[name] = nil
	}
	for _, a := range r.Attempts {
		byName[r.name(a.Node)] = append(byName[r.name(a.Node)], a)
	}
	names := make([]string, 0, len(byName))
	for n := range byName {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		var did []string
		var cpu time.Duration
		for _, a := range byName[n] {
			cpu += a.Usage.CPU
			if a.Outcome == spare.Succeeded {
				did = append(did, fmt.Sprint(a.Chunk))
			}
		}
		remark := ""
		if n == r.Killed {
			remark = "killed " + seconds(r.KilledAt.Sub(r.Began)) + " into the job"
		}
		fmt.Fprintf(t, "  %s\t%d\t%s\t%s\t%s\n", n, len(byName[n]), orDash(strings.Join(did, " ")), seconds(cpu), remark)
	}
	_ = t.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// rescheduled are the attempts that another one had to follow.
func (r *report) rescheduled() []spare.Attempt {
	var list []spare.Attempt
	for _, a := range r.Attempts {
		if a.Outcome != spare.Succeeded && r.winner(a) != nil {
			list = append(list, a)
		}
	}
	return list
}

// winner is the accepted attempt of the same chunk.
func (r *report) winner(of spare.Attempt) *spare.Attempt {
	for i, a := range r.Attempts {
		if a.Task == of.Task && a.Outcome == spare.Succeeded {
			return &r.Attempts[i]
		}
	}
	return nil
}

func (r *report) printRescheduled(w io.Writer) {
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	fmt.Fprintf(t, "  chunk\tfrom\tto\tout of work\toutcome\twhy\n")
	for _, a := range r.rescheduled() {
		win := r.winner(a)
		stopped := a.Granted
		switch {
		case r.name(a.Node) == r.Killed:
			stopped = r.KilledAt
		case a.Ended != nil:
			stopped = *a.Ended
		}
		idle := seconds(win.Granted.Sub(stopped))
		fmt.Fprintf(t, "  %d\t%s\t%s\t%s\t%s\t%s\n", a.Chunk, r.name(a.Node), r.name(win.Node), idle, a.Outcome, orDash(a.Message))
	}
	_ = t.Flush()
}

func (r *report) printMeasures(w io.Writer) {
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	row := func(name string, f func(m measured) string) {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", name, f(r.Source), f(r.Job), f(r.Whole))
	}
	fmt.Fprintf(t, "  \tsource\tSpare\twhole\n")
	row("size", func(m measured) string { return fmt.Sprintf("%dx%d", m.Width, m.Height) })
	row("frames", func(m measured) string { return fmt.Sprint(m.Frames) })
	row("timestamps", func(m measured) string {
		if m.Monotone {
			return "monotone"
		}
		return "NOT monotone"
	})
	row("video", func(m measured) string { return fmt.Sprintf("%.3f s", m.Video) })
	row("audio", func(m measured) string {
		if m.Audio == 0 {
			return "none"
		}
		return fmt.Sprintf("%.3f s", m.Audio)
	})
	row("|A-V|", func(m measured) string {
		if m.Audio == 0 {
			return "–"
		}
		return fmt.Sprintf("%.1f ms", m.AV()*1000)
	})
	row("bitrate", func(m measured) string { return fmt.Sprintf("%.0f kbit/s", m.Bitrate/1000) })
	fmt.Fprintf(t, "  SSIM to source\t–\t%.5f\t%.5f\n", r.SSIM, r.WholeSSIM)
	fmt.Fprintf(t, "  wall time\t–\t%s\t%s\n", seconds(r.Wall), seconds(r.WholeWall))
	_ = t.Flush()
	fmt.Fprintf(w, "  (on %d cores; Spare's time holds upload, cutting, a lost node, joining and download)\n", runtime.NumCPU())
}

// A bound is one thing that must hold.
type bound struct {
	holds bool
	text  string
}

func (r *report) bounds() []bound {
	bitrate := 100 * (r.Job.Bitrate - r.Whole.Bitrate) / r.Whole.Bitrate
	longer, frame := r.Job.Video-r.Source.Video, max(r.Job.FrameDur, r.Source.FrameDur)
	moved, noticed := 0, time.Duration(0)
	for _, a := range r.rescheduled() {
		if r.name(a.Node) == r.Killed && a.Ended != nil {
			moved++
			noticed = max(noticed, a.Ended.Sub(r.KilledAt))
		}
	}
	list := []bound{
		{r.Job.Frames == r.Source.Frames, fmt.Sprintf("frames out = frames in: %d = %d", r.Job.Frames, r.Source.Frames)},
		{math.Abs(longer) <= frame, fmt.Sprintf("duration differs by %+.1f ms, at most one frame, %.1f ms", longer*1000, frame*1000)},
		{r.Job.Monotone, "every timestamp is later than the one before"},
		{r.SSIM >= r.WholeSSIM-ssimLoss, fmt.Sprintf("SSIM %.5f ≥ %.5f - %.3f", r.SSIM, r.WholeSSIM, ssimLoss)},
		{math.Abs(bitrate) <= bitrateDiff, fmt.Sprintf("bitrate differs by %+.2f %%, at most %.0f %%", bitrate, bitrateDiff)},
		{moved > 0, fmt.Sprintf("work of the killed node was rescheduled: %d of its attempts", moved)},
		{moved > 0 && noticed <= silence, fmt.Sprintf("it was free for others %s after the kill, at most %s", seconds(noticed), seconds(silence))},
		{r.accepted() == r.Chunks, fmt.Sprintf("each of %d chunks was accepted once", r.Chunks)},
	}
	if r.Source.Audio > 0 {
		list = append(
			list,
			bound{r.Job.Audio > 0 && r.Job.AV() <= r.Job.FrameDur, fmt.Sprintf("|A-V| = %.1f ms, at most one frame, %.1f ms", r.Job.AV()*1000, r.Job.FrameDur*1000)},
			bound{r.Job.AudioGap <= soundHole, fmt.Sprintf("sound is continuous: largest hole %.2f ms", r.Job.AudioGap*1000)},
		)
	}
	return list
}

// accepted counts the chunks with exactly one accepted attempt.
func (r *report) accepted() int {
	times := map[spare.TaskID]int{}
	for _, a := range r.Attempts {
		if a.Outcome == spare.Succeeded {
			times[a.Task]++
		}
	}
	once := 0
	for _, n := range times {
		if n == 1 {
			once++
		}
	}
	return once
}

// verdict prints what holds and what does not, which is an error.
func (r *report) verdict(w io.Writer) error {
	fmt.Fprintf(w, "\n")
	broken := 0
	for _, b := range r.bounds() {
		mark := "ok"
		if !b.holds {
			mark = "BROKEN"
			broken++
		}
		fmt.Fprintf(w, "  %-6s %s\n", mark, b.text)
	}
	fmt.Fprintf(w, "\nThe result is %s (%s all in all).\n", r.Job.path, seconds(r.Total))
	if broken > 0 {
		return fmt.Errorf("%d of these do not hold", broken)
	}
	return nil
}

// save writes the report for programs.
func (r *report) save(path string) error {
	type row struct {
		Holds bool   `json:"holds"`
		Text  string `json:"text"`
	}
	checks := []row{}
	for _, b := range r.bounds() {
		checks = append(checks, row{b.holds, b.text})
	}
	text, err := json.MarshalIndent(map[string]any{
		"source": r.Source, "spare": r.Job, "whole": r.Whole, "ssim": r.SSIM, "whole_ssim": r.WholeSSIM,
		"wall_s": r.Wall.Seconds(), "whole_wall_s": r.WholeWall.Seconds(), "total_s": r.Total.Seconds(),
		"chunks": r.Chunks, "attempts": r.Attempts, "killed": r.Killed, "killed_at_s": r.KilledAt.Sub(r.Began).Seconds(), "result": filepath.Base(r.Job.path),
		"bounds": checks,
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
