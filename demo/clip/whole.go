package clip

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spare-compute/spare/demo/grid"
)

// Whole is an encode done without Spare.
type Whole struct {
	Path string
	Wall time.Duration
}

// EncodeWhole runs the App of a template on the uncut source, on all cores, with the
// variables that it would have on a node. So the two encodes differ in nothing but the
// cutting. The result is the one file in out, which is made anew.
func EncodeWhole(ctx context.Context, apps, template, source, out string, params json.RawMessage) (Whole, error) {
	name, _, _ := strings.Cut(template, "@")
	entry, err := filepath.Abs(filepath.Join(apps, name, "app", "main.py"))
	if err != nil {
		return Whole{}, err
	}
	if source, err = filepath.Abs(source); err != nil {
		return Whole{}, err
	}
	if out, err = filepath.Abs(out); err != nil {
		return Whole{}, err
	}
	task, err := os.MkdirTemp("", "spare-whole-")
	if err != nil {
		return Whole{}, fmt.Errorf("make a work folder: %w", err)
	}
	defer os.RemoveAll(task)
	if err := os.Symlink(source, filepath.Join(task, "data.bin")); err != nil {
		return Whole{}, fmt.Errorf("make a work folder: %w", err)
	}
	if err := os.RemoveAll(out); err != nil {
		return Whole{}, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return Whole{}, err
	}
	began := time.Now()
	_, err = grid.Output(ctx, []string{
		"TASK_DIR=" + task, "TASK_RESULTS_DIR=" + out, "APP_PARAMS=" + string(params), "CHUNK_NUMBER=0", "JOB_NAME=whole", "JOB_ID=whole",
	}, python(), entry)
	if err != nil {
		return Whole{}, fmt.Errorf("encode %s whole: %w", source, err)
	}
	w := Whole{Wall: time.Since(began)}
	w.Path, err = Only(out)
	return w, err
}

// Only finds the one file below a folder.
func Only(dir string) (string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("look for the result: %w", err)
	}
	if len(files) != 1 {
		return "", fmt.Errorf("%s holds %d files, want one video: %s", dir, len(files), strings.Join(files, ", "))
	}
	return files[0], nil
}

// python is the system's own, the one that nodes run Apps with.
func python() string {
	for _, p := range []string{"/usr/bin/python3", "/usr/local/bin/python3"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return "python3"
}
