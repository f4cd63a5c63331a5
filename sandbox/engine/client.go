package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// engine is one engine's client program and what it says of itself.
type engine struct {
	path       string
	podman     bool
	ociRuntime string
	about
}

// about is what an engine says of itself.
type about struct {
	version  string            // "4.3.1"
	parts    map[string]string // "runc" → "1.1.5+ds1-1+deb12u1": what the flaws are looked up by
	arch     string            // GOARCH of the machine its containers run on
	rootless bool
	remapped bool // Docker gives containers other ids than the files' owners
	selinux  bool
	cgroups  int  // version; 0 if it does not say
	cpus     int  // that its containers can have; 0 if it does not say
	remote   bool // its containers run on another kernel than this program
	cdi      bool // Docker passes devices by the Container Device Interface
}

func (e *engine) name() string {
	if e.podman {
		return "podman"
	}
	return "docker"
}

const (
	callTime   = 60 * time.Second // for one call of the client, of those that only ask or order
	callOutput = 8 << 20          // bytes of its answer; `ps` lists every container
)

// kept are this process's variables that the client needs to find its engine and itself.
// Nothing else of the node's environment reaches it.
var kept = []string{
	"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME",
	"DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK",
	"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY",
	"CONTAINER_HOST", "CONTAINER_SSHKEY", "CONTAINER_CONNECTION", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF",
	// Windows
	"SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "TEMP", "TMP", "USERPROFILE", "HOMEDRIVE", "HOMEPATH",
	"APPDATA", "LOCALAPPDATA", "PROGRAMDATA", "PROGRAMFILES",
}

// clientEnv is the client's own environment.
func clientEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if runtime.GOOS == "windows" {
			name = strings.ToUpper(name)
		}
		if slices.Contains(kept, name) {
			env = append(env, v)
		}
	}
	return env
}

// client is the client with an argument list, ready to start. Podman takes the choice of
// the low-level runtime before the command, and is to keep its warnings, which it would
// mix with what the program prints.
func (e *engine) client(ctx context.Context, args ...string) *exec.Cmd {
	if e.podman {
		args = slices.Concat([]string{"--log-level", "error"}, args)
	}
	if e.podman && e.ociRuntime != "" {
		args = slices.Concat([]string{"--runtime", e.ociRuntime}, args)
	}
	cmd := exec.CommandContext(ctx, e.path, args...)
	cmd.Env = clientEnv()
	cmd.WaitDelay = time.Second // what the client leaves behind may hold its output open
	return cmd
}

// call runs the client to its end and returns what it answered.
func (e *engine) call(ctx context.Context, args ...string) ([]byte, error) {
	return e.send(ctx, nil, "", callTime, args...)
}

// send is call with something to read for the client, and a folder for what it writes
// down meanwhile.
func (e *engine) send(ctx context.Context, in io.Reader, tmp string, limit time.Duration, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s %s gave no answer within %v", e.name(), args[0], limit))
	defer cancel()
	out, errs := &bounded{limit: callOutput}, &bounded{limit: 64 << 10}
	cmd := e.client(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errs
	if tmp != "" {
		cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
	}
	err := cmd.Run()
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return nil, &callError{what: e.name() + " " + args[0], said: lastWords(errs.Bytes()), err: err}
	}
	return bytes.TrimSpace(out.Bytes()), nil
}

// callError is a client that ended with an error.
type callError struct {
	what, said string
	err        error
}

func (e *callError) Error() string {
	if e.said == "" {
		return fmt.Sprintf("%s: %v", e.what, e.err)
	}
	return fmt.Sprintf("%s: %s", e.what, e.said)
}

func (e *callError) Unwrap() error { return e.err }

// lastWords is the last line of an error output that is not a mere warning.
func lastWords(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for _, line := range slices.Backward(lines) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.Contains(line, "level=warning") {
			return strings.TrimPrefix(line, "Error: ")
		}
	}
	return ""
}

// bounded keeps the beginning of what is written to it.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	if left := b.limit - b.Len(); left > 0 {
		b.Buffer.Write(p[:min(left, len(p))])
	}
	return len(p), nil
}
