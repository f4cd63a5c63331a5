package first

import "syscall"

// An Order is one byte from the parent while the program runs: a Kill, or one of these.
type Order byte

// The orders that do not end the run at once. All but OrderAsk are answered.
const (
	OrderAsk    Order = 16 + iota // ask all processes to end (SIGTERM)
	OrderPause                    // stop them where they are: the way without a freezer
	OrderResume                   // let them go on
	OrderMemory                   // say how much memory they use
)

const (
	stopWait  = 5 * nanosecondsInSecond    // for all processes to stop
	stopAgain = nanosecondsInSecond / 1000 // between two looks
	patience  = 25                         // looks, until what waits for the kernel counts as stopped
)

// follow obeys an order that does not end the run.
func (w *watch) follow(o Order) {
	answer := Report{Answer: o}
	switch o {
	case OrderAsk:
		if !w.over.Load() {
			w.asked.Store(true)
			w.why.CompareAndSwap(int64(KillNone), int64(KillCancel))
			_ = syscall.Kill(-1, syscall.SIGTERM)
		}
		return
	case OrderPause:
		if !w.halt() {
			answer.Failed = "not all processes of the program stopped within 5 s"
			_ = syscall.Kill(-1, syscall.SIGCONT)
		}
	case OrderResume:
		_ = syscall.Kill(-1, syscall.SIGCONT)
	case OrderMemory:
		answer.Peak, _ = w.sample()
	}
	_, _ = syscall.Write(reportFD, Encode(&answer)) // whole, as a pipe takes it
}

// halt stops every process in the sandbox, and returns once none gets processor time any
// more. The kernel signals all of them in one go, and a fork that is under way either
// comes before it or starts anew after it; but one that was not yet stopped may have
// woken another.
func (w *watch) halt() bool {
	for looks := 0; looks < int(stopWait/stopAgain); looks++ {
		_ = syscall.Kill(-1, syscall.SIGSTOP)
		if !w.anyRuns(looks >= patience) {
			return true
		}
		pause := syscall.Timespec{Nsec: stopAgain}
		_ = syscall.Nanosleep(&pause, nil)
	}
	return false
}

// anyRuns reports whether any thread has not stopped. One that waits for the kernel (D)
// does not run, but may soon; with patience at its end it counts as stopped.
func (w *watch) anyRuns(waiting bool) bool {
	for _, pid := range w.processes() {
		tasks := w.numbers("/proc/" + pid + "/task")
		for _, task := range tasks {
			switch state(readFile("/proc/"+pid+"/task/"+task+"/stat", w.text[:])) {
			case 'T', 't', 'Z', 'X', 0:
			case 'D':
				if !waiting {
					return true
				}
			default:
				return true
			}
		}
	}
	return false
}

// state is the letter after the name, which may hold anything; 0 if the thread is gone.
func state(stat []byte) byte {
	for i := len(stat) - 3; i >= 0; i-- {
		if stat[i] == ')' {
			return stat[i+2]
		}
	}
	return 0
}
