// Package work does what hubs lease to this node: it fetches an App and its input,
// runs the App in the sandbox within the cores and memory the owner lends, packs what
// it made, and keeps that on disk until the hub has said that it may be forgotten.
// While one attempt computes, the next one's input is fetched.
//
// It never decides whether the node may work (package policy does) and never talks to
// a hub by itself: each hub has a Desk, and package link carries messages between the
// two. Package node wires them.
package work

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/node/cache"
	"github.com/spare-compute/spare/protocol/pb"
	"github.com/spare-compute/spare/sandbox"
)

// Config is what an Executor needs.
type Config struct {
	Scratch    string // a folder of its own, emptied at start
	Cache      *cache.Cache
	Runtimes   []Runtime
	Images     *image.Store      // nil: none are kept
	Registries *image.Registries // where images come from that no hub holds
	Patience   time.Duration     // how long what is frozen may stay so; 0 = Patience
	Stop       time.Duration     // how long Run may go on once its context has ended; 0 = StopWithin
	Log        *slog.Logger
}

// A Runtime is a sandbox runtime with what its probe proved.
type Runtime struct {
	sandbox.Runtime
	Capability spare.Capability
}

// Limits are what all attempts together may use.
type Limits struct {
	Cores  int
	Memory uint64 // bytes; 0 = not limited
	Disk   uint64 // bytes one attempt may write; 0 = not limited
}

const (
	fetchers  = 2  // downloads at a time: one is often too slow to fill the line, many only compete
	uploaders = 2  // likewise
	ahead     = 60 // seconds of work that are fetched in advance
	maxAhead  = 32 // attempts, however short they are
)

// StopWithin is how long Run goes on after its context has ended, unless Config says
// otherwise: for the Apps' grace, for packing what they left, and for its upload, all
// together. Service managers kill what takes longer than they wait (systemd, by our units,
// 30 s), and after this the links still need 5 s to tell the hubs.
const StopWithin = 20 * time.Second

// stopSlack is for what cannot be broken off: a file that is being written to the disk.
const stopSlack = 2 * time.Second

// Why an attempt's context ends before the attempt does.
var (
	errCancelled error = atOnce("the hub cancelled it")
	errShutdown        = errors.New("the node is shutting down")
	errLate            = errors.New("the node has no more time before it ends")
)

// atOnce ends an attempt that has no time to leave its state.
type atOnce string

func (a atOnce) Error() string { return string(a) }

// Is implements errors.Is.
func (a atOnce) Is(target error) bool { return target == sandbox.ErrAtOnce }

// An Executor runs the attempts of all hubs.
type Executor struct {
	cfg     Config
	fetch   *semaphore.Weighted
	upload  *semaphore.Weighted
	started chan struct{} // closed once life is set

	steering sync.Mutex // held while what runs is being paused or resumed; taken before mu
	pruning  sync.Mutex // held while checkpoints are looked through; taken before mu

	mu       sync.Mutex      // never held while waiting for what runs: heartbeats need it
	life     context.Context // of everything that runs; set by Run
	late     context.Context // of what is handed back when life has ended; set by Run
	wg       sync.WaitGroup
	limits   Limits
	paused   string // why nothing may run; "" = it may
	desks    []*Desk
	queue    []*attempt  // leased and not started, in the order they came
	busy     int         // cores in use
	patience *time.Timer // of the pause that goes on
	turn     int         // counts pauses and their ends
	seconds  float64     // moving average of an attempt's wall time
	serial   int         // names scratch folders
}

// New returns an executor with an empty scratch folder. It runs nothing until Run and
// until SetLimits allows it.
func New(cfg Config) (*Executor, error) {
	if err := cache.RemoveAll(cfg.Scratch); err != nil {
		return nil, fmt.Errorf("clear the scratch folder: %w", err)
	}
	if err := os.MkdirAll(cfg.Scratch, 0o700); err != nil {
		return nil, fmt.Errorf("make the scratch folder: %w", err)
	}
	if cfg.Patience == 0 {
		cfg.Patience = Patience
	}
	if cfg.Stop == 0 {
		cfg.Stop = StopWithin
	}
	return &Executor{
		cfg: cfg, fetch: semaphore.NewWeighted(fetchers), upload: semaphore.NewWeighted(uploaders),
		started: make(chan struct{}), paused: "it is just starting",
	}, nil
}

