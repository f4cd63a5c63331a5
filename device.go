package spare

import "time"

// A Device is what a node reports of its machine. A value that cannot be read is
// absent, never zero: pointers and empty lists say so.
type Device struct {
	Name        string       `json:"name"` // host name, or what the owner chose
	OS          string       `json:"os"`   // GOOS
	Arch        string       `json:"arch"` // GOARCH
	Distro      string       `json:"distro,omitempty"`
	Kernel      string       `json:"kernel,omitempty"`
	CPU         CPU          `json:"cpu"`
	Memory      *Amount      `json:"memory,omitempty"`
	Disk        *Amount      `json:"disk,omitempty"` // the cache volume
	GPUs        []GPU        `json:"gpus,omitempty"`
	Battery     *Battery     `json:"battery,omitempty"`
	Temperature *float64     `json:"temperature_c,omitempty"` // hottest CPU sensor, °C
	Load1       *float64     `json:"load1,omitempty"`         // 1-minute load average
	Network     []Interface  `json:"network,omitempty"`
	Boot        *time.Time   `json:"boot,omitempty"`
	Runtimes    []Capability `json:"runtimes"`
	Tools       []Tool       `json:"tools,omitempty"`
	Offer       Offer        `json:"offer"` // what the owner lends of it
	Software    string       `json:"software"`
}

// CPU describes the processors.
type CPU struct {
	Model    string   `json:"model,omitempty"`
	Cores    int      `json:"cores"` // logical
	Features []string `json:"features,omitempty"`
	MHz      *float64 `json:"mhz,omitempty"`
}

// Amount is a quantity of bytes, total and free.
type Amount struct {
	Total uint64 `json:"total"` // bytes
	Free  uint64 `json:"free"`  // bytes
}

// GPU is one graphics processor.
type GPU struct {
	Vendor string `json:"vendor"` // "nvidia", "amd", "intel", "apple"
	Model  string `json:"model"`
	Memory uint64 `json:"memory,omitempty"` // bytes
	Driver string `json:"driver,omitempty"`
}

// Battery is the state of the machine's power.
type Battery struct {
	Percent  *float64 `json:"percent,omitempty"`
	Charging bool     `json:"charging"`
	OnAC     bool     `json:"on_ac"`
}

// Interface is a network interface that is up.
type Interface struct {
	Name    string `json:"name"`
	Metered *bool  `json:"metered,omitempty"`
}

// Capability is what a runtime's probe proved by running it.
type Capability struct {
	Runtime   string     `json:"runtime"` // "linux", "engine", "wasm", …
	Platforms []Platform `json:"platforms,omitempty"`
	Features  []Feature  `json:"features,omitempty"`
	OK        bool       `json:"ok"`
	Reason    string     `json:"reason,omitempty"`  // why not, when not OK
	Walls     []string   `json:"walls,omitempty"`   // what contains the program here
	Missing   []string   `json:"missing,omitempty"` // walls that do not stand here, "name: why"
	Version   string     `json:"version,omitempty"`
}

// Tool is a program outside Spare that works inside the sandbox.
type Tool struct {
	Name     string   `json:"name"`
	Version  string   `json:"version,omitempty"`
	Features []string `json:"features,omitempty"` // of ffmpeg: its encoders that really encode
}

// Offer is what a node lends.
type Offer struct {
	Cores  int    `json:"cores"`
	Memory uint64 `json:"memory,omitempty"` // bytes
	Disk   uint64 `json:"disk,omitempty"`   // bytes
}

// NodeState is what a node is doing, with its reason.
type NodeState string

// The states of a node.
const (
	NodeWorking NodeState = "working"
	NodeIdle    NodeState = "idle"
	NodePaused  NodeState = "paused"
	NodeOffline NodeState = "offline"
)

// A Node is what the hub knows of one.
type Node struct {
	ID       NodeID    `json:"id"`
	Pool     string    `json:"pool"`
	Owner    string    `json:"owner"`
	Device   Device    `json:"device"`
	State    NodeState `json:"state"`
	Reason   Reason    `json:"reason"`
	Joined   time.Time `json:"joined"`
	LastSeen time.Time `json:"last_seen"`
}

// Record is how a node did with one App. Completion counts leases finished against
// abandoned; validity counts results that proved right against wrong. The counts decay
// (exponential forgetting), so they are not whole numbers.
type Record struct {
	Node      NodeID  `json:"node"`
	App       string  `json:"app"` // App name
	Finished  float64 `json:"finished"`
	Abandoned float64 `json:"abandoned"`
	Right     float64 `json:"right"`
	Wrong     float64 `json:"wrong"`
	Failed    float64 `json:"failed"` // failures on chunks that others finished
}
