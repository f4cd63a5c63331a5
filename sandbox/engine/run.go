package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spare-compute/spare/sandbox"
)

// Run implements sandbox.Runtime.
//
// The program is the container's first process, and the kernel spares that one the
// signals it has not asked for: a program without a handler for SIGTERM is ended at once
// where one with a handler would have got its Grace. An engine tells of an end by a
// signal as exit code 128 and more; only those that can end a first process are taken
// for one.
func (r *Runtime) Run(ctx context.Context, s sandbox.Spec) (sandbox.Result, error) {
	if err := s.Check(); err != nil {
		return sandbox.Result{}, err
	}
	if err := r.unserved(s); err != nil {
		return sandbox.Result{}, err
	}
	if err := context.Cause(ctx); err != nil {
		return sandbox.Result{}, err
	}
	e, err := r.engine(ctx)
	if err != nil {
		return sandbox.Result{}, fmt.Errorf("run in a container: %w", err)
	}
	res, err := r.run(ctx, e, s)
	var failed *engineError
	if errors.As(err, &failed) && r.lost(ctx, e, s.Image.ID) {
		return r.run(ctx, e, s)
	}
	return res, err
}

// unserved refuses what this runtime cannot do.
func (r *Runtime) unserved(s sandbox.Spec) error {
	switch {
	case s.Image == nil:
		return errors.New("run in a container: the engine runtime runs images only, and none is named")
	case s.Network != sandbox.NoNetwork:
		return errors.New("run in a container: the engine runtime has no network to offer")
	case s.Deterministic:
		return errors.New("run in a container: only the wasm runtime is deterministic")
	case len(s.GPUs) > 0 && !r.config.GPU:
		return errors.New("run in a container: this machine's owner does not lend its GPU")
	}
	return nil
}

// run is one Run on its way.
type run struct {
	engine  *engine
	spec    sandbox.Spec
	order   order
	dir     string // what the client writes about the container
	env     []string
	client  *exec.Cmd
	out     *output
	errs    *stream
	disk    *diskUse
	use     use
	started time.Time
	done    chan struct{} // the client has ended
	cause   atomic.Value  // of type sandbox.Cause: why it was stopped
	pid     atomic.Int64  // of the container's first process, if it runs on this machine
	watch   sync.WaitGroup
}

func (r *Runtime) run(ctx context.Context, e *engine, s sandbox.Spec) (sandbox.Result, error) {
	image, err := r.hold(ctx, e, s.Image)
	if err != nil {
		return sandbox.Result{}, err
	}
	devices, err := e.devices(ctx, s.GPUs)
	if err != nil {
		return sandbox.Result{}, err
	}
	n := &run{engine: e, spec: s, out: newOutput(s.Limits.Output), started: time.Now(), done: make(chan struct{})}
	if n.dir, err = os.MkdirTemp("", "spare-engine-"); err != nil {
		return sandbox.Result{}, err
	}
	defer func() { _ = os.RemoveAll(n.dir) }()
	n.order = order{
		engine: e, spec: s, image: image.Ref, volumes: image.Volumes, devices: devices, ceiling: limits(),
		name:    "spare-" + random(), // unpredictable, so that nobody is there first
		labels:  []string{labelInstance + "=" + r.instance(), labelProcess + "=" + r.token, labelPID + "=" + strconv.Itoa(pid)},
		cidFile: filepath.Join(n.dir, "cid"),
	}
	if !e.remote && e.podman {
		n.order.pidFile = filepath.Join(n.dir, "pid")
	}
	if err := n.prepare(); err != nil {
		return sandbox.Result{}, err
	}
	// Whatever happens from here on, the container goes.
	defer e.remove(context.WithoutCancel(ctx), n.order.name)
	if err := n.start(); err != nil {
		return sandbox.Result{}, fmt.Errorf("start %s: %w", e.path, err)
	}
	code, err := n.wait(ctx)
	if err != nil {
		return sandbox.Result{}, err
	}
	return n.judge(context.WithoutCancel(ctx), code)
}

