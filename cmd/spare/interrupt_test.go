package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/api/apitest"
	"github.com/spare-compute/spare/hub/events"
	"github.com/spare-compute/spare/hub/store"
)

// said collects output and tells when something was said.
type said struct {
	mu   sync.Mutex
	b    bytes.Buffer
	more chan struct{}
}

func newSaid() *said { return &said{more: make(chan struct{}, 1)} }

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return s.b.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// await waits until these words were said n times.
func (s *said) await(t *testing.T, words string, n int) {
	t.Helper()
	late := time.After(10 * time.Second)
	for strings.Count(s.String(), words) < n {
		select {
		case <-s.more:
		case <-late:
			t.Fatalf("%q was not said %d times in %q", words, n, s)
		}
	}
}

// typed is a run of the program that somebody can interrupt and answer.
type typed struct {
	*cli
	hub     *apitest.Hub
	signals chan os.Signal
	keys    *io.PipeWriter
	err     *said
	out     *bytes.Buffer
	code    chan int
}

// begin starts a job that stays running, and waits until it is followed.
func begin(t *testing.T, asks bool) *typed {
	t.Helper()
	h := apitest.Start(t)
	h.Jobs.Hold()
	file := filepath.Join(t.TempDir(), "in.txt")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	in, keys := io.Pipe()
	t.Cleanup(func() { keys.Close() })
	p := &typed{hub: h, signals: make(chan os.Signal, 2), keys: keys, err: newSaid(), out: &bytes.Buffer{}, code: make(chan int, 1)}
	env := map[string]string{"SPARE_HUB": h.URL, "SPARE_KEY": h.Key("alice", store.RoleSubmitter)}
	p.cli = &cli{
		in: in, out: p.out, err: p.err, env: func(k string) string { return env[k] }, signals: p.signals,
		live: asks, asks: asks, width: func() int { return 80 },
	}
	go func() { p.code <- p.main([]string{"run", file, "--template", apitest.Template, "-o", t.TempDir()}) }()
	p.err.await(t, "0/1 chunks", 1)
	return p
}

// job is the id of the one job there is.
func (p *typed) job(t *testing.T) spare.JobID {
	t.Helper()
	jobs, _, err := p.hub.Store.ListJobs(t.Context(), store.JobQuery{})
	if err != nil || len(jobs) != 1 {
		t.Fatalf("%d jobs, %v", len(jobs), err)
	}
	return jobs[0].ID
}

func (p *typed) answer(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(p.keys, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

// ends wants the exit code and returns the state of the one job there is.
func (p *typed) ends(t *testing.T, code int) spare.JobState {
	t.Helper()
	select {
	case got := <-p.code:
		if got != code {
			t.Fatalf("exit code %d, want %d: %s", got, code, p.err)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("it did not end: %s", p.err)
	}
	j, err := p.hub.Store.Job(t.Context(), p.job(t))
	if err != nil {
		t.Fatal(err)
	}
	return j.State
}

func TestInterrupt_AsksAndDetaches(t *testing.T) {
	p := begin(t, true)
	p.signals <- os.Interrupt
	p.err.await(t, "[d/a/c]", 1)
	p.answer(t, "d")
	if state := p.ends(t, exitDetached); state != spare.JobRunning {
		t.Errorf("the job is %s, want running", state)
	}
	if !strings.Contains(p.err.String(), "spare job watch ") {
		t.Errorf("it does not say how to follow the job: %s", p.err)
	}
}

func TestInterrupt_AsksAndAborts(t *testing.T) {
	p := begin(t, true)
	p.signals <- os.Interrupt
	p.err.await(t, "[d/a/c]", 1)
	p.answer(t, "abort")
	if state := p.ends(t, exitAborted); state != spare.JobAborted {
		t.Errorf("the job is %s, want aborted", state)
	}
}

func TestInterrupt_AsksAndContinues(t *testing.T) {
	p := begin(t, true)
	for n := range 2 {
		p.signals <- os.Interrupt
		p.err.await(t, "[d/a/c]", n+1)
		p.answer(t, "c")
		p.hub.Events.Publish(events.Event{Type: events.JobProgress, Job: p.job(t)})
		p.err.await(t, "0/1 chunks", n+2) // it goes on
	}
	p.hub.Jobs.Release()
	if state := p.ends(t, 0); state != spare.JobComplete {
		t.Errorf("the job is %s, want complete", state)
	}
	if !strings.Contains(p.out.String(), filepath.Join("echo", "in.txt")) {
		t.Errorf("no result was fetched: %s", p.out)
	}
}

func TestInterrupt_TwiceDetaches(t *testing.T) {
	p := begin(t, true)
	p.signals <- os.Interrupt
	p.err.await(t, "[d/a/c]", 1)
	p.signals <- os.Interrupt
	if state := p.ends(t, exitDetached); state != spare.JobRunning {
		t.Errorf("the job is %s, want running", state)
	}
}

func TestInterrupt_AJobThatEndsWhileItAsksIsFetched(t *testing.T) {
	p := begin(t, true)
	p.signals <- os.Interrupt
	p.err.await(t, "[d/a/c]", 1)
	p.hub.Jobs.Release()
	p.ends(t, 0)
}

func TestInterrupt_DetachesWhereNobodyCanAnswer(t *testing.T) {
	p := begin(t, false)
	p.signals <- os.Interrupt
	if state := p.ends(t, exitDetached); state != spare.JobRunning {
		t.Errorf("the job is %s, want running", state)
	}
}

func TestFollow_AnAbortByOthersAndAFailureHaveTheirOwnCodes(t *testing.T) {
	p := begin(t, false)
	if err := p.hub.Jobs.Abort(t.Context(), p.job(t)); err != nil {
		t.Fatal(err)
	}
	p.ends(t, exitAborted)

	h := apitest.Start(t)
	h.Jobs.Fail("chunk 3: exit code 1: no such codec")
	file := filepath.Join(t.TempDir(), "in.txt")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	heard := newSaid()
	c := &cli{out: io.Discard, err: heard, env: func(string) string { return "" }}
	if code := c.main([]string{"--hub", h.URL, "--key", h.Admin, "run", file, "--template", apitest.Template, "-o", t.TempDir()}); code != exitJobFailed {
		t.Errorf("exit code %d, want %d", code, exitJobFailed)
	}
	if !strings.Contains(heard.String(), "failed: chunk 3: exit code 1: no such codec") {
		t.Errorf("it does not say why: %s", heard)
	}
}

func TestFollow_SurvivesAHubThatRestarts(t *testing.T) {
	p := begin(t, false)
	p.hub.Stop()
	p.err.await(t, "trying again", 1)
	p.hub.Resume()
	p.hub.Jobs.Release()
	if state := p.ends(t, 0); state != spare.JobComplete {
		t.Errorf("the job is %s", state)
	}
}
