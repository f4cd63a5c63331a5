package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/apps"
	"github.com/spare-compute/spare/client"
	"github.com/spare-compute/spare/egress"
	"github.com/spare-compute/spare/hub/catalog"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/publisher"
)

// signing is what the flags say about how to sign.
type signing struct {
	keyFile   string
	goodFor   time.Duration
	revision  uint64
	keepOlder uint64
}

func (s *signing) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.keyFile, "publisher-key", "", "file of the publisher's private key (SPARE_PUBLISHER_KEY; default: where `spare publisher new` puts it)")
	f.DurationVar(&s.goodFor, "good-for", catalog.SignedFor, "how long nodes take the signature")
	f.Uint64Var(&s.revision, "signed-revision", 0, "revision to sign as; it must rise (default: the seconds since 1970)")
	f.Uint64Var(&s.keepOlder, "keep-older", 0, "let earlier revisions from `REVISION` on run on, for jobs that pinned them; nodes refuse them otherwise once they have run the new one. The number is yours to know, from when you signed it: a hub could name one with a hole")
}

// publisherKey finds the private key: the flag wins over the environment.
func (c *cli) publisherKey(file string) (*publisher.Key, error) {
	file, err := c.publisherFile(file)
	if err != nil {
		return nil, err
	}
	key, err := publisher.ReadKey(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usage("there is no publisher's key in %s: make one with `spare publisher new`, or name its file with --publisher-key", file)
	}
	if err == nil && key.Exposed() {
		c.note(fmt.Sprintf("everybody on this machine may read the publisher's key %s, as its file system keeps no modes: take the medium away when you are done", file))
	}
	return key, err
}

func (c *cli) publisherFile(file string) (string, error) {
	if file = firstOf(file, c.env("SPARE_PUBLISHER_KEY")); file != "" {
		return file, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", usage("no place for a publisher's key is known here; name its file with --publisher-key")
	}
	return filepath.Join(dir, "spare", "publisher.key"), nil
}

// sign signs an App's folder as the hub will store it. The hub is asked for nothing but
// the last revision, so as to exceed it: all else that is signed is read here.
func (c *cli) sign(ctx context.Context, cl *client.Client, folder string, s signing) (spare.App, error) {
	key, err := c.publisherKey(s.keyFile)
	if err != nil {
		return spare.App{}, err
	}
	if s.goodFor <= 0 {
		return spare.App{}, usage("--good-for %v: want a time to come, such as 8760h", s.goodFor)
	}
	app, err := catalog.Inspect(folder, spare.KindApp)
	if err != nil {
		return app, fmt.Errorf("sign %s: %w", folder, err)
	}
	if err := c.pinImage(ctx, &app, folder); err != nil {
		return app, err
	}
	last, err := c.lastSigned(ctx, cl, app.Tag())
	if err != nil {
		return app, err
	}
	m, err := publisher.Of(app)
	if err != nil {
		return app, fmt.Errorf("sign %s: %w", folder, err)
	}
	now := time.Now()
	m.Issued, m.Expires = now, now.Add(s.goodFor)
	switch {
	case s.revision > 0:
		m.Revision = s.revision
	case last > uint64(now.Add(24*time.Hour).Unix()):
		return app, usage("the hub says that %s was signed as revision %d, which is no time before now: see that nobody has your key, and say --signed-revision", app.Tag(), last)
	default:
		m.Revision = publisher.NextRevision(last, now)
	}
	if m.Oldest = s.keepOlder; m.Oldest > m.Revision {
		return app, usage("--keep-older %d: %s is signed as revision %d, and that one is later", m.Oldest, app.Tag(), m.Revision)
	}
	app.Signed, err = publisher.Sign(key, m)
	return app, err
}

// lastSigned is the revision that a version was last signed as, 0 if it never was.
func (c *cli) lastSigned(ctx context.Context, cl *client.Client, tag string) (uint64, error) {
	have, _, err := cl.App(ctx, client.Apps, tag)
	if client.IsNotFound(err) || (err == nil && (have.Tag != tag || have.Signature == nil)) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return have.Signature.Revision, nil
}

// pinImage finds the digest of the image that an App names by a tag: that is what is
// signed, whatever the tag means later.
func (c *cli) pinImage(ctx context.Context, app *spare.App, folder string) error {
	if app.Environment.Image == "" {
		return nil
	}
	ref, err := image.ParseRef(app.Environment.Image)
	if err != nil {
		return usage("sign %s: %w", folder, err)
	}
	if ref.Digest != "" {
		return nil
	}
	// Whoever signs chose the image, and may have it on their own network.
	everywhere := egress.Rule{Allow: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
	cred, err := catalog.Credential(*app)
	if err != nil {
		return fmt.Errorf("sign %s: %w", folder, err)
	}
	pinned, err := image.NewRegistries(image.RegistryOptions{Rule: everywhere}).Resolve(ctx, ref, cred)
	if err != nil {
		return fmt.Errorf("sign %s: find the digest of %w; write it in platform_config.container as NAME@sha256:…", folder, err)
	}
	app.Environment.Image = pinned.String()
	c.note(fmt.Sprintf("image %s is signed as %s", ref, pinned))
	return nil
}

func (c *cli) appSign() *cobra.Command {
	var s signing
	var official bool
	cmd := &cobra.Command{
		Use: "sign FOLDER | sign --official", Short: "Sign what the hub has already", Args: args("[FOLDER]"),
		Long: `sign signs an App's FOLDER and gives the signature to the version of it that the hub
has, if that has this very content. --official does so for the Apps that come with this
program's release, where the hub has no key any more to sign them itself. What is signed
is always what lies here, not what the hub says it has.`,
		Example: "  spare app sign ./hello-world\n  spare app sign --official --publisher-key /media/stick/publisher.key",
		RunE: func(_ *cobra.Command, given []string) error {
			if official == (len(given) == 1) {
				return usage("spare app sign needs a FOLDER or --official")
			}
			return c.do(func(ctx context.Context, cl *client.Client) error {
				if !official {
					return c.signStored(ctx, cl, given[0], s)
				}
				return c.signOfficial(ctx, cl, s)
			})
		},
	}
	s.flags(cmd)
	cmd.Flags().BoolVar(&official, "official", false, "the Apps that come with this release")
	return cmd
}

func (c *cli) signStored(ctx context.Context, cl *client.Client, folder string, s signing) error {
	app, err := c.sign(ctx, cl, folder, s)
	if err != nil {
		return err
	}
	signed, err := cl.Sign(ctx, client.Apps, app.Tag(), app.Signed)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(signed)
	}
	_, err = fmt.Fprintf(c.out, "%s revision %s is signed%s\n", signed.Tag, signed.Revision, signedBy(signed))
	return err
}

