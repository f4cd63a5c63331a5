package work

import (
	"strings"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/stage"
)

// grace is what an App has from SIGTERM to its end to leave its state in CHECKPOINT_DIR.
const grace = 10 * time.Second

// run runs the App of an attempt in the runtime that serves it.
func (e *Executor) run(a *attempt, m *materials, dir string) stage.Ended {
	around, err := environment(a.lease.App)
	if err != nil {
		return stage.Ended{Outcome: spare.SandboxFailed, Message: sentence(err)}
	}
	rt, err := e.runtime(around)
	if err != nil {
		return stage.Ended{Outcome: spare.SandboxFailed, Message: sentence(err)}
	}
	e.mu.Lock()
	limits := e.limits
	e.mu.Unlock()
	memory := a.lease.MemoryBytes
	if memory == 0 {
		memory = limits.Memory / uint64(max(1, limits.Cores)) * uint64(a.cores)
	}
	l := a.lease
	job, _, _ := strings.Cut(string(a.id), ".")
	return stage.RunApp(a.ctx, rt, stage.Task{
		Bundle: m.app, Root: l.App.Root, Entrypoint: l.App.Entrypoint, Around: around, Image: m.image, GPUs: l.App.Gpus,
		Input: m.input, Params: l.Params, Chunk: int(l.Chunk), JobName: l.JobName, JobID: spare.JobID(job),
		Work: dir, Checkpoint: m.state, Grace: grace, Steer: &a.steer,
		Limits: sandbox.Limits{
			CPUs: float64(a.cores), Memory: int64(memory), Disk: int64(limits.Disk),
			Wall: time.Duration(l.TimeoutS) * time.Second, Nice: true,
		},
	})
}