// Run lets leased work run until ctx ends, then stops it all and waits for that, but no
// longer than Config.Stop. Results that lie finished on disk stay there for the next start.
func (e *Executor) Run(ctx context.Context) error {
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	late, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(errLate)
	e.mu.Lock()
	e.life, e.late = life, late
	for _, d := range e.desks {
		e.resume(d)
	}
	e.mu.Unlock()
	close(e.started)
	<-ctx.Done()
	end(errShutdown)
	defer time.AfterFunc(e.cfg.Stop, func() { giveUp(errLate) }).Stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.wg.Wait()
	}()
	select {
	case <-done:
	case <-time.After(e.cfg.Stop + stopSlack):
		// The program ends now, or is killed in the middle of it: what lies on disk is whole
		// at any moment, and the hubs can still be told of the rest.
		e.cfg.Log.Warn("not all work has ended in time", "after", e.cfg.Stop)
	}
	return nil
}

// SetLimits says how much may be used from now on, or with a reason that nothing may.
// Then, when it returns, nothing that runs gets processor time any more; what has been
// frozen for Patience is handed back.
func (e *Executor) SetLimits(l Limits, paused string) {
	e.steering.Lock() // nothing is resumed that is still being paused
	defer e.steering.Unlock()
	e.set(l, paused)()
}

// set decides what SetLimits does, and returns what takes time and needs no lock.
func (e *Executor) set(l Limits, paused string) (steer func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	steer = func() {}
	if e.limits == l && e.paused == paused {
		return steer
	}
	was := e.paused
	e.limits, e.paused = l, paused
	switch {
	case was == "" && paused != "":
		steer = e.pause(paused)
	case was != "" && paused == "":
		steer = e.unpause()
	}
	e.dispatch()
	e.changed()
	return steer
}

// lent is what may be used now.
func (e *Executor) lent() Limits {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.limits
}

// SetRuntimes replaces what runs Apps.
func (e *Executor) SetRuntimes(r []Runtime) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cfg.Runtimes = r
}

// runtime is the one that serves the App, by the same rule as the hub's.
func (e *Executor) runtime(around spare.Environment) (sandbox.Runtime, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	offered := make([]spare.Capability, len(e.cfg.Runtimes))
	for i, r := range e.cfg.Runtimes {
		offered[i] = r.Capability
	}
	i, why := around.Choose(offered)
	if i < 0 {
		return nil, fmt.Errorf("this node does not run %s (%s)", around.Words(), why)
	}
	return e.cfg.Runtimes[i].Runtime, nil
}

// environment is what the lease says that the App needs around it.
func environment(app *pb.App) (spare.Environment, error) {
	around := spare.Environment{Platform: spare.Platform(app.Platform)}
	if len(app.Environment) == 0 {
		return around, nil
	}
	if err := json.Unmarshal(app.Environment, &around); err != nil {
		return around, fmt.Errorf("the hub's word of what the App needs around it cannot be read: %w", err)
	}
	return around, nil
}

// dispatch starts what is ready and fits, in the order it came. An attempt that needs
// many cores is not overtaken by small ones, or it might wait for ever; one whose
// input is still on its way is. The caller holds the lock.
func (e *Executor) dispatch() {
	if e.paused != "" {
		return
	}
	for i := 0; i < len(e.queue); {
		a := e.queue[i]
		if a.phase != waiting {
			i++
			continue
		}
		cores := min(a.wants, max(1, e.limits.Cores))
		if e.busy > 0 && e.busy+cores > e.limits.Cores {
			return
		}
		e.queue = slices.Delete(e.queue, i, i+1)
		a.cores = cores
		e.busy += cores
		a.move(running)
		close(a.start)
	}
}

