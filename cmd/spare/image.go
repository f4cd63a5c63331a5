package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare/client"
	"github.com/spare-compute/spare/egress"
	"github.com/spare-compute/spare/image"
)

func (c *cli) imageCommand() *cobra.Command {
	return group("image", "Keep images on the hub, for nodes that reach no registry",
		c.imagePush(), c.imageList(), c.imageRemove())
}

// imageFrom is where a push takes an image from.
type imageFrom struct {
	username, token string
	platforms       []string
}

func (c *cli) imagePush() *cobra.Command {
	var from imageFrom
	cmd := &cobra.Command{
		Use: "push NAME [ARCHIVE | FOLDER | REGISTRY-NAME]", Short: "Put an image on the hub under its usual name",
		Args: args("the image's NAME", "[ARCHIVE | FOLDER | REGISTRY-NAME]"),
		Long: `push puts an image on the hub. Apps that name it get it from there: no node needs a registry.

It is taken from an archive that ` + "`docker save` or `podman save`" + ` wrote (their own format or OCI's),
a folder in OCI's layout, a folder with a root file system, or a registry; without a second
argument, from the registry that NAME points to. Of an image for several platforms all are
taken, or those that --platform names. What the hub has already is not sent again, and a push
that was cut goes on where it stopped.

A private registry's password or token comes from --token or SPARE_REGISTRY_TOKEN. Proxies are
taken from HTTPS_PROXY and HTTP_PROXY.`,
		Example: `  docker save tools:1 -o tools.tar
  spare image push tools:1 tools.tar
  spare image push tools:1 ./rootfs
  spare image push registry.example:5000/tools:1
  spare image push tools:1 registry.example:5000/tools@sha256:… --platform linux/arm64`,
		RunE: func(_ *cobra.Command, given []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				return c.pushImage(ctx, cl, given, from)
			})
		},
	}
	cmd.Flags().StringVar(&from.username, "username", "", "user name for the registry")
	cmd.Flags().StringVar(&from.token, "token", "", "password or token for the registry (SPARE_REGISTRY_TOKEN)")
	cmd.Flags().StringSliceVar(&from.platforms, "platform", nil, "take these platforms alone, as linux/arm64")
	return cmd
}

func (c *cli) pushImage(ctx context.Context, cl *client.Client, given []string, from imageFrom) error {
	name, where := given[0], given[len(given)-1]
	if ref, err := image.ParseRef(name); err != nil {
		return usage("%w", err)
	} else if ref.Digest != "" && len(given) > 1 {
		return usage("the image's name on the hub, %s, has a digest; leave it out", name)
	}
	if from.token == "" {
		from.token = c.env("SPARE_REGISTRY_TOKEN")
	}
	content, err := from.open(ctx, where)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	parts := make([]client.ImagePart, 0, len(content.Blobs))
	for _, b := range content.Blobs {
		parts = append(parts, client.ImagePart{Digest: b.Digest, Size: b.Size, Read: reader(content, b)})
	}
	name, _, _ = strings.Cut(name, "@")
	im, err := cl.PushImage(ctx, name, content.Digest, parts, c.imageProgress())
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(im)
	}
	_, err = fmt.Fprintf(c.out, "%s is on the hub: %s, %s, %s\n", im.Name, strings.Join(im.Platforms, " "), size(im.Size), im.Digest)
	return err
}

// imageProgress shows on a terminal how far a push is.
func (c *cli) imageProgress() func(there, total int64) {
	if !c.live {
		return nil
	}
	last := int64(-1)
	return func(there, total int64) {
		if percent := there * 100 / max(total, 1); percent != last {
			last = percent
			fmt.Fprintf(c.err, "\r%3d %% of %s", percent, size(total))
			if there == total {
				fmt.Fprint(c.err, "\r\033[K")
			}
		}
	}
}

// reader reads a part of an image. Manifests are asked for in their own way.
func reader(content *image.Content, b image.Blob) func(context.Context, int64, io.Writer) error {
	return func(ctx context.Context, offset int64, w io.Writer) error {
		if !content.Document(b.Digest) {
			return content.Blob(ctx, b, offset, w)
		}
		raw, err := content.Manifest(ctx, b.Digest)
		if err == nil && offset <= int64(len(raw)) {
			_, err = w.Write(raw[offset:])
		}
		return err
	}
}

// open finds the image on this machine or in its registry.
func (f imageFrom) open(ctx context.Context, where string) (*image.Content, error) {
	if _, err := os.Stat(where); err == nil {
		return image.FromPath(ctx, where, "")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ref, err := image.ParseRef(where)
	if err != nil {
		return nil, usage("%s is no file, and no image's name either: %w", where, err)
	}
	// Whoever types the name chooses the address: a registry of one's own is often private.
	anywhere := egress.Rule{Allow: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
	registries := image.NewRegistries(image.RegistryOptions{Rule: anywhere})
	cred := image.Credential{Username: f.username, Token: f.token}
	if ref, err = registries.Resolve(ctx, ref, cred); err != nil {
		return nil, fmt.Errorf("no file has the name %s, and as an image's name: %w", where, err)
	}
	content, err := image.FromSource(ctx, ref.Digest, registries.Source(ref, cred), f.platforms...)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	return content, nil
}

func (c *cli) imageList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the images on the hub", Args: args(),
		Example: "  spare image list\n  spare image list --json",
		RunE: func(*cobra.Command, []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				all, err := cl.Images(ctx)
				if err != nil {
					return err
				}
				return show(c, all, []string{"NAME", "DIGEST", "SIZE", "PLATFORMS", "OWNER", "PUSHED", ""}, func(im client.Image) []string {
					note := ""
					if !im.Current {
						note = "replaced"
					}
					return []string{im.Name, im.Digest, size(im.Size), strings.Join(im.Platforms, " "), im.Owner, when(im.PushedAt), note}
				})
			})
		},
	}
}

func (c *cli) imageRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Take an image off the hub", Args: args("the image's NAME"),
		Long: `remove takes away all that was pushed under NAME or, where NAME has a digest, that alone.
An image that an active App runs in stays until the App is deactivated.`,
		Example: "  spare image remove tools:1\n  spare image remove tools@sha256:…",
		RunE: func(_ *cobra.Command, given []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				gone, err := cl.RemoveImage(ctx, given[0])
				if err != nil {
					return err
				}
				names := make([]string, 0, len(gone))
				for _, im := range gone {
					names = append(names, im.Ref)
				}
				return c.done(fmt.Sprintf("%s is off the hub", strings.Join(names, ", ")))
			})
		},
	}
}
