package attack

import (
	"fmt"
	"strings"
)

// Where the table stands in docs/sandbox.md.
const (
	begin = "<!-- attacks:begin -->"
	end   = "<!-- attacks:end -->"
)

// A Table is what came of each attack in each column, in the words of the page.
type Table map[string]map[string]string

// The words.
const (
	refused = "refused"
	through = "**got through**"
	none    = "–"
)

// ReadTable finds the table in a page.
func ReadTable(page string) Table {
	t := Table{}
	_, text, _ := strings.Cut(page, begin)
	text, _, _ = strings.Cut(text, end)
	var head []string
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case len(cells) < len(fixed)+1 || strings.HasPrefix(cells[0], "--"):
		case cells[0] == fixed[0]:
			head = cells
		case len(cells) == len(head):
			row := map[string]string{}
			for i, c := range cells[len(fixed):] {
				row[head[len(fixed)+i]] = c
			}
			t[cells[0]] = row
		}
	}
	return t
}

// Set notes what came of a column. What the machine lacks changes nothing; unless anew, what is not got through stays as it stands:
// whether a runtime refuses a thing or does not know it may show sooner or later in a run.
func (t Table) Set(c Column, outcomes map[string]Outcome, anew bool) {
	for _, a := range All() {
		if t[a.Name] == nil {
			t[a.Name] = map[string]string{}
		}
		was, is := t[a.Name][c.Name], word(c, outcomes[a.Name])
		if was != "" && c.Kind != Wasm && outcomes[a.Name].Verdict == Absent {
			continue // another machine's kernel had it
		}
		if anew || was == "" || (was == through) != (is == through) {
			t[a.Name][c.Name] = is
		}
	}
}

// word is an outcome in the table's words. What one machine's kernel lacks is no reason to
// say that nothing refuses it there.
func word(c Column, o Outcome) string {
	switch {
	case o.Verdict == Succeeded:
		return through
	case o.Verdict == Absent && c.Kind == Wasm:
		return none
	}
	return refused
}

// fixed are the columns before the results.
var fixed = []string{"Attack", "What it tries", "What stops it"}

// Write puts the table into a page, in the place of the one that is there or at its end.
func (t Table) Write(page string) string {
	before, rest, found := strings.Cut(page, begin)
	_, after, _ := strings.Cut(rest, end)
	if !found {
		before, after = strings.TrimRight(page, "\n")+"\n\n", "\n"
	}
	return before + begin + "\n" + t.String() + end + after
}

// String is the table as Markdown: a summary, and a table for each group of attacks.
func (t Table) String() string {
	var b strings.Builder
	t.summary(&b)
	for _, g := range Groups() {
		fmt.Fprintf(&b, "\n### %s\n\n", g.Name)
		head, rule := strings.Join(fixed, " | "), strings.Repeat("---|", len(fixed)+len(Columns()))
		for _, c := range Columns() {
			head += " | " + c.Name
		}
		fmt.Fprintf(&b, "| %s |\n|%s\n", head, rule)
		for _, a := range g.Attacks {
			fmt.Fprintf(&b, "| %s | %s | %s", a.Name, a.Tries, a.stops())
			for _, c := range Columns() {
				fmt.Fprintf(&b, " | %s", t[a.Name][c.Name])
			}
			b.WriteString(" |\n")
		}
	}
	b.WriteString("\n")
	return b.String()
}

// stops says what stops an attack, and how that is shown.
func (a Attack) stops() string {
	list := strings.Join(a.Walls, ", ")
	switch {
	case a.Unshown != "" && list == "":
		return a.Unshown
	case a.Unshown != "":
		return list + " (" + a.Unshown + ")"
	case a.Proof.Bare:
		return list + " °"
	}
	return list
}

const legend = `The suite has %d attacks. Each of the walls named stops the attack by itself or with the others named: with all
of them switched off it gets through, and the suite fails if it does not. Where walls cannot be switched off (°), a run without
any sandbox shows that the attack bites. "refused" means that it got nothing; "–" that it cannot even be tried, since programs
there have no such calls. What could be tried in each place, and what of it got through:`

// summary counts, for each column, what could be tried and what got through.
func (t Table) summary(b *strings.Builder) {
	fmt.Fprintf(b, "\n"+legend+"\n\n| |", len(All()))
	for _, c := range Columns() {
		fmt.Fprintf(b, " %s |", c.Name)
	}
	fmt.Fprintf(b, "\n|%s\n", strings.Repeat("---|", len(Columns())+1))
	for _, row := range []struct {
		name  string
		count func(string) bool
	}{{"tried", func(w string) bool { return w == refused || w == through }}, {"got through", func(w string) bool { return w == through }}} {
		fmt.Fprintf(b, "| %s |", row.name)
		for _, c := range Columns() {
			n := 0
			for _, a := range All() {
				if row.count(t[a.Name][c.Name]) {
					n++
				}
			}
			fmt.Fprintf(b, " %d |", n)
		}
		b.WriteString("\n")
	}
}
