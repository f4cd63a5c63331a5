package catalog

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/publisher"
)

// SignedFor is how long the hub's own signatures are good. They are renewed at a start
// of the hub once half of that is over, as long as the key is there.
const SignedFor = 365 * 24 * time.Hour

// Inspect reads an App's or engine's folder as a push of it would, and packs it: what a
// publisher signs. An image stays as it is named.
func Inspect(dir string, kind spare.Kind) (spare.App, error) {
	f, err := openFolder(dir, kind)
	if err != nil {
		return spare.App{}, err
	}
	defer f.root.Close()
	if err := errors.Join(f.readRest(), runnable(f.app)); err != nil {
		return spare.App{}, err
	}
	work, err := os.MkdirTemp("", "spare-sign-*")
	if err != nil {
		return spare.App{}, err
	}
	defer os.RemoveAll(work)
	packed, digest, err := pack(f, work)
	if err != nil {
		return spare.App{}, err
	}
	info, err := os.Stat(packed)
	if err != nil {
		return spare.App{}, err
	}
	f.app.Bundle, f.app.BundleSize = digest, info.Size()
	return f.app, nil
}

// Credential is the way into the registry of an App's image, as its platform_config says.
func Credential(app spare.App) (image.Credential, error) {
	w, err := readEnvironment("platform_config", app)
	return image.Credential{Username: w.username, Token: w.token}, err
}

// Attach gives a version that is stored already its publisher's signed manifest. It
// becomes a new revision with the same content.
func (c *Catalog) Attach(ctx context.Context, kind spare.Kind, tag string, signed []byte) (spare.App, error) {
	app, err := c.Resolve(ctx, kind, tag)
	if err != nil {
		return spare.App{}, err
	}
	if len(signed) == 0 {
		return app, refuse("there is no signature to attach to %s %s", word(kind), app.Tag())
	}
	next := app
	next.Signed = signed
	adoptImage(&next)
	if err := c.verify(next, &app); err != nil {
		return app, err
	}
	if bytes.Equal(app.Signed, signed) {
		return app, nil
	}
	next.UpdatedAt = time.Now().UTC()
	if next, err = c.store.PutApp(ctx, next); err != nil {
		return app, fmt.Errorf("store the signature of %s %s: %w", word(kind), app.Tag(), err)
	}
	return next, nil
}

// vouch settles who signs for what is about to be stored: who pushed it, or the hub
// itself for the Apps that come with it. have is the version that it replaces, if any.
func (c *Catalog) vouch(f *folder, have *spare.App) (warnings []string, err error) {
	switch {
	case len(f.app.Signed) > 0:
		return nil, c.verify(f.app, have)
	case f.app.Owner == Official && c.key != nil:
		return nil, c.sign(&f.app, have)
	case len(c.publishers()) == 0:
		return nil, nil // nobody signs anything here
	}
	for _, t := range f.templates {
		if name, err := pool(t); err == nil && name != DefaultPool && f.means(t.App) {
			warnings = append(warnings, unsigned(f.app, name))
		}
	}
	if have != nil && len(have.Signed) > 0 {
		warnings = append(warnings, fmt.Sprintf("the revision of %s before this one was signed and this one is not: nodes that require signatures will refuse it; push it with --sign", f.app.Tag()))
	}
	return warnings, nil
}

func unsigned(app spare.App, pool string) string {
	return fmt.Sprintf("%s is not signed, and nodes of pool %s refuse what is not; push it with --sign", app.Tag(), pool)
}

// Unsigned is a warning for who lets an App take jobs, "" if there is nothing to warn of:
// nodes of a pool that one of its templates names will refuse it.
func (c *Catalog) Unsigned(ctx context.Context, app spare.App) (string, error) {
	if len(app.Signed) > 0 || app.Kind != spare.KindApp || len(c.publishers()) == 0 {
		return "", nil
	}
	all, err := c.store.Templates(ctx)
	if err != nil {
		return "", err
	}
	for _, t := range all {
		tag, err := spare.ParseTag(t.App)
		if err != nil || tag.Name != app.Name {
			continue
		}
		v, err := spare.ParseVersion(app.Version)
		if err != nil || !tag.Matches(v) {
			continue
		}
		if name, err := pool(t); err == nil && name != DefaultPool {
			return unsigned(app, name), nil
		}
	}
	return "", nil
}

// UnsignedIn is the same warning for who runs a job.
func (c *Catalog) UnsignedIn(plan spare.Plan) string {
	if len(plan.App.Signed) > 0 || plan.Pool == "" || plan.Pool == DefaultPool || len(c.publishers()) == 0 {
		return ""
	}
	return unsigned(plan.App, plan.Pool)
}