// prepare shares the mounts and makes the argument list.
func (n *run) prepare() error {
	var writable []string
	for i, m := range n.spec.Mounts {
		info, err := os.Stat(m.Host)
		if err == nil && !info.IsDir() && !info.Mode().IsRegular() {
			err = errors.New("it is neither a folder nor a plain file")
		}
		if err == nil {
			m.Host, err = filepath.Abs(m.Host)
			n.spec.Mounts[i] = m
		}
		if err == nil {
			err = n.engine.share(m)
		}
		if err != nil {
			return fmt.Errorf("mount %s in a container: %w", m.Host, err)
		}
		if m.Writable {
			writable = append(writable, m.Host)
		}
	}
	n.disk = newDiskUse(writable, n.spec.Limits.Disk)
	n.disk.held = n.held
	n.order.uid, n.order.gid = n.engine.owner()
	var err error
	if n.order.filter, err = n.engine.writeFilter(n.dir); err != nil {
		return err
	}
	n.order.env, n.env, err = passing(environment(n.spec.Env, n.spec.Image.Env))
	return err
}

// start starts the client, which starts the container and carries its output.
func (n *run) start() error {
	args, err := n.order.args()
	if err != nil {
		return err
	}
	n.client = n.engine.client(context.Background(), args...)
	n.client.Env = append(n.client.Env, n.env...)
	n.client.Dir = n.dir // what watches over a podman container writes in the client's folder
	n.client.WaitDelay = 10 * time.Second
	out := &stream{out: n.out, w: n.spec.Stdout}
	n.errs = out
	if !sameWriter(n.spec.Stdout, n.spec.Stderr) {
		n.errs = &stream{out: n.out, w: n.spec.Stderr}
	}
	n.client.Stdout, n.client.Stderr = out, n.errs
	own(n.client)
	return n.client.Start()
}

// wait steers the run to its end and gives the client's exit code.
func (n *run) wait(ctx context.Context) (int, error) {
	stop := context.AfterFunc(ctx, func() { n.stop(sandbox.KilledCancel) })
	defer stop()
	if wall := n.spec.Limits.Wall; wall > 0 {
		defer time.AfterFunc(wall, func() { n.stop(sandbox.KilledTime) }).Stop()
	}
	n.watch.Go(n.follow)
	if n.disk.limited() {
		n.watch.Go(n.watchDisk)
	}
	err := n.client.Wait()
	close(n.done)
	n.watch.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return n.client.ProcessState.ExitCode(), nil
	case errors.As(err, &exit):
		return exit.ExitCode(), nil
	}
	return 0, fmt.Errorf("run %s: %w", n.engine.path, err)
}

// over reports whether the client has ended, at the latest after d.
func (n *run) over(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-n.done:
		return true
	case <-timer.C:
		return false
	}
}

const (
	lookSoon  = 20 * time.Millisecond // between looks at a container that has just started …
	lookLater = 200 * time.Millisecond
	soon      = time.Second // … which is what one is for so long
)

// follow finds the container once it runs, lets it be steered, and sees what it uses.
func (n *run) follow() {
	g, local, ok := n.find()
	if !ok {
		return
	}
	detach, err := n.spec.Steer.Attach(steered{n})
	defer detach()
	if err != nil {
		n.stop(sandbox.KilledCancel) // asked to be paused, and it cannot be: it must not run on
		return
	}
	limit := n.spec.Limits.CPU
	for pause := lookSoon; ; {
		if local {
			if !g.read(&n.use) {
				local = false
			}
		} else if limit > 0 {
			if cpu, memory, err := n.engine.statistics(context.Background(), n.order.name); err == nil {
				n.use.add(cpu, memory, 0, 0)
			}
			pause = statsPause
		}
		if cpu, _, _ := n.use.read(); limit > 0 && cpu > limit {
			n.stop(sandbox.KilledTime)
		}
		if n.over(pause) {
			return
		}
		if time.Since(n.started) > soon {
			pause = max(pause, lookLater)
		}
	}
}

// statsPause is between questions to the engine, each of which takes it a second or two.
const statsPause = 5 * time.Second

