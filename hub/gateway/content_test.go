package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
)

// parts are images by their pinned names.
type parts map[string][]spare.Digest

func (p parts) Parts(_ context.Context, pinned string) ([]spare.Digest, error) { return p[pinned], nil }

// A lease opens its own App's bundle and image and its own input, and nothing of another
// job; none opens nothing.
func TestGateway_ContentIsForWhoRunsIt(t *testing.T) {
	images := parts{}
	r := newRig(t, func(cfg *Config) { cfg.Images = images })
	content := map[string]spare.Digest{}
	for _, job := range []spare.JobID{"a", "b"} {
		for _, what := range []string{"bundle", "input", "layer", "manifest"} {
			digest, _, err := r.blobs.Put(t.Context(), strings.NewReader(strings.Repeat(fmt.Sprint(what, " of ", job), 5000)))
			if err != nil {
				t.Fatal(err)
			}
			content[what+" of "+string(job)] = digest
		}
		of := func(what string) spare.Digest { return content[what+" of "+string(job)] }
		size, err := r.blobs.Stat(of("input"))
		if err != nil {
			t.Fatal(err)
		}
		image := "registry.test/" + string(job) + ":1@sha256:" + string(of("manifest"))
		images[image] = []spare.Digest{of("layer"), of("manifest")}
		task := spare.Task{
			ID: spare.TaskID(job + ".0"), Job: job, State: spare.TaskReady,
			Input: spare.File{Name: "data.bin", Digest: of("input"), Size: size},
		}
		err = r.store.CreateJob(t.Context(), spare.Job{
			ID: job, State: spare.JobRunning, Chunks: 1, Plan: &spare.Plan{AppParams: json.RawMessage(`{}`), TaskTimeout: time.Minute, App: spare.App{
				Name: string(job), Bundle: of("bundle"), ImageOnHub: true, Environment: spare.Environment{Platform: spare.PlatformPython, Image: image},
			}},
		})
		if err == nil {
			err = r.store.AddTasks(t.Context(), []spare.Task{task})
		}
		if err == nil {
			err = r.gate.cfg.Dispatch.Post(t.Context(),
				scheduler.JobOpened{Job: job, App: string(job), Around: spare.Environment{Platform: spare.PlatformPython}, Owner: "o", Total: -1},
				scheduler.TasksAdded{Job: job, Tasks: []spare.Task{task}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	worker, other := r.dial("worker"), r.dial("other")
	worker.join(hello())
	other.join(hello())
	gets := func(p *peer, d spare.Digest) bool {
		var got bytes.Buffer
		_, err := protocol.GetBlob(t.Context(), p.conn, d, 0, &got)
		return err == nil && spare.Sum(got.Bytes()) == d
	}
	l := worker.lease()
	own, _, _ := strings.Cut(l.Attempt, ".")
	for what, d := range content {
		if got, want := gets(worker, d), strings.HasSuffix(what, " of "+own); got != want {
			t.Errorf("the node with a lease of %s gets the %s: %v", own, what, got)
		}
		if gets(other, d) {
			t.Errorf("a node without a lease gets the %s", what)
		}
	}
	worker.say(&pb.Frame{Body: &pb.Frame_Report{Report: &pb.Report{Ended: []*pb.Ended{{
		Attempt: l.Attempt, Outcome: pb.Outcome_OUTCOME_APP_FAILED, Message: "no",
	}}}}})
	hear(worker, (*pb.Frame).GetAccepted, func(a *pb.Accepted) bool { return a != nil })
	for what, d := range content {
		if _, err := protocol.GetBlob(t.Context(), worker.conn, d, 0, io.Discard); err == nil {
			t.Errorf("after its end the node gets the %s", what)
		}
	}
}
