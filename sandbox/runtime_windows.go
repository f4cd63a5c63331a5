package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"

	"github.com/spare-compute/spare"
)

// Init does nothing here: no runtime of this system starts inside this program.
func Init() {}

// Default lists this system's runtimes, best first.
func Default() []Runtime { return []Runtime{&appcontainer{}} }

// Unavailable is what a system without any runtime reports; Windows has one to probe.
func Unavailable() spare.Capability {
	return spare.Capability{Runtime: "appcontainer", Reason: "no runtime was probed"}
}

// appcontainer contains programs with Windows' own means: an AppContainer for each run,
// which may use nothing but what was granted to it and has no network, in a Job Object
// that holds it to its limits and takes all of it down. What that promises and what not
// is in docs/sandbox-other-systems.md.
type appcontainer struct {
	once   sync.Once
	python string // python.exe; "" if there is none
	reads  *windows.SID
}

func (*appcontainer) Name() string { return "appcontainer" }

// Probe implements Runtime.
func (a *appcontainer) Probe(ctx context.Context) spare.Capability {
	return probeNatively(ctx, a, []string{
		"app container", "low integrity", "own folders", "no network", "job object", "no desktop", "closed handles",
		"memory limit", "process limit", "cpu rate", "disk watch", "output cap", "wall time", "cpu time",
	})
}

// find looks for the interpreter, once, and opens it to runs.
func (a *appcontainer) find() {
	a.once.Do(func() {
		sweep()
		folders := filepath.SplitList(os.Getenv("PATH"))
		for _, root := range []registry.Key{registry.CURRENT_USER, registry.LOCAL_MACHINE} {
			folders = append(folders, installed(root)...)
		}
		file, err := find("python", pythonFolders(folders), []string{".exe"})
		if err != nil {
			return
		}
		if file, err = filepath.EvalSymlinks(file); err != nil {
			return
		}
		if a.reads, err = openInterpreter(filepath.Dir(file)); err == nil {
			a.python = file
		}
	})
}

