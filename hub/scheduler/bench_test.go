package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/spare-compute/spare"
)

// BenchmarkCore_Events drives the bare core with 1000 nodes and 20 jobs of five
// requirement classes: each node reports its attempt, wants the next one and beats its
// heart; a turn is made every 64 events. The refills are answered from thin air.
func BenchmarkCore_Events(b *testing.B) {
	const nodes, jobs, perTurn = 1000, 20, 64
	core, now := New(Config{}, 1), time.Unix(1e9, 0)
	ids := make([]spare.NodeID, nodes)
	held := map[spare.NodeID][]spare.AttemptID{}
	for i := range ids {
		n := aNode(fmt.Sprint("node", i))
		ids[i] = n.ID
		core.Apply(now, NodeUp{Node: n})
		core.Apply(now, Wanted{Node: n.ID, Run: 1, Prefetch: 1})
	}
	const total = 1 << 30
	for i := range jobs {
		core.Apply(now, JobOpened{
			Job: spare.JobID(fmt.Sprint("job", i)), App: fmt.Sprint("app", i%5), Around: spare.Environment{Platform: spare.PlatformPython},
			Owner: fmt.Sprint("owner", i%7), Total: total,
		})
	}
	events, pending, tasks := 0, 0, 0
	feed := func(ev Event) {
		core.Apply(now, ev)
		events++
		pending++
	}
	turn := func() {
		pending = 0
		for _, d := range core.Turn(now).Decisions {
			switch d := d.(type) {
			case Grant:
				for _, l := range d.Leases {
					held[d.Node] = append(held[d.Node], l.Attempt.ID)
				}
			case Refill:
				rows := make([]spare.Task, d.Limit)
				for i := range rows {
					rows[i] = spare.Task{ID: spare.NewTaskID(d.Job, d.From+i), Job: d.Job, Chunk: d.From + i, State: spare.TaskReady}
				}
				core.Apply(now, Refilled{Job: d.Job, From: d.From, Limit: d.Limit, Tasks: rows})
			case TaskDone:
				tasks++
			}
		}
	}
	turn()
	turn()
	result := &spare.Result{}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		id := ids[i%nodes]
		if i%nodes == 0 {
			now = now.Add(time.Second)
		}
		mine := held[id]
		feed(Heartbeat{Node: id, Attempts: mine})
		if len(mine) > 0 {
			held[id] = mine[1:]
			feed(Reported{Node: id, Attempt: mine[0], Outcome: spare.Succeeded, Result: result, Usage: spare.Usage{CPU: time.Second, Wall: time.Second}})
		}
		feed(Wanted{Node: id, Run: 1, Prefetch: max(0, 1-len(held[id]))})
		if pending >= perTurn {
			turn()
		}
	}
	b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(tasks)/b.Elapsed().Seconds(), "tasks/s")
}
