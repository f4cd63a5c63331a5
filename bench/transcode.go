package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spare-compute/spare/demo/clip"
	"github.com/spare-compute/spare/demo/grid"
)

const (
	transcodeTemplate = "video-transcoding@v0.2"
	transcodePreset   = "web-720p"
	transcodeRuns     = 3
)

// transcodeOverhead compares a job on as many one-core nodes as there are cores with one
// ffmpeg on all of them.
func transcodeOverhead(ctx context.Context, p place, rec *recorder) (err error) {
	source := filepath.Join(p.out, "source.mp4")
	if err := clip.Make(ctx, source); err != nil {
		return err
	}
	g, err := grid.New(p.bin, filepath.Join(p.out, "logs"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	if _, err := g.StartHub(ctx); err != nil {
		return g.Explain(err)
	}
	names := make([]string, runtime.NumCPU())
	for i := range names {
		names[i] = fmt.Sprint("core", i)
	}
	if err := g.AddNodes(ctx, names, "cores=1", "when=always"); err != nil {
		return g.Explain(err)
	}
	params, err := preset(ctx, g)
	if err != nil {
		return err
	}
	var whole, ours []time.Duration
	for i := range transcodeRuns {
		w, err := clip.EncodeWhole(ctx, p.apps, transcodeTemplate, source, filepath.Join(g.Work(), "whole"), params)
		if err != nil {
			return err
		}
		whole = append(whole, w.Wall)
		out := filepath.Join(g.Work(), fmt.Sprint("out", i))
		began := time.Now()
		if _, err := g.Spare(ctx, "run", source, "--template", transcodeTemplate, "--preset", transcodePreset, "-o", out); err != nil {
			return g.Explain(err)
		}
		ours = append(ours, time.Since(began))
		if err := os.RemoveAll(out); err != nil {
			return err
		}
	}
	ratio := median(ours).Seconds() / median(whole).Seconds()
	return rec.table("transcode", "Transcode overhead", []string{"wall s", "ratio"}, []row{
		{"whole file, one ffmpeg", []figure{fig(median(whole).Seconds(), "s", "%.1f"), fig(1, "", "%.2f")}},
		{"Spare", []figure{fig(median(ours).Seconds(), "s", "%.1f"), fig(ratio, "ratio", "%.2f")}},
	})
}

func preset(ctx context.Context, g *grid.Grid) (json.RawMessage, error) {
	presets, err := g.Client.Presets(ctx, transcodeTemplate)
	if err != nil {
		return nil, err
	}
	for _, p := range presets {
		if p.ID == transcodePreset {
			return p.Data, nil
		}
	}
	return nil, fmt.Errorf("template %s has no preset %s", transcodeTemplate, transcodePreset)
}
