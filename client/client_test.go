package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/client"
	"github.com/spare-compute/spare/hub/api/apitest"
	"github.com/spare-compute/spare/hub/store"
)

// start starts a hub and a submitter's client for it.
func start(t *testing.T) (*apitest.Hub, *client.Client) {
	t.Helper()
	h := apitest.Start(t)
	c, err := client.New(client.Options{Hub: h.URL, Key: h.Key("alice", store.RoleSubmitter), Wait: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return h, c
}

// content is a file of n bytes that look random.
func content(t *testing.T, n int) (path string, b []byte) {
	t.Helper()
	b = make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(b)
	path = filepath.Join(t.TempDir(), "film ä.bin")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, b
}

func draft(t *testing.T, c *client.Client) client.Job {
	t.Helper()
	j, err := c.CreateJob(t.Context(), client.NewJob{
		ID: uuid.NewString(), Template: apitest.Template, Name: "test", Source: &client.DataPoint{Descriptor: "file"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// done runs a job with this content to its end and returns its one result.
func done(t *testing.T, c *client.Client, file string) (string, client.Result) {
	t.Helper()
	j := draft(t, c)
	if _, err := c.Upload(t.Context(), j, file, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Run(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Follow(t.Context(), j.ID, func(client.Progress) {}); err != nil {
		t.Fatal(err)
	}
	results, err := c.Results(t.Context(), j.ID)
	if err != nil || len(results) != 1 {
		t.Fatalf("results: %v, %v", results, err)
	}
	return j.ID, results[0]
}

// outage stops the hub, and has it back a little later.
func outage(t *testing.T, h *apitest.Hub) func() {
	var once sync.Once
	var back sync.WaitGroup
	t.Cleanup(back.Wait)
	return func() {
		once.Do(func() {
			h.Stop()
			back.Go(h.Resume)
		})
	}
}

func TestUpload_SurvivesAHubThatRestarts(t *testing.T) {
	h, c := start(t)
	file, b := content(t, 32<<20)
	j := draft(t, c)
	cut := outage(t, h)
	digest, err := c.Upload(t.Context(), j, file, func(sent, _ int64) {
		if sent > 4<<20 {
			cut()
		}
	})
	if err != nil || digest != spare.Sum(b) {
		t.Fatalf("digest %s, %v", digest, err)
	}
	stored, err := h.Store.Job(t.Context(), spare.JobID(j.ID))
	if err != nil || stored.Input == nil || stored.Input.Digest != spare.Sum(b) || stored.Input.Name != "film ä.bin" {
		t.Fatalf("stored input: %+v, %v", stored.Input, err)
	}
}

func TestUpload_RefusesWhatIsNoInput(t *testing.T) {
	_, c := start(t)
	j := draft(t, c)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{empty: "is empty", t.TempDir(): "is not a file", "no/such/file": "no such file"} {
		if _, err := c.Upload(t.Context(), j, path, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

func TestDownload_SurvivesAHubThatRestarts(t *testing.T) {
	h, c := start(t)
	file, b := content(t, 32<<20)
	id, r := done(t, c, file)
	cut := outage(t, h)
	dir := filepath.Join(t.TempDir(), "new", "out")
	path, err := c.Download(t.Context(), id, r, dir, client.DownloadOptions{Progress: func(have, _ int64) {
		if have > 4<<20 {
			cut()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, b) {
		t.Fatalf("%s differs from what was sent: %v", path, err)
	}
	onlyThese(t, dir, "echo", "echo/film ä.bin")
}

// onlyThese wants exactly these paths below dir.
func onlyThese(t *testing.T, dir string, want ...string) {
	t.Helper()
	var got []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(dir, path); rel != "." {
			got = append(got, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("below %s: %q, want %q; %v", dir, got, want, err)
	}
}

func TestDownload_GoesOnWithWhatAnEarlierTryLeftAndMendsIt(t *testing.T) {
	_, c := start(t)
	file, b := content(t, 1<<20)
	id, r := done(t, c, file)
	for name, left := range map[string][]byte{
		"the beginning":      b[:1000],
		"a damaged one":      bytes.Repeat([]byte{7}, 1000),
		"one that is longer": append(slices.Clone(b), 1),
		"all of it":          b,
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "echo"), 0o755); err != nil {
			t.Fatal(err)
		}
		part := filepath.Join(dir, "echo", ".film ä.bin."+r.Digest.Short()+".part")
		if err := os.WriteFile(part, left, 0o600); err != nil {
			t.Fatal(err)
		}
		first := int64(-1)
		path, err := c.Download(t.Context(), id, r, dir, client.DownloadOptions{Progress: func(have, _ int64) {
			if first < 0 {
				first = have
			}
		}})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%s: the file differs: %v", name, err)
		}
		if name == "the beginning" && first <= 1000 {
			t.Errorf("it began again at %d", first)
		}
		if name == "all of it" && first >= 0 {
			t.Errorf("it fetched what was there")
		}
	}
}

func TestDownload_NeverReplacesAnotherFileInSilence(t *testing.T) {
	_, c := start(t)
	file, b := content(t, 1000)
	id, r := done(t, c, file)
	dir := t.TempDir()
	path, err := c.Download(t.Context(), id, r, dir, client.DownloadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Download(t.Context(), id, r, dir, client.DownloadOptions{}); err != nil {
		t.Fatalf("the same file again: %v", err)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Download(t.Context(), id, r, dir, client.DownloadOptions{}); !errors.Is(err, client.ErrExists) {
		t.Fatalf("another file: %v, want ErrExists", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "mine" {
		t.Fatalf("the other file is %q now", got)
	}
	if _, err := c.Download(t.Context(), id, r, dir, client.DownloadOptions{Overwrite: true}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, b) {
		t.Fatal("the file was not replaced when that was asked")
	}
	onlyThese(t, dir, "echo", "echo/film ä.bin")
}

func TestDownload_StaysInItsFolder(t *testing.T) {
	_, c := start(t)
	for _, name := range []string{"../x", "/etc/x", "a/../../x", ""} {
		r := client.Result{Name: name, Size: 1, Digest: spare.Sum([]byte("x"))}
		if path, err := c.Download(t.Context(), uuid.NewString(), r, t.TempDir(), client.DownloadOptions{}); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%q was written to %s: %v", name, path, err)
		}
	}
}

func TestFollow_TellsOfProgressAndSurvivesAHubThatRestarts(t *testing.T) {
	h, c := start(t)
	h.Jobs.Hold()
	file, _ := content(t, 10)
	j := draft(t, c)
	if _, err := c.Upload(t.Context(), j, file, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Run(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Run(t.Context(), j.ID); err != nil {
		t.Fatalf("run again, as after a lost answer: %v", err)
	}
	cut := outage(t, h)
	var states []string
	end, err := c.Follow(t.Context(), j.ID, func(p client.Progress) {
		if !slices.Contains(states, p.State) {
			states = append(states, p.State)
		}
		cut()
		h.Jobs.Release()
	})
	if err != nil || end.State != client.StateComplete || states[0] != client.StateRunning || states[len(states)-1] != client.StateComplete {
		t.Fatalf("ended %s over %v: %v", end.State, states, err)
	}
}

func TestClient_SaysAtOnceThatNoHubIsThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c, err := client.New(client.Options{Hub: addr, Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	_, err = c.Job(t.Context(), "x")
	var away *client.Unreachable
	if !errors.As(err, &away) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "connection refused") {
		t.Fatalf("got %v", err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestClient_WaitsForAHubThatWasThereAndSaysSo(t *testing.T) {
	h := apitest.Start(t)
	var said []string
	var mu sync.Mutex
	waits := make(chan struct{}, 1)
	c, err := client.New(client.Options{Hub: h.URL, Key: h.Admin, Wait: 30 * time.Second, Log: func(s string) {
		mu.Lock()
		defer mu.Unlock()
		if said = append(said, s); len(said) == 1 {
			waits <- struct{}{}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.Stop()
	var back sync.WaitGroup
	back.Go(func() {
		<-waits
		h.Resume()
	})
	_, err = c.Info(t.Context())
	back.Wait()
	if err != nil || len(said) != 2 || !strings.Contains(said[0], "trying again") || !strings.Contains(said[1], "back") {
		t.Fatalf("%v; it said %q", err, said)
	}
}

func TestClient_GivesUpWhenItsPatienceEnds(t *testing.T) {
	h := apitest.Start(t)
	c, err := client.New(client.Options{Hub: h.URL, Key: h.Admin, Wait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.Stop()
	var away *client.Unreachable
	if _, err := c.Info(t.Context()); !errors.As(err, &away) {
		t.Fatalf("got %v, want Unreachable", err)
	}
}

func TestClient_ARefusalIsNotTriedAgain(t *testing.T) {
	var calls atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		http.Error(w, "teapot", http.StatusTeapot)
	}))
	defer srv.Close()
	c, err := client.New(client.Options{Hub: srv.URL, Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Job(t.Context(), "x")
	var refused *client.Error
	if !errors.As(err, &refused) || refused.Status != http.StatusTeapot || !strings.Contains(err.Error(), "teapot") || calls.Load() != 1 {
		t.Fatalf("%v after %d calls", err, calls.Load())
	}
}

func TestClient_StopsWithItsContext(t *testing.T) {
	h, c := start(t)
	if _, err := c.Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.Stop()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Info(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestNew_RefusesWhatIsNoAddress(t *testing.T) {
	for _, hub := range []string{"", "ftp://x", "http://", "http://[::1"} {
		if _, err := client.New(client.Options{Hub: hub}); err == nil {
			t.Errorf("%q was taken", hub)
		}
	}
}

func TestClient_PushesAndLists(t *testing.T) {
	h, c := start(t)
	a, err := c.Push(t.Context(), client.Apps, apitest.Archive(t, "mine", "1.0"))
	if err != nil || a.Tag != "mine@1.0" || a.Status != "inactive" {
		t.Fatalf("%+v, %v", a, err)
	}
	if err := c.Activate(t.Context(), client.Apps, "mine"); err != nil {
		t.Fatal(err)
	}
	got, raw, err := c.App(t.Context(), client.Apps, "mine@1")
	if err != nil || got.Status != "active" || !strings.Contains(string(raw), `"entrypoint":"main.py"`) {
		t.Fatalf("%+v, %s, %v", got, raw, err)
	}
	if all, err := c.List(t.Context(), client.Apps); err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	if _, err := c.PushTemplate(t.Context(), []byte(`{"id":"t","app":"mine","partitioner":"passthrough","assembler":"passthrough"}`)); err != nil {
		t.Fatal(err)
	}
	if all, err := c.Templates(t.Context()); err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	if _, err := c.PushPreset(t.Context(), "t", []byte(`{"id":"p","data":{}}`)); err != nil {
		t.Fatal(err)
	}
	if all, err := c.Presets(t.Context(), "t"); err != nil || len(all) != 1 || all[0].ID != "p" {
		t.Fatalf("%+v, %v", all, err)
	}
	if s, err := c.TemplateSchema(t.Context(), apitest.Template); err != nil || s.ID != "echo" {
		t.Fatalf("%+v, %v", s, err)
	}
	boss, err := client.New(client.Options{Hub: h.URL, Key: h.Admin})
	if err != nil {
		t.Fatal(err)
	}
	secret, key, err := boss.CreateKey(t.Context(), client.NewKey{Name: "new", ExpiresIn: 60})
	if err != nil || key.Role != "submitter" || key.ExpiresAt == nil {
		t.Fatalf("%+v, %v", key, err)
	}
	sum := sha256.Sum256([]byte(secret))
	if !strings.HasPrefix(hex.EncodeToString(sum[:]), key.Fingerprint) {
		t.Errorf("fingerprint %s is not of the key", key.Fingerprint)
	}
	if err := boss.RevokeKey(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
}
