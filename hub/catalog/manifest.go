package catalog

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spare-compute/spare"
)

const (
	manifestFile = "manifest.json"
	// maxJSON is the size of a manifest, template, schema or preset, in bytes.
	maxJSON = 1 << 20
)

// knownOS and knownArch are what a manifest may ask of a device: where Spare's node runs.
var (
	knownOS   = []string{"darwin", "linux", "windows"}
	knownArch = []string{"amd64", "arm64"}
)

// ParseManifest reads a manifest of either era. What it does not understand and what
// cannot be used yet comes back as warnings. The kind is empty where it is not said.
func ParseManifest(raw []byte) (spare.App, []string, error) {
	if len(raw) > maxJSON {
		return spare.App{}, nil, refuse("%s has %d bytes; at most %d are read", manifestFile, len(raw), maxJSON)
	}
	m := readObject(manifestFile, raw)
	app := spare.App{
		Name:        m.text("name"),
		Version:     m.label("version"),
		Description: m.text("description"),
		Entrypoint:  m.text("entrypoint"),
		Config:      m.settings("platform_config"),
		InputType:   m.text("input_type"),
		OutputType:  m.text("output_type"),
		Public:      m.flag("public", "is_public"),
	}
	if id := m.text("id"); app.Name == "" {
		app.Name = id // the older era's word
	}
	_, _ = m.take("owner", "status", "revision", "hash", "link", "created_at", "updated_at", "user_name") // the hub's to say
	readPlatform(m, &app)
	readKind(m, &app)
	warnings := readNeeds(m, &app)
	if err := checkManifest(m, app); err != nil {
		return spare.App{}, nil, err
	}
	for _, key := range m.unknown() {
		warnings = append(warnings, fmt.Sprintf("%s is not known and has no effect", m.at(key)))
	}
	w, err := readEnvironment(m.at("platform_config"), app)
	if err != nil {
		return spare.App{}, nil, err
	}
	app.Environment = w.Environment
	if err := runnable(app); err != nil {
		warnings = append(warnings, err.Error())
	}
	if HoldsSecret(app) {
		warnings = append(warnings, fmt.Sprintf("%s holds a registry's token, which every node that runs the App gets with it; put the image on the hub with `spare image push` and leave the token out", m.at("platform_config")))
	}
	return app, warnings, nil
}

func readPlatform(m *object, app *spare.App) {
	f, given := m.take("platform")
	switch p := strings.ToLower(m.text("platform")); p {
	case "":
		app.Platform = spare.PlatformPython
	case "python", "wasm", "container":
		app.Platform = spare.Platform(p)
	case "docker":
		app.Platform = spare.PlatformContainer
	default:
		if given && m.err == nil {
			m.err = fieldError(m.at(f.key), fmt.Sprintf("%s is no platform", shorten(f.value)), "python", "container", "docker", "wasm")
		}
	}
}

func readKind(m *object, app *spare.App) {
	f, given := m.take("type")
	switch k := strings.ToLower(m.text("type")); k {
	case "": // whoever pushes it says
	case "app":
		app.Kind = spare.KindApp
	case "partitioner", "assembler":
		app.Kind = spare.Kind(k)
	default:
		if given && m.err == nil {
			m.err = fieldError(m.at(f.key), fmt.Sprintf("%s is no kind of code", shorten(f.value)), "app", "partitioner", "assembler")
		}
	}
}

func readNeeds(m *object, app *spare.App) (warnings []string) {
	n := m.object("device_requirements")
	app.Needs = spare.Requirements{
		MinCPU:    n.whole(1<<16, "min_cpu"),
		MinMemory: n.number("min_memory"),
		MinDisk:   n.number("min_disk"),
		GPU:       n.texts("gpu"),
		Tools:     n.texts("tools"),
		OS:        lower(n.texts("os")),
		Arch:      lower(n.texts("arch")),
	}
	for _, tool := range app.Needs.Tools {
		if !validTool(tool) && n.err == nil {
			n.err = &FieldError{Path: n.at("tools"), Message: fmt.Sprintf("%.60q is no tool; write a program's name, or a name and a feature like ffmpeg:libx265", tool)}
		}
	}
	checkList(n, "os", app.Needs.OS, knownOS)
	checkList(n, "arch", app.Needs.Arch, knownArch)
	m.adopt(n)
	for _, key := range n.unknown() {
		warnings = append(warnings, fmt.Sprintf("%s is not known and has no effect", n.at(key)))
	}
	return warnings
}

func lower(list []string) []string {
	for i := range list {
		list[i] = strings.ToLower(list[i])
	}
	return list
}

func checkList(n *object, key string, list, known []string) {
	for _, v := range list {
		if !slices.Contains(known, v) && n.err == nil {
			n.err = fieldError(n.at(key), fmt.Sprintf("%.60q is not known", v), known...)
		}
	}
}

// validTool reports whether s names a tool: a program, or a program and its feature.
func validTool(s string) bool {
	name, feature, hasFeature := strings.Cut(s, ":")
	return toolWord(name) && (!hasFeature || toolWord(feature))
}

func toolWord(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("_.+-", r)
	})
}

// checkManifest looks at what every App must say.
func checkManifest(m *object, app spare.App) error {
	if m.err != nil {
		return m.err
	}
	if app.Name == "" {
		return &FieldError{Path: m.at("name"), Message: "the name is missing"}
	}
	if err := spare.CheckName(app.Name); err != nil {
		return &FieldError{Path: m.at("name"), Message: err.Error()}
	}
	if app.Version == "" {
		return &FieldError{Path: m.at("version"), Message: "the version is missing; write one such as 0.1"}
	}
	if _, err := spare.ParseVersion(app.Version); err != nil {
		return &FieldError{Path: m.at("version"), Message: err.Error()}
	}
	if app.Entrypoint == "" {
		return &FieldError{Path: m.at("entrypoint"), Message: "the entrypoint is missing; name the file in app/ that is run, such as main.py"}
	}
	e := app.Entrypoint
	if !utf8.ValidString(e) || strings.ContainsAny(e, "\\\x00") || path.IsAbs(e) || path.Clean(e) != e || e == "." || strings.HasPrefix(e, "..") || len(e) > 255 {
		return &FieldError{Path: m.at("entrypoint"), Message: fmt.Sprintf("%.80q is no file inside the App's folder; name one such as main.py", e)}
	}
	return nil
}
