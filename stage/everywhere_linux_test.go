package stage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"image/color"
	"image/png"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	pixels "image"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/bundle"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/image/imagetest"
	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/attack"
	"github.com/spare-compute/spare/sandbox/engine"
	"github.com/spare-compute/spare/sandbox/wasm"
	"github.com/spare-compute/spare/sandbox/wasm/wasmtest"
	"github.com/spare-compute/spare/stage"
)

// A way is a runtime, with or without an image, that an App is run in.
type way struct {
	name   string
	rt     sandbox.Runtime
	image  *sandbox.Image
	around spare.Environment
}

func host() way {
	return way{"linux", sandbox.Default()[0], nil, spare.Environment{Platform: spare.PlatformPython}}
}

// interpreted are the ways that need nothing installed: the helper in the linux runtime,
// as on Linux, the helper alone, as elsewhere, and a run that is to be the same everywhere.
func interpreted(t *testing.T) []way {
	t.Helper()
	if os.Getenv(asUserEnv) != "" {
		return nil // package wasm's own tests are run so too
	}
	c := wasm.Config{Cache: wasmtest.Cache(t), Python: wasmtest.Python(t), Program: wasmtest.Helper(t)}
	alone := wasm.New(c)
	c.Inside = sandbox.Default()[0]
	plain := spare.Environment{Platform: spare.PlatformPython}
	same := plain
	same.Deterministic = true
	return []way{{"wasm in linux", wasm.New(c), nil, plain}, {"wasm", alone, nil, plain}, {"wasm, deterministic", alone, nil, same}}
}

// contained are the ways into an image: without an engine, and podman.
func contained(t *testing.T, ref string, from image.Source) []way {
	t.Helper()
	store, err := image.Open(t.TempDir(), image.Options{Quota: 16 << 30})
	must(t, err)
	t.Cleanup(func() { must(t, store.Close()) })
	have := func(form image.Form) *sandbox.Image {
		start := time.Now()
		pin, err := store.Ensure(t.Context(), ref, form, from)
		must(t, err)
		t.Cleanup(pin.Release)
		t.Logf("%s: %s after %v", ref[:min(len(ref), 24)], form, time.Since(start).Round(time.Millisecond))
		im := sandbox.Image(pin.Image())
		return &im
	}
	around := spare.Environment{Platform: spare.PlatformContainer, Image: ref}
	bare := way{"linux, image", sandbox.Default()[0], have(image.Unpacked), around}
	if os.Getenv(asUserEnv) != "" {
		return []way{bare} // an engine of root's is tried
	}
	// What distributions ship when this is written has known flaws; a test accepts them.
	podman := engine.New(engine.Config{Command: "podman", OCIRuntime: "runc", Instance: t.TempDir(), AcceptKnownFlaws: true})
	packed := have(image.Packed)
	t.Cleanup(func() { must(t, podman.Forget(context.Background(), packed.ID)) })
	return []way{bare, {"podman, image", podman, packed, around}}
}

// small is an image of Debian's packages with Python and no tools.
func small(t *testing.T) (ref string, from image.Source) {
	t.Helper()
	dir, err := attack.Debian(t.Context())
	must(t, err)
	c, err := image.FromPath(t.Context(), dir, t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return "lab.example/python@sha256:" + string(c.Digest), c
}

// made is an image that scripts/test-image.sh makes of packages, once.
func made(t *testing.T, name string, packages ...string) (ref string, from image.Source) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../scripts/test-image.sh", append([]string{name}, packages...)...)
	cmd.Stderr = os.Stderr
	start := time.Now()
	out, err := cmd.Output()
	must(t, err)
	t.Logf("the image %s is there after %v", name, time.Since(start).Round(time.Second))
	layer, err := os.ReadFile(strings.TrimSpace(string(out)))
	must(t, err)
	im := imagetest.Make(t, imagetest.Options{}, layer)
	return im.Ref(), im.Source()
}

// An app is an App's folder, and what one of its tasks gets.
type app struct {
	name   string
	folder string // what its entrypoint lies in
	input  []byte
	params string
	want   spare.Digest // of its results; "" where that hangs on what is installed
}

