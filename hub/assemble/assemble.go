// Package assemble puts the accepted results of a job's chunks together. It owns the
// built-in strategies and what each may be told (its config schema). It never changes
// a result, stores nothing and knows no tasks: it reads folders and writes a folder.
// The pipeline calls it.
package assemble

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/media"
)

// A Part is what the App made of one chunk.
type Part struct {
	Chunk int
	Dir   string // the unpacked result folder
}

// Input is what a strategy joins.
type Input struct {
	Parts   []Part          // in chunk order
	Notes   json.RawMessage // what the partition told
	Config  json.RawMessage // valid against the strategy's ConfigSchema; empty means {}
	JobName string
	Out     string       // an empty folder for the output
	Work    string       // an empty scratch folder
	Source  string       // folder with the job's input
	Media   *media.Tools // for strategies that look into media files
}

// A Strategy is one way to join.
type Strategy interface {
	// ConfigSchema is the JSON Schema (2020-12) of the strategy's settings.
	ConfigSchema() []byte
	// Assemble joins the parts into in.Out and says what it found when it checked the
	// output. It returns an error rather than a wrong output.
	Assemble(ctx context.Context, in Input) (spare.Summary, error)
}

var strategies = map[string]Strategy{
	"passthrough": passthrough{},
	"zip":         zipped{},
	"concat":      concat{},
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
		return fmt.Errorf("merge settings %.200s: %w", raw, err)
	}
	return nil
}
