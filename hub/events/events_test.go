package events

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spare-compute/spare"
)

func TestBus_ReaderThatComesBackGetsWhatItMissed(t *testing.T) {
	b := New(time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	ch := b.Subscribe(ctx, 0, nil)
	b.Publish(Event{Type: JobState, Job: "a"})
	first := <-ch
	cancel()
	b.Publish(Event{Type: JobState, Job: "b"})
	b.Publish(Event{Type: JobState, Job: "c"})
	again := b.Subscribe(t.Context(), first.ID, func(e Event) bool { return e.Job != "b" })
	if ev := <-again; ev.Job != "c" || ev.ID != first.ID+2 {
		t.Fatalf("got %+v, want the event of job c with id %d", ev, first.ID+2)
	}
}

func TestBus_SlowReaderIsCutOffAndDelaysNobody(t *testing.T) {
	b := New(time.Now())
	slow := b.Subscribe(t.Context(), 0, nil)
	for range lag + 1 {
		b.Publish(Event{Type: TaskDone, Job: spare.JobID("j")})
	}
	n := 0
	for range slow {
		n++
	}
	if n != lag {
		t.Fatalf("a slow reader got %d events before it was cut off, want %d", n, lag)
	}
}

func TestBus_EndOfContextClosesTheChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ch := New(time.Now()).Subscribe(ctx, 0, nil)
		cancel()
		if _, open := <-ch; open {
			t.Fatal("an event came after the context ended")
		}
	})
}
