package node

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/node/link"
	"github.com/spare-compute/spare/node/local"
	"github.com/spare-compute/spare/node/policy"
	"github.com/spare-compute/spare/node/work"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

const upper = `
import os
data = open(os.environ["TASK_DIR"] + "/data.bin").read()
open(os.environ["TASK_RESULTS_DIR"] + "/out.bin", "wb").write(data.upper().encode() + os.urandom(100_000))
`

const forever = `
import time
while True: time.sleep(0.05)
`

func grant(l ...*pb.Lease) *pb.Frame {
	return &pb.Frame{Body: &pb.Frame_Grant{Grant: &pb.Grant{Leases: l}}}
}

func ended(into **pb.Ended) func(*pb.Frame) bool {
	return func(f *pb.Frame) bool {
		if r := f.GetReport(); r != nil {
			*into = r.Ended[0]
		}
		return *into != nil
	}
}

func TestNode_JoinsWorksAndSaysWhatItDoes(t *testing.T) {
	h := newHub(t)
	dir := joined(t, h)
	stop := run(t, dir)
	p := h.accept()
	var device spare.Device
	if err := json.Unmarshal(p.hello.Device, &device); err != nil || device.Offer.Cores < 1 || len(device.Runtimes) != 1 || !device.Runtimes[0].OK {
		t.Errorf("device = %s, %v", p.hello.Device, err)
	}
	if len(p.hello.EnrolmentToken) != 0 {
		t.Error("a token is shown to a hub that knows the node")
	}
	p.until("a want", func(f *pb.Frame) bool { return f.GetWant().GetRun() >= 1 })
	// Tools are probed after joining; then the hub hears of them.
	p.until("the tools", func(f *pb.Frame) bool {
		if u := f.GetDeviceUpdate(); u != nil {
			if err := json.Unmarshal(u.Device, &device); err != nil {
				t.Error(err)
			}
		}
		return slices.ContainsFunc(device.Tools, func(x spare.Tool) bool { return x.Name == "ffmpeg" && len(x.Features) > 0 })
	})
	l := h.lease(0, upper)
	p.send(grant(l))
	p.until("its heartbeat", func(f *pb.Frame) bool { return slices.Contains(f.GetHeartbeat().GetAttempts(), l.Attempt) })
	var end *pb.Ended
	p.until("its end", ended(&end))
	if end.Outcome != pb.Outcome_OUTCOME_SUCCEEDED || len(end.Result.Inline) != 0 {
		t.Fatalf("ended = %v", end)
	}
	if size, err := h.Stat(spare.Digest(end.Result.Digest)); err != nil || uint64(size) != end.Result.Size {
		t.Errorf("the result was reported before the hub had it: %d, %v", size, err)
	}
	s, err := Ask(t.Context(), dir)
	if err != nil || !s.Running || len(s.Hubs) != 1 || !s.Hubs[0].Link.Connected || s.Hubs[0].Pending != 1 || len(s.Work) != 1 {
		t.Errorf("status = %+v, %v", s, err)
	}
	p.send(&pb.Frame{Body: &pb.Frame_Accepted{Accepted: &pb.Accepted{Verdicts: []*pb.Verdict{{Attempt: l.Attempt, Taken: true}}}}})
	deadline := time.Now().Add(within)
	for work.Pending(filepath.Join(hubDir(dir, h.id.ID()), "results")) != 0 {
		if time.Now().After(deadline) {
			t.Fatal("an accepted result stays on disk")
		}
		time.Sleep(time.Millisecond)
	}
	if err := stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
	p.until("goodbye", func(f *pb.Frame) bool { return f.GetGoodbye() != nil })
	s, err = Ask(t.Context(), dir)
	if err != nil || s.Running || s.State != spare.NodeOffline || !strings.Contains(s.Reason.Detail, "not running") || len(s.Device.Tools) == 0 {
		t.Errorf("status of a stopped node = %+v, %v", s, err)
	}
}

func TestNode_KeepsWorkingWhileTheHubIsGone(t *testing.T) {
	h := newHub(t)
	run(t, joined(t, h))
	p := h.accept()
	release := `
import os, time
end = time.time() + 1.5
while time.time() < end: time.sleep(0.05)
open(os.environ["TASK_RESULTS_DIR"] + "/out", "w").write("made while the hub was away")
`
	l := h.lease(0, release)
	p.send(grant(l))
	p.until("its heartbeat", func(f *pb.Frame) bool { return slices.Contains(f.GetHeartbeat().GetAttempts(), l.Attempt) })
	_ = p.s.Close(protocol.CodeLost, "cable cut")
	p = h.accept()
	if !slices.Contains(p.hello.Attempts, l.Attempt) {
		t.Errorf("hello names %q, want the attempt that goes on", p.hello.Attempts)
	}
	var end *pb.Ended
	p.until("its end", ended(&end))
	if end.Outcome != pb.Outcome_OUTCOME_SUCCEEDED {
		t.Errorf("ended = %v", end)
	}
}

