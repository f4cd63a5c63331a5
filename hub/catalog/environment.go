package catalog

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/publisher"
)

// Images finds out what image a name means.
type Images interface {
	// Pin returns the name with the digest it stands for now, "name@sha256:…", and
	// whether this hub itself holds the image. Username and token may be empty.
	Pin(ctx context.Context, ref, username, token string) (pinned string, onHub bool, err error)
}

// A wish is a platform_config as it is understood.
type wish struct {
	spare.Environment
	username, token string
}

// readEnvironment reads what an App needs around it out of its platform_config, which
// stands at a path. Whether its files hold machine code is not known here.
func readEnvironment(at string, app spare.App) (wish, error) {
	cfg := readObject(at, app.Config)
	w := wish{
		Environment: spare.Environment{
			Platform: app.Platform, Image: strings.TrimSpace(cfg.label("container")),
			Runtime: strings.ToLower(cfg.text("runtime")), Deterministic: cfg.flag("deterministic"),
			GPU: len(app.Needs.GPU) > 0,
		},
		username: cfg.text("username"), token: cfg.text("token"),
	}
	if f, ok := cfg.take("network"); ok {
		switch string(bytes.ToLower(f.value)) {
		case `"none"`, `""`, "false":
		case `"outbound"`:
			w.Outbound = true
		default:
			return w, fieldError(cfg.at(f.key), fmt.Sprintf("%s is no network an App can have", shorten(f.value)), "none", "outbound")
		}
	}
	if cfg.err != nil {
		return w, cfg.err
	}
	if w.Runtime != "" && !slices.Contains(spare.Runtimes, w.Runtime) {
		return w, fieldError(cfg.at("runtime"), fmt.Sprintf("%.40q is no runtime", w.Runtime), spare.Runtimes...)
	}
	if w.Deterministic && w.Runtime == "" {
		w.Runtime = "wasm" // there alone it can be promised
	}
	return w, nil
}

// HoldsSecret reports whether an App's platform_config says how to get into a registry,
// as its manifest and so its bundle then do too. A user's name alone opens nothing.
func HoldsSecret(app spare.App) bool { return opens(app.Config) }

func opens(settings json.RawMessage) bool {
	var all map[string]json.RawMessage
	if json.Unmarshal(settings, &all) != nil {
		return false // a value, which its key spoke for
	}
	for key, value := range all {
		if isNull(value) || string(value) == `""` {
			continue
		}
		name := canonical(key)
		alone, err := json.Marshal(map[string]bool{key: true})
		if err != nil {
			return true
		}
		// What publishers leave out of what they sign is what nobody else may read.
		signed, err := publisher.Config(alone)
		secret := err != nil || len(signed) == 0
		if secret && name != canonical("username") && name != canonical("registry_username") || opens(value) {
			return true
		}
	}
	return false
}

// runnable says why no node can run this App, if so: what nothing enforces or serves is
// refused before a job relies on it.
func runnable(app spare.App) error {
	w, err := readEnvironment("platform_config", app)
	if err != nil {
		return err
	}
	var secrets []json.RawMessage
	cfg := readObject("platform_config", app.Config)
	if f, ok := cfg.take("secrets"); ok && (json.Unmarshal(f.value, &secrets) != nil || len(secrets) > 0) {
		return refuse("App %s asks for secrets, and nothing hands secrets to Apps yet; remove platform_config.secrets", app.Tag())
	}
	switch {
	case w.Platform == spare.PlatformContainer && w.Image == "":
		return refuse("App %s asks for platform container and names no image; write it in platform_config.container", app.Tag())
	case w.Platform == spare.PlatformWasm && w.Image != "":
		return refuse("App %s is a wasm module, which runs in no image; remove platform_config.container", app.Tag())
	case w.Platform == spare.PlatformWasm && path.Ext(app.Entrypoint) != ".wasm":
		return refuse("App %s asks for platform wasm and its entrypoint %s is no .wasm module", app.Tag(), app.Entrypoint)
	case w.GPU && w.Image == "":
		return refuse("App %s asks for a GPU, which only an image gets; name one in platform_config.container", app.Tag())
	case w.Deterministic && w.Runtime != "wasm":
		return refuse("App %s asks for equal bytes in every run from the runtime %s, which cannot promise them; remove platform_config.runtime or write wasm", app.Tag(), w.Runtime)
	case w.Runtime == "wasm" && (w.Image != "" || w.Outbound):
		return refuse("App %s asks for the runtime wasm, which has neither images nor a network", app.Tag())
	}
	return nil
}

// pin fixes the image that an App names to the one it means today, if it is not yet. That
// of a signed App is the publisher's choice.
func (c *Catalog) pin(ctx context.Context, app *spare.App) error {
	w, err := readEnvironment("platform_config", *app)
	signed := len(app.Signed) > 0
	if err != nil || w.Image == "" || !signed && app.Environment.Image != "" && app.Environment.Image != w.Image {
		return err
	}
	if signed {
		w.Image = app.Environment.Image
	}
	if c.images == nil {
		return refuse("App %s names the image %s, and this hub looks up no images", app.Tag(), w.Image)
	}
	pinned, onHub, err := c.images.Pin(ctx, w.Image, w.username, w.token)
	if err != nil {
		return &Refused{Sentence: fmt.Sprintf("App %s: %v", app.Tag(), err), Err: err}
	}
	if app.ImageOnHub = onHub; !signed {
		app.Environment.Image = pinned
	}
	return nil
}

