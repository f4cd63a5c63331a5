package engine

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// Variables reach the container through the client's own environment: the command line
// has only their names, so their values are never in the machine's list of processes,
// and need no quoting, whatever is in them. Names that could mean something to the
// client itself, or to the libraries it is linked with, must not get into its
// environment; they go on the command line with their value, which is no secret of theirs.

// clientWords are such names, or, ending in _, their beginnings.
var clientWords = []string{
	// The engine's clients and what they run.
	"DOCKER_", "CONTAINER_", "CONTAINERS_", "PODMAN_", "BUILDAH_", "BUILDKIT_", "BUILDX_", "MOBY_", "COMPOSE_", "REGISTRY_", "STORAGE_",
	"LIBPOD_", "NETAVARK_", "CONMON_", "OCI_", "CRIU_", "_", "OTEL_", "NVIDIA_", "CUDA_",
	// Where programs look for their things.
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "TMPDIR", "TMP", "TEMP", "XDG_", "DBUS_", "SSH_", "NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_",
	"INVOCATION_ID", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY", "PASSPHRASE", "GNUPGHOME",
	// Go's runtime and the C library, and the loader of shared objects.
	"GO", "GOTRACEBACK", "GODEBUG", "GOMAXPROCS", "GOGC", "GOMEMLIMIT", "GOCOVERDIR", "LD_", "DYLD_", "GLIBC_", "MALLOC_", "GCONV_PATH", "GETCONF_DIR", "HOSTALIASES",
	"LOCALDOMAIN", "LOCPATH", "NIS_PATH", "NLSPATH", "RESOLV_", "RES_", "TZ", "TZDIR", "LC_", "LANG", "LANGUAGE", "SSL_",
	// Proxies are the container's, not the client's.
	"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY", "REQUEST_METHOD",
	// Windows.
	"SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "USERPROFILE", "HOMEDRIVE", "HOMEPATH", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA",
	"PROGRAMFILES", "PSMODULEPATH",
}

// forClient reports whether a name could mean something to the client.
func forClient(name string) bool {
	name = strings.ToUpper(name)
	return slices.ContainsFunc(clientWords, func(w string) bool {
		return name == w || strings.HasSuffix(w, "_") && strings.HasPrefix(name, w)
	}) || strings.HasPrefix(name, "GO") && !strings.Contains(name, "_")
}

// plainName reports whether an engine takes a variable's name as it stands. A name with a
// star would have podman hand out every variable of its own that begins like it.
func plainName(name string) bool {
	for i, c := range []byte(name) {
		letter := c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		if !letter && (i == 0 || !(c >= '0' && c <= '9' || c == '.' || c == '-')) {
			return false
		}
	}
	return name != ""
}

// passing is how variables get into the container: arguments for the client's command
// line and variables for its environment.
func passing(env []string) (args, vars []string, err error) {
	last := map[string]int{} // of one name the last counts, as everywhere
	for i, v := range env {
		name, _, found := strings.Cut(v, "=")
		if !found || !plainName(name) {
			return nil, nil, fmt.Errorf("give variable %.60q to a container: its name must be letters, digits and _, followed by =", v)
		}
		last[name] = i
	}
	seen := map[string]bool{} // on Windows, names of the environment have no case
	for i, v := range env {
		name, _, _ := strings.Cut(v, "=")
		if last[name] != i {
			continue
		}
		key := name
		if runtime.GOOS == "windows" {
			key = strings.ToUpper(name)
		}
		if forClient(name) || seen[key] {
			args = append(args, "--env", v)
			continue
		}
		seen[key] = true
		args = append(args, "--env", name)
		vars = append(vars, v)
	}
	return args, vars, nil
}

// environment is the program's: the Spec's, then what the image sets, and for what every
// program needs and neither has, a default.
func environment(spec, image []string) []string {
	env := slices.Clone(spec)
	for _, d := range []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8"} {
		name := d[:strings.Index(d, "=")+1]
		has := func(v string) bool { return strings.HasPrefix(v, name) }
		if !slices.ContainsFunc(env, has) && !slices.ContainsFunc(image, has) {
			env = append(env, d)
		}
	}
	// Whatever an image or an App asks for: devices come from the Spec's GPUs alone.
	return append(env, "NVIDIA_VISIBLE_DEVICES=void")
}
