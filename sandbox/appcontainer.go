package sandbox

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
)

// jobPlan is what a Job Object is told of a run's limits, in the system's units.
type jobPlan struct {
	flags     uint32
	processes uint32
	memory    uint64 // bytes committed by all processes together
	userTime  int64  // of all processes together, in 100 ns
	priority  uint32
	cpuRate   uint32 // hundredths of a percent of all processors; 0 = no limit
}

// Flags and priority classes of Job Objects, as Windows numbers them.
const (
	jobActiveProcess  = 0x0008
	jobTime           = 0x0004
	jobPriority       = 0x0020
	jobMemory         = 0x0200
	jobDieOnException = 0x0400
	jobKillOnClose    = 0x2000

	idlePriority        = 0x40
	belowNormalPriority = 0x4000
)

// planJob puts limits into a Job Object's words. Programs run below the owner's own in
// any case.
func planJob(l Limits, cores int) jobPlan {
	p := jobPlan{
		flags:     jobKillOnClose | jobDieOnException | jobActiveProcess | jobPriority,
		processes: 1024, priority: belowNormalPriority,
	}
	if l.Processes > 0 {
		p.processes = uint32(min(l.Processes, 1<<16))
	}
	if l.Memory > 0 {
		p.flags, p.memory = p.flags|jobMemory, uint64(l.Memory)
	}
	if l.CPU > 0 {
		p.flags, p.userTime = p.flags|jobTime, int64(l.CPU/(100*time.Nanosecond))
	}
	if l.Nice {
		p.priority = idlePriority
	}
	if l.CPUs > 0 && l.CPUs < float64(cores) {
		p.cpuRate = uint32(max(1, l.CPUs/float64(cores)*10_000))
	}
	return p
}

// A grant is a folder or file that a run's AppContainer may use. Everything else is
// closed to it unless Windows opens it to every AppContainer.
type grant struct {
	path  string
	write bool
}

// grants are what a run may use: reading needs an entry in the folder's list, writing
// also the label of low integrity.
func grants(p *places) []grant {
	var all []grant
	for _, name := range p.readable() {
		all = append(all, grant{path: name})
	}
	for _, name := range p.writable() {
		all = append(all, grant{path: name, write: true})
	}
	return all
}

// windowsEnv are the variables without which programs do not start on Windows, from the
// system's own folder.
func windowsEnv(systemRoot, tmp string) []string {
	return []string{
		"SystemRoot=" + systemRoot, "windir=" + systemRoot, "SystemDrive=" + systemRoot[:min(2, len(systemRoot))],
		"COMSPEC=" + systemRoot + `\System32\cmd.exe`, "PATHEXT=.COM;.EXE;.BAT;.CMD", "OS=Windows_NT",
		"TEMP=" + tmp, "TMP=" + tmp, "USERPROFILE=" + tmp, "APPDATA=" + tmp, "LOCALAPPDATA=" + tmp,
	}
}

// envBlock is an environment as Windows takes it: sorted without regard to case, each
// variable ended by a zero, and another zero at the end.
func envBlock(env []string) []uint16 {
	env = slices.Clone(env)
	name := func(v string) string { n, _, _ := strings.Cut(v, "="); return strings.ToUpper(n) }
	slices.SortStableFunc(env, func(a, b string) int { return strings.Compare(name(a), name(b)) })
	env = slices.CompactFunc(env, func(a, b string) bool { return name(a) == name(b) })
	var block []uint16
	for _, v := range env {
		block = append(append(block, utf16.Encode([]rune(v))...), 0)
	}
	if len(block) == 0 {
		block = []uint16{0}
	}
	return append(block, 0)
}

// crashes are the exit codes by which Windows tells that it ended a program.
var crashes = map[uint32]string{
	0xC0000005: "access violation", 0xC0000017: "no memory", 0xC00000FD: "stack overflow", 0xC0000094: "division by zero",
	0xC000001D: "illegal instruction", 0xC0000374: "heap corruption", 0xC0000409: "fail fast", 0xC000013A: "control-C",
	0xC0000135: "a library is missing", 0xC0000142: "a library does not start", 0xC0000022: "access denied at start",
}

// crash is what ended a program, if it did not exit by itself.
func crash(code uint32) (string, bool) {
	if code < 0xC0000000 {
		return "", false
	}
	text := fmt.Sprintf("0x%08X", code)
	if what, ok := crashes[code]; ok {
		text += " (" + what + ")"
	}
	return text, true
}

// pythonFolders are where an interpreter may be, of the folders that PATH and the
// installers name. Those of WindowsApps open the shop instead of running anything.
func pythonFolders(folders []string) []string {
	var all []string
	for _, dir := range folders {
		plain := strings.ToLower(strings.ReplaceAll(dir, `\`, "/"))
		usable := dir != "" && !strings.HasPrefix(plain, ".") && !slices.Contains(strings.Split(plain, "/"), "windowsapps")
		if usable && !slices.Contains(all, dir) {
			all = append(all, dir)
		}
	}
	return all
}

// containerName is an AppContainer's, for one run: it must not be one that was ever used,
// since folders may still be open to that.
func containerName(random string) string { return path.Base("spare.run." + random) }
