package grid

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// apart keeps a terminal's Ctrl-C from the children, so that the grid ends them in order,
// and has the kernel end them if the caller itself is killed.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// below lists every process that pid has started, directly or not.
func below(pid int) []kin {
	children := map[int][]kin{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well formed
	for _, file := range stats {
		if k, parent, ok := readStat(file); ok {
			children[parent] = append(children[parent], k)
		}
	}
	var all []kin
	for next := []int{pid}; len(next) > 0; next = next[1:] {
		for _, k := range children[next[0]] {
			all = append(all, k)
			next = append(next, k.pid)
		}
	}
	return all
}

// readStat reads a process's number, start time and parent; a zombie does not count.
func readStat(file string) (k kin, parent int, ok bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return kin{}, 0, false // it has ended meanwhile
	}
	open, end := bytes.IndexByte(text, ' '), bytes.LastIndexByte(text, ')')
	if open < 0 || end < 0 {
		return kin{}, 0, false
	}
	fields := strings.Fields(string(text[end+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return kin{}, 0, false
	}
	pid, errPid := strconv.Atoi(string(text[:open]))
	parent, errParent := strconv.Atoi(fields[1])
	start, errStart := strconv.ParseUint(fields[19], 10, 64)
	return kin{pid, start}, parent, errPid == nil && errParent == nil && errStart == nil
}

// running tells whether a process still runs, and what it is.
func running(k kin) (what string, alive bool) {
	now, _, ok := readStat(fmt.Sprintf("/proc/%d/stat", k.pid))
	if !ok || now != k {
		return "", false
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", k.pid))
	if err != nil {
		return "", false
	}
	return strings.TrimSpace(string(bytes.ReplaceAll(line[:min(len(line), 120)], []byte{0}, []byte{' '}))), true
}
