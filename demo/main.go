// Command spare-demo shows the whole idea of Spare at work on one machine, with real
// parts: a hub and three nodes on loopback, a video cut into chunks, each chunk encoded
// in a sandbox, one node killed on the way, the results joined and proved against the
// source and against the same encode done whole. `make demo` builds and runs it.
//
// It owns the processes it starts and its folders, and leaves neither behind, however it
// ends. It never judges by what the programs print: it measures the files.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spare-compute/spare/demo/clip"
	"github.com/spare-compute/spare/demo/grid"
)

// settings are what the command line said.
type settings struct {
	bin, apps, out string
	video          string // "" = make a clip
	template       string
	preset         string
	count          int
}

func main() {
	var s settings
	flag.StringVar(&s.bin, "bin", "bin", "folder with spare, spare-hub and spare-node")
	flag.StringVar(&s.apps, "apps", "apps", "folder with the official Apps, for the encode done whole")
	flag.StringVar(&s.out, "out", "demo-out", "folder for the result")
	flag.StringVar(&s.video, "video", "", "a video of your own instead of the made one")
	flag.StringVar(&s.template, "template", "video-transcoding@v0.2", "template of the job")
	flag.StringVar(&s.preset, "preset", "web-720p", "preset of the job")
	flag.IntVar(&s.count, "nodes", 3, "how many nodes to start; at least 2, one is killed")
	flag.Parse()
	if flag.NArg() > 0 || s.count < 2 {
		fmt.Fprintln(os.Stderr, "spare-demo: takes flags only, and at least two nodes; see spare-demo --help")
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, s)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted:
		fmt.Fprintln(os.Stderr, "spare-demo: interrupted; everything it started has ended")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "spare-demo:", err)
		os.Exit(1)
	}
}

// run goes the whole way. Whatever happens, what it started is ended when it returns.
func run(ctx context.Context, s settings) (err error) {
	began := time.Now()
	if err := clean(s.out); err != nil {
		return err
	}
	source, err := sourceClip(ctx, s)
	if err != nil {
		return err
	}
	job, err := throughSpare(ctx, s, source.path)
	if err != nil {
		return err
	}
	say("the same encode done whole, for comparison")
	whole, err := clip.EncodeWhole(ctx, s.apps, s.template, source.path, filepath.Join(s.out, "whole"), job.params)
	if err != nil {
		return err
	}
	r, err := compare(ctx, source, job, whole)
	if err != nil {
		return err
	}
	r.Total = time.Since(began)
	r.print(os.Stdout)
	if err := r.save(filepath.Join(s.out, "report.json")); err != nil {
		return err
	}
	return r.verdict(os.Stdout)
}

// throughSpare brings up a grid, runs the job on it, and takes it down.
func throughSpare(ctx context.Context, s settings, source string) (j ranJob, err error) {
	g, err := grid.New(s.bin, filepath.Join(s.out, "logs"))
	if err != nil {
		return j, err
	}
	defer func() {
		if closeErr := g.Close(); err == nil {
			err = closeErr
		}
	}()
	ready, err := g.StartHub(ctx)
	if err != nil {
		return j, g.Explain(err)
	}
	say("hub ready after %.0f ms at http://%s", float64(ready.Microseconds())/1000, g.HTTP)
	began := time.Now()
	if err := g.AddNodes(ctx, nodeNames(s.count), "cores=1", "when=always"); err != nil {
		return j, g.Explain(err)
	}
	say("%d nodes joined by ticket and are connected over QUIC, after %s", s.count, seconds(time.Since(began)))
	if j, err = runJob(ctx, s, g, source); err != nil {
		return j, g.Explain(err)
	}
	j.params, err = presetParams(ctx, g, s)
	return j, g.Explain(err)
}

func nodeNames(n int) []string {
	names := []string{"attic", "kitchen", "office", "cellar", "garage", "lobby", "studio", "library"}
	for i := len(names); i < n; i++ {
		names = append(names, fmt.Sprint("node", i+1))
	}
	return names[:n]
}

// clean takes away what an earlier demo left in its folder, and nothing else.
func clean(out string) error {
	for _, name := range []string{"result", "logs", "source.mp4", "whole", "report.json"} {
		if err := os.RemoveAll(filepath.Join(out, name)); err != nil {
			return fmt.Errorf("clear %s: %w", out, err)
		}
	}
	if err := os.MkdirAll(filepath.Join(out, "logs"), 0o755); err != nil {
		return fmt.Errorf("make the folder for the result: %w", err)
	}
	return nil
}

// say tells the person at the terminal what happens now.
func say(format string, args ...any) { fmt.Printf("· "+format+"\n", args...) }
