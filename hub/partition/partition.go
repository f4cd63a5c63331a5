// Package partition cuts a job's input into chunks. It owns the built-in strategies
// and what each may be told (its config schema). It never stores a chunk, knows no
// tasks and runs no App: it hands every chunk to the caller as soon as the file is
// complete. The pipeline calls it.
package partition

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/spare-compute/spare/hub/media"
)

// Input is what a strategy cuts.
type Input struct {
	Dir    string          // folder that holds the files
	Files  []string        // their names in Dir
	Config json.RawMessage // valid against the strategy's ConfigSchema; empty means {}
	Work   string          // an empty scratch folder on the disk the chunks may stay on
	Media  *media.Tools    // for strategies that look into media files
}

// A Chunk is one piece of the input.
type Chunk struct {
	Path   string         // a file that may be moved away or deleted by the receiver
	Params map[string]any // this chunk's own parameters, laid over the job's
}

// Emit takes the next chunk. Chunks are numbered from 0 in the order they are emitted.
// The file at Path belongs to the receiver until Emit returns; what it leaves is deleted.
type Emit = func(context.Context, Chunk) error

// A Strategy is one way to cut.
type Strategy interface {
	// ConfigSchema is the JSON Schema (2020-12) of the strategy's settings.
	ConfigSchema() []byte
	// Partition cuts the input and emits its chunks in order. The notes are for the
	// assembler; nil where there is nothing to tell. An input that cannot be cut is a *Refused.
	Partition(ctx context.Context, in Input, emit Emit) (notes json.RawMessage, err error)
}

// Refused says that the input, not Spare, is why no chunk was made. Its text is a
// sentence for the submitter.
type Refused struct{ Sentence string }

func (e *Refused) Error() string { return e.Sentence }

func refuse(format string, args ...any) error {
	return &Refused{Sentence: fmt.Sprintf(format, args...)}
}

var strategies = map[string]Strategy{
	"passthrough": passthrough{},
	"replicate":   replicate{},
	"lines":       lines{},
	"video":       video{},
}

// Lookup finds a strategy by its name.
func Lookup(name string) (Strategy, bool) {
	s, ok := strategies[name]
	return s, ok
}

// Names lists the strategies in alphabetical order.
func Names() []string { return slices.Sorted(maps.Keys(strategies)) }

// decode reads a strategy's settings. Unknown ones are errors: a setting that nothing
// obeys must not be taken in silence.
func decode(raw json.RawMessage, into any) error {
	if len(bytes.TrimSpace(raw)) == 0 || string(bytes.TrimSpace(raw)) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("partition settings %.200s: %w", raw, err)
	}
	return nil
}
