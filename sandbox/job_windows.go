package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

var (
	kernel32      = windows.NewLazySystemDLL("kernel32.dll")
	suspendThread = kernel32.NewProc("SuspendThread")
	memoryInfo    = kernel32.NewProc("K32GetProcessMemoryInfo")
)

// job is a run's Job Object: the tree of its processes, which none of them can leave.
type job struct {
	handle windows.Handle
	port   windows.Handle // news of limits come in here

	mu        sync.Mutex
	suspended map[uint32]bool // threads, by number
}

// Structures that package windows does not name, as Windows lays them out.
type (
	jobPort struct {
		key  uintptr
		port windows.Handle
	}
	jobCPURate struct{ flags, rate uint32 }
	jobTimes   struct {
		userTime, kernelTime, _, _ int64 // 100 ns
		_, _, active, _            uint32
	}
	processMemory struct {
		size, faults                                     uint32
		peakWorkingSet, workingSet                       uintptr
		quotaPeakPaged, quotaPaged, quotaPeakNonPaged    uintptr
		quotaNonPaged, pagefile, peakPagefile, committed uintptr
	}
)

const (
	cpuRateEnable  = 1
	cpuRateHardCap = 4

	postAtEndOfTime = 1 // else all would end with a code that tells nothing

	// News of a Job Object.
	jobSaysTime   = 1
	jobSaysMemory = 10

	allUILimits = 0xff
)

func newJob(plan jobPlan) (_ *job, err error) {
	j := &job{suspended: map[uint32]bool{}}
	defer func() {
		if err != nil {
			j.close()
		}
	}()
	if j.handle, err = windows.CreateJobObject(nil, nil); err != nil {
		return nil, fmt.Errorf("make the Job Object: %w", err)
	}
	limits := windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION{
		BasicLimitInformation: windows.JOBOBJECT_BASIC_LIMIT_INFORMATION{
			LimitFlags: plan.flags, ActiveProcessLimit: plan.processes, PriorityClass: plan.priority, PerJobUserTimeLimit: plan.userTime,
		},
		JobMemoryLimit: uintptr(plan.memory),
	}
	if err := set(j, windows.JobObjectExtendedLimitInformation, &limits); err != nil {
		return nil, fmt.Errorf("set the Job Object's limits: %w", err)
	}
	if err := set(j, windows.JobObjectBasicUIRestrictions, &windows.JOBOBJECT_BASIC_UI_RESTRICTIONS{UIRestrictionsClass: allUILimits}); err != nil {
		return nil, fmt.Errorf("close the owner's desktop to the Job Object: %w", err)
	}
	tell := uint32(postAtEndOfTime)
	if err := set(j, windows.JobObjectEndOfJobTimeInformation, &tell); err != nil {
		return nil, fmt.Errorf("set what the end of the Job Object's time does: %w", err)
	}
	if plan.cpuRate > 0 {
		if err := set(j, windows.JobObjectCpuRateControlInformation, &jobCPURate{cpuRateEnable | cpuRateHardCap, plan.cpuRate}); err != nil {
			return nil, fmt.Errorf("set the Job Object's share of the processors: %w", err)
		}
	}
	if j.port, err = windows.CreateIoCompletionPort(windows.InvalidHandle, 0, 0, 1); err != nil {
		return nil, fmt.Errorf("make the Job Object's port: %w", err)
	}
	if err := set(j, windows.JobObjectAssociateCompletionPortInformation, &jobPort{key: 1, port: j.port}); err != nil {
		return nil, fmt.Errorf("listen to the Job Object: %w", err)
	}
	return j, nil
}

func set[T any](j *job, class uint32, value *T) error {
	_, err := windows.SetInformationJobObject(j.handle, class, uintptr(unsafe.Pointer(value)), uint32(unsafe.Sizeof(*value)))
	runtime.KeepAlive(value)
	return err
}

func ask[T any](j *job, class int32, value *T) error {
	err := windows.QueryInformationJobObject(j.handle, class, uintptr(unsafe.Pointer(value)), uint32(unsafe.Sizeof(*value)), nil)
	runtime.KeepAlive(value)
	return err
}

// close ends whatever is left in the job.
func (j *job) close() {
	if j.handle != 0 {
		_ = windows.CloseHandle(j.handle)
	}
	if j.port != 0 {
		_ = windows.CloseHandle(j.port)
	}
}

// listen hands on the news of limits until stop is called.
func (j *job) listen(limit func(Cause)) (stop func()) {
	var listening sync.WaitGroup
	listening.Go(func() {
		for {
			var (
				news       uint32
				key        uintptr
				overlapped *windows.Overlapped
			)
			err := windows.GetQueuedCompletionStatus(j.port, &news, &key, &overlapped, windows.INFINITE)
			switch {
			case err != nil || key == 0:
				return
			case news == jobSaysMemory:
				limit(KilledMemory)
			case news == jobSaysTime:
				limit(KilledTime)
			}
		}
	})
	return func() {
		_ = windows.PostQueuedCompletionStatus(j.port, 0, 0, nil)
		listening.Wait()
	}
}

