package device

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
)

// Runtimes probes this system's sandbox runtimes by running something in each. The
// second list goes with the first; where the system has no runtime it still says why.
func Runtimes(ctx context.Context) ([]sandbox.Runtime, []spare.Capability) {
	all := sandbox.Default()
	if len(all) == 0 {
		return nil, []spare.Capability{sandbox.Unavailable()}
	}
	found := make([]spare.Capability, len(all))
	for i, rt := range all {
		found[i] = rt.Probe(ctx)
	}
	return all, found
}

// searched are the folders of PATH inside the sandbox.
var searched = []string{"/usr/local/bin", "/usr/bin", "/bin"}

// encoders are those of ffmpeg that Apps ask for by name.
var encoders = []struct {
	name  string
	audio bool
	args  []string // that make the smallest encode quick
}{
	{name: "libx264"},
	{name: "libx265"},
	{name: "libvpx"},
	{name: "libvpx-vp9"},
	{name: "libsvtav1"},
	{name: "libaom-av1", args: []string{"-cpu-used", "8"}},
	{name: "aac", audio: true},
	{name: "libopus", audio: true},
	{name: "libmp3lame", audio: true},
	{name: "libvorbis", audio: true},
}

const (
	meekProbe = 3 * time.Second  // one program, on time that nobody else wants
	firmProbe = 20 * time.Second // the same again, on a machine too busy for that
	allProbes = 5 * time.Minute
)

// Tools finds the programs that work inside the runtime by using them there. What it
// finds is kept in the file at path, and found there again while neither the programs
// nor Spare have changed. An error means that the machine was too busy to find all.
func Tools(ctx context.Context, rt sandbox.Runtime, version, path string) ([]spare.Tool, error) {
	key := toolsKey(rt.Name() + " " + version)
	if tools, ok := readKept(path, key); ok {
		return tools, nil
	}
	ctx, cancel := context.WithTimeout(ctx, allProbes)
	defer cancel()
	var slow error
	busy := false
	tools := probeTools(ctx, func(argv ...string) ([]byte, error) {
		out, err := inside(ctx, rt, &busy, argv...)
		if errors.Is(err, errSlow) {
			slow = err
		}
		return out, err
	})
	if err := errors.Join(ctx.Err(), slow); err != nil {
		return tools, fmt.Errorf("probe tools: %w", err) // not the whole truth: not kept
	}
	return tools, keep(path, key, tools)
}

// errSlow means that a busy machine left a probe undecided.
var errSlow = errors.New("not done in time")

// inside runs a program in the runtime and returns what it printed. It takes a few
// milliseconds that nobody else wants, or, once the machine was seen to be too busy for
// that, that somebody does.
func inside(ctx context.Context, rt sandbox.Runtime, busy *bool, argv ...string) ([]byte, error) {
	limits := sandbox.Limits{Wall: meekProbe, Memory: 2 << 30, Output: 256 << 10, CPUs: 1, Nice: true}
	if !*busy {
		out, err := probe(ctx, rt, limits, argv...)
		if *busy = errors.Is(err, errSlow); !*busy {
			return out, err
		}
	}
	limits.Wall, limits.Nice = firmProbe, false
	return probe(ctx, rt, limits, argv...)
}

func probe(ctx context.Context, rt sandbox.Runtime, limits sandbox.Limits, argv ...string) ([]byte, error) {
	var out bytes.Buffer
	r, err := rt.Run(ctx, sandbox.Spec{Argv: argv, Stdout: &out, Stderr: &out, Limits: limits})
	switch {
	case err != nil:
		return nil, err
	case r.Cause == sandbox.KilledTime:
		return nil, fmt.Errorf("%s inside: %w", argv[0], errSlow)
	case r.Cause != sandbox.Exited || r.ExitCode != 0:
		return nil, fmt.Errorf("%s inside: %s, code %d", argv[0], r.Cause, r.ExitCode)
	}
	return out.Bytes(), nil
}

var (
	ffVersion = regexp.MustCompile(`^ff(?:mpeg|probe) version (\S+)`)
	pyVersion = regexp.MustCompile(`^Python (\S+)`)
)

func probeTools(ctx context.Context, run func(argv ...string) ([]byte, error)) []spare.Tool {
	var tools []spare.Tool
	version := func(pattern *regexp.Regexp, argv ...string) {
		out, err := run(argv...)
		if err != nil {
			return
		}
		t := spare.Tool{Name: argv[0]}
		if m := pattern.FindSubmatch(out); m != nil {
			t.Version = string(m[1])
		}
		tools = append(tools, t)
	}
	version(pyVersion, "python3", "--version")
	version(ffVersion, "ffprobe", "-hide_banner", "-version")
	version(ffVersion, "ffmpeg", "-hide_banner", "-version")
	last := len(tools) - 1
	if last < 0 || tools[last].Name != "ffmpeg" {
		return tools
	}
	for _, e := range encoders {
		if ctx.Err() != nil {
			return tools
		}
		args := []string{"ffmpeg", "-hide_banner", "-nostdin", "-v", "error", "-threads", "1", "-f", "lavfi"}
		if e.audio {
			args = append(args, "-i", "sine=duration=0.1", "-c:a", e.name)
		} else {
			args = append(args, "-i", "testsrc=size=64x64:rate=2:duration=1", "-frames:v", "2", "-pix_fmt", "yuv420p", "-c:v", e.name)
		}
		args = append(args, e.args...)
		if _, err := run(append(args, "-f", "null", "-")...); err == nil {
			tools[last].Features = append(tools[last].Features, e.name)
		}
	}
	slices.Sort(tools[last].Features)
	return tools
}

// kept is the file of probe results.
type kept struct {
	Key   string       `json:"key"`
	Tools []spare.Tool `json:"tools"`
}

// KnownTools are those that an earlier probe kept in the file at path, if they still hold.
func KnownTools(rt sandbox.Runtime, version, path string) []spare.Tool {
	tools, _ := readKept(path, toolsKey(rt.Name()+" "+version))
	return tools
}

func readKept(path, key string) ([]spare.Tool, bool) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, false
	}
	var k kept
	if json.Unmarshal(raw, &k) != nil || k.Key != key {
		return nil, false
	}
	return k.Tools, true
}

func keep(path, key string, tools []spare.Tool) error {
	raw, err := json.Marshal(kept{key, tools})
	if err != nil {
		return fmt.Errorf("keep what was probed: %w", err)
	}
	tmp := path + ".tmp"
	if err := errors.Join(os.WriteFile(tmp, raw, 0o600), os.Rename(tmp, path)); err != nil {
		return fmt.Errorf("keep what was probed: %w", err)
	}
	return nil
}

// toolsKey changes when a program does, or what would probe it.
func toolsKey(how string) string {
	key := fmt.Sprintf("%s %s %s %s", spare.Version, runtime.GOOS, runtime.GOARCH, how)
	for _, name := range []string{"ffmpeg", "ffprobe", "python3"} {
		path, info := find(name)
		if info == nil {
			key += " " + name + "=none"
			continue
		}
		key += fmt.Sprintf(" %s=%s,%d,%d", name, path, info.Size(), info.ModTime().UnixNano())
	}
	return key
}

func find(name string) (string, os.FileInfo) {
	for _, dir := range searched {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, info
		}
	}
	return "", nil
}

// Describe is a tool in a few words, for people.
func Describe(t spare.Tool) string {
	s := strings.TrimSpace(t.Name + " " + cmp.Or(t.Version, ""))
	if len(t.Features) > 0 {
		s += " (" + strings.Join(t.Features, ", ") + ")"
	}
	return s
}
