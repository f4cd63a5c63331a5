package engine

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spare-compute/spare/sandbox"
)

const (
	defaultProcesses = 1024
	defaultFiles     = 1024

	hostname = "spare"

	labelInstance = "spare.instance"
	labelProcess  = "spare.process" // which process of the node started it: a word of its own …
	labelPID      = "spare.pid"     // … and the number it had
)

// order is all that a container's command line says.
type order struct {
	engine  *engine
	spec    sandbox.Spec
	image   string // what the engine knows it by: a digest
	volumes []string
	name    string
	labels  []string
	uid     int
	gid     int
	env     []string // arguments that passing made
	devices []string // arguments that pass GPUs through
	ceiling ceiling
	filter  string // file of the filter of system calls
	cidFile string
	pidFile string
}

// ceiling is how high resource limits may be set here.
type ceiling struct{ processes, files uint64 }

// args is the whole argument list. Every limit is named, also where the engine's default
// would do: a default is the engine's, or its owner's, to change.
func (o order) args() ([]string, error) {
	a := []string{
		"run",
		"--name", o.name, "--cidfile", o.cidFile,
		"--pull", "never", // by digest or not at all
		"--network", "none",
		"--read-only",
		"--cap-drop", "all",
		"--security-opt", "no-new-privileges", "--security-opt", "seccomp=" + o.filter,
		"--ipc", "private", "--cgroupns", "private", "--hostname", hostname,
		"--user", fmt.Sprintf("%d:%d", o.uid, o.gid),
		"--restart", "no", "--no-healthcheck",
		"--log-driver", "none",
		"--oom-score-adj", "1000", // under memory pressure the machine must lose this before anything of its own
	}
	for _, l := range o.labels {
		a = append(a, "--label", l)
	}
	a = append(a, o.masks()...)
	a = append(a, o.engineArgs()...)
	a = append(a, o.limitArgs()...)
	for _, m := range o.spec.Mounts {
		text, err := o.engine.mount(m)
		if err != nil {
			return nil, err
		}
		a = append(a, "--mount", text)
	}
	a = append(a, o.env...)
	a = append(a, o.devices...)
	dir := o.spec.Dir
	if dir == "" {
		dir = "/tmp"
	}
	a = append(a, "--workdir", dir, "--entrypoint", "", o.image) // the image's own entrypoint means nothing
	return append(a, o.spec.Argv...), nil
}

// engineArgs are what only one engine knows, or calls differently.
func (o order) engineArgs() []string {
	if o.engine.podman {
		a := []string{
			"--pid", "private", "--uts", "private",
			"--read-only-tmpfs=false", // else /run, /var/tmp and more could be filled, with no limit of ours
			"--image-volume", "ignore",
			"--systemd=false", // else a program called init would get more
			"--sdnotify", "ignore",
			"--http-proxy=false", "--env-host=false",
			"--no-hosts",
		}
		if o.engine.rootless {
			a = append(a, "--userns", "keep-id") // the owner of the mounts' files is the same inside
		}
		if o.pidFile != "" {
			a = append(a, "--pidfile", o.pidFile)
		}
		if wall := o.spec.Limits.Wall; wall > 0 { // in case the node is killed meanwhile
			a = append(a, "--timeout", strconv.Itoa(int(math.Ceil((wall + orphanTime).Seconds()))))
		}
		return a
	}
	// Docker's pid and uts namespaces are private, and have no word to say so.
	oci := o.engine.ociRuntime
	if oci == "" {
		oci = "runc" // a default of "nvidia" would hand out GPUs on an image's word
	}
	a := []string{"--runtime", oci, "--init=false"}
	// A volume that an image declares would be a folder of the host, writable and
	// without limit.
	for _, v := range o.volumes {
		a = append(a, "--tmpfs", v+":ro,nosuid,nodev,noexec,size=4k")
	}
	return a
}

// orphanTime is how much longer than its wall time a container lives without its node.
const orphanTime = 5 * time.Minute

func (o order) limitArgs() []string {
	l := o.spec.Limits
	processes, files := l.Processes, l.Files
	if processes == 0 {
		processes = defaultProcesses
	}
	if files == 0 {
		files = defaultFiles
	}
	a := []string{"--pids-limit", strconv.Itoa(processes)}
	ulimit := func(name string, n uint64) {
		a = append(a, "--ulimit", fmt.Sprintf("%s=%d:%d", name, n, n))
	}
	// All containers of a user share one count of processes: it is a floor for all of
	// them, and --pids-limit the limit of each.
	ulimit("nproc", o.ceiling.processes)
	ulimit("nofile", min(uint64(files), o.ceiling.files))
	ulimit("core", 0)
	ulimit("memlock", lockedMemory)
	if l.Disk > 0 {
		ulimit("fsize", uint64(l.Disk))
	}
	if l.CPU > 0 {
		ulimit("cpu", uint64(math.Ceil(l.CPU.Seconds())))
	}
	if l.Memory > 0 {
		m := strconv.FormatInt(l.Memory, 10)
		a = append(a, "--memory", m, "--memory-swap", m)
	}
	if l.CPUs > 0 {
		cpus := int(math.Ceil(l.CPUs))
		if has := o.engine.cpus; has > 0 {
			cpus = min(cpus, has) // Docker takes more for a mistake
		}
		a = append(a, "--cpus", strconv.Itoa(cpus))
	}
	if l.Nice {
		a = append(a, "--cpu-shares", "2") // the least there is
	}
	tmp := strconv.FormatInt(tmpSize(l.Memory), 10)
	return append(a, "--tmpfs", "/tmp:rw,exec,nosuid,nodev,mode=1777,size="+tmp, "--shm-size", tmp)
}

// tmpSize bounds /tmp and /dev/shm, each: they are memory.
func tmpSize(memory int64) int64 {
	if memory == 0 {
		return 512 << 20
	}
	return min(max(memory/2, 16<<20), 2<<30)
}

// mount is the value of --mount, which engines read as a line of comma-separated values.
func (e *engine) mount(m sandbox.Mount) (string, error) {
	fields := []string{"type=bind", "src=" + m.Host, "dst=" + m.Inner}
	if !m.Writable {
		fields = append(fields, "readonly")
	}
	if e.podman && e.selinux {
		fields = append(fields, "relabel=shared")
	}
	for _, f := range fields {
		if strings.ContainsAny(f, "\r\n") {
			return "", fmt.Errorf("mount %q in a container: engines take no path with a line break", m.Host)
		}
	}
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	if err := w.Write(fields); err != nil {
		return "", err
	}
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n"), nil
}

const (
	maxProcesses = 32768 // of all containers of one user together
	maxFiles     = 1 << 20

	lockedMemory = 64 << 10 // bytes: locked memory cannot be taken back when the machine runs short

	// remoteOwner is the user of containers in an engine's own machine.
	remoteOwner = 1000
)