// Ask implements tree. Programs without a window cannot be asked on Windows.
func (j *job) Ask() {}

// Kill implements tree.
func (j *job) Kill() { _ = windows.TerminateJobObject(j.handle, killedCode) }

const killedCode = 0xC000013A // as when a user ends a program

// bury ends what is left and waits until it is gone.
func (j *job) bury() {
	for j.active() > 0 {
		j.Kill()
		time.Sleep(5 * time.Millisecond)
	}
}

func (j *job) active() uint32 {
	var t jobTimes
	if ask(j, windows.JobObjectBasicAccountingInformation, &t) != nil {
		return 0
	}
	return t.active
}

// Use implements tree.
func (j *job) Use() (treeUse, error) {
	var t jobTimes
	if err := ask(j, windows.JobObjectBasicAccountingInformation, &t); err != nil {
		return treeUse{}, fmt.Errorf("ask the Job Object: %w", err)
	}
	use := treeUse{cpu: time.Duration(t.userTime+t.kernelTime) * 100}
	pids, err := j.processes()
	for _, pid := range pids {
		use.memory += memoryOf(pid)
	}
	return use, err
}

// peak is the most memory that all processes together ever had.
func (j *job) peak() int64 {
	var l windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION
	if ask(j, windows.JobObjectExtendedLimitInformation, &l) != nil {
		return 0
	}
	return int64(l.PeakJobMemoryUsed)
}

func memoryOf(pid uint32) int64 {
	h, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, pid)
	if err != nil {
		return 0
	}
	defer func() { _ = windows.CloseHandle(h) }()
	m := processMemory{}
	m.size = uint32(unsafe.Sizeof(m))
	if ok, _, _ := memoryInfo.Call(uintptr(h), uintptr(unsafe.Pointer(&m)), unsafe.Sizeof(m)); ok == 0 {
		return 0
	}
	return int64(m.committed)
}

const mostProcesses = 1 << 16 // planJob allows no more

// processes are the numbers of the job's processes.
func (j *job) processes() ([]uint32, error) {
	type list struct {
		_, listed uint32
		numbers   [mostProcesses]uintptr
	}
	l := new(list)
	if err := ask(j, windows.JobObjectBasicProcessIdList, l); err != nil {
		return nil, fmt.Errorf("list the Job Object's processes: %w", err)
	}
	pids := make([]uint32, l.listed)
	for i := range pids {
		pids[i] = uint32(l.numbers[i])
	}
	return pids, nil
}

// pauseRounds is how often a job is looked through for threads that were just begun.
const pauseRounds = 20

// Pause implements tree. It suspends thread after thread, the documented way, until no
// new one is found: one that is suspended begins no other.
func (j *job) Pause() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for range pauseRounds {
		threads, err := j.threads()
		if err != nil {
			return err
		}
		news := 0
		for _, id := range threads {
			if !j.suspended[id] && onThread(id, func(h windows.Handle) bool { n, _, _ := suspendThread.Call(uintptr(h)); return uint32(n) != failed }) {
				j.suspended[id] = true
				news++
			}
		}
		if news == 0 {
			return nil
		}
	}
	return errors.New("pause the program: it begins new threads faster than they are suspended")
}

// Resume implements tree.
func (j *job) Resume() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for id := range j.suspended {
		onThread(id, func(h windows.Handle) bool { _, err := windows.ResumeThread(h); return err == nil })
	}
	clear(j.suspended)
	return nil
}

const failed = ^uint32(0)

func onThread(id uint32, do func(windows.Handle) bool) bool {
	h, err := windows.OpenThread(windows.THREAD_SUSPEND_RESUME, false, id)
	if err != nil {
		return false // it has ended
	}
	defer func() { _ = windows.CloseHandle(h) }()
	return do(h)
}

// threads are the numbers of all threads of the job's processes.
func (j *job) threads() ([]uint32, error) {
	pids, err := j.processes()
	if err != nil {
		return nil, err
	}
	ours := map[uint32]bool{}
	for _, pid := range pids {
		ours[pid] = true
	}
	snapshot, err := windows.CreateToolhelp32Snapshot(windows.TH32CS_SNAPTHREAD, 0)
	if err != nil {
		return nil, fmt.Errorf("list the threads: %w", err)
	}
	defer func() { _ = windows.CloseHandle(snapshot) }()
	var all []uint32
	entry := windows.ThreadEntry32{}
	entry.Size = uint32(unsafe.Sizeof(entry))
	for err = windows.Thread32First(snapshot, &entry); err == nil; err = windows.Thread32Next(snapshot, &entry) {
		if ours[entry.OwnerProcessID] {
			all = append(all, entry.ThreadID)
		}
	}
	if !errors.Is(err, windows.ERROR_NO_MORE_FILES) {
		return nil, fmt.Errorf("list the threads: %w", err)
	}
	return all, nil
}
