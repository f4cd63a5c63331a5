package publisher_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/publisher"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newKey(t testing.TB) *publisher.Key {
	t.Helper()
	k, err := publisher.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rotate(t testing.TB, k *publisher.Key) *publisher.Key {
	t.Helper()
	next, err := k.Rotate(now)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// anApp is an App of a revision; each revision has other content.
func anApp(revision int) spare.App {
	return spare.App{
		Kind: spare.KindApp, Name: "invert", Version: "0.1", Entrypoint: "main.py", Root: "app", Platform: spare.PlatformPython,
		Environment: spare.Environment{Platform: spare.PlatformPython, Image: "example.org/python@sha256:" + string(spare.Sum([]byte("image")))},
		Config:      json.RawMessage(`{"network": "none", "container": "example.org/python:3", "username": "ann", "token": "s3cret"}`),
		Needs:       spare.Requirements{MinCPU: 2},
		Bundle:      spare.Sum(fmt.Appendf(nil, "bundle %d", revision)), BundleSize: 1000 + int64(revision),
	}
}

func manifest(t testing.TB, app spare.App, revision uint64) publisher.Manifest {
	t.Helper()
	m, err := publisher.Of(app)
	if err != nil {
		t.Fatal(err)
	}
	m.Revision, m.Issued, m.Expires = revision, now, now.AddDate(1, 0, 0)
	return m
}

func sign(t testing.TB, k *publisher.Key, m publisher.Manifest) []byte {
	t.Helper()
	raw, err := publisher.Sign(k, m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// sealed is a signed statement, for tests that change it.
type sealed struct {
	Type       string     `json:"payloadType"`
	Payload    []byte     `json:"payload"`
	Signatures []signedBy `json:"signatures"`
	Rotations  []sealed   `json:"rotations,omitempty"`
}

type signedBy struct {
	KeyID publisher.ID `json:"keyid"`
	Sig   []byte       `json:"sig"`
}

// signedApp is an App with the signature of a key.
func signedApp(t testing.TB, k *publisher.Key, revision int) spare.App {
	t.Helper()
	app := anApp(revision)
	app.Signed = sign(t, k, manifest(t, app, uint64(revision)))
	return app
}

func pins(keys ...*publisher.Key) publisher.Trust {
	var t publisher.Trust
	for _, k := range keys {
		t = t.Add(k.Public().Key)
	}
	return t
}

// refused wants a verdict where signatures are required, and nothing learnt from it but
// what rotations say.
func refused(t *testing.T, trust publisher.Trust, app spare.App, want error) publisher.Trust {
	t.Helper()
	next, _, err := trust.Judge(app, now, true)
	if !errors.Is(err, want) {
		t.Fatalf("judged %v, want %v", err, want)
	}
	var r *publisher.Refusal
	if !errors.As(err, &r) || !strings.Contains(err.Error(), app.Tag()) {
		t.Errorf("the refusal %v does not name the App", err)
	}
	if len(next.Seen) != len(trust.Seen) {
		t.Error("a refused App was noted as seen")
	}
	return next
}

func accepted(t *testing.T, trust publisher.Trust, app spare.App, required bool) (publisher.Trust, publisher.Verdict) {
	t.Helper()
	next, v, err := trust.Judge(app, now, required)
	if err != nil {
		t.Fatalf("judged %v, want it to run", err)
	}
	return next, v
}

func TestTrust_SignedAppRuns(t *testing.T) {
	k := newKey(t)
	app := signedApp(t, k, 7)
	trust, v := accepted(t, pins(newKey(t), k), app, true)
	if v.Signer != k.ID() || v.Revision != 7 {
		t.Errorf("verdict %+v, want revision 7 by %s", v, k.ID())
	}
	if _, v = accepted(t, trust, app, true); v.Revision != 7 {
		t.Error("the same App does not run a second time")
	}
}

// Field study D.1, attack 1: tampered Apps.
func TestTrust_EveryFlippedByteIsRefused(t *testing.T) {
	k := newKey(t)
	app := signedApp(t, k, 1)
	trust := pins(k)
	for i := range app.Signed {
		for _, bit := range []byte{0x01, 0x20, 0x80} {
			bad := app
			bad.Signed = bytes.Clone(app.Signed)
			bad.Signed[i] ^= bit
			next, v, err := trust.Judge(bad, now, true)
			if err == nil {
				t.Fatalf("byte %d with bit %#x flipped is accepted as %+v:\n%s", i, bit, v, bad.Signed)
			}
			if !next.Equal(trust) {
				t.Fatalf("byte %d with bit %#x flipped changed what is trusted", i, bit)
			}
		}
	}
}

func TestTrust_SwappedSignatureIsRefused(t *testing.T) {
	k := newKey(t)
	one, two := signedApp(t, k, 1), signedApp(t, k, 2)
	var a, b sealed
	unmarshal(t, one.Signed, &a)
	unmarshal(t, two.Signed, &b)
	a.Signatures = b.Signatures
	one.Signed = marshal(t, a)
	refused(t, pins(k), one, publisher.ErrBadSignature)
	if _, _, err := pins(k).Judge(one, now, false); !errors.Is(err, publisher.ErrBadSignature) {
		t.Errorf("where no signature is required, a forged one of a trusted publisher is judged %v", err)
	}
}

func TestTrust_StrangersSignatureIsRefused(t *testing.T) {
	refused(t, pins(newKey(t)), signedApp(t, newKey(t), 1), publisher.ErrUnknownKey)
	refused(t, pins(), signedApp(t, newKey(t), 1), publisher.ErrUnknownKey)
}

func TestTrust_UnsignedIsRefused(t *testing.T) {
	refused(t, pins(newKey(t)), anApp(1), publisher.ErrUnsigned)
}

func TestTrust_RolledBackIsRefused(t *testing.T) {
	k := newKey(t)
	old, young := signedApp(t, k, 5), signedApp(t, k, 6)
	trust, _ := accepted(t, pins(k), old, true)
	trust, _ = accepted(t, trust, young, true)
	refused(t, trust, old, publisher.ErrRolledBack)

	// Another version is another App.
	other := anApp(1)
	other.Version = "0.2"
	other.Signed = sign(t, k, manifest(t, other, 1))
	accepted(t, trust, other, true)
}

func TestTrust_PublisherMayLetOlderRevisionsGoOn(t *testing.T) {
	k := newKey(t)
	app := func(revision int, oldest uint64) spare.App {
		a := anApp(revision)
		m := manifest(t, a, uint64(revision))
		m.Oldest = oldest
		a.Signed = sign(t, k, m)
		return a
	}
	trust, _ := accepted(t, pins(k), app(3, 0), true)
	trust, _ = accepted(t, trust, app(5, 4), true)
	refused(t, trust, app(3, 0), publisher.ErrRolledBack)
	trust, _ = accepted(t, trust, app(4, 0), true)
	trust, _ = accepted(t, trust, app(5, 4), true)
	trust, _ = accepted(t, trust, app(6, 0), true)
	refused(t, trust, app(5, 4), publisher.ErrRolledBack) // a demand does not sink again
}

// Who holds the least of the trusted keys, and the hub, must not get at another
// publisher's Apps.
func TestTrust_NameBelongsToThePublisherWhoCameFirst(t *testing.T) {
	official, least := newKey(t), newKey(t)
	const highest = 1<<31 - 1
	trust, _ := accepted(t, pins(least, official), signedApp(t, official, 5), true)
	takeover := signedApp(t, least, highest)
	trust = refused(t, trust, takeover, publisher.ErrTaken)
	next := anApp(6)
	next.Version = "0.2"
	next.Signed = sign(t, least, manifest(t, next, 1))
	trust = refused(t, trust, next, publisher.ErrTaken)
	if _, v := accepted(t, trust, takeover, false); v.Remark == "" {
		t.Errorf("where no signature is required it gets %+v, want a remark", v)
	}
	heir := rotate(t, least)
	trust = refused(t, trust, signedApp(t, heir, highest), publisher.ErrTaken)

	// The name goes along with the key, and other names are free.
	trust, _ = accepted(t, trust, signedApp(t, rotate(t, official), 6), true)
	trust = refused(t, trust, signedApp(t, heir, highest), publisher.ErrTaken)
	other := anApp(7)
	other.Name = "upright"
	other.Signed = sign(t, heir, manifest(t, other, 1))
	trust, _ = accepted(t, trust, other, true)
	other.Signed = sign(t, rotate(t, heir), manifest(t, other, 2))
	accepted(t, trust, other, true)
}

func TestTrust_TwoManifestsOfOneRevisionAreRefused(t *testing.T) {
	k := newKey(t)
	trust, _ := accepted(t, pins(k), signedApp(t, k, 5), true)
	other := anApp(99)
	other.Signed = sign(t, k, manifest(t, other, 5))
	refused(t, trust, other, publisher.ErrMixed)
}

func TestTrust_ExpiredAndFutureAreRefused(t *testing.T) {
	k := newKey(t)
	for _, c := range []struct {
		name            string
		issued, expires time.Duration
		want            error
	}{
		{"good", -time.Hour, time.Hour, nil},
		{"expired within the clock's error", -48 * time.Hour, -23 * time.Hour, nil},
		{"expired", -48 * time.Hour, -25 * time.Hour, publisher.ErrExpired},
		{"issued within the clock's error", 23 * time.Hour, 48 * time.Hour, nil},
		{"not yet valid", 25 * time.Hour, 48 * time.Hour, publisher.ErrNotYetValid},
	} {
		t.Run(c.name, func(t *testing.T) {
			app := anApp(1)
			m := manifest(t, app, 1)
			m.Issued, m.Expires = now.Add(c.issued), now.Add(c.expires)
			app.Signed = sign(t, k, m)
			if _, _, err := pins(k).Judge(app, now, true); !errors.Is(err, c.want) {
				t.Errorf("judged %v, want %v", err, c.want)
			}
		})
	}
}

func TestTrust_MixedContentIsRefused(t *testing.T) {
	k := newKey(t)
	for name, change := range map[string]func(*spare.App){
		"bundle of another revision": func(a *spare.App) { a.Bundle, a.BundleSize = anApp(2).Bundle, anApp(2).BundleSize },
		"bundle digest":              func(a *spare.App) { a.Bundle = spare.Sum([]byte("evil")) },
		"bundle size":                func(a *spare.App) { a.BundleSize++ },
		"entrypoint":                 func(a *spare.App) { a.Entrypoint = "evil.py" },
		"root folder":                func(a *spare.App) { a.Root = "." },
		"name":                       func(a *spare.App) { a.Name = "upright" },
		"version":                    func(a *spare.App) { a.Version = "0.2" },
		"kind":                       func(a *spare.App) { a.Kind = spare.KindPartitioner },
		"platform":                   func(a *spare.App) { a.Environment.Platform = spare.PlatformContainer },
		"image":                      func(a *spare.App) { a.Environment.Image = "example.org/evil@sha256:" + string(spare.Sum(nil)) },
		"runtime":                    func(a *spare.App) { a.Environment.Runtime = "engine" },
		"network":                    func(a *spare.App) { a.Environment.Outbound = true },
		"gpu":                        func(a *spare.App) { a.Environment.GPU = true },
		"models of a GPU":            func(a *spare.App) { a.Needs.GPU = []string{"RTX 4090"} },
		"requirements taken away":    func(a *spare.App) { a.Needs = spare.Requirements{} },
		"tools":                      func(a *spare.App) { a.Needs.Tools = []string{"ffmpeg"} },
		"systems":                    func(a *spare.App) { a.Needs.OS, a.Needs.Arch = []string{"linux"}, []string{"amd64"} },
		"memory":                     func(a *spare.App) { a.Needs.MinMemory = 0.5 },
		"platform_config":            func(a *spare.App) { a.Config = json.RawMessage(`{"network": "outbound"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			app := signedApp(t, k, 1)
			change(&app)
			refused(t, pins(k), app, publisher.ErrMixed)
			if _, _, err := pins(k).Judge(app, now, false); !errors.Is(err, publisher.ErrMixed) {
				t.Errorf("where no signature is required, it is judged %v", err)
			}
		})
	}
}

func TestTrust_RegistryCredentialsAreNotSigned(t *testing.T) {
	k := newKey(t)
	app := signedApp(t, k, 1)
	var e struct{ Payload []byte }
	unmarshal(t, app.Signed, &e)
	if bytes.Contains(e.Payload, []byte("s3cret")) || bytes.Contains(e.Payload, []byte("ann")) {
		t.Errorf("credentials are in the signed manifest: %s", e.Payload)
	}
	app.Config = json.RawMessage(`{"container":"example.org/python:3","Token":"another","network":"none"}`)
	accepted(t, pins(k), app, true)
}

func TestTrust_JobMayCallForTools(t *testing.T) {
	k := newKey(t)
	app := signedApp(t, k, 1)
	app.Environment.Native = true
	accepted(t, pins(k), app, true)
}

func TestTrust_WithoutRequirementOthersRunToo(t *testing.T) {
	k := newKey(t)
	trust := pins(k)
	if _, v := accepted(t, trust, anApp(1), false); v.Signer != "" || v.Remark != "" {
		t.Errorf("an unsigned App gets %+v", v)
	}
	if _, v := accepted(t, trust, signedApp(t, newKey(t), 1), false); v.Signer != "" || v.Remark == "" {
		t.Errorf("a stranger's App gets %+v, want a remark", v)
	}
	trust, _ = accepted(t, trust, signedApp(t, k, 2), false)
	if _, v := accepted(t, trust, signedApp(t, k, 1), false); v.Signer != "" || v.Remark == "" {
		t.Errorf("an older revision gets %+v, want a remark and no publisher", v)
	}
}

func TestTrust_FollowsRotationsAndRefusesTheOldKey(t *testing.T) {
	first := newKey(t)
	second := rotate(t, first)
	third := rotate(t, second)
	before, trust := signedApp(t, first, 1), pins(first)
	trust, _ = accepted(t, trust, before, true)

	trust, v := accepted(t, trust, signedApp(t, third, 2), true) // two steps at once
	if v.Signer != third.ID() {
		t.Errorf("signer %s, want %s", v.Signer, third.ID())
	}
	for name, k := range map[string]*publisher.Key{"first": first, "second": second} {
		t.Run(name+" key is retired", func(t *testing.T) {
			refused(t, trust, signedApp(t, k, 3), publisher.ErrRetiredKey)
		})
	}
	refused(t, trust, before, publisher.ErrRetiredKey) // revision 2 ran
}

func TestTrust_WhatRanLastGoesOnUnderARetiredKey(t *testing.T) {
	first := newKey(t)
	running := signedApp(t, first, 1)
	trust, _ := accepted(t, pins(first), running, true)
	other := anApp(1)
	other.Name = "other"
	other.Signed = sign(t, rotate(t, first), manifest(t, other, 1))
	trust, _ = accepted(t, trust, other, true) // brings the rotation
	accepted(t, trust, running, true)
	refused(t, trust, signedApp(t, first, 2), publisher.ErrRetiredKey)
}

func TestTrust_RotationCountsEvenWhenItsAppIsRefused(t *testing.T) {
	first := newKey(t)
	bad := signedApp(t, rotate(t, first), 1)
	bad.Entrypoint = "evil.py"
	trust := refused(t, pins(first), bad, publisher.ErrMixed)
	refused(t, trust, signedApp(t, first, 1), publisher.ErrRetiredKey)
}

func TestTrust_ForkedRotationIsRefused(t *testing.T) {
	first := newKey(t)
	honest, thief := rotate(t, first), rotate(t, first)
	trust, _ := accepted(t, pins(first), signedApp(t, honest, 1), true)
	refused(t, trust, signedApp(t, thief, 2), publisher.ErrForked)
	if _, _, err := trust.Judge(signedApp(t, thief, 2), now, false); !errors.Is(err, publisher.ErrForked) {
		t.Errorf("where no signature is required, it is judged %v", err)
	}
	accepted(t, trust, signedApp(t, honest, 2), true)
}

func TestTrust_StrangersRotationChangesNothing(t *testing.T) {
	pinned := newKey(t)
	thief := rotate(t, newKey(t))
	trust := pins(pinned)
	if next := refused(t, trust, signedApp(t, thief, 1), publisher.ErrUnknownKey); !next.Equal(trust) {
		t.Error("a stranger's rotation changed what is trusted")
	}
}

func TestTrust_RotationNeedsTheOldKeysSignature(t *testing.T) {
	pinned := newKey(t)
	app := signedApp(t, rotate(t, pinned), 1)
	var e sealed
	unmarshal(t, app.Signed, &e)
	old, young := e.Rotations[0].Signatures[0], e.Rotations[0].Signatures[1]
	for name, c := range map[string]struct {
		left []signedBy
		want error
	}{
		"both are there":      {[]signedBy{old, young}, nil},
		"old key's missing":   {[]signedBy{young}, publisher.ErrUnknownKey},
		"new key's missing":   {[]signedBy{old}, publisher.ErrBadSignature},
		"old key's is forged": {[]signedBy{{pinned.ID(), young.Sig}, young}, publisher.ErrBadSignature},
	} {
		t.Run(name, func(t *testing.T) {
			e.Rotations[0].Signatures = c.left
			bad := app
			bad.Signed = marshal(t, e)
			trust := pins(pinned)
			next, _, err := trust.Judge(bad, now, true)
			if !errors.Is(err, c.want) {
				t.Errorf("judged %v, want %v", err, c.want)
			}
			if c.want != nil && !next.Equal(trust) {
				t.Error("what is trusted has changed")
			}
		})
	}
}

func TestTrust_PinnedAfterARotationFollowsTheNext(t *testing.T) {
	first := newKey(t)
	second := rotate(t, first)
	trust, _ := accepted(t, pins(second), signedApp(t, second, 1), true)
	trust, _ = accepted(t, trust, signedApp(t, rotate(t, second), 2), true)
	refused(t, trust, signedApp(t, second, 3), publisher.ErrRetiredKey)
	refused(t, trust, signedApp(t, first, 3), publisher.ErrUnknownKey)
}

func TestTrust_OneKindOfStatementIsNoOther(t *testing.T) {
	k := newKey(t)
	app := signedApp(t, rotate(t, k), 1)
	var e struct{ Rotations []json.RawMessage }
	unmarshal(t, app.Signed, &e)
	app.Signed = e.Rotations[0]
	refused(t, pins(k), app, publisher.ErrMalformed)
}

func TestTrust_SurvivesJSON(t *testing.T) {
	first := newKey(t)
	trust, _ := accepted(t, pins(first, newKey(t)), signedApp(t, rotate(t, first), 3), true)
	var back publisher.Trust
	unmarshal(t, marshal(t, trust), &back)
	if !back.Equal(trust) {
		t.Errorf("written as %s, read as %+v", marshal(t, trust), back)
	}
}

func TestSign_RefusesWhatIsNoStatement(t *testing.T) {
	k := newKey(t)
	for name, change := range map[string]func(*publisher.Manifest){
		"no revision":        func(m *publisher.Manifest) { m.Revision = 0 },
		"revision too large": func(m *publisher.Manifest) { m.Revision = 1 << 60 },
		"oldest above it":    func(m *publisher.Manifest) { m.Oldest = m.Revision + 1 },
		"image by tag":       func(m *publisher.Manifest) { m.Environment.Image = "python:3.12" },
		"no bundle":          func(m *publisher.Manifest) { m.Bundle = "" },
		"no time":            func(m *publisher.Manifest) { m.Expires = m.Issued },
		"credentials":        func(m *publisher.Manifest) { m.Config = json.RawMessage(`{"token":"x"}`) },
		"no name":            func(m *publisher.Manifest) { m.Name = "" },
		"no version":         func(m *publisher.Manifest) { m.Version = "" },
		"no entrypoint":      func(m *publisher.Manifest) { m.Entrypoint = "" },
		"no kind":            func(m *publisher.Manifest) { m.Kind = "" },
	} {
		t.Run(name, func(t *testing.T) {
			m := manifest(t, anApp(1), 1)
			change(&m)
			if _, err := publisher.Sign(k, m); err == nil {
				t.Error("it is signed")
			}
		})
	}
}

func TestSign_IsDeterministic(t *testing.T) {
	k := newKey(t)
	a, b := sign(t, k, manifest(t, anApp(1), 1)), sign(t, k, manifest(t, anApp(1), 1))
	if !bytes.Equal(a, b) {
		t.Errorf("signed twice:\n%s\n%s", a, b)
	}
}

func TestConfig_IsCanonical(t *testing.T) {
	for in, want := range map[string]string{
		``:                                    ``,
		`null`:                                ``,
		` {} `:                                ``,
		`{"token": "x", "user-name": "y"}`:    ``,
		`{"b": 1.50, "a": [ "<" ], "c":null}`: `{"a":["<"],"b":1.50}`,
		`{"registry": {"Password": 1, "host": "h"}}`: `{"registry":{"host":"h"}}`,
	} {
		got, err := publisher.Config(json.RawMessage(in))
		if err != nil || string(got) != want {
			t.Errorf("Config(%s) = %s, %v; want %s", in, got, err, want)
		}
	}
	for _, bad := range []string{`{`, `[]`, `{} {}`, strings.Repeat(`{"a":`, 40) + `1` + strings.Repeat(`}`, 40)} {
		if got, err := publisher.Config(json.RawMessage(bad)); err == nil {
			t.Errorf("Config(%.30s) = %s, want an error", bad, got)
		}
	}
}

func TestNextRevision_AlwaysRises(t *testing.T) {
	if n := publisher.NextRevision(0, now); n != uint64(now.Unix()) {
		t.Errorf("the first is %d", n)
	}
	if n := publisher.NextRevision(uint64(now.Unix()), now); n != uint64(now.Unix())+1 {
		t.Errorf("within the same second it is %d", n)
	}
	if n := publisher.NextRevision(3, time.Unix(-5, 0)); n != 4 {
		t.Errorf("with a broken clock it is %d", n)
	}
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func unmarshal(t testing.TB, raw []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatal(err)
	}
}
