package policy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// When says on what power the machine works.
type When string

// The choices of When.
const (
	WhenAC     When = "ac"     // on mains power, or where there is no battery
	WhenAlways When = "always" // on battery too
)

// Size is a number of bytes, written as people do: "4GiB".
type Size uint64

// Prefs are the owner's preferences. A zero number leaves the choice to Spare.
type Prefs struct {
	Name   string `json:"name,omitempty"`   // shown instead of the host name
	When   When   `json:"when"`             // ac or always
	Cores  int    `json:"cores,omitempty"`  // how many at most
	Memory Size   `json:"memory,omitempty"` // how much at most
	Disk   Size   `json:"disk,omitempty"`   // how much the cache may hold

	Runtimes Runtimes `json:"runtimes,omitempty"` // which may be used; "" = all
	Network  Net      `json:"network,omitempty"`  // none or outbound; "" = none
	GPU      bool     `json:"gpu,omitempty"`      // whether Apps may use it

	Engine        string `json:"engine,omitempty"`         // podman or docker, by name or path; "" = whichever is there
	EngineRuntime string `json:"engine_runtime,omitempty"` // the engine's own runtime, as runc; "" = its choice
	EngineFlaws   bool   `json:"engine_flaws,omitempty"`   // whether an engine with known flaws may be used

	Registries Registries `json:"allow_registries,omitempty"` // of images, that may stand at private addresses
	Mirrors    Mirrors    `json:"registry_mirrors,omitempty"` // asked before the registries themselves

	Signature Signature `json:"require_publisher_signature,omitempty"` // "" = pool
}

// Default is what holds until the owner says otherwise.
func Default() Prefs { return Prefs{When: WhenAC} }

// setters are the keys that Set takes, in the order they are shown.
var setters = []struct {
	key, help string
	set       func(p *Prefs, value string) error
	get       func(p Prefs) string
}{
	{
		"when", "ac: on mains power only; always: on battery too",
		func(p *Prefs, v string) error { p.When = When(v); return nil },
		func(p Prefs) string { return string(p.When) },
	},
	{
		"cores", "how many processor cores to lend; 0: all",
		func(p *Prefs, v string) (err error) { p.Cores, err = strconv.Atoi(v); return err },
		func(p Prefs) string { return strconv.Itoa(p.Cores) },
	},
	{
		"memory", "how much memory to lend, as 4GiB; 0: three quarters",
		func(p *Prefs, v string) (err error) { p.Memory, err = ParseSize(v); return err },
		func(p Prefs) string { return p.Memory.String() },
	},
	{
		"disk", "how much the cache may hold, as 20GiB; 0: a quarter of the volume, at most 20GiB",
		func(p *Prefs, v string) (err error) { p.Disk, err = ParseSize(v); return err },
		func(p Prefs) string { return p.Disk.String() },
	},
	{
		"runtimes", "which runtimes may be used, as linux,wasm; wasm alone lets nothing native run; empty: all that work",
		func(p *Prefs, v string) error { p.Runtimes = Runtimes(v); return nil },
		func(p Prefs) string { return string(p.Runtimes) },
	},
	{
		"network", "none: Apps reach no network; outbound: those that ask for it reach public addresses",
		func(p *Prefs, v string) error { p.Network = Net(v); return nil },
		func(p Prefs) string { return string(cmp.Or(p.Network, NetNone)) },
	},
	{
		"gpu", "true: Apps that ask for a GPU may use it; false: none may",
		func(p *Prefs, v string) (err error) { p.GPU, err = strconv.ParseBool(v); return err },
		func(p Prefs) string { return strconv.FormatBool(p.GPU) },
	},
	{
		"require_publisher_signature", "pool: in pools of volunteers Apps need a trusted publisher's signature; always; never",
		func(p *Prefs, v string) error { p.Signature = Signature(v); return nil },
		func(p Prefs) string { return string(cmp.Or(p.Signature, SignatureByPool)) },
	},
	{
		"engine", "the container engine to use, podman or docker, by name or path; empty: whichever is there",
		func(p *Prefs, v string) error { p.Engine = v; return nil },
		func(p Prefs) string { return p.Engine },
	},
	{
		"engine_runtime", "what the engine runs containers with, as runc or crun; empty: its own choice",
		func(p *Prefs, v string) error { p.EngineRuntime = v; return nil },
		func(p Prefs) string { return p.EngineRuntime },
	},
	{
		"engine_flaws", "true: use an engine although its version has known flaws; false: never",
		func(p *Prefs, v string) (err error) { p.EngineFlaws, err = strconv.ParseBool(v); return err },
		func(p Prefs) string { return strconv.FormatBool(p.EngineFlaws) },
	},
	{
		"allow_registries", "registries of images that may stand at private addresses, as registry.lan:5000; empty: public ones alone",
		func(p *Prefs, v string) error { p.Registries = Registries(v); return nil },
		func(p Prefs) string { return string(p.Registries) },
	},
	{
		"registry_mirrors", "mirrors that are asked before a registry, as docker.io=mirror.lan:5000; empty: none",
		func(p *Prefs, v string) error { p.Mirrors = Mirrors(v); return nil },
		func(p Prefs) string { return string(p.Mirrors) },
	},
	{
		"name", "the name shown for this machine; empty: its host name",
		func(p *Prefs, v string) error { p.Name = v; return nil },
		func(p Prefs) string { return p.Name },
	},
}

