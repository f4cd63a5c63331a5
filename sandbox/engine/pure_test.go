package engine

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/spare-compute/spare/sandbox"
)

func TestFlaws_KnownBadVersionsAreKnown(t *testing.T) {
	for _, c := range []struct {
		engine, part, version string
		ids                   []string
	}{
		{"docker", "runc", "1.1.11", []string{"CVE-2024-21626", "CVE-2025-31133"}},
		{"docker", "runc", "1.1.12", []string{"CVE-2025-31133"}},
		{"docker", "runc", "v1.2.7", []string{"CVE-2025-31133"}},
		{"docker", "runc", "1.2.8", nil},
		{"docker", "runc", "1.3.2", []string{"CVE-2025-31133"}},
		{"docker", "runc", "1.3.3", nil},
		{"docker", "runc", "1.4.0-rc.2", []string{"CVE-2025-31133"}},
		{"docker", "runc", "1.4.0-rc.3", nil},
		{"docker", "runc", "1.4.0", nil},
		{"docker", "runc", "1.6.0", nil},
		{"docker", "runc", "2.0.0", nil},
		{"podman", "runc", "1.3.3", []string{"CVE-2026-41579"}},
		{"podman", "runc", "1.2.9", []string{"CVE-2026-41579"}},
		{"podman", "runc", "1.3.6", nil},
		{"podman", "runc", "1.4.2", []string{"CVE-2026-41579"}},
		{"podman", "runc", "1.4.3", nil},
		{"podman", "runc", "1.5.0-rc.2", []string{"CVE-2026-41579"}},
		{"podman", "runc", "1.5.0", nil},
		// A distribution's package, repaired or not, by what its change log says.
		{"podman", "runc", "1.1.5+ds1-1+deb12u1", []string{"CVE-2025-31133", "CVE-2026-41579"}},
		{"podman", "runc", "1.1.5+ds1-1", []string{"CVE-2024-21626", "CVE-2025-31133", "CVE-2026-41579"}},
		{"podman", "runc", "1.3.3-0ubuntu1~24.04.3", []string{"CVE-2026-41579"}},
		{"podman", "crun", "1.8.1", []string{"CVE-2025-24965", "CVE-2026-47766"}},
		{"podman", "crun", "1.27", []string{"CVE-2026-47766"}},
		{"podman", "crun", "1.28", nil},
		{"podman", "crun", "1.30.1", nil},
		{"docker", "docker-desktop", "4.44.2", []string{"CVE-2025-9074"}},
		{"docker", "docker-desktop", "4.44.3", nil},
		{"podman", nvidiaToolkit, "1.16.1", []string{"CVE-2024-0132", "CVE-2025-23359", "CVE-2025-23266", "CVE-2026-24260"}},
		{"podman", nvidiaToolkit, "1.17.7", []string{"CVE-2025-23266", "CVE-2026-24260"}},
		{"podman", nvidiaToolkit, "1.17.8", []string{"CVE-2026-24260"}},
		{"podman", nvidiaToolkit, "1.19.0", []string{"CVE-2026-24260"}},
		{"podman", nvidiaToolkit, "1.19.1", nil},
		// What does not tell its version has every flaw.
		{"docker", "runc", "", []string{"CVE-2024-21626", "CVE-2025-31133"}},
		{"docker", "runc", "new", []string{"CVE-2024-21626", "CVE-2025-31133"}},
		{"docker", "runc", "1.2.8.x", nil},
		{"docker", "runc", "99999999999999999999.1", []string{"CVE-2024-21626", "CVE-2025-31133"}},
	} {
		found := FlawsOf(c.engine, c.part, c.version)
		var ids []string
		for _, f := range found {
			id, _, _ := strings.Cut(f.ID, ",")
			id, _, _ = strings.Cut(id, " ")
			ids = append(ids, id)
		}
		if !slices.Equal(ids, c.ids) {
			t.Errorf("%s %s under %s: %v, want %v", c.part, c.version, c.engine, ids, c.ids)
		}
	}
	err := &FlawsError{Flaws: FlawsOf("docker", "runc", "1.1.11")}
	for _, want := range []string{"runc 1.1.11", "CVE-2024-21626", "1.1.12", "accept known flaws"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

const podmanInfo = `{"host":{"arch":"amd64","cgroupVersion":"v2","os":"linux","ociRuntime":{"name":"crun","package":"crun-1.14.3-1.fc39.x86_64",
"path":"/usr/bin/crun","version":"crun version 1.14.3\ncommit: 1961d211ba98f532ea52d2e80f4c20359f241a98\nspec: 1.0.0"},
"security":{"rootless":true,"selinuxEnabled":true,"seccompEnabled":true},"serviceIsRemote":false},"version":{"Version":"4.9.3"}}`

const dockerInfo = `{"OSType":"linux","Architecture":"aarch64","CgroupVersion":"2","OperatingSystem":"Docker Desktop",
"SecurityOptions":["name=seccomp,profile=unconfined","name=cgroupns"],"DiscoveredDevices":[{"Source":"cdi","ID":"nvidia.com/gpu=0"}],"Runtimes":{"runc":{"path":"runc"}}}`

const dockerVersion = `{"Client":{"Version":"28.3.0"},"Server":{"Platform":{"Name":"Docker Desktop 4.43.1 (198352)"},"Version":"28.3.0",
"Components":[{"Name":"Engine","Version":"28.3.0"},{"Name":"containerd","Version":"1.7.27"},{"Name":"runc","Version":"1.2.5"},{"Name":"docker-init","Version":"0.19.0"}]}}`

func TestAbout_ReadsWhatEnginesSay(t *testing.T) {
	a, err := podmanAbout([]byte(podmanInfo))
	if err != nil || a.version != "4.9.3" || a.arch != "amd64" || !a.rootless || !a.selinux || a.cgroups != 2 || a.parts["crun"] != "1.14.3" {
		t.Errorf("%+v, %v", a, err)
	}
	debian := strings.ReplaceAll(strings.ReplaceAll(podmanInfo, "crun-1.14.3-1.fc39.x86_64", "runc_1.1.5+ds1-1+deb12u1_amd64"), "crun", "runc")
	if a, err = podmanAbout([]byte(debian)); err != nil || a.parts["runc"] != "1.1.5+ds1-1+deb12u1" {
		t.Errorf("%+v, %v", a, err)
	}
	a, err = dockerAbout([]byte(dockerInfo), []byte(dockerVersion))
	if err != nil || a.version != "28.3.0" || a.arch != "arm64" || !a.remote || !a.cdi || a.parts["runc"] != "1.2.5" || a.parts["docker-desktop"] != "4.43.1" {
		t.Errorf("%+v, %v", a, err)
	}
	for what, c := range map[string][2]string{
		"Windows containers": {`{"OSType":"windows"}`, dockerVersion},
		"no server":          {dockerInfo, `{"Client":{}}`},
		"a server's error":   {`{"ServerErrors":["cannot connect"]}`, dockerVersion},
		"nonsense":           {`[`, dockerVersion},
	} {
		if _, err := dockerAbout([]byte(c[0]), []byte(c[1])); err == nil {
			t.Errorf("%s passes", what)
		}
	}
	if _, err := podmanAbout([]byte(`{}`)); err == nil {
		t.Error("an empty description passes")
	}
}

func TestEnvironment_ValuesAreNotOnTheCommandLine(t *testing.T) {
	args, vars, err := passing([]string{"SECRET=old", "SECRET=a\nb", "LD_PRELOAD=/x.so", "DOCKER_HOST=tcp://x", "path=1", "GODEBUG=x", "GOOD_ONE=1", "EMPTY="})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"--env", "SECRET", "--env", "LD_PRELOAD=/x.so", "--env", "DOCKER_HOST=tcp://x", "--env", "path=1", "--env", "GODEBUG=x",
		"--env", "GOOD_ONE", "--env", "EMPTY",
	}
	if !slices.Equal(args, want) || !slices.Equal(vars, []string{"SECRET=a\nb", "GOOD_ONE=1", "EMPTY="}) {
		t.Errorf("%q, %q", args, vars)
	}
	for _, bad := range []string{"*", "HOM*=x", "", "=x", "A B=c", "NAME", "-v=/:/x", "A\n=b", "1A=b", "--privileged=true"} {
		if _, _, err := passing([]string{bad}); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
	got := environment([]string{"HOME=/x"}, []string{"PATH=/image"})
	if !slices.Equal(got, []string{"HOME=/x", "LANG=C.UTF-8", "NVIDIA_VISIBLE_DEVICES=void"}) {
		t.Errorf("%q", got)
	}
}

func ordered(e *engine, change func(*order)) order {
	o := order{
		engine: e, image: strings.Repeat("a", 64), name: "spare-x", labels: []string{"spare.instance=i"}, uid: 60999, gid: 60999,
		ceiling: ceiling{processes: 4096, files: 512}, cidFile: "/t/cid", filter: "/t/filter", spec: sandbox.Spec{Argv: []string{"sh"}},
	}
	if change != nil {
		change(&o)
	}
	return o
}

func TestArguments_AreAListThatNobodyCanAddTo(t *testing.T) {
	hostile := []string{"--privileged", "-v=/:/host", "; rm -rf /", "$(id)", "a b", "\n--net=host", "[\"/bin/sh\"]", ""}
	for _, e := range []*engine{{podman: true}, {}} {
		o := ordered(e, func(o *order) {
			o.spec.Argv = append([]string{"[\"x\"]"}, hostile...)
			o.spec.Dir = "/spare/--privileged"
		})
		args, err := o.args()
		if err != nil {
			t.Fatal(err)
		}
		at := slices.Index(args, o.image)
		if at < 0 || !slices.Equal(args[at+1:], o.spec.Argv) {
			t.Errorf("after the image comes %q", args[at+1:])
		}
		for _, flag := range args[:at] {
			if slices.Contains(hostile[:6], flag) {
				t.Errorf("%q is a flag", flag)
			}
		}
	}
}

func TestArguments_NameEveryLimit(t *testing.T) {
	limits := sandbox.Limits{CPUs: 1.5, Memory: 1 << 30, Processes: 64, Files: 100, Disk: 8 << 20, CPU: 1500 * time.Millisecond, Wall: time.Minute, Nice: true}
	always := []string{
		"--network none", "--read-only", "--cap-drop all", "--security-opt no-new-privileges", "--pull never", "--ipc private", "--cgroupns private",
		"--user 60999:60999", "--restart no", "--no-healthcheck", "--log-driver none", "--hostname spare", "--label spare.instance=i",
		"--pids-limit 64", "--memory 1073741824", "--memory-swap 1073741824", "--cpus 2", "--cpu-shares 2", "--ulimit nofile=100:100",
		"--ulimit nproc=4096:4096", "--ulimit core=0:0", "--ulimit memlock=65536:65536", "--security-opt seccomp=/t/filter", "--ulimit fsize=8388608:8388608", "--ulimit cpu=2:2", "--oom-score-adj 1000", "--workdir /tmp",
		"--tmpfs /tmp:rw,exec,nosuid,nodev,mode=1777,size=536870912", "--shm-size 536870912", "--entrypoint  aaaa",
	}
	for _, c := range []struct {
		engine *engine
		want   []string
		not    []string
	}{
		{&engine{podman: true}, []string{"--read-only-tmpfs=false", "--image-volume ignore", "--systemd=false", "--http-proxy=false", "--env-host=false", "--pid private", "--uts private", "--timeout 360"}, []string{"--userns", "--init"}},
		{&engine{podman: true, about: about{rootless: true}}, []string{"--userns keep-id"}, nil},
		{&engine{}, []string{"--runtime runc", "--init=false", "--tmpfs /data:ro,nosuid,nodev,noexec,size=4k"}, []string{"--userns", "--systemd"}},
		{&engine{ociRuntime: "crun"}, []string{"--runtime crun"}, nil},
	} {
		args, err := ordered(c.engine, func(o *order) { o.spec.Limits, o.volumes = limits, []string{"/data"} }).args()
		if err != nil {
			t.Fatal(err)
		}
		line := strings.Join(args, " ")
		for _, want := range append(slices.Clone(always), c.want...) {
			if !strings.Contains(line, want) {
				t.Errorf("%s: no %q in %s", c.engine.name(), want, line)
			}
		}
		for _, not := range append(c.not, "--privileged", "--cap-add", "--device", "--gpus") {
			if strings.Contains(line, not) {
				t.Errorf("%s: %q in %s", c.engine.name(), not, line)
			}
		}
	}
	args, err := ordered(&engine{podman: true}, nil).args()
	if line := strings.Join(args, " "); err != nil || !strings.Contains(line, "--pids-limit 1024") || !strings.Contains(line, "--ulimit nofile=512:512") {
		t.Errorf("without limits: %s", line)
	}
}

func TestMasks_HideTheMachine(t *testing.T) {
	podman := strings.Join(ordered(&engine{podman: true}, nil).masks(), " ")
	docker := strings.Join(ordered(&engine{about: about{remote: true}}, nil).masks(), " ")
	for _, path := range []string{"/proc/key-users", "/proc/driver", "/sys/class", "/sys/module", "/sys/power"} {
		if !strings.Contains(podman+":", path+":") {
			t.Errorf("podman masks no %s: %s", path, podman)
		}
	}
	if !strings.Contains(docker, "--tmpfs /sys/module:ro,nosuid,nodev,noexec,size=4k") || strings.Contains(docker, "/proc") || strings.Contains(docker, "/sys/power") {
		t.Errorf("docker masks %s", docker)
	}
	for _, e := range []*engine{{podman: true}, {}} {
		masks := strings.Join(ordered(e, func(o *order) { o.devices = []string{"--device", "x"} }).masks(), " ") + ":"
		if strings.Contains(masks, "/proc/driver:") || strings.Contains(masks, "/sys/class:") || !strings.Contains(masks, "/sys/kernel:") {
			t.Errorf("%s with a GPU masks %s", e.name(), masks)
		}
	}
	for file, want := range map[string]string{`C:\Users\a b\f`: "/mnt/c/Users/a b/f", "/tmp/f": "/tmp/f"} {
		if got := inMachine(file); got != want {
			t.Errorf("%s is %s inside, want %s", file, got, want)
		}
	}
}

func TestMount_PathsAreQuoted(t *testing.T) {
	e := &engine{podman: true}
	for host, want := range map[string]string{
		"/a/b":             "type=bind,src=/a/b,dst=/spare/x,readonly",
		"/a,dst=/etc,rw/b": `type=bind,"src=/a,dst=/etc,rw/b",dst=/spare/x,readonly`,
		`/a"b`:             `type=bind,"src=/a""b",dst=/spare/x,readonly`,
		`C:\Users\a b`:     `type=bind,src=C:\Users\a b,dst=/spare/x,readonly`,
	} {
		if got, err := e.mount(sandbox.Mount{Host: host, Inner: "/spare/x"}); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", host, got, err, want)
		}
	}
	if _, err := e.mount(sandbox.Mount{Host: "/a\nb", Inner: "/spare/x"}); err == nil {
		t.Error("a line break passes")
	}
	e.selinux = true
	if got, _ := e.mount(sandbox.Mount{Host: "/a", Inner: "/spare/x", Writable: true}); got != "type=bind,src=/a,dst=/spare/x,relabel=shared" {
		t.Error(got)
	}
}

const nvidiaSMI = `0, GPU-5a1f2a0e-6f0f-4f5e-9b6e-2f6a8c3d1e4b, NVIDIA GeForce RTX 4090
1, GPU-00000000-6f0f-4f5e-9b6e-2f6a8c3d1e4b, NVIDIA H200
`

func TestGPU_IsFoundByName(t *testing.T) {
	sys := fstest.MapFS{}
	for node, text := range map[string]string{
		"renderD128/device/vendor": "0x1002\n", "renderD128/device/device": "0x744c\n", "renderD128/device/uevent": "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:03:00.0\n",
		"renderD129/device/vendor": "0x1002\n", "renderD129/device/device": "0x1586\n",
		"renderD130/device/vendor": "0x8086\n", "card0/device/vendor": "0x1002\n",
	} {
		sys["class/drm/"+node] = &fstest.MapFile{Data: []byte(text)}
	}
	rocm := []byte(`{"card0":{"Card Series":"Radeon RX 7900 XTX","PCI Bus":"0000:03:00.0"},"system":{}}`)
	cards := append(parseNvidia([]byte(nvidiaSMI)), amdCards(sys, rocm)...)
	if len(cards) != 4 {
		t.Fatalf("%+v", cards)
	}
	for model, want := range map[string]string{
		"rtx 4090": "0", "H200": "1", "NVIDIA": "0", "rx 7900": "/dev/dri/renderD128", "amd 0x1586": "/dev/dri/renderD129",
	} {
		if c, ok := pick(cards, []string{"no such", model}); !ok || c.index+c.render != want {
			t.Errorf("%s: %+v, %t", model, c, ok)
		}
	}
	for _, models := range [][]string{nil, {""}, {"intel"}, {"RTX 3090"}} {
		if c, ok := pick(cards, models); ok {
			t.Errorf("%q: %+v", models, c)
		}
	}
	for _, out := range []string{"", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "0, --privileged, X\n", "0, GPU-a b, X\n"} {
		if got := parseNvidia([]byte(out)); got != nil {
			t.Errorf("%q: %+v", out, got)
		}
	}
	if v := toolkitVersion("NVIDIA Container Toolkit CLI version 1.17.8\ncommit: f202b80a9b9d0db00d9b1d73c0128c8962c55f4d\n"); v != "1.17.8" {
		t.Error(v)
	}
	if v := toolkitVersion("command not found"); v != "" {
		t.Error(v)
	}
}

func TestGPU_IsPassedByItsOwnName(t *testing.T) {
	c := parseNvidia([]byte(nvidiaSMI))[1]
	if got := (&engine{podman: true}).nvidiaArgs(t.Context(), c); !slices.Equal(got, []string{"--device", "nvidia.com/gpu=" + c.uuid}) {
		t.Errorf("%q", got)
	}
	want := []string{"--gpus", "device=" + c.uuid, "--env", "NVIDIA_VISIBLE_DEVICES=" + c.uuid}
	if got := (&engine{}).nvidiaArgs(t.Context(), c); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if _, err := (&engine{podman: true, about: about{rootless: true, parts: map[string]string{"runc": "1.3.6"}}}).amdArgs(card{}); err == nil {
		t.Error("runc keeps no groups")
	}
	args, err := (&engine{podman: true, about: about{rootless: true, parts: map[string]string{"crun": "1.28"}}}).amdArgs(card{render: "/dev/dri/renderD128"})
	if err != nil || !slices.Equal(args, []string{"--device", "/dev/kfd", "--device", "/dev/dri/renderD128", "--group-add", "keep-groups"}) {
		t.Errorf("%q, %v", args, err)
	}
	if _, err := (&engine{about: about{remote: true}}).devices(t.Context(), []string{"H200"}); err == nil {
		t.Error("a GPU of another machine is passed")
	}
}

func TestStatistics_AreRead(t *testing.T) {
	cpu, memory, err := readStatistics([]byte(`[{"id":"x","cpu_time":"28.583788ms","mem_usage":"548.9kB / 52.43MB"}]`))
	if err != nil || cpu != 28583788 || memory != 548900 {
		t.Error(cpu, memory, err)
	}
	if _, memory, err = readStatistics([]byte(`{"MemUsage":"1.5MiB / 50MiB","CPUPerc":"0.5%"}`)); err != nil || memory != 3<<19 {
		t.Error(memory, err)
	}
	for _, bad := range []string{"", "[]", "{}", `[{"mem_usage":"-- / --"}]`, `[{"mem_usage":"5 / 6"}]`} {
		if _, _, err := readStatistics([]byte(bad)); err == nil {
			t.Errorf("%s passes", bad)
		}
	}
}

func TestProbe_RefusesEachMissingWall(t *testing.T) {
	whole := map[string]string{
		"/proc/self/status":    "Pid:\t1\nUid:\t60999\t60999\t60999\t60999\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n",
		"/proc/self/mountinfo": "1 2 0:3 / / ro,relatime - overlay overlay rw\n",
		"/proc/self/limits":    "Limit  Soft  Hard\nMax core file size        0                    0                    bytes\nMax open files            64                   64                   files\nMax locked memory         65536                65536                bytes\n",
		"/proc/self/uid_map":   "0 100000 65536\n",
		"/proc/net/dev":        "Inter-|\n face |\n    lo: 0 0\n", "/proc/sys/kernel/hostname": "spare\n",
		"/sys/fs/cgroup/memory.max": "67108864\n", "/sys/fs/cgroup/pids.max": "16\n", "/sys/fs/cgroup/cpu.max": "100000 100000\n",
		"/spare/ro/file": "seen", "+/spare/rw/file": "", "+/tmp/new": "",
	}
	see := func(change map[string]string) (view, []string, error) {
		v := view{map[string]string{}, map[string]bool{}}
		for name, text := range whole {
			v.text[name], v.open[name] = text, true
		}
		for name, text := range change {
			v.text[name], v.open[name] = text, text != "gone"
		}
		walls, err := v.walls(60999)
		return v, walls, err
	}
	if _, walls, err := see(nil); err != nil || !slices.Contains(walls, "user namespace") || !slices.Contains(walls, "cgroup cpu") || len(walls) < 20 {
		t.Fatalf("%q, %v", walls, err)
	}
	status := whole["/proc/self/status"]
	for wall, change := range map[string]map[string]string{
		"own user":          {"/proc/self/status": strings.ReplaceAll(status, "60999", "0")},
		"no capabilities":   {"/proc/self/status": strings.Replace(status, "CapBnd:\t0000000000000000", "CapBnd:\t00000000a80425fb", 1)},
		"no_new_privs":      {"/proc/self/status": strings.Replace(status, "NoNewPrivs:\t1", "NoNewPrivs:\t0", 1)},
		"seccomp":           {"/proc/self/status": strings.Replace(status, "Seccomp:\t2", "Seccomp:\t0", 1)},
		"pid namespace":     {"/proc/self/status": strings.Replace(status, "Pid:\t1", "Pid:\t4711", 1)},
		"network namespace": {"/proc/net/dev": "Inter-|\n face |\n    lo: 0 0\n  eth0: 0 0\n"},
		"uts namespace":     {"/proc/sys/kernel/hostname": "laptop\n"},
		"own root":          {"/proc/self/mountinfo": "1 2 0:3 / / rw,relatime - overlay overlay rw\n"},
		"mount namespace":   {"+/spare/ro/new": ""},
		"masked proc":       {"/proc/kcore": "\x7fELF"},
		"cgroup memory":     {"/sys/fs/cgroup/memory.max": "max\n"},
		"cgroup pids":       {"/sys/fs/cgroup/pids.max": "gone"},
		"resource limits":   {"/proc/self/limits": ""},
	} {
		if _, walls, err := see(change); err == nil || !strings.Contains(err.Error(), "("+wall+")") {
			t.Errorf("without %s: %q, %v", wall, walls, err)
		}
	}
	if _, walls, err := see(map[string]string{"/proc/self/uid_map": "0 0 4294967295\n", "/sys/fs/cgroup/cpu.max": "gone"}); err != nil ||
		slices.Contains(walls, "user namespace") || slices.Contains(walls, "cgroup cpu") {
		t.Errorf("%q, %v", walls, err)
	}
}

// TestProgram_LooksAround runs the probe's machine code as it is: on this processor, and
// on another under emulation.
func TestProgram_LooksAround(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), bytes.Repeat([]byte("x"), 10_000), 0o600); err != nil {
		t.Fatal(err)
	}
	for arch, emulator := range map[string]string{"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"} {
		program, err := probeProgram(arch)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, arch)
		if err := os.WriteFile(file, program, 0o755); err != nil {
			t.Fatal(err)
		}
		made := filepath.Join(dir, "made-"+arch)
		argv := []string{file, filepath.Join(dir, "file"), "/no/such/file", "+" + made, "+" + dir, "/dev/null"}
		if runtime.GOOS != "linux" || runtime.GOARCH != arch {
			argv = append([]string{emulator}, argv...)
		}
		out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).Output()
		want := strings.Repeat("x", 10_000) + "\x00+" + "\x00-" + "\x00+" + "\x00-" + "\x00+"
		if err != nil || string(out) != want {
			t.Errorf("%s: %v, %q", arch, err, strings.TrimLeft(string(out), "x"))
		}
		if _, err := os.Stat(made); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
	}
	if _, err := probeProgram("mips"); err == nil {
		t.Error("there is a program for mips")
	}
}

