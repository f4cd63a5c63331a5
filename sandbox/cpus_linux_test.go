package sandbox

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCPUs_TwoProcessesDoNotShareOneWhileAnotherIsFree has a second process pick while
// this one holds a processor.
func TestCPUs_TwoProcessesDoNotShareOneWhileAnotherIsFree(t *testing.T) {
	own := claimName
	defer func() { claimName = own }()
	if name := os.Getenv("SPARE_TEST_PICK"); name != "" {
		claimName = name
		cpus := takeCPUs(1)
		if len(cpus) == 1 {
			_, _ = os.Stdout.WriteString("picked " + strconv.Itoa(cpus[0]) + "\n")
		}
		return
	}
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil || allowed.Count() < 2 {
		t.Logf("%d processors: nothing to choose from", allowed.Count())
		return
	}
	claimName = "@spare-test-" + strconv.Itoa(os.Getpid()) + "-"
	held := takeCPUs(1)
	defer freeCPUs(held)
	for range 5 {
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestCPUs_TwoProcessesDoNotShareOneWhileAnotherIsFree$")
		cmd.Env = append(os.Environ(), "SPARE_TEST_PICK="+claimName)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(out), "picked ") || strings.Contains(string(out), "picked "+strconv.Itoa(held[0])+"\n") {
			t.Errorf("this process holds %v and the other says %q", held, out)
		}
	}
}

func TestCPUs_RunsOfOneProcessSpread(t *testing.T) {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	if allowed.Count() < 2 {
		t.Log("one processor: nothing to choose from")
		return
	}
	first, second := takeCPUs(1), takeCPUs(1)
	if first[0] == second[0] {
		t.Errorf("two runs share processor %d of %d", first[0], allowed.Count())
	}
	freeCPUs(first)
	freeCPUs(second)
	if len(shares.claims) != 0 {
		t.Errorf("claims %v are left", shares.claims)
	}
}
