package scheduler

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spare-compute/spare"
)

// A ReasonCount is a reason and how many tasks wait for it.
type ReasonCount struct {
	Reason spare.Reason
	Tasks  int
}

// Why says what a job's waiting tasks wait for, the most telling reason first.
func (c *Core) Why(job spare.JobID, now time.Time) []ReasonCount {
	j := c.jobs[job]
	if j == nil {
		return nil
	}
	var counts []ReasonCount
	add := func(r spare.Reason, n int) {
		if n == 0 {
			return
		}
		for i := range counts {
			if counts[i].Reason.Code == r.Code {
				counts[i].Tasks += n
				return
			}
		}
		counts = append(counts, ReasonCount{r, n})
	}
	// What no node can run tells more than that one of its chunks backs off.
	add(c.whyClass(j.class, now), len(j.clean.all())+max(0, j.stored-j.next))
	held := inOrder(j.tasks)
	slices.SortStableFunc(held, func(a, b *task) int { return a.row.NotBefore.Compare(b.row.NotBefore) })
	for _, t := range held {
		if t.place == shy || t.place == backing {
			add(c.whyTask(t, now), 1)
		}
	}
	slices.SortStableFunc(counts, func(a, b ReasonCount) int { return rank(a.Reason) - rank(b.Reason) })
	return counts
}

// rank orders reasons: first what only a person can change, last what passes by itself.
func rank(r spare.Reason) int {
	switch r.Code {
	case spare.ReasonAllBusy:
		return 3
	case spare.ReasonAvoidingNode:
		return 2
	case spare.ReasonBackingOff:
		return 1
	}
	return 0
}

// WhyTask says what one task waits for; false if it is not held or does not wait.
func (c *Core) WhyTask(id spare.TaskID, now time.Time) (spare.Reason, bool) {
	job, chunk, _, ok := split(spare.NewAttemptID(id, 1))
	if !ok || c.jobs[job] == nil {
		return spare.Reason{}, false
	}
	t := c.jobs[job].tasks[chunk]
	if t == nil || t.place == nowhere {
		return spare.Reason{}, false
	}
	return c.whyTask(t, now), true
}

func (c *Core) whyTask(t *task, now time.Time) spare.Reason {
	r := c.whyClass(t.job.class, now)
	if rank(r) == 0 {
		return r
	}
	last := func() spare.Try { return t.row.Tries[len(t.row.Tries)-1] }
	switch {
	case t.place == backing && len(t.row.Tries) > 0:
		return spare.Reason{Code: spare.ReasonBackingOff, Detail: fmt.Sprintf("until %s, after attempt %d ended as %s",
			clock(t.row.NotBefore), last().Number, last().Outcome)}
	case t.place == backing:
		return spare.Reason{Code: spare.ReasonBackingOff, Detail: "until " + clock(t.row.NotBefore)}
	case t.place == shy && r.Code == spare.ReasonAllBusy:
		return spare.Reason{Code: spare.ReasonAvoidingNode, Detail: fmt.Sprintf("waits for another node than %s, where attempt %d ended as %s",
			c.nodeName(last().Node), last().Number, last().Outcome)}
	}
	return r
}

func clock(t time.Time) string { return t.Format("15:04:05") }

