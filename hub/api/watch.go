package api

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/spare-compute/spare"
)

type progressJSON struct {
	JobID      spare.JobID   `json:"jobId"`
	State      string        `json:"state"`
	Total      int           `json:"total"` // chunks; -1 while the input is still being cut
	Ready      int           `json:"ready"`
	Running    int           `json:"running"`
	Done       int           `json:"done"`
	Failed     int           `json:"failed"`
	Retried    int           `json:"retried"`
	Nodes      int           `json:"nodes"`
	ETASeconds *float64      `json:"etaSeconds"`
	Waiting    []waitingJSON `json:"waiting"`
	Attempts   []runningJSON `json:"attempts"`
	Error      string        `json:"errorMessage"`
}

type waitingJSON struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
	Tasks  int    `json:"tasks"`
}

type runningJSON struct {
	Attempt  spare.AttemptID `json:"attempt"`
	Chunk    int             `json:"chunk"`
	Node     spare.NodeID    `json:"node"`
	NodeName string          `json:"nodeName"`
	Fraction *float64        `json:"fraction"`
	Since    *string         `json:"since"`
}

func showWaiting(all []Waiting) []waitingJSON {
	out := make([]waitingJSON, 0, len(all))
	for _, w := range all {
		out = append(out, waitingJSON{Code: w.Code, Detail: w.Detail, Tasks: w.Tasks})
	}
	return out
}

func showProgress(j spare.Job, p Progress) progressJSON {
	out := progressJSON{
		JobID: j.ID, State: stateNames[j.State], Total: p.Total, Ready: p.Ready, Running: p.Running,
		Done: p.Done, Failed: p.Failed, Retried: p.Retried, Nodes: p.Nodes, Error: j.Error,
		Waiting: showWaiting(p.Waiting), Attempts: []runningJSON{},
	}
	if p.ETA != nil {
		seconds := p.ETA.Seconds()
		out.ETASeconds = &seconds
	}
	for _, a := range p.Attempts {
		out.Attempts = append(out.Attempts, runningJSON{
			Attempt: a.Attempt, Chunk: a.Chunk, Node: a.Node, NodeName: a.NodeName,
			Fraction: a.Fraction, Since: stamp(a.Since),
		})
	}
	return out
}

func (s *server) progressOf(r *http.Request) (spare.Job, Progress, error) {
	j, err := s.jobOf(r, false)
	if err != nil {
		return j, Progress{}, err
	}
	p, err := s.Jobs.Progress(r.Context(), j.ID)
	return j, p, err
}

func (s *server) progress(w http.ResponseWriter, r *http.Request) error {
	j, p, err := s.progressOf(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, showProgress(j, p))
}

// why says what a job waits for: the typed reasons, with a sentence each.
func (s *server) why(w http.ResponseWriter, r *http.Request) error {
	j, p, err := s.progressOf(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{
		"jobId": j.ID, "state": stateNames[j.State], "reasons": showWaiting(p.Waiting), "summary": whySentence(j, p),
	})
}

func whySentence(j spare.Job, p Progress) string {
	switch {
	case j.State == spare.JobDraft:
		return "the job was not run yet: POST its /run"
	case j.State == spare.JobPartitioning:
		return "the input is being fetched and cut into chunks"
	case j.State == spare.JobAssembling:
		return "every chunk is done; the results are being put together"
	case j.State == spare.JobComplete:
		return "the job is complete"
	case j.State.Final():
		return fmt.Sprintf("the job was %s: %s", j.State, j.Error)
	case len(p.Waiting) > 0:
		return fmt.Sprintf("waiting: %s", p.Waiting[0].Detail)
	}
	return fmt.Sprintf("%d chunks are being worked on by %d nodes", p.Running, p.Nodes)
}

func (s *server) tasks(w http.ResponseWriter, r *http.Request) error {
	j, err := s.jobOf(r, false)
	if err != nil {
		return err
	}
	p, err := pageOf(r)
	if err != nil {
		return err
	}
	all, err := s.Store.Tasks(r.Context(), j.ID, p.offset, p.limit)
	if err != nil {
		return err
	}
	counts, err := s.Store.CountTasks(r.Context(), j.ID)
	if err != nil {
		return err
	}
	total := 0
	for _, n := range counts {
		total += n
	}
	shown := append([]spare.Task{}, all...)
	for i := range shown { // the list is of tasks, not of what is in them
		shown[i].Input.Inline = nil
		shown[i].Result = withoutContent(shown[i].Result)
	}
	return writeJSON(w, http.StatusOK, map[string]any{"pagination": p.answer(total), "counts": counts, "data": shown})
}

func (s *server) attempts(w http.ResponseWriter, r *http.Request) error {
	j, err := s.jobOf(r, false)
	if err != nil {
		return err
	}
	p, err := pageOf(r)
	if err != nil {
		return err
	}
	all, err := s.Store.Attempts(r.Context(), j.ID)
	if err != nil {
		return err
	}
	shown := append([]spare.Attempt{}, cut(p, all)...)
	for i := range shown {
		shown[i].Result = withoutContent(shown[i].Result)
	}
	return writeJSON(w, http.StatusOK, map[string]any{"pagination": p.answer(len(all)), "data": shown})
}

// withoutContent is a result without its bytes, where it is so small that it carries them.
func withoutContent(r *spare.Result) *spare.Result {
	if r == nil || r.Blob.Inline == nil {
		return r
	}
	bare := *r
	bare.Blob.Inline = nil
	return &bare
}

// runningTasks counts what runs of each job that the body names.
func (s *server) runningTasks(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		JobIDs  []string `json:"jobsIds"`
		Correct []string `json:"jobIds"` // as one would expect it to be spelt
	}
	b, err := readBody(w, r, maxBody)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &body); err != nil {
		return badJSON("body", err)
	}
	counts := map[string]int{}
	for _, id := range append(body.JobIDs, body.Correct...) {
		r.SetPathValue("id", id)
		j, err := s.jobOf(r, false)
		if err != nil {
			return err
		}
		of, err := s.Store.CountTasks(r.Context(), j.ID)
		if err != nil {
			return err
		}
		counts[string(j.ID)] = of[spare.TaskRunning]
	}
	return writeJSON(w, http.StatusOK, map[string]any{"runningTasks": counts})
}

func (s *server) listNodes(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Nodes.List(r.Context())
	if err != nil {
		return err
	}
	p, err := pageOf(r)
	if err != nil {
		return err
	}
	shown := append([]spare.Node{}, cut(p, all)...)
	return writeJSON(w, http.StatusOK, map[string]any{"pagination": p.answer(len(all)), "data": shown, "nodes": shown})
}
