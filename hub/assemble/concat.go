package assemble

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spare-compute/spare"
)

// concat joins text files in chunk order.
type concat struct{}

type concatConfig struct {
	Output string `json:"output"`
	Format string `json:"format"`
	Header *bool  `json:"header"`
}

const concatBuffer = 256 << 10

func (concat) ConfigSchema() []byte {
	return []byte(`{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "concat",
  "description": "Joins text in chunk order. Files that share a path over the chunks become one file; with output, all files of all chunks do. Every joint is at a line end; a CSV's header is kept once.",
  "type": "object",
  "properties": {
    "output": {"type": "string", "pattern": "^[^/\\\\:]+$", "maxLength": 200, "title": "Output name", "description": "Join every result file, whatever its name, into this one."},
    "format": {"enum": ["auto", "text", "csv", "jsonl"], "default": "auto", "title": "Format", "description": "auto goes by the output's name: .csv and .tsv are csv."},
    "header": {"type": "boolean", "default": true, "title": "CSV header", "description": "Whether each CSV part begins with the same header."}
  },
  "additionalProperties": false
}
`)
}

func (concat) Assemble(ctx context.Context, in Input) (spare.Summary, error) {
	var cfg concatConfig
	if err := decode(in.Config, &cfg); err != nil {
		return nil, err
	}
	if cfg.Output != "" {
		if err := plainName(cfg.Output); err != nil {
			return nil, err
		}
	}
	all, err := results(in.Parts)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("no chunk made a result file: there is nothing to join")
	}
	var order []string
	groups := map[string][]result{}
	for _, r := range all {
		name := r.name
		if cfg.Output != "" {
			name = cfg.Output
		}
		if groups[name] == nil {
			order = append(order, name)
		}
		groups[name] = append(groups[name], r)
	}
	var lines int64
	for _, name := range order {
		n, err := cfg.join(ctx, groups[name], in.Out, name)
		if err != nil {
			return nil, err
		}
		lines += n
	}
	return spare.Summary{"files": len(order), "parts": len(all), "lines": lines}, nil
}

func (cfg concatConfig) csv(name string) bool {
	switch cfg.Format {
	case "csv":
		return true
	case "", "auto":
		name = strings.ToLower(name)
		return strings.HasSuffix(name, ".csv") || strings.HasSuffix(name, ".tsv")
	}
	return false
}

func (cfg concatConfig) join(ctx context.Context, parts []result, out, name string) (lines int64, err error) {
	root, err := os.OpenRoot(out)
	if err != nil {
		return 0, fmt.Errorf("open the output folder: %w", err)
	}
	defer root.Close()
	to := filepath.FromSlash(name)
	if err := root.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return 0, fmt.Errorf("join %s: %w", name, err)
	}
	f, err := root.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, fmt.Errorf("join %s: %w", name, err)
	}
	j := &joiner{w: bufio.NewWriterSize(f, concatBuffer), last: '\n'}
	header := cfg.csv(name) && (cfg.Header == nil || *cfg.Header)
	for _, p := range parts {
		if err := ctx.Err(); err != nil {
			f.Close()
			return 0, err
		}
		if err := j.add(p, header); err != nil {
			f.Close()
			return 0, err
		}
	}
	if err := errors.Join(j.w.Flush(), f.Close()); err != nil {
		return 0, fmt.Errorf("join %s: %w", name, err)
	}
	return j.lines, nil
}

// joiner writes the parts of one file.
type joiner struct {
	w      *bufio.Writer
	last   byte // written last
	lines  int64
	header []byte // the first part's, without its line end
}

func (j *joiner) add(p result, header bool) error {
	src, err := p.open()
	if err != nil {
		return err
	}
	defer src.Close()
	r := bufio.NewReaderSize(src, concatBuffer)
	if _, err := r.Peek(1); errors.Is(err, io.EOF) {
		return nil // an empty part adds nothing, not even a line end
	}
	if j.last != '\n' {
		if err := j.write([]byte{'\n'}); err != nil {
			return err
		}
	}
	if header {
		if err := j.takeHeader(r, p); err != nil {
			return err
		}
	}
	if _, err := io.CopyBuffer(writerOnly{j}, r, make([]byte, concatBuffer)); err != nil {
		return fmt.Errorf("join %s of chunk %d: %w", p.name, p.chunk, err)
	}
	return nil
}

// takeHeader writes the first part's header and drops the others', which must be equal.
func (j *joiner) takeHeader(r *bufio.Reader, p result) error {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return fmt.Errorf("join %s: the header of chunk %d is longer than %d bytes; set header to false if it has none", p.name, p.chunk, concatBuffer)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("join %s of chunk %d: %w", p.name, p.chunk, err)
	}
	text := bytes.TrimRight(line, "\r\n")
	if j.header == nil {
		j.header = append([]byte{}, text...)
		return j.write(line)
	}
	if !bytes.Equal(text, j.header) {
		return fmt.Errorf("join %s: chunk %d begins with %.60q and not with the header %.60q; set header to false if the parts have none", p.name, p.chunk, text, j.header)
	}
	return nil
}

func (j *joiner) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	j.lines += int64(bytes.Count(p, []byte{'\n'}))
	j.last = p[len(p)-1]
	_, err := j.w.Write(p)
	return err
}

// writerOnly keeps io.Copy to the joiner's own write.
type writerOnly struct{ j *joiner }

func (w writerOnly) Write(p []byte) (int, error) { return len(p), w.j.write(p) }
