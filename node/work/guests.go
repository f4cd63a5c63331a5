package work

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/node/guestbook"
	"github.com/spare-compute/spare/protocol/pb"
	"github.com/spare-compute/spare/publisher"
)

// A Guard decides from what a lease says of an App, and from nothing else, whether it may
// run here. A *publisher.Refusal is its word; any other error is a fault of this machine.
type Guard interface {
	Admit(app spare.App) (publisher.Verdict, error)
}

// A Diary keeps what ran here.
type Diary interface {
	Append(guestbook.Entry) error
}

// house is who watches over a desk's leases.
type house struct {
	hub   spare.NodeID
	guard Guard
	diary Diary
	quiet quiet
}

// Watch sets who decides what this hub's leases may run, and who writes it down. It is
// called before the first lease; a desk that nobody watches runs nothing.
func (d *Desk) Watch(hub spare.NodeID, g Guard, b Diary) {
	d.house = house{hub: hub, guard: g, diary: b}
}

// appOf is the App that a lease is for, as far as it decides what runs.
func appOf(l *pb.App) (spare.App, error) {
	around, badAround := environment(l)
	needs, badNeeds := requirements(l)
	return spare.App{
		Kind: spare.KindApp, Name: l.Name, Version: l.Version, Revision: int(l.Revision),
		Entrypoint: l.Entrypoint, Root: l.Root, Platform: spare.Platform(l.Platform), Config: l.PlatformConfig,
		Bundle: spare.Digest(l.Bundle.Digest), BundleSize: int64(l.Bundle.Size), Environment: around, Needs: needs, Signed: l.Signed,
	}, errors.Join(badAround, badNeeds)
}

// requirements are what the App asks of a device, GPUs among them: nothing else in a
// lease gives it one, or a hub could add to what was signed. A hub of an earlier release
// tells of the GPUs alone.
func requirements(l *pb.App) (spare.Requirements, error) {
	needs := spare.Requirements{GPU: l.Gpus}
	if len(l.Needs) == 0 {
		return needs, nil
	}
	needs = spare.Requirements{}
	if err := json.Unmarshal(l.Needs, &needs); err != nil {
		return needs, fmt.Errorf("the hub's word of what the App requires cannot be read: %w", err)
	}
	return needs, nil
}

// admit asks the guard, before anything of the App is fetched.
func (a *attempt) admit() error {
	app, err := appOf(a.lease.App)
	if err == nil {
		err = errors.New("nobody decides here what this hub may run")
		if g := a.desk.house.guard; g != nil {
			a.verdict, err = g.Admit(app)
		}
	}
	if a.verdict.Remark != "" {
		a.desk.log.Warn("an App runs although not all is well with its signature", "app", app.Tag(), "remark", a.verdict.Remark)
	}
	return err
}

// turnedAway is the end of an attempt whose App may not run here. It is the App's doing:
// other nodes of the pool would refuse it too, and the job says why.
func (a *attempt) turnedAway(err error) *pb.Ended {
	var refused *publisher.Refusal
	if !errors.As(err, &refused) {
		return a.failed(err, pb.Outcome_OUTCOME_SANDBOX_FAILED)
	}
	a.desk.log.Warn("App refused", "attempt", a.id, "owner", a.lease.Owner, "bundle", a.lease.App.Bundle.Digest, "reason", err)
	if again, ok := a.desk.house.quiet.pass(refused, a.lease.App.Bundle.Digest, time.Now()); ok {
		e := a.guest(guestbook.Refused)
		if e.Message = err.Error(); again > 0 {
			e.Message += fmt.Sprintf(" (and %d like it before this one)", again)
		}
		if err := a.desk.write(e); err != nil {
			a.desk.log.Error("cannot write to the guest book", "error", err)
		}
	}
	return &pb.Ended{Attempt: string(a.id), Outcome: pb.Outcome_OUTCOME_APP_FAILED, Message: sentence(err)}
}

func (d *Desk) write(e guestbook.Entry) error {
	if d.house.diary == nil {
		return errors.New("nobody writes down here what runs")
	}
	return d.house.diary.Append(e)
}

// guest is an entry for the attempt.
func (a *attempt) guest(event guestbook.Event) guestbook.Entry {
	l := a.lease
	e := guestbook.Entry{
		Event: event, Hub: a.desk.name, HubKey: a.desk.house.hub, Owner: l.Owner, Job: l.JobName, Attempt: a.id, Chunk: int(l.Chunk),
		App: l.App.Name + "@" + l.App.Version, Revision: int(l.App.Revision), Bundle: spare.Digest(l.App.Bundle.Digest),
		Publisher: string(a.verdict.Signer), Signed: a.verdict.Revision,
	}
	if around, err := environment(l.App); err == nil {
		e.Image = around.Image
		if event != guestbook.Refused {
			e.Runtime = a.desk.e.chosen(around)
		}
	}
	return e
}

// chosen names the runtime that an App gets.
func (e *Executor) chosen(around spare.Environment) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	offered := make([]spare.Capability, len(e.cfg.Runtimes))
	for i, r := range e.cfg.Runtimes {
		offered[i] = r.Capability
	}
	if i, _ := around.Choose(offered); i >= 0 {
		return offered[i].Runtime
	}
	return ""
}

// began writes down that an App is about to run. What cannot be written down does not run.
func (a *attempt) began(at time.Time) error {
	e := a.guest(guestbook.Began)
	at = at.UTC()
	e.Start, e.BytesIn = &at, int64(a.lease.Input.Size)
	return a.desk.write(e)
}

// wentAway writes down how it ended.
func (a *attempt) wentAway(at time.Time, ended *pb.Ended) {
	e := a.guest(guestbook.Ended)
	at = at.UTC()
	e.Start, e.BytesIn = &at, int64(a.lease.Input.Size)
	e.Outcome, e.Message = string(outcomeOf(ended.Outcome)), ended.Message
	e.CPU, e.Wall = float64(ended.CpuMs)/1000, float64(ended.WallMs)/1000
	for _, b := range []*pb.Blob{ended.Result, ended.Checkpoint} {
		e.BytesOut += int64(b.GetSize())
	}
	if err := a.desk.write(e); err != nil {
		a.desk.log.Error("cannot write to the guest book", "error", err)
	}
}

// outcomeOf is an outcome by its number.
func outcomeOf(o pb.Outcome) spare.Outcome {
	if i := int(o) - 1; i >= 0 && i < len(spare.Outcomes) {
		return spare.Outcomes[i]
	}
	return ""
}

// quiet keeps a hub from filling the guest book with refusals, which would push out what
// ran: so many of a kind are written in an hour, and so many in all.
type quiet struct {
	mu    sync.Mutex
	hour  time.Time
	seen  map[string]int // refusals of this hour, by what they say
	total int            // that were written
}

const (
	sameAnHour     = 10
	refusalsAnHour = 120
)

// pass reports whether a refusal is to be written, and how many like it were left out.
func (q *quiet) pass(r *publisher.Refusal, bundle string, now time.Time) (again int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	what := r.Error() + bundle
	if now.Sub(q.hour) >= time.Hour || q.seen == nil {
		again = max(0, q.seen[what]-sameAnHour)
		q.hour, q.seen, q.total = now, map[string]int{}, 0
	}
	if q.total >= refusalsAnHour {
		return 0, false // and nothing more is remembered of this hour
	}
	q.seen[what]++
	if q.seen[what] > sameAnHour {
		return 0, false
	}
	q.total++
	return again, true
}
