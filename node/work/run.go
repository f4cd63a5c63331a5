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

// graceOf leaves half of the time that a stop may take for what comes after the App's end.
func graceOf(stop time.Duration) time.Duration { return min(grace, stop/2) }

// run runs the App of an attempt in the runtime that serves it.
func (e *Executor) run(a *attempt, m *materials, dir string) stage.Ended {
	app, err := appOf(a.lease.App)
	if err != nil {
		return stage.Ended{Outcome: spare.SandboxFailed, Message: sentence(err)}
	}
	around := app.Environment
	rt, err := e.runtime(around)
	if err != nil {
		return stage.Ended{Outcome: spare.SandboxFailed, Message: sentence(err)}
	}
	limits := e.lent()
	disk, err := a.room(int64(limits.Disk))
	if err != nil {
		return stage.Ended{Outcome: spare.OutOfDisk, Message: sentence(err)}
	}
	memory := a.lease.MemoryBytes
	if memory == 0 {
		memory = limits.Memory / uint64(max(1, limits.Cores)) * uint64(a.cores)
	}
	l := a.lease
	job, _, _ := strings.Cut(string(a.id), ".")
	return stage.RunApp(a.ctx, rt, stage.Task{
		Bundle: m.app, Root: l.App.Root, Entrypoint: l.App.Entrypoint, Around: around, Image: m.image, GPUs: app.Needs.GPU,
		Input: m.input, Params: l.Params, Chunk: int(l.Chunk), JobName: l.JobName, JobID: spare.JobID(job),
		Work: dir, Checkpoint: m.state, Grace: graceOf(e.cfg.Stop), Steer: &a.steer,
		Limits: sandbox.Limits{
			CPUs: float64(a.cores), Memory: int64(memory), Disk: disk,
			Wall: time.Duration(l.TimeoutS) * time.Second, Nice: true,
		},
	})
}
