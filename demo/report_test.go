package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
)

// goodReport is one of which everything holds, barely.
func goodReport() *report {
	began := time.Now()
	killed, lost := began.Add(time.Second), began.Add(11*time.Second)
	return &report{
		Source: measured{Frames: 1800, FrameDur: 1.0 / 30, Video: 60, Audio: 60},
		Job:    measured{Frames: 1800, FrameDur: 1.0 / 30, Video: 60.033, Audio: 60.001, AudioGap: 0.002, Monotone: true, Bitrate: 1_049_000},
		Whole:  measured{Bitrate: 1_000_000},
		SSIM:   0.9871, WholeSSIM: 0.99,
		Chunks: 2, Began: began, Killed: "attic", KilledAt: killed,
		Attempts: []spare.Attempt{
			{Task: "j.0", Node: "a", Outcome: spare.Lost, Ended: &lost},
			{Task: "j.0", Node: "b", Outcome: spare.Succeeded},
			{Task: "j.1", Chunk: 1, Node: "b", Outcome: spare.Succeeded},
		},
		names: map[spare.NodeID]string{"a": "attic", "b": "kitchen"},
	}
}

func TestBounds_EachIsBrokenByWhatItForbids(t *testing.T) {
	if err := goodReport().verdict(io.Discard); err != nil {
		for _, b := range goodReport().bounds() {
			t.Log(b)
		}
		t.Fatalf("of a good report: %v", err)
	}
	late := time.Now().Add(time.Hour)
	for _, c := range []struct {
		name, broken string
		spoil        func(*report)
	}{
		{"a frame is missing", "frames out", func(r *report) { r.Job.Frames-- }},
		{"it is a frame and a half longer", "duration differs", func(r *report) { r.Job.Video, r.Job.Audio = 60.05, 60.05 }},
		{"it is shorter by a second, and so is its sound", "duration differs", func(r *report) { r.Job.Video, r.Job.Audio = 59, 59 }},
		{"a timestamp goes back", "every timestamp", func(r *report) { r.Job.Monotone = false }},
		{"it looks worse than the whole encode", "SSIM", func(r *report) { r.SSIM = 0.9869 }},
		{"it is larger", "bitrate", func(r *report) { r.Job.Bitrate = 1_051_000 }},
		{"it is smaller", "bitrate", func(r *report) { r.Job.Bitrate = 949_000 }},
		{"no work of the killed node moved", "was rescheduled", func(r *report) { r.Attempts = r.Attempts[1:] }},
		{"the killed node's work lay for an hour", "free for others", func(r *report) { r.Attempts[0].Ended = &late }},
		{"a chunk was accepted twice", "accepted once", func(r *report) { r.Attempts = append(r.Attempts, r.Attempts[2]) }},
		{"a chunk was never accepted", "accepted once", func(r *report) { r.Attempts = r.Attempts[:2] }},
		{"the sound runs away", "|A-V|", func(r *report) { r.Job.Audio = 60.1 }},
		{"the sound is gone", "|A-V|", func(r *report) { r.Job.Audio = 0 }},
		{"the sound has a hole", "sound is continuous", func(r *report) { r.Job.AudioGap = 0.01 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := goodReport()
			c.spoil(r)
			found := false
			for _, b := range r.bounds() {
				if !b.holds && strings.Contains(b.text, c.broken) {
					found = true
				}
			}
			if !found {
				t.Errorf("no broken bound says %q", c.broken)
			}
			if r.verdict(io.Discard) == nil {
				t.Error("the demo would end well")
			}
		})
	}
}
