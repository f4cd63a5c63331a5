package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare/client"
)

func TestProgressLine_SaysWhereTheJobIs(t *testing.T) {
	eta := 83.4
	for _, c := range []struct {
		p    client.Progress
		want string
	}{
		{client.Progress{State: client.StateNew}, "not run yet"},
		{client.Progress{State: client.StatePartitioning, Total: -1}, "fetching and cutting the input"},
		{client.Progress{State: client.StatePartitioning, Total: -1, Ready: 2, Done: 1}, "fetching and cutting the input  3 chunks so far, 1 done"},
		{client.Progress{State: client.StateRunning, Total: 12, Done: 4, Running: 3, Nodes: 3, ETA: &eta, Retried: 1}, "4/12 chunks  3 nodes  1 attempt redone  about 1m23s left"},
		{
			client.Progress{State: client.StateRunning, Total: 2, Ready: 2, ETA: &eta, Waiting: []client.Waiting{{Code: "needs_tool", Detail: "no connected node offers ffmpeg with libx265", Tasks: 2}}},
			"0/2 chunks  waiting: no connected node offers ffmpeg with libx265",
		},
		{client.Progress{State: client.StateAssembling, Total: 1}, "putting 1 result together"},
	} {
		if _, got := progressLine(c.p); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func testMeter(live bool) (*meter, *bytes.Buffer, *time.Time) {
	var b bytes.Buffer
	now := time.Unix(0, 0)
	return &meter{w: &b, live: live, width: func() int { return 20 }, now: func() time.Time { return now }}, &b, &now
}

func TestMeter_PlainSpeaksWhenSomethingChangesAndNotTooOften(t *testing.T) {
	m, out, now := testMeter(false)
	for i := range 10 {
		m.set("running", strings.Repeat("x", i+1))
		*now = now.Add(time.Second)
	}
	m.set("assembling", "join")
	m.clear()
	if got, want := out.String(), "x\nxxxxxx\njoin\n"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestMeter_LiveKeepsToOneLineOfTheTerminal(t *testing.T) {
	m, out, now := testMeter(true)
	m.set("a", strings.Repeat("ä", 50))
	*now = now.Add(time.Second)
	m.set("a", "short")
	m.clear()
	if strings.Contains(out.String(), "\n") {
		t.Fatalf("a live line broke: %q", out)
	}
	for _, part := range strings.Split(out.String(), "\r\x1b[K") {
		if n := len([]rune(part)); n > 19 {
			t.Errorf("%d columns of 20 are used: %q", n, part)
		}
	}
	if !strings.HasSuffix(out.String(), "\r\x1b[K") {
		t.Errorf("clear left the line standing: %q", out)
	}
}

func TestMeter_IsSilentWhileAQuestionStands(t *testing.T) {
	m, out, _ := testMeter(true)
	m.pause()
	m.set("a", "hidden")
	if out.Len() > 0 {
		t.Fatalf("it spoke: %q", out)
	}
	m.resume()
	m.set("b", "seen")
	if !strings.Contains(out.String(), "seen") {
		t.Fatalf("it stayed silent: %q", out)
	}
}

func TestSize_And_Span_AreShort(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 5 << 20: "5.0 MiB", 3 << 40: "3.0 TiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{1234 * time.Millisecond: "1.2s", 75 * time.Second: "1m15s"} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
}