// task is what a node with one core to spare makes of a lease.
func (a app) task(t *testing.T, w way) stage.Task {
	t.Helper()
	dir := t.TempDir()
	task := stage.Task{
		Bundle: filepath.Join(dir, "bundle"), Root: "app", Entrypoint: "main.py", Around: w.around, Image: w.image,
		Input: filepath.Join(dir, "chunk"), Params: []byte(a.params), Chunk: 3, JobID: "job", JobName: "My job",
		Work:   filepath.Join(dir, "work"),
		Limits: sandbox.Limits{CPUs: 1, Wall: 5 * time.Minute, Memory: 2 << 30, Disk: 256 << 20},
	}
	for _, err := range []error{
		os.CopyFS(filepath.Join(task.Bundle, task.Root), os.DirFS(filepath.FromSlash(a.folder))),
		os.WriteFile(task.Input, a.input, 0o644), os.Mkdir(task.Work, 0o755),
	} {
		must(t, err)
	}
	return task
}

// run runs a task of the App and returns the folder of its results.
func (a app) run(t *testing.T, w way, task stage.Task) string {
	t.Helper()
	start := time.Now()
	ended := stage.RunApp(t.Context(), w.rt, task)
	if ended.Outcome != spare.Succeeded {
		t.Fatalf("%s in %s: %s: %s\n%s", a.name, w.name, ended.Outcome, ended.Message, ended.Log)
	}
	t.Logf("%s in %s: %v, of it %v on the processor; %s", a.name, w.name,
		time.Since(start).Round(time.Millisecond), ended.Usage.CPU.Round(time.Millisecond), bytes.TrimSpace(ended.Log))
	return ended.Results
}

// digest is what a hub would compare two runs' results by.
func digest(t *testing.T, results string) spare.Digest {
	t.Helper()
	p, err := bundle.PackResult(t.Context(), results, io.Discard)
	must(t, err)
	if p.Files == 0 || p.Bytes == 0 {
		t.Fatalf("the results are %d files with %d bytes", p.Files, p.Bytes)
	}
	return p.Content
}

// same runs an App in each way and wants the same results.
func (a app) same(t *testing.T, ways []way) {
	t.Helper()
	for _, w := range ways {
		got := digest(t, a.run(t, w, a.task(t, w)))
		if a.want == "" {
			a.want = got
		}
		if got != a.want {
			t.Errorf("%s in %s: its results have the digest %s, want %s", a.name, w.name, got, a.want)
		}
	}
}

func TestRunApp_PureAppsGiveTheSameResultsInEveryRuntime(t *testing.T) {
	ref, from := small(t)
	ways := slices.Concat([]way{host()}, interpreted(t), contained(t, ref, from))
	text := strings.Repeat("Hello, wörld: ΟΔΥΣΣΕΥΣ, straße, ǆungla, İstanbul\r\nbye\n", 200)
	for _, a := range []app{
		{"hello-world", "../apps/hello-world/app", []byte(text), `{"case": "title"}`, "29a3cb290addf515925bfbe573d16cd681359af07cb0a19aedb3a1d5ca2fa9d9"},
		{"hello-world", "../apps/hello-world/app", []byte(text), `{"case": "lower"}`, "a7355875b42c91cc7bbc9bc6b0b40265155ce98520dfb84bfe0b24205b0bd850"},
		{"montecarlo", "../apps/montecarlo/app", []byte("any"), preset(t, "montecarlo", "quick"), "639af5d9d82af1c7752f36940cee47d862ad80ada253ecf1c52ec95d16c35bf4"},
	} {
		a.same(t, ways)
	}
}

// An encoder with other threads makes other bytes, and an engine shows an App all of the
// machine's processors.
func TestRunApp_SaysHowManyCoresItMayUse(t *testing.T) {
	dir := t.TempDir()
	const script = "import os\nopen(os.environ['TASK_RESULTS_DIR'] + '/cores', 'w').write(os.environ['SPARE_CORES'])\n"
	must(t, os.WriteFile(filepath.Join(dir, "main.py"), []byte(script), 0o644))
	a := app{"cores", dir, []byte("any"), "{}", ""}
	for _, c := range []struct {
		w    way
		cpus float64
		want int
	}{{host(), 1, 1}, {host(), 1.5, 2}, {host(), 0, runtime.NumCPU()}, {interpreted(t)[2], 8, 1}} {
		task := a.task(t, c.w)
		task.Limits.CPUs = c.cpus
		if got, err := os.ReadFile(filepath.Join(a.run(t, c.w, task), "cores")); err != nil || string(got) != strconv.Itoa(c.want) {
			t.Errorf("in %s, with %v cores, it is told of %q, want %d (%v)", c.w.name, c.cpus, got, c.want, err)
		}
	}
}

// long reports whether images are tried that take minutes to make, the first time: Debian's
// packages with ffmpeg and OpenCV are fetched and laid out.
func long() bool { return os.Getenv("SPARE_LONG") != "" }

