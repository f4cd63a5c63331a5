package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// printJSON writes v for programs.
func (c *cli) printJSON(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table writes rows under heads for people.
func (c *cli) table(heads []string, rows [][]string) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(heads, "\t"))
	for _, row := range rows {
		for i, cell := range row {
			row[i] = strings.ReplaceAll(oneLine(cell), "\t", " ")
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// show writes v as JSON if asked, or else as a table.
func show[T any](c *cli, all []T, heads []string, row func(T) []string) error {
	if c.json {
		return c.printJSON(append([]T{}, all...))
	}
	rows := make([][]string, 0, len(all))
	for _, v := range all {
		rows = append(rows, row(v))
	}
	return c.table(heads, rows)
}

// done says that something was done, in a sentence or as JSON.
func (c *cli) done(sentence string) error {
	if c.json {
		return c.printJSON(map[string]any{"ok": true, "message": sentence})
	}
	_, err := fmt.Fprintln(c.out, sentence)
	return err
}

// stateWord turns JOB_STATE_RUNNING into running.
func stateWord(state string) string {
	return strings.ToLower(strings.TrimPrefix(state, "JOB_STATE_"))
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// span is a duration as people say it.
func span(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	}
	return d.Round(time.Minute).String()
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// size is an amount of bytes as people say it.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for v >= unit && i < 4 {
		v /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[i])
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
