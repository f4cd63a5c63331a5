package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spare-compute/spare/demo/grid"
)

const (
	idleTime  = 5 * time.Minute // BENCH_IDLE=30s makes it short
	idleAfter = 20 * time.Second
	clockTick = 100 // a second, of the times in /proc/PID/stat on every Linux Go runs on
)

// idleCost measures a node that is joined and has nothing to do, and its hub.
func idleCost(ctx context.Context, p place, rec *recorder) (err error) {
	length := idleTime
	if text := os.Getenv("BENCH_IDLE"); text != "" {
		if length, err = time.ParseDuration(text); err != nil || length <= 0 {
			return fmt.Errorf("BENCH_IDLE=%s: want a time such as 30s", text)
		}
	}
	g, err := grid.New(p.bin, filepath.Join(p.out, "logs"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	if _, err := g.StartHub(ctx); err != nil {
		return g.Explain(err)
	}
	if err := g.AddNodes(ctx, []string{"idle"}, "when=always"); err != nil {
		return g.Explain(err)
	}
	if err := wait(ctx, idleAfter); err != nil { // what starting costs is not idling
		return err
	}
	type watched struct {
		name   string
		pid    int
		before usage
	}
	list := []watched{{name: "spare-node", pid: g.Nodes[0].Proc.PID()}, {name: "spare-hub", pid: g.Hub.PID()}}
	for i := range list {
		if list[i].before, err = readUsage(list[i].pid); err != nil {
			return g.Explain(err)
		}
	}
	began := time.Now()
	if err := wait(ctx, length); err != nil {
		return err
	}
	var rows []row
	for _, w := range list {
		after, err := readUsage(w.pid)
		if err != nil {
			return g.Explain(err)
		}
		took := time.Since(began).Seconds()
		rows = append(rows, row{w.name, []figure{
			fig(after.resident/(1<<20), "MiB", "%.1f"),
			fig(100*(after.cpu-w.before.cpu)/took, "% of a core", "%.3f"),
			fig((after.switches-w.before.switches)/took, "switches/s", "%.1f"),
		}})
	}
	err = rec.table("idle", "Idle cost", []string{"resident MiB", "% of a core", "switches/s"}, rows)
	rec.note("over %s", length)
	return err
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// usage is what a process and its threads have used so far.
type usage struct {
	resident float64 // bytes, now
	cpu      float64 // seconds
	switches float64 // voluntary context switches
}

func readUsage(pid int) (u usage, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return u, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	for _, f := range fields[11:13] {
		ticks, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return u, err
		}
		u.cpu += ticks / clockTick
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return u, err
	}
	for _, t := range threads {
		n, err := statusNumber(t, "voluntary_ctxt_switches:")
		if err != nil {
			return u, err
		}
		u.switches += n
	}
	kib, err := statusNumber(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
	u.resident = kib * 1024
	return u, err
}

func statusNumber(file, name string) (float64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strconv.ParseFloat(strings.Fields(rest)[0], 64)
		}
	}
	return 0, fmt.Errorf("%s has no line %s", file, name)
}
