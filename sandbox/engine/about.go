package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
)

// describe asks the engine what it is.
func (e *engine) describe(ctx context.Context) error {
	info, err := e.call(ctx, "info", "--format", "{{json .}}")
	if err != nil {
		return fmt.Errorf("ask %s what it is: %w", e.path, err)
	}
	if e.podman {
		e.about, err = podmanAbout(info)
	} else {
		var versions []byte
		if versions, err = e.call(ctx, "version", "--format", "{{json .}}"); err == nil {
			e.about, err = dockerAbout(info, versions)
		}
		// Of a runtime that the owner chooses Docker does not say the version.
		if name := base(e.ociRuntime); err == nil && name != "" && name != "runc" {
			e.parts[name] = ""
		}
	}
	if err != nil {
		return fmt.Errorf("ask %s what it is: %w", e.path, err)
	}
	e.remote = e.remote || runtime.GOOS != "linux"
	return nil
}

// podmanAbout reads `podman info`.
func podmanAbout(info []byte) (about, error) {
	var said struct {
		Host struct {
			Arch            string
			CPUs            int
			CgroupVersion   string
			OCIRuntime      struct{ Name, Package, Version string }
			Security        struct{ Rootless, SELinuxEnabled bool }
			ServiceIsRemote bool
		}
		Version struct{ Version string }
	}
	if err := json.Unmarshal(info, &said); err != nil {
		return about{}, fmt.Errorf("its description cannot be read: %w", err)
	}
	h := said.Host
	oci := partName(h.OCIRuntime.Name, h.OCIRuntime.Version)
	if h.Arch == "" || said.Version.Version == "" {
		return about{}, errors.New("its description names neither its version nor its processor")
	}
	a := about{
		version: said.Version.Version, arch: goArch(h.Arch), rootless: h.Security.Rootless, selinux: h.Security.SELinuxEnabled,
		remote: h.ServiceIsRemote, cpus: h.CPUs, parts: map[string]string{oci: partVersion(oci, h.OCIRuntime.Package, h.OCIRuntime.Version)},
	}
	switch h.CgroupVersion {
	case "v1":
		a.cgroups = 1
	case "v2":
		a.cgroups = 2
	}
	return a, nil
}

// partName is what a runtime calls itself ("crun version 1.20"): under another name it may
// be one whose flaws are known. One that does not say has the name it is installed under.
func partName(name, text string) string {
	if f := strings.Fields(text); len(f) > 1 && f[1] == "version" {
		return f[0]
	}
	return cmp.Or(base(name), "its unnamed runtime")
}

// partVersion prefers the distribution's version, which tells repairs apart, to what the
// program says of itself ("runc version 1.1.5+ds1\ncommit: …").
func partVersion(name, pkg, text string) string {
	if f := strings.Split(pkg, "_"); len(f) == 3 && f[0] == name { // Debian's way: name_version_arch
		return f[1]
	}
	line, _, _ := strings.Cut(text, "\n")
	words := strings.Fields(line)
	if i := slices.Index(words, "version"); i >= 0 && i+1 < len(words) {
		return words[i+1]
	}
	return ""
}

// dockerAbout reads `docker info` and `docker version`.
func dockerAbout(info, versions []byte) (about, error) {
	var said struct {
		OSType, Architecture, CgroupVersion, OperatingSystem, ServerVersion string
		NCPU                                                                int
		SecurityOptions, ServerErrors                                       []string
		DiscoveredDevices                                                   []struct{ Source, ID string }
	}
	var detail struct {
		Server *struct {
			Version    string
			Platform   struct{ Name string }
			Components []struct{ Name, Version string }
		}
	}
	if err := json.Unmarshal(info, &said); err != nil {
		return about{}, fmt.Errorf("its description cannot be read: %w", err)
	}
	if err := json.Unmarshal(versions, &detail); err != nil {
		return about{}, fmt.Errorf("its versions cannot be read: %w", err)
	}
	switch {
	case len(said.ServerErrors) > 0:
		return about{}, errors.New(strings.Join(said.ServerErrors, "; "))
	case detail.Server == nil:
		return about{}, errors.New("its server does not answer; is it running?")
	case said.OSType != "linux":
		return about{}, fmt.Errorf("its containers are for %s: switch it to Linux containers", said.OSType)
	}
	a := about{version: detail.Server.Version, arch: goArch(said.Architecture), cpus: said.NCPU, parts: map[string]string{"runc": ""}}
	for _, c := range detail.Server.Components {
		if c.Name == "runc" {
			a.parts["runc"] = c.Version
		}
	}
	if rest, ok := strings.CutPrefix(detail.Server.Platform.Name, "Docker Desktop "); ok {
		a.parts["docker-desktop"], _, _ = strings.Cut(rest, " ")
	}
	a.remote = strings.HasPrefix(said.OperatingSystem, "Docker Desktop")
	for _, o := range said.SecurityOptions {
		name, _, _ := strings.Cut(o, ",")
		switch name {
		case "name=rootless":
			a.rootless = true
		case "name=userns":
			a.remapped = true
		case "name=selinux":
			a.selinux = true
		}
	}
	for _, d := range said.DiscoveredDevices {
		a.cdi = a.cdi || d.Source == "cdi"
	}
	switch said.CgroupVersion {
	case "1":
		a.cgroups = 1
	case "2":
		a.cgroups = 2
	}
	return a, nil
}

// goArch gives a processor Go's name.
func goArch(name string) string {
	switch name {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return name
}

// flaws are those of the parts that every container comes in touch with.
func (e *engine) flaws() (all []Flaw) {
	for _, part := range e.partNames() {
		all = append(all, FlawsOf(e.name(), part, e.parts[part])...)
	}
	return all
}

// unjudged are the parts of which no flaw is known here, because nobody has looked.
func (e *engine) unjudged() (parts []string) {
	return slices.DeleteFunc(e.partNames(), func(part string) bool {
		return slices.ContainsFunc(known, func(k flaw) bool { return k.part == part })
	})
}

func (e *engine) partNames() []string { return slices.Sorted(maps.Keys(e.parts)) }

// String is the engine and its parts with their versions: "podman 4.3.1, runc 1.1.5".
func (e *engine) String() string {
	said := e.name() + " " + e.version
	for _, part := range e.partNames() {
		if v := e.parts[part]; v != "" {
			said += ", " + part + " " + v
		}
	}
	if e.rootless {
		said += ", rootless"
	}
	return said
}
