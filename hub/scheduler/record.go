package scheduler

import (
	"math"
	"time"

	"github.com/spare-compute/spare"
)

// forget is what a record keeps of its counts at each new observation: about the last
// hundred weigh.
const forget = 0.99

// smooth is the weight of the newest value in a running mean.
const smooth = 0.2

func (c *Core) touchRecord(a *nodeApp) *spare.Record {
	if !a.dirty {
		a.dirty = true
		c.records = append(c.records, a)
	}
	return &a.record
}

// observe makes room for one more observation in a record.
func (c *Core) observe(a *nodeApp) *spare.Record {
	r := c.touchRecord(a)
	r.Finished *= forget
	r.Abandoned *= forget
	r.Right *= forget
	r.Wrong *= forget
	r.Failed *= forget
	return r
}

// succeeded books a result for its node, and the failures of others on the same chunk
// against them: this one shows that the chunk was not to blame.
func (c *Core) succeeded(t *task, n *node, u spare.Usage) {
	app := t.job.class.app
	a := n.app(app)
	c.observe(a).Finished++
	a.streak = 0
	c.lift(a)
	wall, cpu := u.Wall.Seconds(), cpuSeconds(u, 0)
	mean(&a.wall, wall)
	mean(&t.job.wall, wall)
	mean(&t.job.cpu, cpu)
	for _, try := range t.row.Tries {
		if try.Outcome.BlamesTask() && try.Node != n.id {
			c.touchRecord(c.known(try.Node).app(app)).Failed++
		}
	}
}

func mean(m *float64, v float64) {
	switch {
	case v <= 0:
	case *m == 0:
		*m = v
	default:
		*m += smooth * (v - *m)
	}
}

// blameNode books a failure for a node, and makes it wait before it gets more of the App
// unless the failure says nothing about that.
func (c *Core) blameNode(now time.Time, t *task, n *node, o spare.Outcome) {
	a := n.app(t.job.class.app)
	r := c.observe(a)
	switch {
	case o == spare.Rejected:
		r.Finished++
		r.Wrong++
	case o.BlamesTask():
		r.Finished++
	default:
		r.Abandoned++
	}
	if o == spare.Lost || o == spare.Preempted {
		return
	}
	a.streak++
	a.until = now.Add(c.backoff(a.streak))
	if a.until.After(n.until) {
		n.until = a.until
	}
	c.set(&a.timer, a.until)
}

// lift ends a node's back-off from an App.
func (c *Core) lift(a *nodeApp) {
	if !a.until.IsZero() {
		a.until = time.Time{}
		c.unset(&a.timer)
		c.dirty = true
	}
}

// pardon wipes what a poisoned chunk did to a node's record.
func (c *Core) pardon(n *node, app string, o spare.Outcome) {
	a := n.app(app)
	r := c.touchRecord(a)
	switch {
	case o.BlamesTask():
		a.streak = 0
		c.lift(a)
		r.Finished = max(0, r.Finished-1)
		if o == spare.Rejected {
			r.Wrong = max(0, r.Wrong-1)
		}
	case o == spare.Lost:
		r.Abandoned = max(0, r.Abandoned-1)
	}
}

// Record returns a node's record with an App (an App's name).
func (c *Core) Record(node spare.NodeID, app string) spare.Record {
	if n := c.nodes[node]; n != nil && n.apps[app] != nil {
		return n.apps[app].record
	}
	return spare.Record{Node: node, App: app}
}

// Completion is a cautious estimate of how often a node finishes its leases: the lower
// end of the 95 % interval of a Beta posterior with a uniform prior. It is 0.025 for a
// node that nothing is known of, and nears 1 only with evidence.
func Completion(r spare.Record) float64 { return betaLower(1+r.Finished, 1+r.Abandoned) }

// Validity is the same of how often its results proved right.
func Validity(r spare.Record) float64 { return betaLower(1+r.Right, 1+r.Wrong) }

// betaLower is the 2.5 % quantile of Beta(a, b), found by bisection to 2⁻⁴⁰.
func betaLower(a, b float64) float64 {
	lo, hi := 0.0, 1.0
	for range 40 {
		mid := (lo + hi) / 2
		if betaCDF(mid, a, b) < 0.025 {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// betaCDF is the regularised incomplete beta function, by its continued fraction; the
// symmetry I(x; a, b) = 1 − I(1−x; b, a) keeps to the side where it converges fast.
func betaCDF(x, a, b float64) float64 {
	if x <= 0 || x >= 1 {
		return min(max(x, 0), 1)
	}
	if x > (a+1)/(a+b+2) {
		return 1 - betaCDF(1-x, b, a)
	}
	lab, _ := math.Lgamma(a + b)
	la, _ := math.Lgamma(a)
	lb, _ := math.Lgamma(b)
	front := math.Exp(lab-la-lb+a*math.Log(x)+b*math.Log1p(-x)) / a
	// Evaluated from the tail: term 2m+1 is −(a+m)(a+b+m)x/((a+2m)(a+2m+1)), term 2m is
	// m(b−m)x/((a+2m−1)(a+2m)). 300 terms are far more than the counts here need.
	f := 1.0
	for k := 300; k >= 1; k-- {
		m := float64(k / 2)
		var d float64
		if k%2 == 0 {
			d = m * (b - m) * x / ((a + 2*m - 1) * (a + 2*m))
		} else {
			d = -(a + m) * (a + b + m) * x / ((a + 2*m) * (a + 2*m + 1))
		}
		f = 1 + d/f
	}
	return front / f
}
