package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spare-compute/spare/bundle"
	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/attack"
)

// quickLimits are those of the run that tries many attacks.
var quickLimits = sandbox.Limits{CPUs: 1, Memory: 512 << 20, Processes: 64, Wall: 2 * time.Minute, Output: 1 << 20}

// A bout is one run of attacks: its folders on the host, and how it ended.
type bout struct {
	app, rw string
	argv    []string
	slack   time.Duration // how much longer than its limit it may take
	out     bytes.Buffer
	result  sandbox.Result
	err     error
	took    time.Duration
}

// bout lays out the folders of a run. The App's folder has what attacks find there: links
// out of it and files to write to.
func (f *field) bout(t *testing.T, c fighter, script string, args []string) *bout {
	t.Helper()
	f.mu.Lock()
	f.runs++
	dir := filepath.Join(f.dir, fmt.Sprintf("run-%d", f.runs))
	f.mu.Unlock()
	b := &bout{app: filepath.Join(dir, "app"), rw: filepath.Join(dir, "rw"), argv: []string{"python3", "/spare/app/attack.py"}, slack: late}
	facts := f.bait.Facts
	facts.Args = args
	if c.open {
		facts.Patience, b.slack = 0.3, soon
	}
	if c.bare {
		facts.RO, facts.RW, facts.Programs, facts.Bare = b.app, b.rw, shared("programs"), true
	}
	for _, err := range []error{
		os.Mkdir(dir, 0o755), os.Mkdir(b.app, 0o755), os.Mkdir(b.rw, 0o755),
		os.WriteFile(filepath.Join(b.app, "attack.py"), []byte(script), 0o644),
		os.WriteFile(filepath.Join(b.app, "bait.json"), facts.JSON(), 0o644),
		os.WriteFile(filepath.Join(b.app, "open"), nil, 0o666), os.Chmod(filepath.Join(b.app, "open"), 0o666),
		os.Symlink(f.bait.Secret, filepath.Join(b.app, "link")),
		os.Symlink(strings.Repeat("../", 20)+f.bait.Secret, filepath.Join(b.app, "up")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(b.app, 0o777); err != nil { // so that a mount alone keeps it from being written
		t.Fatal(err)
	}
	return b
}

func (b *bout) run(ctx context.Context, c fighter, rt sandbox.Runtime, limits sandbox.Limits, env, args []string) {
	start := time.Now()
	b.result, b.err = rt.Run(ctx, sandbox.Spec{
		Image: c.image, Argv: append(b.argv, args...), Env: env,
		Mounts: []sandbox.Mount{
			{Host: b.app, Inner: "/spare/app"}, {Host: b.rw, Inner: "/spare/rw", Writable: true}, {Host: shared("programs"), Inner: "/spare/programs"},
		},
		Limits: limits, Stdout: &b.out, Stderr: &b.out, Grace: grace,
	})
	b.took = time.Since(start)
}

const grace = 500 * time.Millisecond

// quick tries many attacks in one run. Where there are no processes to try them in, one may
// take the run with it: then another run goes on behind it.
func (f *field) quick(t *testing.T, c fighter, rt sandbox.Runtime, attacks []attack.Attack) map[string]attack.Outcome {
	t.Helper()
	all := map[string]attack.Outcome{}
	for len(attacks) > 0 {
		b := f.bout(t, c, attack.Battery(attacks), nil)
		b.run(t.Context(), c, rt, quickLimits, nil, nil)
		got, tried := attack.Read(b.out.Bytes()), 0
		for i, a := range attacks {
			o, said := got[a.Name]
			if !said {
				o = attack.Outcome{Attack: a.Name, Verdict: attack.Broken, Detail: fmt.Sprintf("the run ended before it: %+v, %v: %.400s", b.result, b.err, b.out.Bytes())}
				if b.err == nil && b.result.Cause == sandbox.KilledSignal {
					o.Verdict, o.Detail = attack.Refused, "the run was ended: "+b.result.Signal
				}
			} else if a.Collected {
				o = collected(o, filepath.Join(b.rw, attack.ResultsFolder, fmt.Sprint(i)))
			}
			all[a.Name], tried = o, i+1
			f.say("%s, %q: %s (%s)", c.Name, a.Name, o.Verdict, o.Detail)
			if !said && o.Verdict == attack.Refused {
				break
			}
		}
		attacks = attacks[tried:]
		_ = f.remove(t, b)
	}
	return all
}

// collected looks at what an attack left, as the host does after each run.
func collected(o attack.Outcome, dir string) attack.Outcome {
	if o.Verdict != attack.Refused || o.Detail != "" { // it could not even be made
		return o
	}
	if made, err := os.ReadDir(dir); err != nil || len(made) == 0 {
		return attack.Outcome{Attack: o.Attack, Verdict: attack.Broken, Detail: fmt.Sprintf("it left nothing: %v", err)}
	}
	_, err := bundle.CollectResults(dir, bundle.Limits{Files: attack.CollectedFiles, Bytes: attack.CollectedBytes})
	var refused *bundle.Refused
	switch {
	case errors.As(err, &refused):
		o.Detail = fmt.Sprintf("%.200s", err)
	case err == nil:
		o.Verdict, o.Detail = attack.Succeeded, "it was collected"
	default:
		o.Verdict, o.Detail = attack.Broken, err.Error()
	}
	return o
}

// alone tries one attack in a run of its own, and looks at what it did to the host.
func (f *field) alone(t *testing.T, c fighter, rt sandbox.Runtime, a attack.Attack) attack.Outcome {
	t.Helper()
	if a.Load.Linked && c.image == nil {
		return attack.Outcome{Attack: a.Name, Verdict: attack.Absent, Detail: "there is no image"}
	}
	b := f.bout(t, c, attack.Single(a), a.Load.Args)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := make(chan time.Time, 1)
	if a.Load.Cancel {
		go func() { asked <- b.cancelWhenReady(ctx, cancel) }()
	}
	var env []string
	for _, v := range a.Load.Env {
		env = append(env, strings.ReplaceAll(v, "{open}", f.bait.Open))
	}
	if a.Load.Linked {
		c.image = f.linked(t, c)
		b.argv = []string{"/bin/sh", "-c", "echo made >/spare/rw/made"}
	}
	b.run(ctx, c, rt, a.Load.Limits, env, a.Load.Args)
	cancel()
	if made, err := os.ReadFile(filepath.Join(b.rw, "made")); a.Load.Linked && (b.err == nil) != (err == nil && string(made) == "made\n") {
		b.err = fmt.Errorf("it wrote %q where it may write: %w", made, errors.Join(b.err, err))
	} else if a.Load.Linked {
		b.err = nil // refusing to run such an image is as good
	}
	limit := a.Load.Limits.Wall
	if a.Load.Cancel {
		b.took, limit = time.Since(<-asked), grace
	}
	o := f.judge(a, b, limit)
	f.say("%s, %q: %s (%s) in %v", c.Name, a.Name, o.Verdict, o.Detail, b.took)
	if left := f.remove(t, b); left != nil && o.Verdict == attack.Refused {
		o.Verdict, o.Detail = attack.Succeeded, "what it left cannot be removed: "+left.Error()
	}
	return o
}

// say tells of progress, for -test.v.
func (f *field) say(format string, args ...any) {
	if testing.Verbose() {
		fmt.Printf("    "+format+"\n", args...)
	}
}

// cancelWhenReady cancels once the program says by a file that it is ready.
func (b *bout) cancelWhenReady(ctx context.Context, cancel func()) time.Time {
	for ctx.Err() == nil {
		if _, err := os.Stat(filepath.Join(b.rw, "ready")); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	now := time.Now()
	cancel()
	return now
}

// late is how much longer than its limit a run may take: what the machine's load takes
// from it, and half of what an attack that is let alone goes on for; soon is the same
// where walls are switched off and attacks go on for less.
const (
	late = 10 * time.Second
	soon = 2 * time.Second
)

// judge is an attack's verdict: its own word that it got through, or what the host sees.
func (f *field) judge(a attack.Attack, b *bout, limit time.Duration) attack.Outcome {
	o := attack.Outcome{Attack: a.Name, Verdict: attack.Refused}
	said, spoke := attack.Read(b.out.Bytes())[a.Name]
	switch {
	case b.err != nil:
		o.Verdict, o.Detail = attack.Broken, b.err.Error()
		return o
	case spoke:
		o = said
	case b.result.Cause == sandbox.Exited && b.result.ExitCode != 0:
		o.Verdict, o.Detail = attack.Broken, fmt.Sprintf("it ended with code %d: %.800s", b.result.ExitCode, b.out.Bytes())
	default:
		o.Detail = strings.TrimSpace(fmt.Sprintf("%s %s", b.result.Cause, b.result.Signal))
	}
	if o.Verdict == attack.Absent || o.Verdict == attack.Broken {
		return o
	}
	through := func(format string, args ...any) attack.Outcome {
		return attack.Outcome{Attack: a.Name, Verdict: attack.Succeeded, Detail: fmt.Sprintf(format, args...)}
	}
	planted, _ := os.ReadDir(f.bait.Open)
	cores, _ := filepath.Glob(filepath.Join(b.rw, "core*"))
	switch {
	case b.took > limit+b.slack:
		return through("it ended %v after its limit of %v", (b.took - limit).Round(time.Millisecond), limit)
	case a.Load.Limits.Output > 0 && int64(b.out.Len()) > a.Load.Limits.Output:
		return through("%d bytes of its output came", b.out.Len())
	case held(b.rw):
		return through("a process of it outlives the run")
	case len(planted) > 0:
		return through("the host wrote %s for it", planted[0].Name())
	case len(cores) > 0:
		return through("its core was written to %s", cores[0])
	}
	return o
}

// held reports whether anybody holds the lock in an attack's folder.
func held(rw string) bool {
	l, err := os.Open(filepath.Join(rw, "lock"))
	if err != nil {
		return false
	}
	defer l.Close()
	return syscall.Flock(int(l.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}

// remove takes a run's folders away.
func (f *field) remove(t *testing.T, b *bout) error {
	t.Helper()
	err := clean(filepath.Dir(b.app))
	if err != nil {
		t.Errorf("remove what a run left: %v", err)
	}
	return err
}

// clean removes a folder, whatever permissions were taken off what is in it.
func clean(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(name, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

func copyProgram(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	for _, err := range []error{err, out.Close(), os.Chmod(to, mode)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}