// unqueue takes an attempt that will not start out of the queue. The caller holds the lock.
func (e *Executor) unqueue(a *attempt) {
	if i := slices.Index(e.queue, a); i >= 0 {
		e.queue = slices.Delete(e.queue, i, i+1)
	}
}

// release gives an attempt's cores back.
func (e *Executor) release(a *attempt) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.busy -= a.cores
	e.dispatch()
	e.changed()
}

// took adds to the moving average of what an attempt takes.
func (e *Executor) took(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.seconds == 0 {
		e.seconds = d.Seconds()
		return
	}
	const weight = 0.3
	e.seconds += weight * (d.Seconds() - e.seconds)
}

// want is how many more leases a desk takes. The caller holds the lock.
func (e *Executor) want() (run, prefetch int) {
	if e.paused != "" || e.life == nil || e.life.Err() != nil {
		return 0, 0
	}
	queued := 0
	for _, a := range e.queue {
		queued += a.wants
	}
	run = max(0, e.limits.Cores-e.busy-queued)
	if n := len(e.desks); n > 1 {
		run = (run + n - 1) / n // what one hub does not use, another may
	}
	return run, max(0, lookahead(e.seconds, e.limits.Cores)-len(e.queue))
}

// lookahead is how many attempts make about a minute of work for cores.
func lookahead(seconds float64, cores int) int {
	if seconds <= 0 {
		return 1 // nothing is known yet
	}
	return int(min(max(1, ahead*float64(max(1, cores))/seconds), maxAhead))
}

// changed tells every desk that there is something to say. The caller holds the lock.
func (e *Executor) changed() {
	for _, d := range e.desks {
		d.notify()
	}
}

// scratch makes a folder for one attempt. Its name is ours, not the hub's.
func (e *Executor) scratch() (string, error) {
	e.mu.Lock()
	e.serial++
	dir := filepath.Join(e.cfg.Scratch, strconv.Itoa(e.serial))
	e.mu.Unlock()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("make a scratch folder: %w", err)
	}
	return dir, nil
}

// Ready is closed once Run has taken up what an earlier run left.
func (e *Executor) Ready() <-chan struct{} { return e.started }

// Idle reports whether nothing is leased at all.
func (e *Executor) Idle() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.busy == 0 && len(e.queue) == 0
}

// Item is one attempt as "status" shows it.
type Item struct {
	Hub     string          `json:"hub"`
	Attempt spare.AttemptID `json:"attempt"`
	App     string          `json:"app"`
	Job     string          `json:"job_name,omitempty"`
	Chunk   int             `json:"chunk"`
	Phase   string          `json:"phase"`
	Since   time.Time       `json:"since"` // when it entered the phase
	Cores   int             `json:"cores,omitempty"`
	Frozen  bool            `json:"frozen,omitempty"`
	Memory  int64           `json:"memory,omitempty"` // bytes that it holds while it is frozen
}

// Count is how many Items there are. It never waits for what runs, as Items may.
func (e *Executor) Count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, d := range e.desks {
		n += len(d.attempts)
	}
	return n
}

// Items lists everything leased or waiting to be handed over.
func (e *Executor) Items() []Item {
	items, frozen := e.items()
	for i, a := range frozen {
		items[i].Memory, _ = a.steer.Memory() // not known is not shown
	}
	slices.SortFunc(items, func(a, b Item) int { return a.Since.Compare(b.Since) })
	return items
}

// items lists them without what only they know, and which of them are frozen.
func (e *Executor) items() (items []Item, frozen map[int]*attempt) {
	e.mu.Lock()
	defer e.mu.Unlock()
	frozen = map[int]*attempt{}
	for _, d := range e.desks {
		for _, a := range d.attempts {
			it := Item{Hub: d.name, Attempt: a.id, Phase: a.phase.String(), Since: a.since, Cores: a.cores}
			if a.lease != nil {
				it.App = a.lease.App.Name + "@" + a.lease.App.Version
				it.Job, it.Chunk = a.lease.JobName, int(a.lease.Chunk)
			}
			if it.Frozen = a.phase == running && a.frozen; it.Frozen {
				frozen[len(items)] = a
			}
			items = append(items, it)
		}
	}
	return items, frozen
}