// find waits until the container runs.
func (n *run) find() (g groups, local, ok bool) {
	if n.order.pidFile != "" {
		for {
			text, _ := os.ReadFile(n.order.pidFile)
			if p, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && p > 0 {
				n.pid.Store(int64(p))
				g, local = groupsOf(p, n.id())
				return g, local, true
			}
			if n.over(2 * time.Millisecond) {
				return g, false, false
			}
		}
	}
	for !n.over(50 * time.Millisecond) {
		said, err := n.engine.call(context.Background(), "inspect", "--type", "container", "--format", "{{.State.Running}} {{.State.Pid}}", n.order.name)
		if err != nil || !strings.HasPrefix(string(said), "true ") {
			continue
		}
		p, _ := strconv.Atoi(strings.TrimPrefix(string(said), "true "))
		if g, local = groupsOf(p, n.id()); local {
			n.pid.Store(int64(p))
		}
		return g, local, true
	}
	return g, false, false
}

// id is the container's, as the client wrote it.
func (n *run) id() string {
	text, _ := os.ReadFile(n.order.cidFile)
	return strings.TrimSpace(string(text))
}

func (n *run) watchDisk() {
	for !n.over(n.disk.pause()) {
		if n.disk.over() {
			n.stop(sandbox.KilledDisk)
			return
		}
	}
}

// stop ends the run, for the first reason given.
func (n *run) stop(cause sandbox.Cause) {
	if !n.cause.CompareAndSwap(nil, cause) {
		return
	}
	go n.end(cause == sandbox.KilledCancel)
}

const (
	killPause = 100 * time.Millisecond // between tries: the container may only be on its way
	killTries = 50
)

// end signals until the client has ended.
func (n *run) end(gently bool) {
	ctx := context.Background()
	if gently && n.spec.Grace > 0 && !n.spec.Steer.Paused() && n.heedsTerm() {
		if _, err := n.engine.call(ctx, "kill", "--signal", "TERM", n.order.name); err == nil && n.over(n.spec.Grace) {
			return
		}
	}
	for range killTries {
		if _, err := n.engine.call(ctx, "kill", "--signal", "KILL", n.order.name); err == nil && n.over(2*time.Second) {
			return
		}
		if n.over(killPause) {
			return
		}
	}
	// The engine does not do as it is told. Its client at least ends.
	n.engine.remove(ctx, n.order.name)
	if !n.over(2 * time.Second) {
		_ = n.client.Process.Kill()
	}
}

// heedsTerm reports whether the program would notice SIGTERM, as far as can be seen.
func (n *run) heedsTerm() bool {
	p := int(n.pid.Load())
	return p == 0 || heedsTerm(p)
}

// remove takes a container away, running or not. One that is not there is fine.
func (e *engine) remove(ctx context.Context, name string) {
	args := []string{"rm", "--force", "--volumes"}
	if e.podman {
		args = append(args, "--ignore", "--time", "0")
	}
	_, _ = e.call(ctx, append(args, name)...)
}

// steered pauses and resumes a container.
type steered struct{ *run }

// Pause implements sandbox.Steered. The container may be on its way still.
func (s steered) Pause() error { return s.tell("pause") }

// Resume implements sandbox.Steered.
func (s steered) Resume() error { return s.tell("unpause") }

func (s steered) tell(what string) error {
	const tries = 100
	var err error
	for range tries {
		if _, err = s.engine.call(context.Background(), what, s.order.name); err == nil {
			return nil
		}
		if s.over(20 * time.Millisecond) {
			return sandbox.ErrNotRunning
		}
	}
	return err
}

// Memory implements sandbox.Steered.
func (s steered) Memory() (int64, error) {
	if g, ok := groupsOf(int(s.pid.Load()), s.id()); ok && g.read(&s.use) {
		s.use.mu.Lock()
		defer s.use.mu.Unlock()
		return s.use.memory, nil
	}
	_, memory, err := s.engine.statistics(context.Background(), s.order.name)
	return memory, err
}