func TestRunApp_TranscodingGivesTheSameResultsInEveryRuntime(t *testing.T) {
	outside, inside := []way{host(), host()}, []way(nil)
	presets, alike := []string{"web-480p"}, true
	if long() {
		presets = append(presets, "archive-x265")
		ref, from := made(t, "ffmpeg", "python3", "ffmpeg")
		inside = contained(t, ref, from)
		ours, theirs := encoder(t, host()), encoder(t, inside[0])
		t.Logf("this machine has %s, the image %s", ours, theirs)
		alike = ours == theirs
	}
	for _, name := range presets {
		a := app{"video-transcoding " + name, "../apps/video-transcoding/app", clip(t), preset(t, "video-transcoding", name), ""}
		if alike {
			a.same(t, slices.Concat(outside, inside))
			continue
		}
		// Another version of an encoder makes other bytes, but no other frames.
		a.same(t, inside)
		made := func(w way) string { return frames(t, a.run(t, w, a.task(t, w))) }
		if got, want := made(inside[0]), made(host()); got != want {
			t.Errorf("%s: in the image it makes the frames\n%s\nwithout it\n%s", a.name, got, want)
		}
	}
}

func TestRunApp_OpenCVGivesTheSameResultsInEveryRuntime(t *testing.T) {
	if !long() {
		return
	}
	ref, from := made(t, "opencv", "python3-opencv")
	app{"picture", "testdata/picture", picture(t), `{"degrees": 17.5}`, ""}.same(t, contained(t, ref, from))
}

// encoder is ffmpeg's version in a way.
func encoder(t *testing.T, w way) string {
	t.Helper()
	var out bytes.Buffer
	r, err := w.rt.Run(t.Context(), sandbox.Spec{
		Image: w.image, Argv: []string{"ffmpeg", "-version"}, Stdout: &out, Stderr: &out,
		Limits: sandbox.Limits{Wall: time.Minute, Output: 1 << 20, Memory: 1 << 30},
	})
	must(t, err)
	version, rest, ok := strings.Cut(out.String(), " Copyright")
	if r.ExitCode != 0 || !ok || rest == "" {
		t.Fatalf("ffmpeg in %s: %+v\n%s", w.name, r, out.Bytes())
	}
	return version
}

// frames is how many frames a transcoded clip has, and each one's time and size.
func frames(t *testing.T, results string) string {
	t.Helper()
	films, err := filepath.Glob(filepath.Join(results, "*.mp4"))
	must(t, err)
	if len(films) != 1 {
		t.Fatalf("%d films in %s", len(films), results)
	}
	out, err := exec.CommandContext(t.Context(), "ffprobe", "-v", "error", "-select_streams", "v:0", "-of", "csv",
		"-show_entries", "frame=pts,width,height,pix_fmt", films[0]).Output()
	must(t, err)
	if bytes.Count(out, []byte("\n")) < 100 {
		t.Fatalf("too few frames:\n%s", out)
	}
	return string(out)
}

// clip is a film with sound, of 5 seconds.
func clip(t *testing.T) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "clip.mp4")
	out, err := exec.CommandContext(t.Context(), "ffmpeg", "-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc2=s=640x360:rate=30",
		"-f", "lavfi", "-i", "sine=f=440:r=48000", "-t", "5", "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-ac", "2", file).CombinedOutput()
	if err != nil {
		t.Fatalf("make a clip: %v\n%s", err, out)
	}
	raw, err := os.ReadFile(file)
	must(t, err)
	return raw
}

// picture is one with slopes, steps and a pattern, which chance has no part in.
func picture(t *testing.T) []byte {
	t.Helper()
	const width, height = 960, 540
	p := pixels.NewRGBA(pixels.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			step := uint8((x / 80) * 16)
			p.Set(x, y, color.RGBA{R: uint8(x * y >> 6), G: step ^ uint8((y/60)*24), B: uint8((x*x + y*y) >> 10), A: 255})
		}
	}
	var b bytes.Buffer
	must(t, png.Encode(&b, p))
	return b.Bytes()
}

// preset is the parameters that an App's preset holds.
func preset(t *testing.T, app, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "apps", app, "presets", name+".json"))
	must(t, err)
	var p struct{ Data json.RawMessage }
	must(t, json.Unmarshal(raw, &p))
	if len(p.Data) == 0 {
		t.Fatalf("the preset %s of %s holds no parameters", name, app)
	}
	return string(p.Data)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