// Keys lists what can be set, with a line of help for each.
func Keys() (keys, help []string) {
	for _, s := range setters {
		keys, help = append(keys, s.key), append(help, s.help)
	}
	return keys, help
}

// Get is the value of a key as Set would take it.
func (p Prefs) Get(key string) string {
	for _, s := range setters {
		if s.key == key {
			return s.get(p)
		}
	}
	return ""
}

// Set changes one preference, given as people type it.
func (p *Prefs) Set(key, value string) error {
	for _, s := range setters {
		if s.key != key {
			continue
		}
		next := *p
		if err := s.set(&next, strings.TrimSpace(value)); err != nil {
			return fmt.Errorf("preference %s: %q is not allowed: %s", key, value, s.help)
		}
		if err := next.check(); err != nil {
			return err
		}
		*p = next
		return nil
	}
	return unknownKey(key)
}

func unknownKey(key string) error {
	keys, _ := Keys()
	return fmt.Errorf("preference %q is not known; did you mean %q? (there are: %s)", key, nearest(key, keys), strings.Join(keys, ", "))
}

func (p Prefs) check() error {
	switch {
	case p.When != WhenAC && p.When != WhenAlways:
		return fmt.Errorf("preference when: %q is not allowed; use ac or always", p.When)
	case p.Cores < 0:
		return fmt.Errorf("preference cores: %d is not allowed; use 1 or more, or 0 for all", p.Cores)
	case p.Memory != 0 && p.Memory < 64<<20:
		return fmt.Errorf("preference memory: %s is too little to run anything; use 64MiB or more", p.Memory)
	case p.Disk != 0 && p.Disk < 64<<20:
		return fmt.Errorf("preference disk: %s is too little to run anything; use 64MiB or more", p.Disk)
	case p.Network != "" && p.Network != NetNone && p.Network != NetOutbound:
		return fmt.Errorf("preference network: %q is not allowed; use none or outbound", p.Network)
	case len(p.Name) > 64 || strings.ContainsFunc(p.Name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("preference name: use at most 64 printable characters")
	}
	return errors.Join(p.Runtimes.check(), p.Signature.check(), p.Registries.check(), p.Mirrors.check())
}

// Load reads preferences from a file; a missing file is the default. Unknown keys
// are refused, because a misspelt limit that is ignored is no limit.
func Load(path string) (Prefs, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Default(), nil
	}
	if err != nil {
		return Prefs{}, fmt.Errorf("read preferences: %w", err)
	}
	p, err := decode(raw)
	if err != nil {
		return Prefs{}, fmt.Errorf("read preferences %s: %w", path, err)
	}
	return p, nil
}

func decode(raw []byte) (Prefs, error) {
	var found map[string]json.RawMessage
	if err := json.Unmarshal(raw, &found); err != nil {
		return Prefs{}, fmt.Errorf("not a JSON object: %w", err)
	}
	keys, _ := Keys()
	for key := range found {
		if !slices.Contains(keys, key) {
			return Prefs{}, unknownKey(key)
		}
	}
	p := Default()
	dec := json.NewDecoder(bytes.NewReader(raw))
	if err := dec.Decode(&p); err != nil {
		return Prefs{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Prefs{}, errors.New("something follows the JSON object")
	}
	return p, p.check()
}

// Save writes preferences so that a crash leaves the old or the new, never half.
func Save(path string, p Prefs) error {
	if err := p.check(); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("encode preferences: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".prefs-*")
	if err != nil {
		return fmt.Errorf("save preferences: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(append(raw, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("save preferences: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("save preferences: %w", err)
	}
	return nil
}

var units = []struct {
	name  string
	bytes uint64
}{
	{"TiB", 1 << 40},
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"KB", 1e3},
	{"T", 1 << 40},
	{"G", 1 << 30},
	{"M", 1 << 20},
	{"K", 1 << 10},
	{"B", 1},
}

// ParseSize reads "4GiB", "500 MB", "2g" or a plain number of bytes.
func ParseSize(s string) (Size, error) {
	rest, unit := strings.TrimSpace(s), uint64(1)
	for _, u := range units {
		if n := len(rest) - len(u.name); n > 0 && strings.EqualFold(rest[n:], u.name) {
			rest, unit = strings.TrimSpace(rest[:n]), u.bytes
			break
		}
	}
	n, err := strconv.ParseFloat(rest, 64)
	if err != nil || n < 0 || math.IsNaN(n) || n*float64(unit) > math.MaxInt64 {
		return 0, fmt.Errorf("size %q: want a number with a unit, as 4GiB", s)
	}
	return Size(n * float64(unit)), nil
}

// String writes the size in the largest unit that keeps it exact.
func (s Size) String() string {
	for _, u := range units[:4] {
		if s != 0 && uint64(s)%u.bytes == 0 {
			return strconv.FormatUint(uint64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatUint(uint64(s), 10)
}

// MarshalJSON writes the size as String does.
func (s Size) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// UnmarshalJSON takes what ParseSize takes, or a number of bytes.
func (s *Size) UnmarshalJSON(raw []byte) error {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		text = string(raw)
	}
	n, err := ParseSize(text)
	if err != nil {
		return err
	}
	*s = n
	return nil
}

// nearest is the candidate with the smallest edit distance to word.
func nearest(word string, candidates []string) string {
	best, least := "", math.MaxInt
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), c); d < least {
			best, least = c, d
		}
	}
	return best
}

func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
