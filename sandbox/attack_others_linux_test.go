package sandbox_test

import (
	"context"
	"crypto/rand"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
)

// What others contain programs with, as their users call it: no limits but what these
// commands have by themselves. The suite ends what runs on.

// command is a sandbox.Runtime that is a command in front of the program's own.
type command struct {
	name string
	argv func(sandbox.Spec) []string
	end  func(argv []string) // takes away what stays when the command itself is ended
}

func (c command) Name() string { return c.name }

func (c command) Probe(context.Context) spare.Capability { return spare.Capability{Runtime: c.name} }

// Run gives the program its limits of time only, and a little more, so that what outlasts
// them is seen.
func (c command) Run(ctx context.Context, s sandbox.Spec) (sandbox.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Limits.Wall+2*late)
	defer cancel()
	argv := c.argv(s)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = s.Stdout, s.Stderr, time.Second
	start := time.Now()
	err := cmd.Run()
	r := sandbox.Result{Cause: sandbox.Exited, Wall: time.Since(start)}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && ctx.Err() == nil && !errors.Is(err, exec.ErrWaitDelay) {
		return r, err
	}
	if ctx.Err() != nil && c.end != nil {
		c.end(argv)
	}
	r.ExitCode = cmd.ProcessState.ExitCode()
	if r.ExitCode < 0 || r.ExitCode > 128 {
		r.ExitCode, r.Cause = -1, sandbox.KilledSignal
	}
	return r, nil
}

// bubblewrap is called as its manual's example does: the system's folders read-only, a
// /proc, /dev and /tmp of its own, and what the program is to have.
func bubblewrap() sandbox.Runtime {
	return command{name: "bwrap", argv: func(s sandbox.Spec) []string {
		argv := strings.Fields("bwrap --unshare-all --ro-bind /usr /usr --ro-bind /etc /etc --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 --symlink usr/sbin /sbin --proc /proc --dev /dev --tmpfs /tmp --tmpfs /run --die-with-parent")
		for _, m := range s.Mounts {
			how := "--ro-bind"
			if m.Writable {
				how = "--bind"
			}
			argv = append(argv, how, m.Host, m.Inner)
		}
		for _, v := range s.Env {
			name, value, _ := strings.Cut(v, "=")
			argv = append(argv, "--setenv", name, value)
		}
		return append(append(argv, "--"), s.Argv...)
	}}
}

// podman is called with no flags but those for what the program is to have, and limits that
// it needs to be told where root lacks the right to raise its own.
func podman(image string) sandbox.Runtime {
	return command{name: "podman", argv: func(s sandbox.Spec) []string {
		argv := []string{"podman", "--runtime", "runc", "run", "--rm", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--name", "spare-attack-" + rand.Text()}
		for _, m := range s.Mounts {
			how := ":ro"
			if m.Writable {
				how = ""
			}
			argv = append(argv, "--volume", m.Host+":"+m.Inner+how)
		}
		for _, v := range s.Env {
			argv = append(argv, "--env", v)
		}
		return append(append(argv, image), s.Argv...)
	}, end: func(argv []string) {
		_ = exec.Command("podman", "rm", "--force", "--time", "0", argv[slices.Index(argv, "--name")+1]).Run()
	}}
}

// bare runs a program with no sandbox at all, in a session of its own: the proof for what
// the kernel allows to root alone, who is nowhere inside a sandbox of ours.
func bare() sandbox.Runtime {
	return command{name: "bare", argv: func(s sandbox.Spec) []string {
		argv := []string{"setsid", "--wait"}
		for _, word := range s.Argv {
			for _, m := range s.Mounts {
				if rest, ok := strings.CutPrefix(word, m.Inner+"/"); ok {
					word = filepath.Join(m.Host, rest)
				}
			}
			argv = append(argv, word)
		}
		return argv
	}}
}
