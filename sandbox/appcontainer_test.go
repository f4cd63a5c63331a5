package sandbox

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
)

func TestAppContainer_LimitsAreTheJobs(t *testing.T) {
	for _, test := range []struct {
		limits Limits
		cores  int
		want   jobPlan
	}{
		{Limits{}, 8, jobPlan{flags: 0x2428, processes: 1024, priority: 0x4000}},
		{
			Limits{Memory: 1 << 30, Processes: 64, CPU: 3 * time.Second, Nice: true, CPUs: 2},
			8,
			jobPlan{flags: 0x262c, processes: 64, memory: 1 << 30, userTime: 30_000_000, priority: 0x40, cpuRate: 2500},
		},
		{Limits{CPUs: 8}, 8, jobPlan{flags: 0x2428, processes: 1024, priority: 0x4000}},
		{Limits{CPUs: 0.0001, Processes: 1 << 30}, 64, jobPlan{flags: 0x2428, processes: 1 << 16, priority: 0x4000, cpuRate: 1}},
	} {
		if got := planJob(test.limits, test.cores); got != test.want {
			t.Errorf("%+v: %+v, want %+v", test.limits, got, test.want)
		}
	}
}

func TestAppContainer_OnlyTheRunsFoldersAreOpened(t *testing.T) {
	p := &places{
		folders: []place{{host: `C:\app`}, {host: `C:\results`, writable: true}, {host: `C:\chunk`, file: true}},
		view:    `C:\run\view`, tmp: `C:\run\tmp`,
	}
	var read, write []string
	for _, g := range grants(p) {
		if g.write {
			write = append(write, g.path)
		} else {
			read = append(read, g.path)
		}
	}
	if !slices.Equal(read, []string{`C:\run\view`, `C:\app`, `C:\chunk`}) || !slices.Equal(write, []string{`C:\run\tmp`, `C:\results`}) {
		t.Errorf("read %q, write %q", read, write)
	}
}

func TestAppContainer_AnEnvironmentIsOneSortedBlock(t *testing.T) {
	block := envBlock(append([]string{"b=2", "A=1", "a=ignored", "ö=ß𝄞", "Empty="}, windowsEnv(`C:\Windows`, `D:\tmp`)...))
	text := string(utf16.Decode(block))
	if !strings.HasSuffix(text, "\x00\x00") || strings.Contains(strings.TrimSuffix(text, "\x00\x00"), "\x00\x00") {
		t.Errorf("its end is wrong: %q", text)
	}
	vars := strings.Split(strings.TrimSuffix(text, "\x00\x00"), "\x00")
	names := make([]string, len(vars))
	for i, v := range vars {
		names[i], _, _ = strings.Cut(strings.ToUpper(v), "=")
	}
	if !slices.IsSorted(names) || len(slices.Compact(names)) != len(vars) {
		t.Errorf("%q", names)
	}
	for _, want := range []string{"A=1", "b=2", "Empty=", "ö=ß𝄞", `SystemRoot=C:\Windows`, "SystemDrive=C:", `TEMP=D:\tmp`} {
		if !slices.Contains(vars, want) {
			t.Errorf("%q is missing from %q", want, vars)
		}
	}
	if got := envBlock(nil); !slices.Equal(got, []uint16{0, 0}) {
		t.Errorf("none is %v", got)
	}
}

func TestAppContainer_CrashesAreTold(t *testing.T) {
	for code, want := range map[uint32]string{0: "", 1: "", 0x7fffffff: "", 0xC0000005: "0xC0000005 (access violation)", 0xC0001234: "0xC0001234"} {
		if got, ok := crash(code); got != want || ok != (want != "") {
			t.Errorf("%x is %q", code, got)
		}
	}
}

func TestAppContainer_TheShopIsNoInterpreter(t *testing.T) {
	got := pythonFolders([]string{
		`C:\Users\ada\AppData\Local\Microsoft\WindowsApps`, `C:\Python313`, "", ".", `.\x`, `C:\Python313`, `C:\Program Files\Python312`,
		`c:/users/ada/appdata/local/microsoft/windowsapps`,
	})
	if want := []string{`C:\Python313`, `C:\Program Files\Python312`}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if a := containerName("a/../b"); strings.Contains(a, "/") {
		t.Errorf("%q", a)
	}
}
