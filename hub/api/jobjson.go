package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/spare-compute/spare"
)

// stamp writes a time as the contract does: RFC 3339, microseconds, UTC.
func stamp(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := t.UTC().Format("2006-01-02T15:04:05.000000Z")
	return &s
}

// stateNames are the contract's words for a job's states; the last ones it never
// published are ours.
var stateNames = map[spare.JobState]string{
	spare.JobDraft:        "JOB_STATE_NEW",
	spare.JobPartitioning: "JOB_STATE_PARTITIONING",
	spare.JobRunning:      "JOB_STATE_RUNNING",
	spare.JobAssembling:   "JOB_STATE_ASSEMBLING",
	spare.JobComplete:     "JOB_STATE_COMPLETE",
	spare.JobFailed:       "JOB_STATE_FAILED",
	spare.JobAborted:      "JOB_STATE_ABORTED",
}

// stateOf reads a state in either spelling.
func stateOf(name string) (spare.JobState, bool) {
	for state, known := range stateNames {
		if strings.EqualFold(name, known) || strings.EqualFold(name, string(state)) {
			return state, true
		}
	}
	return "", false
}

// jobJSON is a job as both eras' clients know it: unset messages are null and present,
// 64-bit integers are strings.
type jobJSON struct {
	ID                 string            `json:"id"`
	TemplateID         string            `json:"templateId"`
	Name               string            `json:"name"`
	Description        string            `json:"description"`
	Config             configJSON        `json:"config"`
	Priority           string            `json:"priority"`
	StartAt            *string           `json:"startAt"`
	Deadline           *string           `json:"deadline"`
	SubmittedAt        *string           `json:"submittedAt"`
	StartedAt          *string           `json:"startedAt"`
	CompletedAt        *string           `json:"completedAt"`
	EndedAt            *string           `json:"endedAt"`
	Regions            *struct{}         `json:"regions"`
	State              string            `json:"state"`
	DataSource         any               `json:"dataSource"`
	Params             *paramsJSON       `json:"params"`
	DataDestination    any               `json:"dataDestination"`
	Duration           *float64          `json:"duration"` // seconds
	DeletedAt          *string           `json:"deletedAt"`
	CreatedAt          *string           `json:"createdAt"`
	PaymentAmount      float64           `json:"paymentAmount"`
	NumUnitsEstimation string            `json:"numUnitsEstimation"`
	NumChunks          int               `json:"numChunks"`
	ErrorMessage       string            `json:"errorMessage"`
	StateTimestamps    map[string]string `json:"stateTimestamps"`
	AppID              string            `json:"appId"`
	TemplateInfo       *templateInfo     `json:"templateInfo"`

	// Ours.
	Owner         string        `json:"owner"`
	NumChunksDone int           `json:"numChunksDone"`
	Summary       spare.Summary `json:"summary,omitempty"`
}

type configJSON struct {
	TaskTimeout          int      `json:"taskTimeout"`
	JobTimeout           int      `json:"jobTimeout"`
	IsTestJob            bool     `json:"isTestJob"`
	MaxTaskRetries       int      `json:"maxTaskRetries"`
	MinChunkSize         string   `json:"minChunkSize"`
	MaxChunkSize         string   `json:"maxChunkSize"`
	ReplicationFactor    int      `json:"replicationFactor"`
	PartitioningSettings struct{} `json:"partitioningSettings"`
}

type paramsJSON struct {
	Schema          string          `json:"schema"`
	Data            json.RawMessage `json:"data"`
	Preset          string          `json:"preset"`
	SelectedOutputs []string        `json:"selectedOutputs"`
	Partitioner     json.RawMessage `json:"partitioner"`
	App             json.RawMessage `json:"app"`
	Assembler       json.RawMessage `json:"assembler"`
}

type templateInfo struct {
	ID          string `json:"id"`
	Owner       string `json:"owner"`
	Description string `json:"description"`
	App         string `json:"app"`
	Partitioner string `json:"partitioner"`
	Assembler   string `json:"assembler"`
}

func infoOf(t spare.Template) *templateInfo {
	return &templateInfo{
		ID: t.ID, Owner: t.Owner, Description: t.Description,
		App: t.App, Partitioner: t.Partitioner, Assembler: t.Assembler,
	}
}

