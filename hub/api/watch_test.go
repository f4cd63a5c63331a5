package api_test

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/api"
	"github.com/spare-compute/spare/hub/events"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
)

// listen opens an event stream and returns its lines.
func (c caller) listen(ctx context.Context, path, last string) *bufio.Scanner {
	c.t.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", c.base+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", c.auth)
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		c.t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	return bufio.NewScanner(resp.Body)
}

// until reads lines up to one with these words and returns it and the last id before it.
func until(t *testing.T, in *bufio.Scanner, words string) (line, id string) {
	t.Helper()
	for in.Scan() {
		if s, ok := strings.CutPrefix(in.Text(), "id: "); ok {
			id = s
		}
		if strings.Contains(in.Text(), words) {
			return in.Text(), id
		}
	}
	t.Fatalf("the stream ended before %q: %v", words, in.Err())
	return "", ""
}

func TestEvents_OfAJobBeginWithWhereItIsAndGoOnAfterTheLast(t *testing.T) {
	h, c := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	h.Jobs.Hold()
	id := c.fileJob("x")
	at := "/v1/customer/jobs/" + id
	in := c.listen(ctx, at+"/events", "")
	until(t, in, "event: job.snapshot")
	until(t, in, "JOB_STATE_NEW")
	h.Events.Publish(events.Event{Type: events.JobState, Job: "another"})
	c.ok("POST", at+"/run", nil)
	line, first := until(t, in, `"type":"job.state"`)
	if !strings.Contains(line, id) || first == "" {
		t.Fatalf("first event: %s with id %q", line, first)
	}
	h.Jobs.Release()
	c.await(id, "JOB_STATE_COMPLETE")
	again := c.listen(ctx, at+"/events", first)
	until(t, again, "JOB_STATE_COMPLETE") // the snapshot
	line, next := until(t, again, `"type":"job.state"`)
	if next <= first || !strings.Contains(line, `"running"`) {
		t.Errorf("after %s came %s: %s", first, next, line)
	}
	c.refused(400, "Last-Event-ID", "GET", at+"/events", nil, "Last-Event-ID", "x")
}

func TestEvents_OfTheHubTellEachOnlyWhatIsTheirs(t *testing.T) {
	h, c := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	id := c.fileJob("x")
	bob := caller{t, h.URL, h.Key("bob", store.RoleSubmitter)}.listen(ctx, "/v1/events", "")
	boss := caller{t, h.URL, h.Admin}.listen(ctx, "/v1/events", "")
	until(t, bob, "retry")
	until(t, boss, "retry")
	c.ok("POST", "/v1/customer/jobs/"+id+"/run", nil)
	h.Events.Publish(events.Event{Type: events.NodeUp, Node: "n"})
	until(t, boss, id)
	until(t, boss, "node.up")
	for bob.Scan() {
		if strings.Contains(bob.Text(), id) {
			t.Fatalf("bob heard of alice's job: %s", bob.Text())
		}
		if strings.Contains(bob.Text(), "node.up") {
			return
		}
	}
	t.Fatal("bob did not hear of the node")
}

