package wasm

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/spare-compute/spare/sandbox"
)

// system holds a helper in a job object: when this process ends, however that happens,
// the system closes the handle, and with the last handle the job and what is in it ends.
type system struct {
	job     windows.Handle
	process windows.Handle
}

var (
	ntdll                = windows.NewLazySystemDLL("ntdll.dll")
	ntSuspendProcess     = ntdll.NewProc("NtSuspendProcess")
	ntResumeProcess      = ntdll.NewProc("NtResumeProcess")
	kernel32             = windows.NewLazySystemDLL("kernel32.dll")
	getProcessMemoryInfo = kernel32.NewProc("K32GetProcessMemoryInfo")
)

func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{HideWindow: true, CreationFlags: windows.CREATE_NO_WINDOW | windows.CREATE_NEW_PROCESS_GROUP}
}

// systemEnv is what a Windows program cannot start without.
func systemEnv() []string { return []string{"SystemRoot=" + os.Getenv("SystemRoot")} }

// hold puts the helper, which still waits for its orders, into a job of its own: one
// process, bounded memory and processor time.
func hold(p *os.Process, l sandbox.Limits) (system, error) {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return system{}, fmt.Errorf("create a job object: %w", err)
	}
	s := system{job: job}
	var info windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION
	b := &info.BasicLimitInformation
	b.LimitFlags = windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | windows.JOB_OBJECT_LIMIT_ACTIVE_PROCESS | windows.JOB_OBJECT_LIMIT_DIE_ON_UNHANDLED_EXCEPTION
	b.ActiveProcessLimit = 1
	if l.Memory > 0 {
		b.LimitFlags |= windows.JOB_OBJECT_LIMIT_JOB_MEMORY
		info.JobMemoryLimit = uintptr(l.Memory + helperMemory)
	}
	if l.CPU > 0 { // the watch in the helper is more exact
		b.LimitFlags |= windows.JOB_OBJECT_LIMIT_PROCESS_TIME
		b.PerProcessUserTimeLimit = (int64(l.CPU) + 2e9) / 100 // of 100 ns
	}
	if l.Nice {
		b.LimitFlags |= windows.JOB_OBJECT_LIMIT_PRIORITY_CLASS
		b.PriorityClass = windows.IDLE_PRIORITY_CLASS
	}
	_, err = windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation, uintptr(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info)))
	if err != nil {
		s.close()
		return system{}, fmt.Errorf("set the limits of a job object: %w", err)
	}
	s.process, err = windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE|windows.PROCESS_SUSPEND_RESUME|windows.PROCESS_QUERY_INFORMATION|windows.PROCESS_VM_READ, false, uint32(p.Pid))
	if err == nil {
		err = windows.AssignProcessToJobObject(job, s.process)
	}
	if err != nil {
		s.close()
		return system{}, fmt.Errorf("put the helper into a job object: %w", err)
	}
	return s, nil
}

func (s system) close() {
	for _, h := range []windows.Handle{s.process, s.job} {
		if h != 0 {
			_ = windows.CloseHandle(h)
		}
	}
}

func (s system) pause() error  { return s.call(ntSuspendProcess, "pause the helper") }
func (s system) resume() error { return s.call(ntResumeProcess, "resume the helper") }

func (s system) call(proc *windows.LazyProc, what string) error {
	if err := proc.Find(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if status, _, _ := proc.Call(uintptr(s.process)); status != 0 {
		return fmt.Errorf("%s: %w", what, windows.NTStatus(status))
	}
	return nil
}

// memoryCounters is PROCESS_MEMORY_COUNTERS.
type memoryCounters struct {
	size, pageFaults           uint32
	peakWorkingSet, workingSet uintptr
	quotas                     [4]uintptr
	pagefile, peakPagefile     uintptr
}

func (s system) counters() (c memoryCounters, err error) {
	c.size = uint32(unsafe.Sizeof(c))
	ok, _, err := getProcessMemoryInfo.Call(uintptr(s.process), uintptr(unsafe.Pointer(&c)), uintptr(c.size))
	if ok == 0 {
		return c, err
	}
	return c, nil
}

func (s system) memory() (int64, error) {
	c, err := s.counters()
	if err != nil {
		return 0, errors.Join(sandbox.ErrNotRunning, err)
	}
	return int64(c.workingSet), nil
}

// peak is what the job counted: the helper itself is gone.
func (s system) peak(*os.ProcessState) int64 {
	var info windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION
	if windows.QueryInformationJobObject(s.job, windows.JobObjectExtendedLimitInformation, uintptr(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info)), nil) != nil {
		return 0
	}
	return int64(info.PeakProcessMemoryUsed)
}

// signalOf names what ended a process that did not end itself.
func signalOf(state *os.ProcessState) (string, sandbox.Cause) {
	switch code := uint32(state.ExitCode()); code {
	case uint32(windows.STATUS_QUOTA_EXCEEDED), 1816: // ERROR_NOT_ENOUGH_QUOTA: the job's processor time
		return "its limits", sandbox.KilledTime
	default:
		if code>>30 == 3 { // an NTSTATUS that is an error
			return windows.NTStatus(code).Error(), sandbox.KilledSignal
		}
	}
	return "", ""
}

func alive(pid int) bool {
	h, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, uint32(pid))
	if err != nil {
		return !errors.Is(err, windows.ERROR_INVALID_PARAMETER)
	}
	defer windows.CloseHandle(h)
	var code uint32
	const stillActive = 259
	return windows.GetExitCodeProcess(h, &code) != nil || code == stillActive
}

// floor has nothing to do: the job object has the limits.
func floor(orders) {}

// processorTime is what this process has used, in nanoseconds.
func processorTime() int64 {
	var created, exited, kernel, user syscall.Filetime
	self, err := syscall.GetCurrentProcess()
	if err == nil {
		err = syscall.GetProcessTimes(self, &created, &exited, &kernel, &user)
	}
	if err != nil {
		return 0
	}
	length := func(f syscall.Filetime) int64 { return (int64(f.HighDateTime)<<32 | int64(f.LowDateTime)) * 100 }
	return length(kernel) + length(user)
}
