package device

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	os.Exit(m.Run())
}

func named(tools []spare.Tool, name string) (spare.Tool, bool) {
	i := slices.IndexFunc(tools, func(t spare.Tool) bool { return t.Name == name })
	if i < 0 {
		return spare.Tool{}, false
	}
	return tools[i], true
}

// crowded is a runtime on a machine that has no time to spare.
type crowded struct {
	sandbox.Runtime
	waits int
}

func (c *crowded) Run(ctx context.Context, s sandbox.Spec) (sandbox.Result, error) {
	if s.Limits.Nice {
		c.waits++
		return sandbox.Result{Cause: sandbox.KilledTime}, nil
	}
	return c.Runtime.Run(ctx, s)
}

// A node that waited for spare time with every tool would be long in coming.
func TestTools_OnABusyMachineWaitForItOnce(t *testing.T) {
	all, found := Runtimes(t.Context())
	if len(all) == 0 {
		t.Fatalf("no runtime works here: %+v", found)
	}
	rt := &crowded{Runtime: all[0]}
	tools, err := Tools(t.Context(), rt, "1", filepath.Join(t.TempDir(), "probes.json"))
	if _, ok := named(tools, "ffprobe"); err != nil || !ok || rt.waits != 1 {
		t.Errorf("found %+v after %d waits: %v", tools, rt.waits, err)
	}
}

func TestTools_AreProvedInsideTheSandboxAndKept(t *testing.T) {
	all, found := Runtimes(t.Context())
	if len(all) == 0 || !found[0].OK {
		t.Fatalf("no runtime works here: %+v", found)
	}
	path := filepath.Join(t.TempDir(), "probes.json")
	tools, err := Tools(t.Context(), all[0], "1", path)
	if err != nil {
		t.Fatal(err)
	}
	ffmpeg, ok := named(tools, "ffmpeg")
	if !ok || ffmpeg.Version == "" || !slices.Contains(ffmpeg.Features, "libx264") || !slices.Contains(ffmpeg.Features, "aac") {
		t.Errorf("ffmpeg = %+v; it is installed with libx264 and aac", ffmpeg)
	}
	for _, name := range []string{"ffprobe", "python3"} {
		if tool, ok := named(tools, name); !ok || tool.Version == "" {
			t.Errorf("%s = %+v; it is installed", name, tool)
		}
	}
	began := time.Now()
	again, err := Tools(t.Context(), all[0], "1", path)
	if err != nil || !reflect.DeepEqual(again, tools) {
		t.Errorf("kept: %+v, %v; want %+v", again, err, tools)
	}
	if took := time.Since(began); took > 100*time.Millisecond {
		t.Errorf("what is kept took %v to read", took)
	}
	if got := KnownTools(all[0], "2", path); got != nil {
		t.Errorf("what another runtime proved was taken: %+v", got)
	}
}

func TestProbeTools_OnlyEncodersThatEncodeCount(t *testing.T) {
	run := func(argv ...string) ([]byte, error) {
		line := strings.Join(argv, " ")
		switch {
		case strings.HasSuffix(line, " -version"):
			return []byte(argv[0] + " version 5.1.6-0+deb12u1 Copyright"), nil
		case strings.Contains(line, "-c:v libx264 "), strings.Contains(line, "-c:a libopus "):
			return nil, nil
		}
		return nil, errors.New("Unknown encoder")
	}
	want := []spare.Tool{
		{Name: "ffprobe", Version: "5.1.6-0+deb12u1"},
		{Name: "ffmpeg", Version: "5.1.6-0+deb12u1", Features: []string{"libopus", "libx264"}},
	}
	if got := probeTools(context.Background(), run); !reflect.DeepEqual(got, want) {
		t.Errorf("tools = %+v, want %+v", got, want)
	}
}

func TestProbeTools_WithoutFFmpegThereAreNoEncoders(t *testing.T) {
	got := probeTools(context.Background(), func(...string) ([]byte, error) { return nil, errors.New("not found") })
	if len(got) != 0 {
		t.Errorf("tools = %+v", got)
	}
}