// installed are the folders that Python's installers note, as PEP 514 says.
func installed(root registry.Key) (folders []string) {
	const where = `SOFTWARE\Python\PythonCore`
	core, err := registry.OpenKey(root, where, registry.ENUMERATE_SUB_KEYS)
	if err != nil {
		return nil
	}
	defer func() { _ = core.Close() }()
	versions, _ := core.ReadSubKeyNames(-1)
	for _, v := range versions {
		k, err := registry.OpenKey(root, where+`\`+v+`\InstallPath`, registry.QUERY_VALUE)
		if err != nil {
			continue
		}
		if dir, _, err := k.GetStringValue(""); err == nil {
			folders = append(folders, filepath.Clean(dir))
		}
		_ = k.Close()
	}
	return folders
}

// containerRun is one Run on its way.
type containerRun struct {
	runtime   *appcontainer
	spec      Spec
	places    *places
	sinks     *sinks
	container *container
	job       *job
	argv      []string
	env       []uint16
}

// Run implements Runtime.
func (a *appcontainer) Run(ctx context.Context, spec Spec) (Result, error) {
	if err := spec.Check(); err != nil {
		return Result{}, err
	}
	if err := unservedNatively(a.Name(), spec); err != nil {
		return Result{}, err
	}
	if err := context.Cause(ctx); err != nil {
		return Result{}, err
	}
	a.find()
	home, err := os.MkdirTemp("", "spare-run-")
	if err != nil {
		return Result{}, fmt.Errorf("make the run's folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(home) }()
	spec.Grace = 0 // nobody can be asked here
	r := &containerRun{runtime: a, spec: spec, sinks: newSinks(spec.Limits.Output)}
	defer r.close()
	if err := r.prepare(home); err != nil {
		return Result{}, err
	}
	return r.run(ctx)
}

func (r *containerRun) close() {
	if r.job != nil {
		r.job.close()
	}
	if r.container != nil {
		r.container.close()
	}
}

// prepare lays out the run's folders and opens them to its container.
func (r *containerRun) prepare(home string) (err error) {
	if r.places, err = newPlaces(r.spec, home); err != nil {
		return err
	}
	system, err := windows.GetSystemWindowsDirectory()
	if err != nil {
		return fmt.Errorf("find the system's folder: %w", err)
	}
	paths := []string{filepath.Join(system, "System32"), system}
	if r.runtime.python != "" {
		dir := filepath.Dir(r.runtime.python)
		paths = append([]string{dir, filepath.Join(dir, "Scripts")}, paths...)
	}
	r.argv = r.places.arguments(r.spec.Argv)
	switch {
	case r.argv[0] == "python3" && r.runtime.python == "":
		return &StartError{Program: "python3", Err: os.ErrNotExist}
	case r.argv[0] == "python3":
		r.argv[0] = r.runtime.python
	case !strings.ContainsAny(r.argv[0], `/\`):
		if r.argv[0], err = find(r.argv[0], paths, []string{".exe", ".com"}); err != nil {
			return err
		}
	}
	r.env = envBlock(append(r.places.environment(r.spec.Env, paths...), windowsEnv(system, r.places.tmp)...))
	if r.container, err = newContainer(); err != nil {
		return err
	}
	for _, g := range grants(r.places) {
		if err := r.container.grant(g); err != nil {
			return err
		}
	}
	r.job, err = newJob(planJob(r.spec.Limits, runtime.NumCPU()))
	return err
}

// run starts the program and holds it until nothing of it is left.
func (r *containerRun) run(ctx context.Context) (Result, error) {
	process, err := r.start()
	r.sinks.handed()
	if err != nil {
		r.sinks.finish()
		return Result{}, err
	}
	defer func() { _ = windows.CloseHandle(process) }()
	w := newWarden(r.job, r.spec, r.places.writable())
	stop := r.job.listen(w.end)
	ended := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		_, _ = windows.WaitForSingleObject(process, windows.INFINITE)
		close(ended)
	})
	detach, err := r.spec.Steer.Attach(w)
	if err != nil && !errors.Is(err, ErrNotRunning) {
		w.end(KilledCancel) // it was to be paused, and must not run
	}
	w.guard(ctx, ended)
	detach()
	waiting.Wait()
	r.job.bury()
	stop()
	r.sinks.finish()
	var code uint32
	if err := windows.GetExitCodeProcess(process, &code); err != nil {
		return Result{}, fmt.Errorf("ask how the program ended: %w", err)
	}
	use, _ := r.job.Use()
	res := Result{ExitCode: int(code), Cause: Exited, CPU: use.cpu, PeakMemory: r.job.peak(), OutputTruncated: r.sinks.out.truncated.Load()}
	if what, ok := crash(code); ok {
		res.ExitCode, res.Signal, res.Cause = -1, what, KilledSignal
	}
	w.account(&res)
	return res, nil
}

// What package windows does not name of a new process's attributes.
const (
	attributeSecurity = 0x00020009 // PROC_THREAD_ATTRIBUTE_SECURITY_CAPABILITIES
	attributeJobs     = 0x0002000D // PROC_THREAD_ATTRIBUTE_JOB_LIST
)

type securityCapabilities struct {
	container    *windows.SID
	capabilities *windows.SIDAndAttributes
	count        uint32
	_            uint32
}

const groupEnabled = 4 // SE_GROUP_ENABLED

// start makes the program's process: in its container and its job from the first
// instruction on, with three handles and no other.
func (r *containerRun) start() (windows.Handle, error) {
	handles, startup, err := r.handles()
	if err != nil {
		return 0, err
	}
	security := &securityCapabilities{container: r.container.sid}
	if r.runtime.reads != nil {
		security.capabilities, security.count = &windows.SIDAndAttributes{Sid: r.runtime.reads, Attributes: groupEnabled}, 1
	}
	attributes, err := windows.NewProcThreadAttributeList(3)
	if err != nil {
		return 0, fmt.Errorf("describe the program's process: %w", err)
	}
	defer attributes.Delete()
	jobs := []windows.Handle{r.job.handle}
	for _, a := range []struct {
		what  uintptr
		value unsafe.Pointer
		size  uintptr
	}{
		{attributeSecurity, unsafe.Pointer(security), unsafe.Sizeof(*security)},
		{windows.PROC_THREAD_ATTRIBUTE_HANDLE_LIST, unsafe.Pointer(&handles[0]), uintptr(len(handles)) * unsafe.Sizeof(handles[0])},
		{attributeJobs, unsafe.Pointer(&jobs[0]), unsafe.Sizeof(jobs[0])},
	} {
		if err := attributes.Update(a.what, a.value, a.size); err != nil {
			return 0, fmt.Errorf("describe the program's process: %w", err)
		}
	}
	startup.ProcThreadAttributeList = attributes.List()
	program, err1 := windows.UTF16PtrFromString(r.argv[0])
	line, err2 := windows.UTF16PtrFromString(windows.ComposeCommandLine(r.argv))
	dir, err3 := windows.UTF16PtrFromString(r.places.dir(r.spec.Dir))
	if err := errors.Join(err1, err2, err3); err != nil {
		return 0, &StartError{Program: r.spec.Argv[0], Err: err}
	}
	var made windows.ProcessInformation
	const flags = windows.EXTENDED_STARTUPINFO_PRESENT | windows.CREATE_UNICODE_ENVIRONMENT | windows.CREATE_NO_WINDOW | windows.CREATE_NEW_PROCESS_GROUP
	err = windows.CreateProcess(program, line, nil, nil, true, flags, &r.env[0], dir, &startup.StartupInfo, &made)
	runtime.KeepAlive(security)
	runtime.KeepAlive(jobs)
	runtime.KeepAlive(handles)
	switch {
	case errors.Is(err, windows.ERROR_FILE_NOT_FOUND), errors.Is(err, windows.ERROR_PATH_NOT_FOUND), errors.Is(err, windows.ERROR_BAD_EXE_FORMAT):
		return 0, &StartError{Program: r.spec.Argv[0], Err: err}
	case err != nil:
		return 0, fmt.Errorf("the sandbox cannot start %s: %w", r.argv[0], err)
	}
	_ = windows.CloseHandle(made.Thread)
	return made.Process, nil
}

// handles opens what the program reads from and prints to, and lets it inherit that.
func (r *containerRun) handles() ([]windows.Handle, *windows.StartupInfoEx, error) {
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	r.sinks.theirs = append(r.sinks.theirs, stdin)
	stdout, stderr, err := r.sinks.open(r.spec.Stdout, r.spec.Stderr)
	if err != nil {
		return nil, nil, err
	}
	startup := &windows.StartupInfoEx{}
	startup.Cb = uint32(unsafe.Sizeof(*startup))
	startup.Flags = windows.STARTF_USESTDHANDLES
	startup.StdInput, startup.StdOutput, startup.StdErr = windows.Handle(stdin.Fd()), windows.Handle(stdout.Fd()), windows.Handle(stderr.Fd())
	all := []windows.Handle{startup.StdInput, startup.StdOutput}
	if startup.StdErr != startup.StdOutput {
		all = append(all, startup.StdErr)
	}
	for _, h := range all {
		if err := windows.SetHandleInformation(h, windows.HANDLE_FLAG_INHERIT, windows.HANDLE_FLAG_INHERIT); err != nil {
			return nil, nil, fmt.Errorf("hand the program its output: %w", err)
		}
	}
	return all, startup, nil
}
