package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spare-compute/spare/client"
)

// A meter shows how something goes: on a terminal one line written over and over, else a
// line now and then. It is safe for concurrent use.
type meter struct {
	w     io.Writer
	live  bool
	width func() int
	now   func() time.Time

	mu     sync.Mutex
	shown  string    // what stands in the live line
	last   string    // what was said last, without its figures
	said   time.Time // when
	paused bool
}

// sayAgain is how often a plain meter repeats itself when only figures changed.
const sayAgain = 5 * time.Second

// redraw is how often a live line changes at most.
const redraw = 100 * time.Millisecond

func (c *cli) meter() *meter {
	return &meter{w: c.err, live: c.live, width: c.width, now: time.Now}
}

// set shows line; kind is what it is about: a plain meter speaks at once when that changes.
func (m *meter) set(kind, line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	fresh := kind != m.last
	pace := sayAgain
	if m.live {
		pace = redraw
	}
	if m.paused || (!fresh && now.Sub(m.said) < pace) || line == m.shown {
		return
	}
	m.last, m.said, m.shown = kind, now, line
	if !m.live {
		fmt.Fprintln(m.w, line)
		return
	}
	fmt.Fprintf(m.w, "\r\x1b[K%s", cutTo(line, m.width()-1))
}

// clear takes the live line away, so that something else can be said.
func (m *meter) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wipe()
}

func (m *meter) wipe() {
	if m.live && m.shown != "" {
		fmt.Fprint(m.w, "\r\x1b[K")
	}
	m.shown = ""
}

// pause keeps the meter silent while a question stands; resume lets it speak.
func (m *meter) pause() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wipe()
	m.paused = true
}

func (m *meter) resume() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.paused = false
}

// say writes a line of its own above the live one.
func (m *meter) say(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wipe()
	fmt.Fprintln(m.w, line)
}

// cutTo shortens a line to n columns.
func cutTo(line string, n int) string {
	if utf8.RuneCountInString(line) <= n || n < 2 {
		return line
	}
	return string([]rune(line)[:n-1]) + "…"
}

// transferLine says how far an upload or download is.
func transferLine(verb, name string, have, total int64, since time.Time, now time.Time) string {
	line := fmt.Sprintf("%s %s  %s of %s", verb, name, size(have), size(total))
	if total > 0 {
		line += fmt.Sprintf(" (%d %%)", have*100/total)
	}
	if took := now.Sub(since).Seconds(); took > 1 {
		line += fmt.Sprintf("  %s/s", size(int64(float64(have)/took)))
	}
	return line
}

// progressLine says where a job is; kind changes when the job's situation does.
func progressLine(p client.Progress) (kind, line string) {
	switch p.State {
	case client.StateNew:
		return "new", "not run yet"
	case client.StatePartitioning:
		line = "fetching and cutting the input"
		if n := p.Done + p.Ready + p.Running; n > 0 {
			line += fmt.Sprintf("  %s so far, %d done", plural(n, "chunk"), p.Done)
		}
		return "partitioning", line
	case client.StateAssembling:
		return "assembling", fmt.Sprintf("putting %s together", plural(p.Total, "result"))
	}
	parts := []string{fmt.Sprintf("%d/%d chunks", p.Done, p.Total)}
	if p.Total < 0 {
		parts[0] = fmt.Sprintf("%d chunks done", p.Done)
	}
	if p.Nodes > 0 {
		parts = append(parts, plural(p.Nodes, "node"))
	}
	if p.Retried > 0 {
		parts = append(parts, plural(p.Retried, "attempt")+" redone")
	}
	if p.ETA != nil && *p.ETA >= 1 && p.Running > 0 {
		parts = append(parts, "about "+span(seconds(*p.ETA).Round(time.Second))+" left")
	}
	kind = p.State
	if len(p.Waiting) > 0 && p.Running == 0 {
		w := p.Waiting[0]
		kind += w.Code
		parts = append(parts, "waiting: "+firstOf(w.Detail, w.Code))
	}
	return kind, strings.Join(parts, "  ")
}
