package grid

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// graceTime is how long a program may take to end after it was asked to.
const graceTime = 15 * time.Second

// A Process is one program that a grid started.
type Process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed once it has ended
	err  error         // how, valid after done
}

// processes are all of them, and those that they started in turn.
type processes struct {
	logs string // folder for what they print

	mu   sync.Mutex
	list []*Process
	kin  map[kin]struct{} // everything below them that was ever seen
}

// kin names one process of this machine for good: numbers are used again, start times are not.
type kin struct {
	pid   int
	start uint64
}

// start runs a program that goes on until it is ended. Its output goes to a file.
func (p *processes) start(name, program string, args ...string) (*Process, error) {
	c := &Process{name: name, log: filepath.Join(p.logs, name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer out.Close()
	c.cmd = exec.Command(program, args...)
	c.cmd.Stdout, c.cmd.Stderr = out, out
	c.cmd.SysProcAttr = apart()
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, c)
	return c, nil
}

// Ended tells whether the process has ended, and how.
func (c *Process) Ended() (err error, ended bool) {
	select {
	case <-c.done:
		if c.err == nil {
			return errors.New("exit status 0"), true
		}
		return c.err, true
	default:
		return nil, false
	}
}

func (c *Process) ended() bool {
	_, ended := c.Ended()
	return ended
}

// PID is the number of the process.
func (c *Process) PID() int { return c.cmd.Process.Pid }

// kill ends one process as a power cut would, and waits for that.
func (p *processes) kill(c *Process) error {
	p.look()
	if err := c.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", c.name, err)
	}
	<-c.done
	return nil
}

// look notes what the processes have started themselves.
func (p *processes) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kin == nil {
		p.kin = map[kin]struct{}{}
	}
	for _, c := range p.list {
		if !c.ended() {
			for _, k := range below(c.cmd.Process.Pid) {
				p.kin[k] = struct{}{}
			}
		}
	}
}

// end asks all that still run to end, nodes before the hub, insists where that does not
// help, and reports whatever outlived them.
func (p *processes) end() error {
	p.look()
	p.mu.Lock()
	list := slices.Clone(p.list)
	p.list = nil
	p.mu.Unlock()
	for _, c := range slices.Backward(list) {
		if c.ended() {
			continue
		}
		_ = ask(c.cmd.Process) // it may just have ended by itself
		select {
		case <-c.done:
		case <-time.After(graceTime):
			_ = c.cmd.Process.Kill()
			<-c.done
		}
	}
	return p.outlived()
}

// outlived waits a moment for what ended processes had started, and names what stays.
func (p *processes) outlived() error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		var left []string
		for k := range p.kin {
			if text, alive := running(k); alive {
				left = append(left, fmt.Sprintf("%d (%s)", k.pid, text))
			}
		}
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("these outlived the programs that started them: %s", strings.Join(left, ", "))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// tail is the end of what a process printed.
func (c *Process) tail(lines int) string {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Output runs a program to its end and gives what it printed on standard output. Its
// error says what the program said last.
func Output(ctx context.Context, env []string, program string, args ...string) (string, error) {
	out, _, err := OutputBoth(ctx, env, program, args...)
	return out, err
}

// OutputBoth gives what was printed on standard error too.
func OutputBoth(ctx context.Context, env []string, program string, args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = apart()
	cmd.Cancel = func() error { return ask(cmd.Process) }
	cmd.WaitDelay = graceTime
	err = cmd.Run()
	if ctx.Err() != nil {
		return "", "", ctx.Err()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", "", fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args[:min(2, len(args))], " "), err, lastLine(errs.String()))
	}
	return out.String(), errs.String(), err
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// ask requests an orderly end.
func ask(p *os.Process) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return p.Kill() // a system without that signal
	}
	return nil
}