func TestOrphan_IsWhatNobodyWaitsFor(t *testing.T) {
	r, alone := New(Config{}), New(Config{Instance: "/var/lib/spare-node"})
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	for labels, want := range map[string]struct{ shared, alone bool }{
		"TOKEN 1":   {false, false}, // this process's own
		"another 1": {false, true},  // the number's process lives: the earlier one, or another by now
		"another " + strconv.Itoa(gone.Process.Pid): {true, true},
		"another " + strconv.Itoa(pid):              {true, true}, // an earlier process with this one's number
		"another x":                                 {true, true},
		"":                                          {true, true},
	} {
		if got := r.orphan(strings.Replace(labels, "TOKEN", r.token, 1)); got != want.shared {
			t.Errorf("%q, among others: %t", labels, got)
		}
		if got := alone.orphan(strings.Replace(labels, "TOKEN", alone.token, 1)); got != want.alone {
			t.Errorf("%q, alone: %t", labels, got)
		}
	}
}

func TestFlaws_ARuntimeThatNobodyJudgedIsNamed(t *testing.T) {
	said := func(name, version string) *engine {
		text := strings.NewReplacer(`"name":"crun"`, `"name":"`+name+`"`, "crun version 1.14.3", version, "crun-1.14.3-1.fc39.x86_64", "").Replace(podmanInfo)
		a, err := podmanAbout([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return &engine{podman: true, about: a}
	}
	for name, c := range map[string]struct {
		e        *engine
		flaws    bool
		unjudged string
	}{
		"another runtime":          {said("youki", "youki version 0.5.0"), false, "youki"},
		"one that says nothing":    {said("/opt/bin/secret", "?"), false, "secret"},
		"crun under another name":  {said("krun", "crun version 1.14.3"), true, ""},
		"crun, old":                {said("crun", "crun version 1.14.3"), true, ""},
		"crun, repaired":           {said("crun", "crun version 1.28"), false, ""},
		"crun of unknown version":  {said("crun", "?"), true, ""},
		"runc as a file elsewhere": {said("/opt/bin/runc", "runc version 1.1.11"), true, ""},
	} {
		if got := len(c.e.flaws()) > 0; got != c.flaws {
			t.Errorf("%s: flaws %v", name, c.e.flaws())
		}
		if got := strings.Join(c.e.unjudged(), " "); got != c.unjudged {
			t.Errorf("%s: not judged %q", name, got)
		}
	}
}

func TestEngine_NothingInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	c := New(Config{}).Probe(context.Background())
	if c.OK || !strings.Contains(c.Reason, "neither podman nor docker") {
		t.Errorf("%+v", c)
	}
	if c = New(Config{Command: "/no/such/engine"}).Probe(context.Background()); c.OK || !strings.Contains(c.Reason, "/no/such/engine") {
		t.Errorf("%+v", c)
	}
}

func TestDiskUse_FoldersTooDeepToCountAreTooMuch(t *testing.T) {
	dir := t.TempDir()
	d := newDiskUse([]string{dir}, 1<<20)
	flat, deep := filepath.Join(dir, strings.Repeat("d/", maxDepth-1)), filepath.Join(dir, strings.Repeat("d/", maxDepth+1))
	if err := os.MkdirAll(flat, 0o700); err != nil {
		t.Fatal(err)
	}
	if d.over() {
		t.Errorf("%d folders are %d bytes too many", maxDepth-1, d.last)
	}
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	if !d.over() || d.written() > 2<<20 {
		t.Errorf("folders nobody can count are not too much: %d bytes", d.written())
	}
}
