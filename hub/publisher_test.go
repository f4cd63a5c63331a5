package hub

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare/publisher"
)

// started is a data folder after its first start, as far as publishers go.
func started(t *testing.T) (data string, key *publisher.Key) {
	t.Helper()
	data = t.TempDir()
	known, key, err := openPublishers(data, "attic")
	if err != nil || key == nil || len(known.Known) != 1 || !known.KeyHere {
		t.Fatalf("first start: %+v, %v, %v", known, key, err)
	}
	return data, key
}

func reopen(t *testing.T, data string) (Publishers, *publisher.Key) {
	t.Helper()
	known, key, err := openPublishers(data, "attic")
	if err != nil {
		t.Fatal(err)
	}
	return known, key
}

func TestPublisher_FirstStartMakesAKeyForItsOwnerAlone(t *testing.T) {
	data, key := started(t)
	info, err := os.Stat(filepath.Join(data, publisherKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %04o, want 0600", info.Mode().Perm())
	}
	known, again := reopen(t, data)
	if again.ID() != key.ID() || !known.Known[0].Own || known.Known[0].Name != "attic" {
		t.Errorf("second start: %+v, %v", known, again)
	}
	if keys := known.keys(); len(keys) != 1 || string(keys[0]) != string(key.Public().Key) {
		t.Errorf("tickets name %v", keys)
	}
}

func TestPublisher_StartThatWasInterruptedGoesOnWithItsKey(t *testing.T) {
	data, key := started(t)
	if err := os.Remove(filepath.Join(data, publishersFile)); err != nil {
		t.Fatal(err)
	}
	if known, again := reopen(t, data); again.ID() != key.ID() || known.Known[0].Public.ID() != key.ID() {
		t.Errorf("opened with %v", again)
	}
}

func TestPublisher_ExportTakesThePrivateHalfAway(t *testing.T) {
	data, key := started(t)
	file := filepath.Join(t.TempDir(), "publisher.key")
	for range 2 {
		if id, err := ExportPublisher(data, file, false); err != nil || id != key.ID() {
			t.Fatalf("%v, %v", id, err)
		}
	}
	if _, again := reopen(t, data); again == nil {
		t.Fatal("a copy alone took the key away")
	}
	if _, err := ExportPublisher(data, file, true); err != nil {
		t.Fatal(err)
	}
	known, gone := reopen(t, data)
	if gone != nil || known.KeyHere {
		t.Error("the key is still there")
	}
	if keys := known.keys(); len(keys) != 1 || string(keys[0]) != string(key.Public().Key) {
		t.Errorf("tickets name %v", keys)
	}
	if left, _ := filepath.Glob(filepath.Join(data, "*key*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if back, err := publisher.ReadKey(file); err != nil || back.ID() != key.ID() {
		t.Errorf("exported %v, %v", back, err)
	}
	if _, err := ExportPublisher(data, file, true); err == nil || !strings.Contains(err.Error(), "before") {
		t.Errorf("exporting again: %v", err)
	}
}

// On a stick every file shows one mode, which others may read by. The copy there is good.
func TestPublisher_ExportToAStickWithoutModes(t *testing.T) {
	data, key := started(t)
	file := filepath.Join(t.TempDir(), "publisher.key")
	if err := errors.Join(key.Save(file), os.Chmod(file, 0o644)); err != nil {
		t.Fatal(err)
	}
	if id, err := ExportPublisher(data, file, true); err != nil || id != key.ID() {
		t.Fatalf("%v, %v", id, err)
	}
	if _, gone := reopen(t, data); gone != nil {
		t.Error("the key is still there")
	}
}

func TestPublisher_ExportOverwritesNothing(t *testing.T) {
	data, _ := started(t)
	if _, err := ExportPublisher(data, filepath.Join(data, "copy"), true); err == nil || !strings.Contains(err.Error(), "outside") {
		t.Errorf("into the data folder: %v", err)
	}
	taken := filepath.Join(t.TempDir(), "notes")
	if err := os.WriteFile(taken, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ExportPublisher(data, taken, true); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("over a file: %v", err)
	}
	if raw, err := os.ReadFile(taken); err != nil || string(raw) != "mine" {
		t.Errorf("%q, %v", raw, err)
	}
	if _, key := reopen(t, data); key == nil {
		t.Error("a refused export took the key away")
	}
}

func TestPublisher_RotatedOnTheHub(t *testing.T) {
	data, first := started(t)
	old, next, err := RotatePublisher(data, "", "")
	if err != nil || old != first.ID() {
		t.Fatalf("%v, %v, %v", old, next, err)
	}
	known, key := reopen(t, data)
	if key.ID() != next || known.Known[0].Public.ID() != next || len(known.Known) != 1 {
		t.Errorf("opened with %v, %+v", key, known)
	}
	if !known.Known[0].Public.Replaces(first.Public().Pin()) {
		t.Error("nothing leads from the old key to the new one")
	}
}

func TestPublisher_RotationThatWasInterruptedIsFinished(t *testing.T) {
	data, _ := started(t)
	path := filepath.Join(data, publisherKeyFile)
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, next, err := RotatePublisher(data, "", "")
	if err != nil {
		t.Fatal(err)
	}
	// As if the last step had not happened.
	if err := errors.Join(os.Rename(path, path+newSuffix), os.WriteFile(path, old, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, key := reopen(t, data); key.ID() != next {
		t.Errorf("opened with %s, want %s", key.ID(), next)
	}
}

func TestPublisher_RotatedAwayFromTheHub(t *testing.T) {
	data, first := started(t)
	dir := t.TempDir()
	file, fresh := filepath.Join(dir, "1.key"), filepath.Join(dir, "2.key")
	if _, err := ExportPublisher(data, file, true); err != nil {
		t.Fatal(err)
	}
	for want, give := range map[string][2]string{
		"--key":     {"", ""},
		"--new-key": {file, ""},
	} {
		if _, _, err := RotatePublisher(data, give[0], give[1]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", give, err, want)
		}
	}
	old, next, err := RotatePublisher(data, file, fresh)
	if err != nil || old != first.ID() {
		t.Fatalf("%v, %v, %v", old, next, err)
	}
	known, key := reopen(t, data)
	if key != nil || known.Known[0].Public.ID() != next {
		t.Errorf("opened with %v, %+v", key, known)
	}
	if k, err := publisher.ReadKey(fresh); err != nil || k.ID() != next {
		t.Errorf("%v, %v", k, err)
	}
	if _, _, err := RotatePublisher(data, file, filepath.Join(dir, "3.key")); err == nil {
		t.Error("the old key rotates again")
	}
}

func TestPublisher_OthersAreAddedReplacedAndRemoved(t *testing.T) {
	data, own := started(t)
	ann, err := publisher.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := AddPublisher(data, "ann", ann.Public()); err != nil {
		t.Fatal(err)
	}
	if _, err := AddPublisher(data, "again", ann.Public()); err == nil || !strings.Contains(err.Error(), "known already") {
		t.Errorf("the same key again: %v", err)
	}
	if _, err := AddPublisher(data, "an\x1bn", own.Public()); err == nil {
		t.Error("a name that cannot be shown is taken")
	}
	next, err := ann.Rotate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if replaced, err := AddPublisher(data, "whatever", next.Public()); err != nil || replaced != ann.ID() {
		t.Errorf("a rotated key replaces %q, %v", replaced, err)
	}
	known, _ := reopen(t, data)
	if len(known.Known) != 2 || known.Known[1].Name != "ann" || known.Known[1].Public.ID() != next.ID() {
		t.Errorf("%+v", known)
	}
	if _, err := RemovePublisher(data, string(own.ID())[:8]); err == nil || !strings.Contains(err.Error(), "own") {
		t.Errorf("removing the hub's own: %v", err)
	}
	if gone, err := RemovePublisher(data, "ann"); err != nil || gone.Public.ID() != next.ID() {
		t.Errorf("%+v, %v", gone, err)
	}
	if _, err := RemovePublisher(data, "ann"); err == nil {
		t.Error("removed twice")
	}
	for i := range maxPublishers - 1 {
		k, err := publisher.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := AddPublisher(data, "n", k.Public()); err != nil {
			t.Fatalf("publisher %d: %v", i, err)
		}
	}
	if _, err := AddPublisher(data, "one too many", ann.Public()); err == nil || !strings.Contains(err.Error(), "tickets") {
		t.Errorf("more than a ticket holds: %v", err)
	}
}

func TestPublisher_KeyThatOthersMayReadStopsTheHub(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // files have no such modes there
	}
	data, _ := started(t)
	if err := os.Chmod(filepath.Join(data, publisherKeyFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openPublishers(data, "attic"); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("opened: %v", err)
	}
}

func TestPublisher_TicketsNameThemAndTheHubForgetsItsKey(t *testing.T) {
	opt := Options{
		Data: filepath.Join(t.TempDir(), "hub"), HTTP: "127.0.0.1:0", Nodes: "127.0.0.1:0", Name: "attic", MinFree: 1,
		Log: slog.New(slog.DiscardHandler),
	}
	h, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	if !h.PublisherKeyHere() {
		t.Error("the first start makes no publisher key")
	}
	if err := h.close(); err != nil {
		t.Fatal(err)
	}
	key, err := publisher.ReadKey(filepath.Join(opt.Data, publisherKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := NewTicket(t.Context(), opt.Data, TicketOptions{Pool: "volunteers"}, time.Now())
	if err != nil || len(ticket.Publishers) != 1 || string(ticket.Publishers[0]) != string(key.Public().Key) {
		t.Errorf("ticket %+v, %v", ticket, err)
	}
	// A hub of an earlier release has no publishers until it is started again.
	if err := os.Remove(filepath.Join(opt.Data, publishersFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if ticket, err = NewTicket(t.Context(), opt.Data, TicketOptions{}, time.Now()); err != nil || len(ticket.Publishers) != 0 {
		t.Errorf("ticket %+v, %v", ticket, err)
	}
}