// pinned is the App with its image fixed. Where that was not possible when it was
// pushed, it becomes a new revision.
func (c *Catalog) pinned(ctx context.Context, app spare.App) (spare.App, error) {
	before := app
	err := c.pin(ctx, &app)
	if err != nil || app.Environment.Image == before.Environment.Image && app.ImageOnHub == before.ImageOnHub {
		return app, err
	}
	if app, err = c.store.PutApp(ctx, app); err != nil {
		return app, fmt.Errorf("store %s %s with its image: %w", word(app.Kind), app.Tag(), err)
	}
	return app, nil
}

// settleEnvironment fills in what the folder's files say of what the App needs.
func (f *folder) settleEnvironment() error {
	w, err := readEnvironment(manifestFile+".platform_config", f.app)
	if err != nil {
		return err
	}
	f.app.Environment = w.Environment
	why := ""
	switch {
	case w.Platform != spare.PlatformPython || w.Image != "":
		return nil
	case len(f.app.Needs.Tools) > 0:
		why = "it needs tools"
	default:
		if why, err = f.machineCode(); err != nil {
			return err
		}
	}
	f.app.Environment.Native = why != ""
	if w.Runtime == "wasm" && why != "" {
		return refuse("App %s asks for the runtime wasm, where only pure Python runs: %s", f.app.Tag(), why)
	}
	return nil
}

// machineCode says what keeps an App's Python from running in an interpreter in wasm:
// programs or libraries among its files, or an import that is neither among them nor in
// the part of the standard library that works there. "" is nothing.
func (f *folder) machineCode() (why string, err error) {
	own := map[string]bool{}
	var scripts []string
	err = fs.WalkDir(f.root.FS(), f.app.Root, func(name string, e fs.DirEntry, err error) error {
		if err != nil || why != "" {
			return err
		}
		base := strings.TrimSuffix(e.Name(), ".py")
		switch ext := path.Ext(name); {
		case e.IsDir():
			own[e.Name()] = true
		case ext == ".py":
			own[base] = true
			scripts = append(scripts, name)
		case slices.Contains([]string{".so", ".pyd", ".dll", ".dylib"}, ext), f.isProgram(name):
			why = name + " is machine code"
		}
		return nil
	})
	if err != nil || why != "" {
		return why, err
	}
	if path.Ext(f.app.Entrypoint) != ".py" {
		return f.app.Entrypoint + " is no Python", nil
	}
	for _, name := range scripts {
		if why, err = f.foreignImport(name, own); err != nil || why != "" {
			return why, err
		}
	}
	return "", nil
}

// isProgram recognises executables of the three systems.
func (f *folder) isProgram(name string) bool {
	file, err := f.root.Open(name)
	if err != nil {
		return false
	}
	defer file.Close()
	head := make([]byte, 4)
	if _, err := io.ReadFull(file, head); err != nil {
		return false
	}
	if string(head) == elf.ELFMAG {
		return true
	}
	if _, err := macho.NewFile(file); err == nil {
		return true
	}
	if _, err := macho.NewFatFile(file); err == nil {
		return true
	}
	_, err = pe.NewFile(file)
	return err == nil
}

var imported = regexp.MustCompile(`^\s*(?:import|from)\s+([A-Za-z_]\w*)`)

func (f *folder) foreignImport(name string, own map[string]bool) (string, error) {
	file, err := f.root.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if m := imported.FindSubmatch(lines.Bytes()); m != nil && !own[string(m[1])] && !purePython[string(m[1])] {
			return fmt.Sprintf("%s imports %s", name, m[1]), nil
		}
	}
	return "", nil // a line too long to be source ends the look
}

// purePython are the modules of the standard library that need neither machine code of
// their own beyond the interpreter's, nor processes, threads or sockets.
var purePython = setOf(`__future__ abc argparse array ast base64 binascii bisect builtins calendar cmath codecs collections
	colorsys configparser contextlib contextvars copy copyreg csv dataclasses datetime decimal difflib dis email encodings enum errno
	fileinput fnmatch fractions functools gc getopt glob graphlib gzip hashlib heapq hmac html importlib inspect io ipaddress itertools
	json keyword linecache locale logging marshal math mimetypes numbers operator os pathlib pickle pickletools pkgutil platform pprint
	quopri random re reprlib runpy sched secrets shlex shutil stat statistics string stringprep struct sys sysconfig tarfile tempfile
	textwrap time timeit token tokenize traceback types typing unicodedata unittest urllib uuid warnings weakref xml zipfile zlib zoneinfo`)

func setOf(words string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(words) {
		set[w] = true
	}
	return set
}