func TestWatch_ProgressReasonsTasksAttemptsAndLogs(t *testing.T) {
	h, c := start(t)
	h.Jobs.Hold()
	h.Jobs.Wait(api.Waiting{Reason: spare.Reason{Code: spare.ReasonNeedsTool, Detail: "no connected node offers ffmpeg with libx265"}, Tasks: 1})
	id := c.fileJob("x")
	at := "/v1/customer/jobs/" + id
	if why := c.ok("GET", at+"/why", nil); !strings.Contains(why["summary"].(string), "not run yet") {
		t.Errorf("why: %v", why)
	}
	c.ok("POST", at+"/run", nil)
	p := c.ok("GET", at+"/progress", nil)
	if p["ready"] != 1.0 || p["total"] != 1.0 || p["state"] != "JOB_STATE_RUNNING" || p["etaSeconds"] != nil {
		t.Errorf("progress: %v", p)
	}
	why := c.ok("GET", at+"/why", nil)
	if why["summary"] != "waiting: no connected node offers ffmpeg with libx265" || why["reasons"].([]any)[0].(map[string]any)["code"] != "needs_tool" {
		t.Errorf("why: %v", why)
	}
	job, task := spare.JobID(id), spare.NewTaskID(spare.JobID(id), 0)
	now := time.Now()
	tasks := []spare.Task{{ID: task, Job: job, State: spare.TaskRunning}}
	if err := h.Store.AddTasks(t.Context(), tasks); err != nil {
		t.Fatal(err)
	}
	err := h.Store.Commit(t.Context(), scheduler.Ledger{Attempts: []spare.Attempt{{
		ID: spare.NewAttemptID(task, 1), Task: task, Job: job, Number: 1, Granted: now, Expires: now, Ended: &now,
		Outcome: spare.AppFailed, Message: "exit code 3", Log: "starting\nWARNING: odd\nERROR no such codec\n",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if list := c.ok("GET", at+"/tasks", nil); list["counts"].(map[string]any)["running"] != 1.0 || len(list["data"].([]any)) != 1 {
		t.Errorf("tasks: %v", list)
	}
	if list := c.ok("GET", at+"/attempts", nil)["data"].([]any); list[0].(map[string]any)["outcome"] != "app_failed" {
		t.Errorf("attempts: %v", list)
	}
	if counts := c.ok("POST", "/v1/customer/jobs/runningTasks", map[string]any{"jobsIds": []string{id}})["runningTasks"].(map[string]any); counts[id] != 1.0 {
		t.Errorf("running tasks: %v", counts)
	}
	lines := func(body map[string]any) (all []string) {
		body["jobId"] = id
		of, _ := c.ok("POST", "/v1/customer/logs", body)["taskrunner"].(map[string]any)[string(task)].(map[string]any)
		for _, l := range of["logs"].([]any) {
			l := l.(map[string]any)
			all = append(all, l["level"].(string)+" "+l["log"].(string))
		}
		return all
	}
	if got := strings.Join(lines(map[string]any{"taskIds": []string{}, "levels": []string{}}), "|"); got != "UNKNOWN starting|WARN WARNING: odd|ERROR ERROR no such codec|ERROR exit code 3" {
		t.Errorf("logs: %s", got)
	}
	if got := lines(map[string]any{"levels": []string{"WARN"}}); len(got) != 1 {
		t.Errorf("warnings: %v", got)
	}
}

func TestLogs_OfAFailedPartitionAreTheJobsLastWords(t *testing.T) {
	h, c := start(t)
	id := spare.JobID("0f0e9d3c-6a3b-4c1d-9e2f-1b2c3d4e5f60")
	now := time.Now()
	err := h.Store.CreateJob(t.Context(), spare.Job{
		ID: id, Owner: "alice", State: spare.JobFailed, Error: "partition: not a video\nmoov atom not found", CreatedAt: now,
		Times: map[spare.JobState]time.Time{spare.JobPartitioning: now, spare.JobFailed: now},
	})
	if err != nil {
		t.Fatal(err)
	}
	logs := c.ok("POST", "/v1/customer/logs", map[string]any{"jobId": id})
	if p := logs["partitioner"].([]any); len(p) != 2 || len(logs["assembler"].([]any)) != 0 {
		t.Errorf("logs: %v", logs)
	}
	c.refused(400, "job has not yet been completed", "GET", "/v1/customer/jobs/"+string(id)+"/results", nil)
}

func TestNodes_AreListed(t *testing.T) {
	h, c := start(t)
	if err := h.Store.PutNode(t.Context(), spare.Node{ID: spare.NodeID(spare.Sum([]byte("n"))), Pool: "trusted", State: spare.NodeIdle}); err != nil {
		t.Fatal(err)
	}
	if all := c.ok("GET", "/v1/computing/nodes", nil)["nodes"].([]any); len(all) != 1 || all[0].(map[string]any)["state"] != "idle" {
		t.Errorf("nodes: %v", all)
	}
}

func TestHealth_SaysWhenTheHubIsNotReady(t *testing.T) {
	h, c := start(t)
	h.Stop()
	h.Config.Ready = func() error { return errors.New("the ledger is being read") }
	h.Resume()
	c.refused(503, "the ledger is being read", "GET", "/healthz", nil)
}
