// Command spare-bench measures Spare beside others on the same machine in the same run:
// how fast it hands out work, what cutting a video costs, what an idle node and the
// start of hub and sandbox cost, and which SQLite driver is the faster. It prints the
// tables of docs/benchmarks.md and writes results.jsonl. `make bench` builds and runs it.
//
// It is a module of its own, so that no peer becomes a dependency of Spare.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// place is where a benchmark finds things and leaves things.
type place struct {
	bin  string // Spare's programs
	apps string // the official Apps
	out  string // results and logs
}

// A benchmark measures one thing and records it.
type benchmark struct {
	name string
	run  func(ctx context.Context, p place, rec *recorder) error
}

var benchmarks = []benchmark{
	{"sqlite", sqliteDrivers},
	{"start", hubStart},
	{"sandbox", sandboxStart},
	{"dispatch", dispatchRate},
	{"transcode", transcodeOverhead},
	{"idle", idleCost},
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == natsServerWord {
		serveNATS(os.Args[2], os.Args[3])
		return
	}
	var p place
	var only string
	names := make([]string, len(benchmarks))
	for i, b := range benchmarks {
		names[i] = b.name
	}
	flag.StringVar(&p.bin, "bin", "bin", "folder with Spare's programs")
	flag.StringVar(&p.apps, "apps", "apps", "folder with the official Apps")
	flag.StringVar(&p.out, "out", "bench-out", "folder for results.jsonl and logs")
	flag.StringVar(&only, "only", "", "some of them, with commas: "+strings.Join(names, ","))
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, p, only, names); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "spare-bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, p place, only string, names []string) error {
	chosen := names
	if only != "" {
		chosen = strings.Split(only, ",")
		for _, c := range chosen {
			if !slices.Contains(names, c) {
				return fmt.Errorf("there is no benchmark %q; choose of %s", c, strings.Join(names, ", "))
			}
		}
	}
	rec, err := newRecorder(filepath.Join(p.out, "results.jsonl"), os.Stdout)
	if err != nil {
		return err
	}
	var failed []error
	for _, b := range benchmarks {
		if !slices.Contains(chosen, b.name) {
			continue
		}
		if err := b.run(ctx, p, rec); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", b.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(append(failed, rec.close())...)
}
