package assemble

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spare-compute/spare"
)

// passthrough hands every result file on as it is.
type passthrough struct{}

func (passthrough) ConfigSchema() []byte {
	return []byte(`{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "passthrough",
  "description": "Every result file becomes a file of the output. A name that several chunks use becomes <stem>_<chunk><ext>; files in folders go under <chunk>/. Nothing to set.",
  "type": "object",
  "properties": {},
  "additionalProperties": false
}
`)
}

func (passthrough) Assemble(_ context.Context, in Input) (spare.Summary, error) {
	if err := decode(in.Config, &struct{}{}); err != nil {
		return nil, err
	}
	all, err := results(in.Parts)
	if err != nil {
		return nil, err
	}
	if err := place(all, flatNames(all), in.Out); err != nil {
		return nil, err
	}
	return count(all), nil
}

func count(all []result) spare.Summary {
	var bytes int64
	for _, r := range all {
		bytes += r.size
	}
	return spare.Summary{"files": len(all), "bytes": bytes}
}

// zipped puts every result file into one zip archive.
type zipped struct{}

const defaultZip = "results_archive.zip"

func (zipped) ConfigSchema() []byte {
	return []byte(`{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "zip",
  "description": "All result files in one zip archive, named as the passthrough strategy names them.",
  "type": "object",
  "properties": {
    "name": {"type": "string", "pattern": "^[^/\\\\]+\\.zip$", "maxLength": 200, "default": "results_archive.zip", "title": "Archive name"}
  },
  "additionalProperties": false
}
`)
}

func (zipped) Assemble(ctx context.Context, in Input) (spare.Summary, error) {
	cfg := struct {
		Name string `json:"name"`
	}{defaultZip}
	if err := decode(in.Config, &cfg); err != nil {
		return nil, err
	}
	if err := plainName(cfg.Name); err != nil {
		return nil, err
	}
	all, err := results(in.Parts)
	if err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(in.Out, cfg.Name))
	if err != nil {
		return nil, fmt.Errorf("make the archive: %w", err)
	}
	z := zip.NewWriter(f)
	for i, name := range flatNames(all) {
		if err := addZip(ctx, z, all[i], name); err != nil {
			f.Close()
			return nil, err
		}
	}
	if err := errors.Join(z.Close(), f.Close()); err != nil {
		return nil, fmt.Errorf("write the archive: %w", err)
	}
	return count(all), nil
}

func addZip(ctx context.Context, z *zip.Writer, r result, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	src, err := r.open()
	if err != nil {
		return err
	}
	defer src.Close()
	w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate})
	if err != nil {
		return fmt.Errorf("add %s to the archive: %w", name, err)
	}
	if _, err := io.Copy(w, src); err != nil {
		return fmt.Errorf("add %s to the archive: %w", name, err)
	}
	return nil
}

// plainName refuses an output name that is more than a name.
func plainName(name string) error {
	if name == "" || name != path.Base(name) || strings.ContainsAny(name, `\/:`) || name == "." || name == ".." || len(name) > 200 {
		return fmt.Errorf("merge settings: %.80q is no plain file name", name)
	}
	return nil
}
