package client

import (
	"errors"
	"strings"
	"testing"
)

func TestReadEvents_TakesWholeEventsOnly(t *testing.T) {
	const in = "retry: 2000\n\n: still here\n\n" +
		"event: job.snapshot\ndata: {\"state\":\"JOB_STATE_NEW\"}\n\n" +
		"id: 7\nevent: task.done\ndata: {\"id\":7,\"type\":\"task.done\",\ndata: \"job\":\"j\"}\n\n" +
		"id: 8\nevent: task.done\ndata: {\"job\":\"j\"}\n" // cut off before its blank line
	var got []Event
	beats := 0
	err := readEvents(strings.NewReader(in), func() { beats++ }, func(e Event) error {
		got = append(got, e)
		return nil
	})
	if err != nil || len(got) != 2 {
		t.Fatalf("got %d events, %v; want 2", len(got), err)
	}
	if got[0].Type != "job.snapshot" || got[0].ID != "" {
		t.Errorf("first: %+v", got[0])
	}
	if got[1].Type != "task.done" || got[1].ID != "7" || got[1].Job != "j" {
		t.Errorf("second: %+v", got[1])
	}
	if beats < 9 {
		t.Errorf("%d signs of life, want one for each line", beats)
	}
}

func TestReadEvents_StopsWhenToldTo(t *testing.T) {
	stop := errors.New("enough")
	n := 0
	err := readEvents(strings.NewReader("data: {}\n\ndata: {}\n\n"), func() {}, func(Event) error {
		n++
		return stop
	})
	if !errors.Is(err, stop) || n != 1 {
		t.Fatalf("%d events, %v", n, err)
	}
}

func FuzzReadEvents(f *testing.F) {
	f.Add("id: 1\nevent: x\ndata: {}\n\n")
	f.Add(": c\n\ndata: [\n\n")
	f.Fuzz(func(t *testing.T, in string) {
		_ = readEvents(strings.NewReader(in), func() {}, func(e Event) error {
			if e.Data != nil && len(e.Data) > len(in) {
				t.Fatal("more came out than went in")
			}
			return nil
		})
	})
}
