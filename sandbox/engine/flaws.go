package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// A Flaw is a way out of a container that is known in the version of an engine's part,
// and mended in a later one.
type Flaw struct {
	ID    string // "CVE-2024-21626"
	Part  string // "runc"
	Found string // the version found
	Fixed string // the versions that mend it, in words
	Does  string // half a sentence
}

func (f Flaw) String() string {
	return fmt.Sprintf("%s %s has %s (%s), mended in %s", f.Part, f.Found, f.ID, f.Does, f.Fixed)
}

// FlawsError says that the engine is not used because of what is known of it.
type FlawsError struct{ Flaws []Flaw }

func (e *FlawsError) Error() string {
	return fmt.Sprintf("%s: update it, or let the owner accept known flaws", list(e.Flaws))
}

func list(flaws []Flaw) string {
	var said []string
	for _, f := range flaws {
		said = append(said, f.String())
	}
	return strings.Join(said, "; ")
}

// flaw is one line of what is known.
type flaw struct {
	id, part, does string
	fixed          []string // one version for each branch that got the repair; later branches have it
	revisions      []string // packages of distributions that carry the repair under an older version
	only           string   // the engine it can be reached through; "" is any
}

// known lists the flaws that let a container out, or let an image touch the machine, and
// that the way this package calls engines does not already close. Versions are those of
// the projects' own announcements.
//
// Not here, because closed otherwise: what images say to podman (CVE-2026-57231,
// variables without a value; CVE-2026-94603, checkpoint images) is taken out or refused
// before the engine sees it (archive.go); `exec`, `cp`, `build` and pods are never used.
//
// A distribution's package may hold a repair without changing the version. Only packages
// whose own change log says so are named here; of others the version counts, and an
// owner who knows better says so in the node's settings.
var known = []flaw{
	{
		id: "CVE-2024-21626", part: "runc", does: "a leaked folder of the host as working folder",
		fixed: []string{"1.1.12"}, revisions: []string{"1.1.5+ds1-1+deb12u1"},
	},
	{
		id: "CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881", part: "runc", does: "masked files of /proc written through exchanged links",
		fixed: []string{"1.2.8", "1.3.3", "1.4.0-rc.3"},
	},
	{
		id: "CVE-2026-41579", part: "runc", does: "an image whose /dev is a link changes folders of the host",
		fixed: []string{"1.3.6", "1.4.3", "1.5.0-rc.3"}, only: "podman",
	},
	{
		id: "CVE-2025-24965", part: "crun", does: "an image writes files of the host through krun",
		fixed: []string{"1.20"},
	},
	{
		id: "CVE-2026-47766", part: "crun", does: "an image whose /dev is a link changes folders of the host",
		fixed: []string{"1.28"},
	},
	{
		id: "CVE-2025-9074", part: "docker-desktop", does: "containers reach the engine itself",
		fixed: []string{"4.44.3"},
	},
	{id: "CVE-2024-0132", part: nvidiaToolkit, does: "an image mounts folders of the host", fixed: []string{"1.16.2"}},
	{id: "CVE-2025-23359", part: nvidiaToolkit, does: "an image mounts folders of the host", fixed: []string{"1.17.4"}},
	{id: "CVE-2025-23266 and CVE-2025-23267", part: nvidiaToolkit, does: "an image's LD_PRELOAD and links steer hooks that run as root", fixed: []string{"1.17.8"}},
	{id: "CVE-2026-24260", part: nvidiaToolkit, does: "an image exchanges files between check and use", fixed: []string{"1.19.1"}},
}

// nvidiaToolkit is NVIDIA's Container Toolkit.
const nvidiaToolkit = "nvidia-container-toolkit"

// FlawsOf are the flaws known in a version of a part ("runc", "crun", "docker-desktop",
// "nvidia-container-toolkit") under an engine ("podman", "docker"). A version that cannot
// be read has them all.
func FlawsOf(engine, part, version string) (found []Flaw) {
	v, ok := parseVersion(version)
	for _, k := range known {
		if k.part != part || k.only != "" && k.only != engine || k.mended(v, ok, version) {
			continue
		}
		said := version
		if said == "" {
			said = "of unknown version"
		}
		found = append(found, Flaw{ID: k.id, Part: part, Found: said, Fixed: strings.Join(k.fixed, ", "), Does: k.does})
	}
	return found
}

// mended reports whether a version has the repair: it is a package known to carry it, or
// not older than the repaired version of its branch, or of a later branch than all these.
func (k flaw) mended(v version, ok bool, text string) bool {
	for _, r := range k.revisions {
		if text == r {
			return true
		}
	}
	if !ok {
		return false
	}
	latest := version{}
	for _, f := range k.fixed {
		fixed, _ := parseVersion(f)
		if fixed.branch() == v.branch() {
			return !v.before(fixed)
		}
		if latest.before(fixed) {
			latest = fixed
		}
	}
	return latest.before(v)
}

// version is major, minor, patch and the number of the release candidate; a finished
// release has a very high one.
type version [4]int

const finished = 1 << 30

func (v version) branch() [2]int { return [2]int{v[0], v[1]} }

func (v version) before(w version) bool {
	for i := range v {
		if v[i] != w[i] {
			return v[i] < w[i]
		}
	}
	return false
}

// parseVersion reads "1.1.5+ds1-1+deb12u1", "v1.4.0-rc.3" and "1.20". What a distribution
// adds says nothing of order and is left out; other early versions ("1.4.0-beta",
// "1.3.0-dev") count as older than any candidate.
func parseVersion(s string) (v version, ok bool) {
	s = strings.TrimPrefix(strings.TrimSpace(s), "v")
	v[3] = finished
	numbers := s
	if end := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }); end >= 0 {
		rest := s[end:]
		numbers = s[:end]
		v[3] = candidate(rest)
	}
	parts := strings.Split(strings.TrimSuffix(numbers, "."), ".")
	if len(parts) < 2 || len(parts) > 4 {
		return v, false
	}
	for i, p := range parts[:min(len(parts), 3)] {
		n, err := strconv.Atoi(p)
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}

// candidate reads what follows the numbers.
func candidate(rest string) int {
	early := strings.TrimLeft(rest, "-~.")
	switch {
	case strings.HasPrefix(early, "rc"):
		digits := strings.TrimLeft(early[2:], ".-")
		if end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
			digits = digits[:end]
		}
		n, _ := strconv.Atoi(digits)
		return n
	case strings.HasPrefix(early, "alpha"), strings.HasPrefix(early, "beta"), strings.HasPrefix(early, "dev"):
		return -1
	}
	return finished
}

// short is a digest of a text, for labels.
func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}
