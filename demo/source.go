package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spare-compute/spare/demo/clip"
)

// sourceClip is the video that the demo works on: the person's own, or a made one.
func sourceClip(ctx context.Context, s settings) (measured, error) {
	path := s.video
	if path == "" {
		path = filepath.Join(s.out, "source.mp4")
		began := time.Now()
		if err := clip.Make(ctx, path); err != nil {
			return measured{}, err
		}
		say("made a clip of one minute, 1280x720, with sound, in %s", seconds(time.Since(began)))
	} else if _, err := os.Stat(path); err != nil {
		return measured{}, fmt.Errorf("VIDEO=%s: %w", path, err)
	}
	m, err := measure(ctx, path)
	if err != nil {
		return measured{}, err
	}
	say("source %s: %d frames, %dx%d, %s, key frames at %s", path, m.Frames, m.Width, m.Height, m.Codec, keyText(m.keys))
	return m, nil
}

func keyText(keys []float64) string {
	var b strings.Builder
	for i, k := range keys {
		if i == 12 {
			fmt.Fprintf(&b, "… (%d)", len(keys))
			break
		}
		fmt.Fprintf(&b, "%.1f ", k)
	}
	return strings.TrimSpace(b.String()) + " s"
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
