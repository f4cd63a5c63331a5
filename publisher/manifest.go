package publisher

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"

	"github.com/spare-compute/spare"
)

// A Manifest is what a publisher says of one revision of an App: all that decides which
// code runs, and around what.
type Manifest struct {
	Kind        spare.Kind         `json:"kind"`
	Name        string             `json:"name"`
	Version     string             `json:"version"`
	Revision    uint64             `json:"revision"`         // the publisher's own; it only rises
	Oldest      uint64             `json:"oldest,omitempty"` // earlier revisions from here on may still run; 0: none
	Bundle      spare.Digest       `json:"bundle"`
	BundleSize  int64              `json:"bundle_size"`
	Root        string             `json:"root"`
	Entrypoint  string             `json:"entrypoint"`
	Environment spare.Environment  `json:"environment"` // with the image's digest
	Config      json.RawMessage    `json:"platform_config,omitempty"`
	Needs       spare.Requirements `json:"device_requirements"`
	Issued      time.Time          `json:"issued"`
	Expires     time.Time          `json:"expires"`
}

// Of says what there is to sign of an App: revision and times are the signer's to add.
func Of(app spare.App) (Manifest, error) {
	config, err := Config(app.Config)
	if err != nil {
		return Manifest{}, err
	}
	return Manifest{
		Kind: app.Kind, Name: app.Name, Version: app.Version, Bundle: app.Bundle, BundleSize: app.BundleSize,
		Root: app.Root, Entrypoint: app.Entrypoint, Environment: app.Environment, Config: config, Needs: app.Needs,
	}, nil
}

// Tag is the App's exact name, "name@version".
func (m Manifest) Tag() string { return m.Name + "@" + m.Version }

// Covers reports whether the App is what was signed, as far as it decides what runs. The
// error names the first difference.
func (m Manifest) Covers(app spare.App) error {
	other, err := Of(app)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMixed, err)
	}
	if m.Environment.Platform == other.Environment.Platform && other.Environment.Native {
		m.Environment.Native = true // a job whose parameters call for tools: fewer runtimes, the same code
	}
	for _, f := range []struct {
		what         string
		signed, have any
	}{
		{"kind", m.Kind, other.Kind},
		{"name", m.Name, other.Name},
		{"version", m.Version, other.Version},
		{"bundle digest", m.Bundle, other.Bundle},
		{"bundle size", m.BundleSize, other.BundleSize},
		{"root folder", m.Root, other.Root},
		{"entrypoint", m.Entrypoint, other.Entrypoint},
		{"environment", m.Environment, other.Environment},
		{"platform_config", string(m.Config), string(other.Config)},
		{"device_requirements", normal(m.Needs), normal(other.Needs)},
	} {
		if !reflect.DeepEqual(f.signed, f.have) {
			return fmt.Errorf("%w: its %s is %s, and %s was signed", ErrMixed, f.what, show(f.have), show(f.signed))
		}
	}
	return nil
}

// normal makes empty lists alike, however they are written.
func normal(n spare.Requirements) spare.Requirements {
	for _, list := range []*[]string{&n.GPU, &n.Tools, &n.OS, &n.Arch} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	return n
}