func TestNode_StopHandsBackWhatRuns(t *testing.T) {
	h := newHub(t)
	stop := run(t, joined(t, h))
	p := h.accept()
	l := h.lease(0, forever)
	p.send(grant(l))
	p.until("it runs", func(f *pb.Frame) bool { return len(f.GetHeartbeat().GetProgress()) == 1 })
	done := make(chan error, 1)
	go func() { done <- stop() }()
	var end *pb.Ended
	p.until("it is handed back", ended(&end))
	if end.Outcome != pb.Outcome_OUTCOME_PREEMPTED {
		t.Errorf("ended = %v", end)
	}
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestNode_ASecondMachineWithTheSameKeyStopsIt(t *testing.T) {
	h := newHub(t)
	dir := joined(t, h)
	stop := run(t, dir)
	p := h.accept()
	p.send(&pb.Frame{Body: &pb.Frame_Goodbye{Goodbye: &pb.Goodbye{Code: "duplicate", Reason: "…", Retry: false}}})
	<-p.s.Done()
	deadline := time.Now().Add(within)
	for { // it stops by itself
		if err := local.Ask(t.Context(), dir, local.DoStatus, nil); errors.Is(err, local.ErrNotRunning) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the node goes on")
		}
		time.Sleep(5 * time.Millisecond)
	}
	var refused *link.Refused
	if err := stop(); !errors.As(err, &refused) || !strings.Contains(err.Error(), "new data folder") {
		t.Errorf("Run = %v", err)
	}
}

func TestNode_TakesChangedPreferencesAtOnce(t *testing.T) {
	h := newHub(t)
	dir := joined(t, h)
	run(t, dir)
	p := h.accept()
	prefs := policy.Default()
	prefs.Name, prefs.Disk = "quiet corner", 64<<20
	if err := policy.Save(filepath.Join(dir, "prefs.json"), prefs); err != nil {
		t.Fatal(err)
	}
	if err := local.Ask(t.Context(), dir, local.DoReload, nil); err != nil {
		t.Fatal(err)
	}
	p.until("the new name", func(f *pb.Frame) bool {
		var d spare.Device
		return f.GetDeviceUpdate() != nil && json.Unmarshal(f.GetDeviceUpdate().Device, &d) == nil && d.Name == "quiet corner" && d.Offer.Disk == 64<<20
	})
	if err := os.WriteFile(filepath.Join(dir, "prefs.json"), []byte(`{"wen": "ac"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := local.Ask(t.Context(), dir, local.DoReload, nil); err == nil || !strings.Contains(err.Error(), `"when"`) {
		t.Errorf("reload of a misspelt file = %v", err)
	}
}

func TestJoin_FailuresSayWhyAndLeaveNothing(t *testing.T) {
	other, err := protocol.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		refuse *pb.Goodbye
		change func(*protocol.Ticket)
		want   string
		is     any
	}{
		"expired long ago": {nil, func(t *protocol.Ticket) { t.Expires = time.Now().Add(-48 * time.Hour) }, "expired", nil},
		"expired": {
			&pb.Goodbye{Code: "enrolment", Reason: "this ticket has expired; ask for a new one"}, nil,
			"expired", new(*link.Refused),
		},
		"another hub":    {nil, func(t *protocol.Ticket) { t.HubKey = other.ID() }, "another hub", new(*protocol.WrongHubError)},
		"nobody there":   {nil, func(t *protocol.Ticket) { t.Addresses = []string{"127.0.0.1:9"} }, "cannot reach the hub", new(*link.Unreachable)},
		"no such name":   {nil, func(t *protocol.Ticket) { t.Addresses = []string{"hub.invalid:9"} }, "hub.invalid", new(*link.Unreachable)},
		"no address":     {nil, func(t *protocol.Ticket) { t.Addresses = nil }, "no address", new(*link.Unreachable)},
		"newer protocol": {&pb.Goodbye{Code: "version", Reason: "update spare-node"}, nil, "update", new(*link.Refused)},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t)
			h.refuse.Store(c.refuse)
			ticket := h.ticket()
			if c.change != nil {
				c.change(&ticket)
			}
			above := t.TempDir()
			_, err := Join(t.Context(), filepath.Join(above, "a", "data"), ticket, quiet())
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || (c.is != nil && !errors.As(err, c.is)) {
				t.Errorf("Join = %v, want one sentence with %q as a %T", err, c.want, c.is)
			}
			if left, _ := os.ReadDir(above); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestJoin_FailureLeavesAJoinedNodeAsItWas(t *testing.T) {
	h := newHub(t)
	dir := joined(t, h)
	key, err := os.ReadFile(filepath.Join(dir, "identity.key"))
	if err != nil {
		t.Fatal(err)
	}
	second := newHub(t)
	second.refuse.Store(&pb.Goodbye{Code: "enrolment", Reason: "this ticket is used up"})
	if _, err := Join(t.Context(), dir, second.ticket(), quiet()); err == nil {
		t.Fatal("a refused join succeeded")
	}
	hubs, err := Hubs(dir)
	if err != nil || len(hubs) != 1 || hubs[0].Key != h.id.ID() {
		t.Errorf("hubs = %v, %v", hubs, err)
	}
	if again, _ := os.ReadFile(filepath.Join(dir, "identity.key")); string(again) != string(key) {
		t.Error("the node's key changed")
	}
	if info, _ := os.Stat(filepath.Join(dir, "identity.key")); info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v", info.Mode().Perm())
	}
}

func TestNode_WorksForSeveralHubs(t *testing.T) {
	a, b := newHub(t), newHub(t)
	dir := joined(t, a)
	if _, err := Join(t.Context(), dir, b.ticket(), quiet()); err != nil {
		t.Fatal(err)
	}
	b.accept()
	run(t, dir)
	for _, h := range []*aHub{a, b} {
		p := h.accept()
		p.send(grant(h.lease(0, upper)))
		var end *pb.Ended
		p.until("its end", ended(&end))
		if end.Outcome != pb.Outcome_OUTCOME_SUCCEEDED {
			t.Errorf("ended = %v", end)
		}
	}
}
