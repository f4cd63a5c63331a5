package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	freezeWait = 10 * time.Second // for processes that the kernel cannot interrupt
	killWait   = 10 * time.Second
	firstLook  = 200 * time.Microsecond
	lastLook   = 50 * time.Millisecond
)

// poll asks until ok, first often and then less.
func poll(limit time.Duration, ok func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		done, err := ok()
		if done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return os.ErrDeadlineExceeded
		}
		time.Sleep(pause)
	}
}

// Freeze returns when no process of the group gets processor time any more.
func (g *Group) Freeze() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.with(Freezer)
	if p == nil {
		return errors.New("freeze a control group: no freezer")
	}
	g.hurry()
	err := p.freeze(&g.ending)
	_ = g.share()
	if err != nil {
		return errors.Join(fmt.Errorf("freeze the control group: %w", err), p.thaw())
	}
	return nil
}

// Thaw lets them all go on.
func (g *Group) Thaw() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p := g.with(Freezer); p != nil {
		return p.thaw()
	}
	return nil
}

// freeze can be stopped while it waits.
func (p place) freeze(stop *atomic.Bool) error {
	file, state := "freezer.state", "FROZEN"
	if p.v2 {
		file, state = "cgroup.freeze", "1"
	}
	if err := p.write(file, state); err != nil {
		return err
	}
	return poll(freezeWait, func() (bool, error) {
		if stop != nil && stop.Load() {
			return false, errors.New("it is being killed")
		}
		return p.frozen()
	})
}

func (p place) frozen() (bool, error) {
	if p.v2 {
		text, err := p.read("cgroup.events")
		return value(text, "frozen") == 1, err
	}
	text, err := p.read("freezer.state")
	return strings.TrimSpace(text) == "FROZEN", err
}

func (p place) thaw() error {
	if p.v2 {
		return p.write("cgroup.freeze", "0")
	}
	return p.write("freezer.state", "THAWED")
}

// End lifts the group's processor limits: processes that are killed must run to die, and
// the one among them that ends the others must run to do so, however busy the machine is.
func (g *Group) End() {
	g.ending.Store(true)
	g.hurry()
}

// Attend has the group yield to others no longer: what it is asked to do, it may do.
func (g *Group) Attend() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.limits.Idle {
		g.limits.Idle = false
		_ = g.share()
	}
}

// Kill ends all processes of the group, frozen or not. Frozen ones run no instruction of
// their own any more. It returns when the kernel has been told.
func (g *Group) Kill() error {
	g.End()
	g.mu.Lock()
	defer g.mu.Unlock()
	return kill(g.places)
}

func kill(places []place) error {
	var freezer *place
	for i, p := range places {
		if p.v2 && p.kill {
			return p.write("cgroup.kill", "1")
		}
		if p.has[Freezer] {
			freezer = &places[i]
		}
	}
	if freezer == nil {
		return places[0].killEach()
	}
	// What is frozen can start no process that would be missed. In version 1 the signal
	// waits for it to thaw, and is then what it meets first.
	err := freezer.freeze(nil)
	return errors.Join(err, freezer.killEach(), freezer.thaw())
}

// killEach kills until a look finds nobody new.
func (p place) killEach() error {
	killed, self := map[int]bool{}, os.Getpid()
	for {
		text, err := p.read("cgroup.procs")
		if err != nil {
			return err
		}
		found := false
		for _, pid := range numbers(text) {
			// A group of version 1 lists a process by any of its threads: one of this
			// process's own that did not find its way out of the group is spared.
			if !killed[pid] && pid != self {
				found, killed[pid] = true, true
				if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
					return fmt.Errorf("kill process %d of a control group: %w", pid, err)
				}
			}
		}
		if !found {
			return nil
		}
	}
}

// Remove takes the group away. Its processes must have ended, or be about to.
func (g *Group) Remove() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return remove(g.places)
}

// remove waits a while for the kernel to let go of processes that have ended.
func remove(places []place) error {
	var failed error
	for _, p := range places {
		err := poll(killWait, func() (bool, error) {
			switch err := unix.Rmdir(p.path); err {
			case nil, unix.ENOENT:
				return true, nil
			case unix.EBUSY:
				return false, nil
			default:
				return false, err
			}
		})
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("remove the control group %s: %w", p.path, err))
		}
		_ = p.dir.Close()
	}
	return failed
}

// Clean takes away groups whose makers are gone, with the processes in them, of which
// there are none but frozen ones. It leaves alone what another process holds, and looks
// everywhere: the maker may have been in another group than this process.
func (g *Groups) Clean() {
	byName := map[string][]place{}
	for _, t := range g.trees {
		left := mostGroups
		_ = filepath.WalkDir(t.top, func(path string, e os.DirEntry, err error) error {
			if left--; left < 0 {
				return filepath.SkipAll
			}
			if err != nil || !e.IsDir() {
				return nil
			}
			if !strings.HasPrefix(e.Name(), prefix) {
				return nil
			}
			if p := (place{tree: t, path: path}); p.lock() == nil {
				byName[e.Name()] = append(byName[e.Name()], p)
			}
			return filepath.SkipDir
		})
	}
	for _, places := range byName {
		_ = kill(places)
		_ = remove(places)
	}
}

// mostGroups bounds the search: entries, of which a group has some 60.
const mostGroups = 100_000
