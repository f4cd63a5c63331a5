package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spare-compute/spare/hub/blob"
	"github.com/spare-compute/spare/hub/dispatch"
	"github.com/spare-compute/spare/hub/events"
	"github.com/spare-compute/spare/hub/store"
)

// slate is a response that can be read while it is written.
type slate struct {
	*httptest.ResponseRecorder
	mu sync.Mutex
}

func (s *slate) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ResponseRecorder.Write(p)
}

func (s *slate) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Body.String()
}

func TestStream_SaysThatItLivesWhileNothingHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{Config: Config{Events: events.New(time.Now()), Log: slog.New(slog.DiscardHandler)}}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), keyPrincipal, store.Key{Role: store.RoleAdmin}))
		w := &slate{ResponseRecorder: httptest.NewRecorder()}
		ended := make(chan error, 1)
		go func() { ended <- s.allEvents(w, httptest.NewRequest("GET", "/v1/events", nil).WithContext(ctx)) }()
		for want := range 3 {
			synctest.Wait()
			if got := strings.Count(w.text(), ": still here\n\n"); got != want {
				t.Fatalf("after %v: %d signs of life, want %d", time.Duration(want)*heartbeat, got, want)
			}
			time.Sleep(heartbeat)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	})
}

func TestExplain_AFullDiskIsSaidToBeOne(t *testing.T) {
	s := &server{Config: Config{Log: slog.New(slog.DiscardHandler)}}
	full := fmt.Errorf("%w (%w)", dispatch.ErrHeld, store.ErrFull)
	for _, err := range []error{blob.ErrFull, store.ErrFull, full, fmt.Errorf("write: %w", syscall.ENOSPC)} {
		p := s.explain(httptest.NewRequest("PUT", "/", nil), err)
		if p.status != http.StatusInsufficientStorage || !strings.Contains(p.message, "free space") {
			t.Errorf("%v: %d %s", err, p.status, p.message)
		}
	}
	p := s.explain(httptest.NewRequest("PUT", "/", nil), fmt.Errorf("open /secret/path: broken"))
	if p.status != http.StatusInternalServerError || strings.Contains(p.message, "secret") {
		t.Errorf("the hub's inside is told: %d %s", p.status, p.message)
	}
}

func TestExplain_AHubThatCannotAnswerNowSaysToTryAgain(t *testing.T) {
	s := &server{Config: Config{Log: slog.New(slog.DiscardHandler)}}
	for _, err := range []error{dispatch.ErrHeld, dispatch.ErrStopped, fmt.Errorf("%w (secret: broken)", dispatch.ErrHeld)} {
		p := s.explain(httptest.NewRequest("GET", "/", nil), err)
		if p.status != http.StatusServiceUnavailable || !strings.Contains(p.message, "try again") || strings.Contains(p.message, "secret") {
			t.Errorf("%v: %d %s", err, p.status, p.message)
		}
	}
}

func FuzzRanged(f *testing.F) {
	for _, seed := range []string{"bytes 0-9/10", "bytes 5-9/*", "bytes */10", "bytes 9-0/10", "bytes 0-9223372036854775807/*", ""} {
		f.Add(seed, int64(-1))
	}
	f.Fuzz(func(t *testing.T, given string, length int64) {
		p, err := part{size: length, total: length}.ranged(given)
		if err != nil {
			return
		}
		if p.start < 0 || p.size < 1 || (p.total >= 0 && p.start+p.size > p.total) || (length >= 0 && p.size != length) {
			t.Fatalf("%q with %d bytes became %+v", given, length, p)
		}
	})
}

func FuzzCanonical(f *testing.F) {
	f.Add("/v1/customer/jobs/run/0f0e9d3c-6a3b-4c1d-9e2f-1b2c3d4e5f60")
	f.Add("/v1/customer/jobs/templates/../x")
	f.Fuzz(func(t *testing.T, p string) {
		once := canonical(p)
		if twice := canonical(once); twice != once {
			t.Fatalf("%q became %q and then %q", p, once, twice)
		}
	})
}
