//go:build unix

package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// realDir is a folder by its real name: on some systems the usual one is a link.
func realDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// stageSpec is laid out as package stage lays out an App's run.
func stageSpec(t *testing.T) (Spec, string) {
	t.Helper()
	host := realDir(t)
	for _, dir := range []string{"app", "results", "shared", "user"} {
		if err := os.Mkdir(filepath.Join(host, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(host, "chunk-7"), []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Spec{
		Argv: []string{"python3", "/spare/app/main.py", "--out=/spare/results/a", "/etc/passwd", "see /spare/app"},
		Dir:  "/spare/app",
		Env: []string{
			"TASK_DIR=/spare/task", "TASK_RESULTS_DIR=/spare/results", "SHARED_CACHE_DIR=/spare/cache/shared", "USER_CACHE_DIR=/spare/cache/user",
			`APP_PARAMS={"folder":"/spare/app"}`, "PYTHONPATH=/spare/app:/spare/app/lib:/usr/share/x", "FILE=/spare/task/data.bin", "SCRATCH=/tmp/x", "BROKEN",
		},
		Mounts: []Mount{
			{Host: filepath.Join(host, "app"), Inner: "/spare/app"},
			{Host: filepath.Join(host, "chunk-7"), Inner: "/spare/task/data.bin"},
			{Host: filepath.Join(host, "results"), Inner: "/spare/results", Writable: true},
			{Host: filepath.Join(host, "shared"), Inner: "/spare/cache/shared"},
			{Host: filepath.Join(host, "user"), Inner: "/spare/cache/user", Writable: true},
		},
	}, host
}

func TestPlaces_ASpecIsPutIntoTheHostsWords(t *testing.T) {
	s, host := stageSpec(t)
	home := realDir(t)
	p, err := newPlaces(s, home)
	if err != nil {
		t.Fatal(err)
	}
	in := func(parts ...string) string { return filepath.Join(append([]string{host}, parts...)...) }
	want := []string{"python3", in("app", "main.py"), "--out=" + in("results", "a"), "/etc/passwd", "see /spare/app"}
	if got := p.arguments(s.Argv); !slices.Equal(got, want) {
		t.Errorf("arguments %q, want %q", got, want)
	}
	task := filepath.Join(home, "view", "spare", "task")
	want = []string{
		"TASK_DIR=" + task, "TASK_RESULTS_DIR=" + in("results"), "SHARED_CACHE_DIR=" + in("shared"), "USER_CACHE_DIR=" + in("user"),
		`APP_PARAMS={"folder":"/spare/app"}`, "PYTHONPATH=" + in("app") + ":" + in("app", "lib") + ":/usr/share/x", "FILE=" + filepath.Join(task, "data.bin"),
		"SCRATCH=" + filepath.Join(home, "tmp", "x"),
		"PATH=/opt/py/bin:/usr/bin", "HOME=" + filepath.Join(home, "tmp"), "TMPDIR=" + filepath.Join(home, "tmp"), "LANG=C.UTF-8",
	}
	if got := p.environment(s.Env, "/opt/py/bin", "/usr/bin"); !slices.Equal(got, want) {
		t.Errorf("environment\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := p.dir(s.Dir); got != in("app") {
		t.Errorf("working folder %s", got)
	}
	if got := p.dir(""); got != filepath.Join(home, "tmp") {
		t.Errorf("working folder %s", got)
	}
	if b, err := os.ReadFile(filepath.Join(task, "data.bin")); err != nil || string(b) != "data" {
		t.Errorf("the view shows %q, %v", b, err)
	}
	if got, want := p.writable(), []string{filepath.Join(home, "tmp"), in("user"), in("results")}; !slices.Equal(got, want) {
		t.Errorf("writable %q, want %q", got, want)
	}
	if slices.Contains(p.readable(), in("results")) || !slices.Contains(p.readable(), in("app")) || !slices.Contains(p.readable(), filepath.Join(home, "view")) {
		t.Errorf("readable %q", p.readable())
	}
}

func TestPlaces_NothingClimbsOutOfItsMount(t *testing.T) {
	p := &places{folders: []place{{inner: "/spare/app", host: "/host/app"}}, tmp: "/run/tmp", view: "/run/view", separator: "/", list: ":"}
	for inner, want := range map[string]string{
		"/spare/app/../../etc/passwd": "", "/spare/app/./a//b": "/host/app/a/b", "/spare/application": "", "/spare/app/../app/x": "/host/app/x",
		"spare/app": "", "": "", "/": "", "/tmpfile": "", "/tmp/../etc": "", "/spare": "/run/view/spare", "/dev/shm/a": "/run/tmp/a",
	} {
		if got, _ := p.host(inner); got != want {
			t.Errorf("%s is at %q, want %q", inner, got, want)
		}
	}
}

func TestPlaces_WindowsWritesPathsItsOwnWay(t *testing.T) {
	p := &places{
		folders: []place{{inner: "/spare/app", host: `C:\Spare\bundle`}, {inner: "/spare/task/data.bin", host: `C:\Spare\in`, file: true}},
		tmp:     `C:\run\tmp`, view: `C:\run\view`, separator: `\`, list: ";",
	}
	got := p.environment([]string{"TASK_DIR=/spare/task", "PYTHONPATH=/spare/app/lib:/spare/app"}, `C:\Python`, `C:\Windows\System32`)
	want := []string{
		`TASK_DIR=C:\run\view\spare\task`, `PYTHONPATH=C:\Spare\bundle\lib;C:\Spare\bundle`,
		`PATH=C:\Python;C:\Windows\System32`, `HOME=C:\run\tmp`, `TMPDIR=C:\run\tmp`, "LANG=C.UTF-8",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestPlaces_WhatCannotBeShownIsRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, m := range map[string]Mount{
		"missing":       {Host: filepath.Join(dir, "none"), Inner: "/spare/a"},
		"a device":      {Host: os.DevNull, Inner: "/spare/a"},
		"writable file": {Host: file, Inner: "/spare/a", Writable: true},
	} {
		if _, err := newPlaces(Spec{Mounts: []Mount{m}}, t.TempDir()); err == nil {
			t.Errorf("%s is shown", what)
		}
	}
	for _, s := range []Spec{{Image: &Image{}}, {Network: Outbound}, {Deterministic: true}, {GPUs: []string{"any"}}} {
		if err := unservedNatively("seatbelt", s); err == nil || !strings.Contains(err.Error(), "seatbelt") {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if err := unservedNatively("seatbelt", Spec{}); err != nil {
		t.Error(err)
	}
}

func TestPlaces_ALinkedMountIsWhereItReallyIs(t *testing.T) {
	real, dir := realDir(t), t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	p, err := newPlaces(Spec{Mounts: []Mount{{Host: link, Inner: "/spare/a"}}}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if got := p.text("/spare/a"); got != real {
		t.Errorf("it is shown at %s", got)
	}
}

func TestFind_LooksWhereTheProgramMayLook(t *testing.T) {
	empty, full := t.TempDir(), t.TempDir()
	for name, mode := range map[string]os.FileMode{"tool": 0o755, "text": 0o644, "tool2.exe": 0o644} {
		if err := os.WriteFile(filepath.Join(full, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := find("tool", []string{empty, full}, nil); err != nil || got != filepath.Join(full, "tool") {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := find("tool2", []string{full}, []string{".exe"}); err != nil || got != filepath.Join(full, "tool2.exe") {
		t.Errorf("%s, %v", got, err)
	}
	var start *StartError
	if got, err := find("text", []string{full}, nil); !errors.As(err, &start) {
		t.Errorf("%s, %v", got, err)
	}
}