func show(v any) string {
	const most = 120
	s := fmt.Sprintf("%q", fmt.Sprint(v))
	switch v.(type) {
	case spare.Environment, spare.Requirements:
		if raw, err := encode(v); err == nil { // one that is no number does not encode
			s = string(raw)
		}
	}
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// maxRevision is the largest whole number that every reader of JSON keeps exactly.
const maxRevision = 1<<53 - 1

func (m Manifest) check() error {
	_, badVersion := spare.ParseVersion(m.Version)
	switch {
	case m.Kind != spare.KindApp && m.Kind != spare.KindPartitioner && m.Kind != spare.KindAssembler:
		return fmt.Errorf("%.40q is no kind of code", m.Kind)
	case spare.CheckName(m.Name) != nil:
		return fmt.Errorf("name %.80q: %w", m.Name, spare.CheckName(m.Name))
	case badVersion != nil:
		return badVersion
	case m.Revision == 0 || m.Revision > maxRevision:
		return fmt.Errorf("revision %d is none; revisions count from 1", m.Revision)
	case m.Oldest > m.Revision:
		return fmt.Errorf("revision %d cannot ask for revision %d at least", m.Revision, m.Oldest)
	case !m.Bundle.Valid():
		return fmt.Errorf("bundle %.80q is no digest", m.Bundle)
	case m.BundleSize <= 0:
		return fmt.Errorf("a bundle of %d bytes is none", m.BundleSize)
	case m.Entrypoint == "" || m.Root == "":
		return fmt.Errorf("it names no entrypoint or not its folder")
	case m.Environment.Image != "" && !pinned(m.Environment.Image):
		return fmt.Errorf("image %.120q is not pinned by its digest; write it as NAME@sha256:…", m.Environment.Image)
	case m.Issued.IsZero() || m.Expires.IsZero() || !m.Expires.After(m.Issued):
		return fmt.Errorf("it is good from %s until %s, which is no time", m.Issued.Format(time.RFC3339), m.Expires.Format(time.RFC3339))
	}
	config, err := Config(m.Config)
	if err == nil && !bytes.Equal(config, m.Config) {
		err = fmt.Errorf("its platform_config is not in canonical form, or holds credentials")
	}
	return err
}

// pinned reports whether an image is named by its digest.
func pinned(image string) bool {
	name, digest, ok := strings.Cut(image, "@sha256:")
	return ok && name != "" && spare.Digest(digest).Valid()
}

// current holds the times of a manifest against a clock that may be off by Skew.
func (m Manifest) current(now time.Time) error {
	switch {
	case now.Add(Skew).Before(m.Issued):
		return fmt.Errorf("%w: it was signed on %s by a clock that is ahead, or this machine's is behind", ErrNotYetValid, day(m.Issued))
	case now.After(m.Expires.Add(Skew)):
		return fmt.Errorf("%w on %s", ErrExpired, day(m.Expires))
	}
	return nil
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// credentials are the keys of a platform_config that hold a registry's, in lower case
// and without separators. They may change without a new signature, and nobody but the
// registry should read them.
var credentials = map[string]bool{
	"username": true, "password": true, "token": true, "auth": true, "identitytoken": true, "registrytoken": true,
	"registryusername": true, "registrypassword": true, "credentials": true,
}

var separators = strings.NewReplacer("_", "", "-", "")

// maxDepth bounds how deep settings may be nested.
const maxDepth = 32

// Config is a platform_config in the one form that is signed: keys sorted, without white
// space, without what is not set, and without registry credentials.
func Config(raw json.RawMessage) (json.RawMessage, error) {
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var v map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("platform_config: %w", err)
	}
	if d.More() {
		return nil, fmt.Errorf("platform_config: something follows the JSON object")
	}
	clean, err := withoutCredentials(v, maxDepth)
	if err != nil {
		return nil, err
	}
	if len(clean) == 0 {
		return nil, nil
	}
	return encode(clean)
}

func withoutCredentials(v map[string]any, depth int) (map[string]any, error) {
	if depth == 0 {
		return nil, fmt.Errorf("platform_config is nested deeper than %d levels", maxDepth)
	}
	clean := make(map[string]any, len(v))
	for key, value := range v {
		if value == nil || credentials[strings.ToLower(separators.Replace(key))] {
			continue
		}
		if sub, ok := value.(map[string]any); ok {
			var err error
			if value, err = withoutCredentials(sub, depth-1); err != nil {
				return nil, err
			}
		}
		clean[key] = value
	}
	return clean, nil
}

// NextRevision is the revision to sign now, above the last one there is any knowledge
// of: the seconds since 1970, so that it rises without anything being remembered.
func NextRevision(last uint64, now time.Time) uint64 {
	seconds := uint64(max(1, min(now.Unix(), math.MaxInt32*1000)))
	return max(last+1, seconds)
}
