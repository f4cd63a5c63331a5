package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A recorder writes each figure as one JSON object a line, and tables for people.
type recorder struct {
	file *os.File
	show io.Writer
}

func newRecorder(path string, show io.Writer) (*recorder, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for results: %w", err)
	}
	f, err := os.Create(path)
	return &recorder{file: f, show: show}, err
}

func (r *recorder) close() error { return r.file.Close() }

// add records one figure.
func (r *recorder) add(bench, variant string, value float64, unit string) error {
	return json.NewEncoder(r.file).Encode(struct {
		Bench   string  `json:"bench"`
		Variant string  `json:"variant"`
		Value   float64 `json:"value"`
		Unit    string  `json:"unit"`
	}{bench, variant, value, unit})
}

// A figure is one cell of a table that is recorded too.
type figure struct {
	value float64
	unit  string
	text  string // how the table shows it
}

func fig(value float64, unit, format string) figure {
	return figure{value, unit, fmt.Sprintf(format, value)}
}

// row is a variant with its figures, in the order of the table's head.
type row struct {
	variant string
	figures []figure
}

// table prints rows as the page of benchmarks shows them, and records every figure.
func (r *recorder) table(bench, title string, head []string, rows []row) error {
	fmt.Fprintf(r.show, "\n## %s\n\n", title)
	t := tabwriter.NewWriter(r.show, 2, 0, 1, ' ', 0)
	fmt.Fprintf(t, "|\t| %s\t|\n", strings.Join(head, "\t| "))
	fmt.Fprintf(t, "|---\t%s|\n", strings.Repeat("|---\t", len(head)))
	for _, row := range rows {
		cells := make([]string, len(row.figures))
		for i, f := range row.figures {
			cells[i] = f.text
			if f.unit == "" {
				continue // derived from others
			}
			if err := r.add(bench, row.variant, f.value, f.unit); err != nil {
				return err
			}
		}
		fmt.Fprintf(t, "| %s\t| %s\t|\n", row.variant, strings.Join(cells, "\t| "))
	}
	return t.Flush()
}

// note adds a sentence below a table.
func (r *recorder) note(format string, args ...any) { fmt.Fprintf(r.show, "\n"+format+"\n", args...) }

// quantile of a sample, 0…1.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Clone(d)
	slices.Sort(d)
	return d[int(q*float64(len(d)-1)+0.5)]
}

func median(d []time.Duration) time.Duration { return quantile(d, 0.5) }

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