// verify holds a signed manifest against the App it came with. have is what is stored of
// that version, if anything.
func (c *Catalog) verify(app spare.App, have *spare.App) error {
	st, _, err := publisher.Verify(app.Signed, c.publishers(), time.Now())
	if errors.Is(err, publisher.ErrUnknownKey) {
		_, id, _ := publisher.Peek(app.Signed)
		return &Refused{Sentence: fmt.Sprintf("the signature of %s is by publisher key %s, which this hub does not know; have its operator add it (spare-hub publisher add)", app.Tag(), id.Short()), Err: err}
	}
	if err == nil {
		err = st.Covers(app)
	}
	if err != nil {
		return &Refused{Sentence: fmt.Sprintf("the signature of %s is refused: %v; sign this very folder with this program's release and push it again", app.Tag(), err), Err: err}
	}
	last := signedRevision(have)
	if st.Revision > last || have != nil && bytes.Equal(have.Signed, app.Signed) {
		return nil
	}
	return refuse("%s is signed as revision %d, and the last signed one here is revision %d; nodes would take it for an attempt to roll back, so sign it with a higher one", app.Tag(), st.Revision, last)
}

// signedRevision is the publisher's revision of a stored App, 0 if it has none.
func signedRevision(app *spare.App) uint64 {
	if app == nil || len(app.Signed) == 0 {
		return 0
	}
	m, _, err := publisher.Peek(app.Signed)
	if err != nil {
		return 0
	}
	return m.Revision
}

// sign signs for an App with the hub's own key. The revision before it may still run:
// jobs that pinned it go on when a new release of the hub brings a new one.
func (c *Catalog) sign(app, have *spare.App) error {
	if i := app.Environment.Image; i != "" && !strings.Contains(i, "@sha256:") {
		c.log.Warn("an official App is not signed: its image could not be looked up", "app", app.Tag(), "image", i)
		return nil // the next start tries again
	}
	m, err := publisher.Of(*app)
	if err != nil {
		return fmt.Errorf("sign %s: %w", app.Tag(), err)
	}
	now := time.Now()
	m.Oldest = signedRevision(have)
	m.Revision = publisher.NextRevision(m.Oldest, now)
	m.Issued, m.Expires = now, now.Add(SignedFor)
	app.Signed, err = publisher.Sign(c.key, m)
	return err
}

// renew signs an official App that is stored already, if its signature is missing, by a
// key that was replaced, or half over. Without the key it says what to do.
func (c *Catalog) renew(ctx context.Context, have spare.App) error {
	now := time.Now()
	st, _, err := publisher.Verify(have.Signed, c.publishers(), now)
	if err == nil {
		err = st.Covers(have)
	}
	if c.key == nil {
		if len(c.publishers()) > 0 && (err != nil || now.Add(30*24*time.Hour).After(st.Expires)) {
			c.log.Warn("nodes of volunteers refuse this official App, or soon will: sign it where the publisher key is, with \"spare app sign --official\"",
				"app", have.Tag(), "reason", cmp.Or(err, errors.New("its signature expires soon")))
		}
		return nil
	}
	if err == nil && st.Signer == c.key.ID() && now.Add(SignedFor/2).Before(st.Expires) {
		return nil
	}
	if err := c.sign(&have, &have); err != nil {
		return err
	}
	have.UpdatedAt = now.UTC()
	if have, err = c.store.PutApp(ctx, have); err != nil {
		return fmt.Errorf("store the signature of %s: %w", have.Tag(), err)
	}
	c.log.Info("signed official App", "app", have.Tag(), "revision", have.Revision, "publisher", c.key.ID().Short())
	return nil
}

// adoptImage takes the digest of an App's image from what its publisher signed, if that
// is for the image that the App names: a tag may mean another one by now.
func adoptImage(app *spare.App) {
	m, _, err := publisher.Peek(app.Signed)
	if err != nil || m.Environment.Image == "" {
		return
	}
	w, err := readEnvironment("platform_config", *app)
	if err != nil || w.Image == "" {
		return
	}
	_, want, _ := strings.Cut(w.Image, "@")
	_, have, _ := strings.Cut(m.Environment.Image, "@")
	if want == have || want == "" && repository(m.Environment.Image) == repository(w.Image) {
		app.Environment.Image = m.Environment.Image
	}
}

// repository is an image's name in full, without tag and digest.
func repository(name string) string {
	ref, err := image.ParseRef(name)
	if err != nil {
		return name
	}
	full := ref.Name
	if slash, colon := strings.LastIndexByte(full, '/'), strings.LastIndexByte(full, ':'); colon > slash {
		full = full[:colon]
	}
	return full
}

// publishers are those that the hub knows now.
func (c *Catalog) publishers() []publisher.Pin {
	if c.trusted == nil {
		return nil
	}
	return c.trusted()
}

// ForgetKey makes the catalogue sign no more: the key is needed at the start alone, and
// what is not in memory cannot be taken from it.
func (c *Catalog) ForgetKey() { c.key = nil }
