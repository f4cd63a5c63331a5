package publisher_test

import (
	"testing"

	"github.com/spare-compute/spare/publisher"
)

// Whatever arrives, nothing passes that the pinned key did not sign, and what is trusted
// does not change.
func FuzzTrust_Judge(f *testing.F) {
	pinned := newKey(f)
	stranger := rotate(f, newKey(f))
	f.Add([]byte(nil))
	f.Add([]byte(`{"payloadType":"application/vnd.spare.app-manifest.v1+json","payload":"e30=","signatures":[{"keyid":"x","sig":"AA=="}]}`))
	f.Add(signedApp(f, stranger, 1).Signed)
	f.Add(signedApp(f, rotate(f, stranger), 2).Signed)
	trust := pins(pinned)
	f.Fuzz(func(t *testing.T, signed []byte) {
		app := anApp(1)
		app.Signed = signed
		next, v, err := trust.Judge(app, now, true)
		if err == nil {
			t.Fatalf("accepted as %+v", v)
		}
		if !next.Equal(trust) {
			t.Fatal("what is trusted has changed")
		}
		if m, _, err := publisher.Peek(signed); err == nil {
			_ = m.Covers(app)
		}
	})
}

// A key file that is read says what it said when it is written again.
func FuzzParsePublic(f *testing.F) {
	for _, k := range []*publisher.Key{newKey(f), rotate(f, newKey(f))} {
		text, err := k.Public().Text()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := publisher.ParsePublic(raw)
		if err != nil {
			return
		}
		text, err := p.Text()
		if err != nil {
			t.Fatal(err)
		}
		back, err := publisher.ParsePublic(text)
		if err != nil || back.ID() != p.ID() {
			t.Fatalf("%q is read as %s, written as %q, and read as %s, %v", raw, p.ID(), text, back.ID(), err)
		}
	})
}
