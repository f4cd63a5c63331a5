package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/node"
	"github.com/spare-compute/spare/node/guestbook"
)

// logQuery is what "log" is asked for.
type logQuery struct {
	since, app string
	most       int
	asJSON     bool
}

func logCommand(data *string) *cobra.Command {
	var q logQuery
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Show what ran on this machine, for whom, and what was refused",
		Long: `Log shows the guest book: every App that ran here or was refused, for whom, when, by
whom it was signed, and what it took. The book lies on this machine, and the node need not
run. Each entry names the one before it by its hash and the node signs the last, so that
"spare-node log verify" finds what was changed since.`,
		Example: `  spare-node log
  spare-node log --since 24h --app video-transcoding
  spare-node log --json -n 0 > guests.json
  spare-node log verify`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return q.show(cmd.OutOrStdout(), *data, time.Now())
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.since, "since", "", "only from then on: a time ago such as 24h, a day such as 2026-03-01, or both with a clock time in RFC 3339")
	f.StringVar(&q.app, "app", "", "only this App: its name, or name@version")
	f.IntVarP(&q.most, "lines", "n", 50, "how many at most, the latest; 0: all")
	cmd.PersistentFlags().BoolVar(&q.asJSON, "json", false, "print JSON")
	cmd.AddCommand(&cobra.Command{
		Use:   "verify",
		Short: "Find out whether the guest book is as this node wrote it",
		Long: `Verify holds every entry of the guest book against the next, and the last against what
the node signed. It names the first entry that was altered, removed or moved. It cannot
find that somebody with this node's key wrote the book anew, or that an older copy of the
whole folder was put back: compare the last entry's hash with one you noted elsewhere.`,
		Example: `  spare-node log verify
  spare-node log verify --json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			folder, key, err := node.GuestBook(*data)
			if err != nil {
				return err
			}
			r, err := guestbook.Verify(folder, key)
			if err != nil {
				return err
			}
			if q.asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "The guest book is whole: entries %d to %d, the last with hash %s%s\n",
				r.First, r.Last, r.Hash, unsealed(r))
			return err
		},
	})
	return cmd
}

func unsealed(r guestbook.Report) string {
	if r.Unsealed == 0 {
		return ""
	}
	return fmt.Sprintf("; entries after it that the node has not signed yet: %d", r.Unsealed)
}

func (q logQuery) show(w io.Writer, data string, now time.Time) error {
	from, err := q.from(now)
	if err != nil {
		return err
	}
	if q.most < 0 {
		return usageError{fmt.Errorf("-n %d: want how many entries to show, or 0 for all", q.most)}
	}
	folder, _, err := node.GuestBook(data)
	if err != nil {
		return err
	}
	entries := []guestbook.Entry{}
	for e, err := range guestbook.All(folder) {
		if err != nil {
			return fmt.Errorf("%w; \"spare-node log verify\" says what is wrong", err)
		}
		if !e.At.Before(from) && q.wants(e.App) {
			entries = append(entries, e)
		}
	}
	if !q.asJSON {
		entries = oneEach(entries)
	}
	if n := len(entries); q.most > 0 && n > q.most {
		entries = entries[n-q.most:]
	}
	if q.asJSON {
		return printJSON(w, entries)
	}
	return table(w, entries)
}

// from reads --since.
func (q logQuery) from(now time.Time) (time.Time, error) {
	if q.since == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(q.since); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, q.since); err == nil {
		return t, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, q.since, now.Location()); err == nil {
		return t, nil
	}
	return time.Time{}, usageError{fmt.Errorf("--since %q: want a time ago such as 24h, or a day such as 2026-03-01", q.since)}
}

func (q logQuery) wants(app string) bool {
	name, _, _ := strings.Cut(app, "@")
	return q.app == "" || q.app == app || q.app == name
}

// oneEach leaves out that a run began where it says how it ended.
func oneEach(entries []guestbook.Entry) []guestbook.Entry {
	ended := map[spare.AttemptID]bool{}
	var kept []guestbook.Entry
	for i := len(entries) - 1; i >= 0; i-- {
		e := entries[i]
		if e.Event == guestbook.Began && ended[e.Attempt] {
			continue
		}
		ended[e.Attempt] = ended[e.Attempt] || e.Event == guestbook.Ended
		kept = append(kept, e)
	}
	for i, j := 0, len(kept)-1; i < j; i, j = i+1, j-1 {
		kept[i], kept[j] = kept[j], kept[i]
	}
	return kept
}

func table(w io.Writer, entries []guestbook.Entry) error {
	if len(entries) == 0 {
		_, err := fmt.Fprintln(w, "Nothing has run here.")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ENTRY\tTIME\tAPP\tBUNDLE\tSIGNED BY\tFOR\tCPU\tTIME TAKEN\tIN\tOUT\tHOW IT WENT")
	for _, e := range entries {
		fmt.Fprintln(t, strings.Join(row(e), "\t"))
	}
	return t.Flush()
}

func row(e guestbook.Entry) []string {
	at := e.At
	if e.Start != nil {
		at = *e.Start
	}
	cells := []string{fmt.Sprint(e.Seq), at.Local().Format(time.DateTime), e.App, e.Bundle.Short(), short(e.Publisher), joined(" at ", e.Owner, e.Hub)}
	for i, c := range cells {
		if c == "" {
			cells[i] = "-"
		}
	}
	switch e.Event {
	case guestbook.Ended:
		cells = append(cells, seconds(e.CPU), seconds(e.Wall), bytesOf(e.BytesIn), bytesOf(e.BytesOut), joined(": ", e.Outcome, e.Message))
	case guestbook.Began:
		cells = append(cells, "-", "-", bytesOf(e.BytesIn), "-", "it runs, or was cut short")
	case guestbook.Refused:
		cells = append(cells, "-", "-", "-", "-", "refused: "+e.Message)
	default:
		cells = append(cells, "-", "-", "-", "-", joined(": ", string(e.Event), e.Message))
	}
	return cells
}

func short(id string) string { return id[:min(len(id), 12)] }

func seconds(s float64) string { return (time.Duration(s*1000) * time.Millisecond).String() }

func bytesOf(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d B", n)
	}
	return size(uint64(n))
}