// signedBy says who signed an App, "" if nobody did.
func signedBy(a client.App) string {
	if a.Signature == nil {
		return ""
	}
	return fmt.Sprintf(" by publisher %s as revision %d, good until %s",
		publisher.ID(a.Signature.Publisher).Short(), a.Signature.Revision, a.Signature.Expires.Format(time.DateOnly))
}

func (c *cli) signOfficial(ctx context.Context, cl *client.Client, s signing) error {
	entries, err := fs.ReadDir(apps.FS, ".")
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "spare-official-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	var failed []error
	for _, e := range entries {
		if _, err := fs.Stat(apps.FS, e.Name()+"/manifest.json"); err != nil {
			continue
		}
		sub, err := fs.Sub(apps.FS, e.Name())
		if err != nil {
			return err
		}
		folder := filepath.Join(work, e.Name())
		if err := os.CopyFS(folder, sub); err != nil {
			return err
		}
		if err := c.signStored(ctx, cl, folder, s); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", e.Name(), err))
		}
	}
	return errors.Join(failed...)
}

func (c *cli) publisherCommand() *cobra.Command {
	return group("publisher", "Make and show the key that you sign Apps with", c.publisherNew(), c.publisherShow(), c.publisherRotate())
}

func (c *cli) publisherNew() *cobra.Command {
	return &cobra.Command{
		Use: "new [FILE]", Short: "Make a publisher's key", Args: args("[FILE]"),
		Long: `new makes a key for signing Apps and prints its public half, which a hub's operator adds
with "spare-hub publisher add". Who has the private half can have code run on every node
that trusts it: keep a copy where no hub and no network can reach it.`,
		Example: "  spare publisher new\n  spare publisher new /media/stick/publisher.key",
		RunE: func(_ *cobra.Command, given []string) error {
			file, err := c.publisherFile(firstOf(given...))
			if err != nil {
				return err
			}
			key, err := publisher.NewKey()
			if err != nil {
				return err
			}
			if err := saveKey(key, file); err != nil {
				return err
			}
			c.note("the private key is in " + file)
			return c.showPublic(key)
		},
	}
}

func saveKey(key *publisher.Key, file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	err := key.Save(file)
	if errors.Is(err, fs.ErrExist) {
		return usage("%s exists, and a key that is written over is lost: name another file", file)
	}
	return err
}

func (c *cli) showPublic(key *publisher.Key) error {
	text, err := key.Public().Text()
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(map[string]any{"id": key.ID(), "key": key.Public().Key, "public": string(text)})
	}
	_, err = c.out.Write(text)
	return err
}

func (c *cli) publisherShow() *cobra.Command {
	return &cobra.Command{
		Use: "show [FILE]", Short: "Print a key's public half", Args: args("[FILE]"),
		Example: "  spare publisher show > publisher.pub",
		RunE: func(_ *cobra.Command, given []string) error {
			key, err := c.publisherKey(firstOf(given...))
			if err != nil {
				return err
			}
			return c.showPublic(key)
		},
	}
}

func (c *cli) publisherRotate() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "rotate NEWFILE [--publisher-key FILE]", Short: "Make the key that takes a key's place", Args: args("a NEWFILE for the new key"),
		Long: `rotate makes a new key, which the old one signs for, and prints its public half. Nodes
follow once they see anything that the new key signed, and refuse the old one from then
on. Have operators add the new public half ("spare-hub publisher add"), and sign your Apps
anew. Do it soon if the old key may be in other hands: nodes follow whoever comes first.`,
		Example: "  spare publisher rotate publisher-2.key --publisher-key publisher.key > publisher.pub",
		RunE: func(_ *cobra.Command, given []string) error {
			old, err := c.publisherKey(file)
			if err != nil {
				return err
			}
			key, err := old.Rotate(time.Now())
			if err != nil {
				return err
			}
			if err := saveKey(key, given[0]); err != nil {
				return err
			}
			c.note(fmt.Sprintf("key %s takes the place of %s and is in %s", key.ID().Short(), old.ID().Short(), given[0]))
			return c.showPublic(key)
		},
	}
	cmd.Flags().StringVar(&file, "publisher-key", "", "file of the key to replace (SPARE_PUBLISHER_KEY)")
	return cmd
}