// whyClass says why a leasable task of a class is not leased.
func (c *Core) whyClass(cl *class, now time.Time) spare.Reason {
	if cl.eligible == 0 {
		return c.whyNone(cl)
	}
	var first time.Time
	for _, n := range c.nodes {
		if !n.open || n.fit[cl.id] != fitOK {
			continue
		}
		a := n.apps[cl.app]
		if a == nil || !a.until.After(now) {
			return spare.Reason{Code: spare.ReasonAllBusy, Detail: fmt.Sprintf("%s that can run it %s other work or %s none now",
				plural(cl.eligible, "node"), verb(cl.eligible, "has", "have"), verb(cl.eligible, "wants", "want"))}
		}
		if first.IsZero() || a.until.Before(first) {
			first = a.until
		}
	}
	return spare.Reason{Code: spare.ReasonBackingOff, Detail: fmt.Sprintf("until %s: every node that can run %s has just failed it", clock(first), cl.app)}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// whyNone says what the connected nodes lack, by the one that lacks least.
func (c *Core) whyNone(cl *class) spare.Reason {
	furthest, connected := fitPool, 0
	var near []*node // those that got furthest
	for _, n := range c.nodes {
		if !n.up || n.silent {
			continue
		}
		connected++
		f := n.fit[cl.id]
		if f > furthest {
			furthest, near = f, near[:0]
		}
		if f == furthest {
			near = append(near, n)
		}
	}
	if connected == 0 {
		return spare.Reason{Code: spare.ReasonNoNodes, Detail: "no node is connected"}
	}
	slices.SortFunc(near, func(a, b *node) int { return strings.Compare(string(a.id), string(b.id)) })
	if furthest == fitOK {
		r := spare.Reason{Code: spare.ReasonNodePaused, Detail: verb(len(near), "the node that can run it is paused", fmt.Sprintf("all %d nodes that can run it are paused", len(near)))}
		if why := near[0].info.Reason; why.Code != "" || why.Detail != "" {
			r.Detail += " (" + why.String() + ")"
		}
		return r
	}
	return lacking(furthest, cl, near)
}

// lacking is the reason for a requirement that none of the nodes satisfies.
func lacking(f fit, cl *class, near []*node) spare.Reason {
	need := &cl.needs
	most := func(of func(*spare.Device) float64) (m float64) {
		for _, n := range near {
			m = max(m, of(&n.info.Device))
		}
		return m
	}
	switch f {
	case fitCPU:
		return spare.Reason{Code: spare.ReasonNeedsCPU, Detail: fmt.Sprintf("%d cores > %.0f, the most a connected node offers",
			need.MinCPU, most(func(d *spare.Device) float64 { return float64(cores(d)) }))}
	case fitMemory:
		return spare.Reason{Code: spare.ReasonNeedsMemory, Detail: fmt.Sprintf("%s > %s, the most a connected node offers",
			inGiB(need.MinMemory, math.Ceil), inGiB(most(memory), math.Floor))}
	case fitDisk:
		return spare.Reason{Code: spare.ReasonNeedsDisk, Detail: fmt.Sprintf("%s > %s, the most a connected node has free for work",
			inGiB(need.MinDisk, math.Ceil), inGiB(most(disk), math.Floor))}
	}
	code, has, what := asked(f, cl, near)
	detail := "no connected node " + has + " " + what
	if f == fitPlatform {
		detail += runtimeFault(cl.around, near)
	}
	return spare.Reason{Code: code, Detail: detail}
}

// asked puts a requirement in words: its reason's code, a verb and what is asked for.
func asked(f fit, cl *class, near []*node) (code, has, what string) {
	need := &cl.needs
	switch f {
	case fitPool:
		return spare.ReasonNoNodeInPool, "is in", fmt.Sprintf("pool %q", cl.pool)
	case fitPlatform:
		return spare.ReasonNoPlatform, "runs", cl.around.Words()
	case fitOS:
		return spare.ReasonNeedsOS, "runs", strings.Join(need.OS, " or ")
	case fitArch:
		return spare.ReasonNeedsArch, "has", "a processor of " + strings.Join(need.Arch, " or ")
	case fitGPU:
		return spare.ReasonNeedsGPU, "has", "a GPU of " + strings.Join(need.GPU, " or ")
	case fitTool:
		return spare.ReasonNeedsTool, "offers", strings.Join(toolsLacking(need.Tools, near), " and ")
	case fitCPU:
		return spare.ReasonNeedsCPU, "offers", plural(need.MinCPU, "core")
	case fitMemory:
		return spare.ReasonNeedsMemory, "offers", inGiB(need.MinMemory, math.Ceil) + " of memory"
	}
	return spare.ReasonNeedsDisk, "offers", inGiB(need.MinDisk, math.Ceil) + " of disk"
}

// inGiB rounds to hundredths, away from looking satisfied.
func inGiB(v float64, round func(float64) float64) string {
	s := fmt.Sprintf("%.2f", round(v*100)/100)
	return strings.TrimRight(strings.TrimRight(s, "0"), ".") + " GiB"
}

// runtimeFault says why one of the nodes does not run it.
func runtimeFault(around spare.Environment, near []*node) string {
	for _, n := range near {
		if len(n.info.Device.Runtimes) > 0 {
			_, why := around.Choose(n.info.Device.Runtimes)
			return fmt.Sprintf(" (%s: %s)", n.info.Device.Name, why)
		}
	}
	return ""
}

// toolsLacking are the tools that none of the nodes offers, or all that are asked for if
// each is offered somewhere but not together.
func toolsLacking(specs []string, near []*node) []string {
	var none, all []string
	for _, s := range specs {
		// "ffmpeg with libx265" says "ffmpeg" already.
		if slices.ContainsFunc(specs, func(t string) bool { return strings.HasPrefix(t, s+":") }) {
			continue
		}
		all = append(all, toolWords(s))
		if !slices.ContainsFunc(near, func(n *node) bool { return hasTool(&n.info.Device, s) }) {
			none = append(none, toolWords(s))
		}
	}
	if len(none) > 0 {
		return none
	}
	return all
}

// NodeReason says what a node is doing and why it does no more.
func (c *Core) NodeReason(id spare.NodeID, now time.Time) spare.Reason {
	n := c.nodes[id]
	if n == nil || !n.up {
		return spare.Reason{Code: spare.ReasonNodeUnreachable, Detail: "the node is not connected"}
	}
	if len(n.live) > 0 {
		return spare.Reason{Code: spare.ReasonWorking, Detail: "holds " + plural(len(n.live), "lease")}
	}
	if n.silent {
		return spare.Reason{Code: spare.ReasonNodeUnreachable, Detail: "nothing was heard of it since " + clock(n.heard)}
	}
	if !n.open {
		if n.info.Reason.Code != "" {
			return n.info.Reason
		}
		return spare.Reason{Code: spare.ReasonNodePaused, Detail: "paused by its owner"}
	}
	return c.whyIdle(n, now)
}

// whyIdle says why an open node without leases has none. What it lacks for the work that
// waits is told by the class it comes nearest to.
func (c *Core) whyIdle(n *node, now time.Time) spare.Reason {
	var nearest *class
	for _, cl := range c.classes {
		if cl == nil || cl.ready == 0 {
			continue
		}
		if n.fit[cl.id] != fitOK {
			if nearest == nil || n.fit[cl.id] > n.fit[nearest.id] {
				nearest = cl
			}
			continue
		}
		if a := n.apps[cl.app]; a != nil && a.until.After(now) {
			return spare.Reason{Code: spare.ReasonBackingOff, Detail: fmt.Sprintf("until %s: it has just failed %s", clock(a.until), cl.app)}
		}
		if n.run+n.prefetch == 0 {
			return spare.Reason{Code: spare.ReasonNoWork, Detail: "the node has not asked for work"}
		}
		return spare.Reason{Code: spare.ReasonAvoidingNode, Detail: "the chunks that wait have just failed on this node and wait for another"}
	}
	if nearest != nil {
		code, _, what := asked(n.fit[nearest.id], nearest, []*node{n})
		return spare.Reason{Code: code, Detail: "the work that waits needs " + what}
	}
	return spare.Reason{Code: spare.ReasonNoWork, Detail: "no chunk waits"}
}
