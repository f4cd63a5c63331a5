package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spare-compute/spare/demo/grid"
)

const startRuns = 11

// hubStart measures the time from starting the hub's process until it answers that it is ready.
func hubStart(ctx context.Context, p place, rec *recorder) error {
	var first, again []time.Duration
	for range startRuns {
		a, b, err := startTwice(ctx, p)
		if err != nil {
			return err
		}
		first, again = append(first, a), append(again, b)
	}
	return rec.table("start", "Hub start", []string{"ms", "slowest ms"}, []row{
		{"first", []figure{fig(ms(median(first)), "ms", "%.0f"), fig(ms(quantile(first, 1)), "ms slowest", "%.0f")}},
		{"again", []figure{fig(ms(median(again)), "ms", "%.0f"), fig(ms(quantile(again, 1)), "ms slowest", "%.0f")}},
	})
}

func startTwice(ctx context.Context, p place) (first, again time.Duration, err error) {
	g, err := grid.New(p.bin, filepath.Join(p.out, "logs"))
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	if first, err = g.StartHub(ctx); err != nil {
		return 0, 0, g.Explain(err)
	}
	if err := g.Stop(); err != nil {
		return 0, 0, err
	}
	again, err = g.StartHub(ctx)
	return first, again, g.Explain(err)
}

// sandboxStart compares starting Python bare, in Spare's sandbox and in bubblewrap. A
// program of its own measures: the sandbox's first process is the program that asks for
// it, executed again, and this one carries the peers' weight.
func sandboxStart(ctx context.Context, p place, rec *recorder) error {
	text, err := grid.Output(ctx, nil, filepath.Join(p.bin, "spare-bench-sandbox"))
	if err != nil {
		return err
	}
	var took map[string]time.Duration
	if err := json.Unmarshal([]byte(text), &took); err != nil {
		return fmt.Errorf("read %q: %w", text, err)
	}
	line := func(name string) row {
		bare := took["bare"]
		if strings.HasSuffix(name, ", image") {
			bare = took["bare, image"] // another interpreter
		}
		return row{name, []figure{fig(ms(took[name]), "ms", "%.1f"), fig(ms(took[name]-bare), "ms over bare", "%.1f")}}
	}
	return rec.table("sandbox", "Sandbox start", []string{"ms", "over bare"}, []row{
		line("bare"), line("Spare"), line("Spare with limits"), line("bubblewrap, alike"), line("bubblewrap"), line("bubblewrap, fewer"),
		line("bare, image"), line("Spare, image"), line("podman, image"), line("Spare, wasm"),
	})
}
