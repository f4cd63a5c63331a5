package spare

import (
	"encoding/json"
	"time"
)

// Platform says what an App's entrypoint needs to run.
type Platform string

// The platforms an App can name. Docker is the contract's other word for container.
const (
	PlatformPython    Platform = "python"
	PlatformContainer Platform = "container"
	PlatformWasm      Platform = "wasm"
)

// Kind tells an App from the engines that cut its input and join its output.
type Kind string

// The kinds of pushed code.
const (
	KindApp         Kind = "app"
	KindPartitioner Kind = "partitioner"
	KindAssembler   Kind = "assembler"
)

// An App is code that processes one chunk. Name and Version are its key; each
// push of the same key raises Revision, and a running job keeps the one it pinned.
type App struct {
	ID          string          `json:"id"` // uuid
	Name        string          `json:"name"`
	Version     string          `json:"version"` // "0.1", "0.1rev3" or "0.2.rev33"
	Revision    int             `json:"revision"`
	Kind        Kind            `json:"kind"`
	Description string          `json:"description,omitempty"`
	Entrypoint  string          `json:"entrypoint"` // file inside the App's folder
	Platform    Platform        `json:"platform"`
	Config      json.RawMessage `json:"platform_config,omitempty"`
	Needs       Requirements    `json:"device_requirements"`
	InputType   string          `json:"input_type,omitempty"`
	OutputType  string          `json:"output_type,omitempty"`
	Public      bool            `json:"public"`
	Owner       string          `json:"owner"`
	Active      bool            `json:"active"` // only active versions accept jobs
	Bundle      Digest          `json:"bundle"` // the packed folder (package bundle)
	BundleSize  int64           `json:"bundle_size"`
	Root        string          `json:"root"` // the entrypoint's folder inside the bundle: "app" or "."
	Environment Environment     `json:"environment"`
	ImageOnHub  bool            `json:"image_on_hub,omitempty"` // the hub holds the image's blobs
	Signed      []byte          `json:"signed,omitempty"`       // the publisher's signed manifest; empty if it has none
	CreatedAt   time.Time       `json:"created_at"`
	UpdatedAt   time.Time       `json:"updated_at"`
}

// Tag is the App's exact name, "name@version".
func (a App) Tag() string { return a.Name + "@" + a.Version }

// Requirements are what a device must offer to run an App. Zero values ask nothing.
type Requirements struct {
	MinCPU    int      `json:"min_cpu,omitempty"`    // cores
	MinMemory float64  `json:"min_memory,omitempty"` // GiB
	MinDisk   float64  `json:"min_disk,omitempty"`   // GiB
	GPU       []string `json:"gpu,omitempty"`        // any of these model names, case ignored
	Tools     []string `json:"tools,omitempty"`      // all of these: "ffmpeg" or, with a feature, "ffmpeg:libx265"
	OS        []string `json:"os,omitempty"`         // any of these GOOS values
	Arch      []string `json:"arch,omitempty"`       // any of these GOARCH values
}

// A Template ties an App to the strategies that cut its input and join its output.
type Template struct {
	ID            string          `json:"id"` // may itself contain "@v0.2"
	Description   string          `json:"description,omitempty"`
	App           string          `json:"app"` // tag
	Partitioner   string          `json:"partitioner"`
	PartitionCfg  json.RawMessage `json:"partitioning_strategy_config,omitempty"`
	Assembler     string          `json:"assembler"`
	AssembleCfg   json.RawMessage `json:"merge_strategy_config,omitempty"`
	ScheduleCfg   json.RawMessage `json:"scheduling_strategy_config,omitempty"`
	SchemaID      string          `json:"schema_id,omitempty"`
	SchemaVersion string          `json:"schema_version,omitempty"`
	Streamable    bool            `json:"streamable"`
	Public        bool            `json:"public"`
	Owner         string          `json:"owner"`
	Source        *DataPoint      `json:"dataSource,omitempty"`
	Destination   *DataPoint      `json:"dataDestination,omitempty"`
	Params        Params          `json:"params"` // defaults; a job's own values win
	Config        JobConfig       `json:"config"`
	CreatedAt     time.Time       `json:"created_at"`
	UpdatedAt     time.Time       `json:"updated_at"`
}

// A Schema is the JSON Schema (2020-12 or draft-07) of an App's own parameters.
type Schema struct {
	ID      string          `json:"id"`
	Version string          `json:"version"`
	Body    json.RawMessage `json:"schema"`
}

// A Preset is a named parameter set of a template, valid against its schema.
type Preset struct {
	Template    string          `json:"template"`
	ID          string          `json:"id"`
	Description string          `json:"description,omitempty"`
	Data        json.RawMessage `json:"data"`
}
