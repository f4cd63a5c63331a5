package partition

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// passthrough makes one chunk of each input file, as it is.
type passthrough struct{}

func (passthrough) ConfigSchema() []byte {
	return []byte(`{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "passthrough",
  "description": "Each input file becomes one chunk, unchanged. Nothing to set.",
  "type": "object",
  "properties": {},
  "additionalProperties": false
}
`)
}

func (passthrough) Partition(ctx context.Context, in Input, emit Emit) (json.RawMessage, error) {
	if err := decode(in.Config, &struct{}{}); err != nil {
		return nil, err
	}
	for i, name := range in.Files {
		path, err := in.copyOf(name, fmt.Sprintf("chunk-%d", i))
		if err != nil {
			return nil, err
		}
		if err := hand(ctx, emit, Chunk{Path: path}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// replicate makes n chunks of each input file. It is for Apps that do the same thing many
// times and differ by CHUNK_NUMBER.
type replicate struct{}

// replicateConfig takes both names of the number: the contract's and the short one.
type replicateConfig struct {
	Replicas *int `json:"num_replicas"`
	N        *int `json:"n"`
}

const (
	defaultReplicas = 5
	maxReplicas     = 1_000_000
)

func (replicate) ConfigSchema() []byte {
	return []byte(`{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "replicate",
  "description": "Each input file becomes n chunks. Every chunk's parameters get \"replica\", counted from 0, and \"replicas\".",
  "type": "object",
  "properties": {
    "num_replicas": {"type": "integer", "minimum": 1, "maximum": 1000000, "default": 5, "title": "Replicas", "description": "How many copies of each file to make."},
    "n": {"type": "integer", "minimum": 1, "maximum": 1000000, "title": "Replicas (short name)", "description": "The same as num_replicas."}
  },
  "not": {"required": ["num_replicas", "n"]},
  "additionalProperties": false
}
`)
}

func (replicate) Partition(ctx context.Context, in Input, emit Emit) (json.RawMessage, error) {
	var cfg replicateConfig
	if err := decode(in.Config, &cfg); err != nil {
		return nil, err
	}
	n := defaultReplicas
	switch {
	case cfg.Replicas != nil && cfg.N != nil:
		return nil, fmt.Errorf("partition settings: num_replicas and n mean the same; give one")
	case cfg.Replicas != nil:
		n = *cfg.Replicas
	case cfg.N != nil:
		n = *cfg.N
	}
	if n < 1 || n > maxReplicas {
		return nil, fmt.Errorf("partition settings: num_replicas is %d; give 1 to %d", n, maxReplicas)
	}
	for f, name := range in.Files {
		for i := range n {
			path, err := in.copyOf(name, fmt.Sprintf("replica-%d-%d", f, i))
			if err != nil {
				return nil, err
			}
			chunk := Chunk{Path: path, Params: map[string]any{"replica": i, "replicas": n}}
			if err := hand(ctx, emit, chunk); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

// hand emits a chunk and removes what the receiver left of its file.
func hand(ctx context.Context, emit Emit, c Chunk) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := emit(ctx, c); err != nil {
		return err
	}
	if err := os.Remove(c.Path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove a chunk that was taken: %w", err)
	}
	return nil
}

// open opens one input file; its name cannot lead out of the input folder.
func (in Input) open(name string) (*os.File, error) {
	root, err := os.OpenRoot(in.Dir)
	if err != nil {
		return nil, fmt.Errorf("open the input folder: %w", err)
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open input %q: %w", name, err)
	}
	return f, nil
}

// copyOf gives a file of its own with an input's content: a hard link where the disk can
// do that, else a copy.
func (in Input) copyOf(name, as string) (string, error) {
	dst := filepath.Join(in.Work, as)
	src, err := in.open(name)
	if err != nil {
		return "", err
	}
	defer src.Close()
	if filepath.IsLocal(name) && os.Link(filepath.Join(in.Dir, name), dst) == nil {
		return dst, nil
	}
	to, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return "", fmt.Errorf("copy input %q: %w", name, err)
	}
	if _, err := io.Copy(to, src); err != nil {
		to.Close()
		return "", fmt.Errorf("copy input %q: %w", name, err)
	}
	if err := to.Close(); err != nil {
		return "", fmt.Errorf("copy input %q: %w", name, err)
	}
	return dst, nil
}
