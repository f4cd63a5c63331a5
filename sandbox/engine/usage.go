package engine

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"
)

// use is what a container has used, as far as it was seen: it is looked at every so
// often, and its last moments pass unseen.
type use struct {
	mu     sync.Mutex
	cpu    time.Duration
	peak   int64 // bytes
	memory int64 // bytes, at the last look
	ooms   int64 // how often the kernel killed one of its processes for its memory limit
}

func (u *use) add(cpu time.Duration, memory, peak, ooms int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.cpu = max(u.cpu, cpu)
	u.memory = memory
	u.peak = max(u.peak, peak, memory)
	u.ooms = max(u.ooms, ooms)
}

func (u *use) read() (cpu time.Duration, peak, ooms int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.cpu, u.peak, u.ooms
}

// statistics asks the engine.
func (e *engine) statistics(ctx context.Context, name string) (cpu time.Duration, memory int64, err error) {
	raw, err := e.call(ctx, "stats", "--no-stream", "--format", "json", name)
	if !e.podman {
		raw, err = e.call(ctx, "stats", "--no-stream", "--format", "{{json .}}", name)
	}
	if err != nil {
		return 0, 0, err
	}
	return readStatistics(raw)
}

// readStatistics reads podman's list or Docker's single account. Docker gives no
// processor time, only a share of the moment.
func readStatistics(raw []byte) (cpu time.Duration, memory int64, err error) {
	var list []struct {
		CPUTime string `json:"cpu_time"`
		Memory  string `json:"mem_usage"`
	}
	if json.Unmarshal(raw, &list) == nil && len(list) == 1 {
		cpu, _ = time.ParseDuration(list[0].CPUTime)
		memory, err = readSize(list[0].Memory)
		return cpu, memory, err
	}
	var one struct{ MemUsage string }
	if json.Unmarshal(raw, &one) == nil && one.MemUsage != "" {
		memory, err = readSize(one.MemUsage)
		return 0, memory, err
	}
	return 0, 0, errors.New("its statistics cannot be read")
}

// readSize reads "548.9kB / 52.43MB" and "1.5MiB / 50MiB": the part before the slash.
func readSize(s string) (int64, error) {
	s, _, _ = strings.Cut(s, "/")
	s = strings.TrimSpace(s)
	end := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end <= 0 {
		return 0, errors.New("its statistics cannot be read")
	}
	n, err := strconv.ParseFloat(s[:end], 64)
	if err != nil {
		return 0, err
	}
	units := map[string]float64{
		"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
		"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
	}
	unit, ok := units[strings.TrimSpace(s[end:])]
	if !ok {
		return 0, errors.New("its statistics cannot be read")
	}
	return int64(n * unit), nil
}