// showJob renders a job; info may be nil when its template is gone.
func (s *server) showJob(r *http.Request, j spare.Job, info *templateInfo) jobJSON {
	out := jobJSON{
		ID: string(j.ID), TemplateID: j.Template, Name: j.Name, Description: j.Description,
		Config:   showConfig(j.Config),
		Priority: "EXECUTION_PRIORITY_UNDEFINED", State: stateNames[j.State],
		Params:     showParams(j.Params),
		DataSource: s.showSource(r, j), DataDestination: showPoint(j.Destination),
		CreatedAt: stamp(j.CreatedAt), NumUnitsEstimation: "0", NumChunks: j.Chunks,
		ErrorMessage: j.Error, TemplateInfo: info, Owner: j.Owner, NumChunksDone: j.Done,
		StateTimestamps: map[string]string{}, Summary: j.Summary,
	}
	started := j.Times[spare.JobPartitioning]
	out.SubmittedAt, out.StartedAt = stamp(started), stamp(started)
	for state, at := range j.Times {
		if t := stamp(at); t != nil {
			out.StateTimestamps[stateNames[state]] = *t
		}
	}
	if t := stamp(j.CreatedAt); t != nil {
		out.StateTimestamps[stateNames[spare.JobDraft]] = *t
	}
	if j.State.Final() {
		ended := j.Times[j.State]
		out.EndedAt = stamp(ended)
		if j.State == spare.JobComplete {
			out.CompletedAt = out.EndedAt
		}
		if !started.IsZero() {
			seconds := ended.Sub(started).Seconds()
			out.Duration = &seconds
		}
	}
	if j.Plan != nil {
		out.AppID = j.Plan.App.ID
	}
	return out
}

func showConfig(c spare.JobConfig) configJSON {
	return configJSON{
		TaskTimeout: c.TaskTimeout, JobTimeout: c.JobTimeout, IsTestJob: c.IsTestJob,
		MaxTaskRetries: c.MaxTaskRetries, MinChunkSize: "0", MaxChunkSize: "0",
	}
}

func showParams(p spare.Params) *paramsJSON {
	if p.Preset == "" && p.Data == nil && p.App == nil && p.Partitioner == nil && p.Assembler == nil {
		return nil
	}
	return &paramsJSON{
		Data: p.Data, Preset: p.Preset, SelectedOutputs: []string{},
		Partitioner: p.Partitioner, App: p.App, Assembler: p.Assembler,
	}
}

// sourceTypes are the contract's message names, which its clients expect to see again.
var sourceTypes = map[string]string{
	"url":   "type.googleapis.com/bytenite.data_source.HttpDataSource",
	"file":  "type.googleapis.com/bytenite.data_source.LocalFileDataSource",
	"local": "type.googleapis.com/bytenite.data_source.LocalFileDataSource",
}

type pointJSON struct {
	Descriptor string            `json:"dataSourceDescriptor"`
	Params     map[string]string `json:"params"`
}

// showPoint renders a data source or destination without what is secret in it.
func showPoint(dp spare.DataPoint) any {
	if dp.Descriptor == "" {
		return nil // an untyped nil: null in JSON
	}
	params := maps.Clone(dp.Params)
	if params == nil {
		params = map[string]string{}
	}
	if t := sourceTypes[dp.Descriptor]; t != "" && params["@type"] == "" {
		params["@type"] = t
	}
	for name := range params {
		switch strings.ToLower(name) {
		case "password", "secretkey", "secret_key":
			delete(params, name)
		}
	}
	return pointJSON{Descriptor: dp.Descriptor, Params: params}
}

// showSource adds where to upload to, as long as the job waits for its file.
func (s *server) showSource(r *http.Request, j spare.Job) any {
	shown, ok := showPoint(j.Source).(pointJSON)
	if !ok {
		return nil
	}
	if isUpload(j.Source) && j.State == spare.JobDraft && changes(caller(r.Context()), j.Owner) {
		shown.Params["tempUrl"] = s.link(r, purposeUpload, jobPath(j.ID)+"/upload", uploadLife)
	}
	return shown
}

// isUpload reports whether the job's input is sent to the hub.
func isUpload(dp spare.DataPoint) bool {
	return dp.Descriptor == "file" || dp.Descriptor == "local"
}

func jobPath(id spare.JobID) string { return "/v1/computing/jobs/" + string(id) }
