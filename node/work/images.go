package work

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/sandbox"
)

// image has the image that an App names on this machine: from the hub if it holds the
// image, or else from its registry, with the credentials of the App's manifest. Nil means
// that the App needs none.
func (e *Executor) image(a *attempt, m *materials) error {
	app := a.lease.App
	around, err := environment(app)
	if err != nil || around.Image == "" {
		return err
	}
	rt, err := e.runtime(around)
	if err != nil {
		return nil // run says so
	}
	if e.cfg.Images == nil {
		return fmt.Errorf("image %s: this node keeps no images", around.Image)
	}
	form := image.Unpacked
	if rt.Name() == "engine" {
		form = image.Packed // engines unpack for themselves
	}
	from, err := e.source(a, around.Image)
	if err != nil {
		return err
	}
	pin, err := e.cfg.Images.Ensure(a.ctx, around.Image, form, from)
	if err != nil {
		return err
	}
	m.pins = append(m.pins, pin)
	im := sandbox.Image(pin.Image())
	m.image = &im
	return nil
}

func (e *Executor) source(a *attempt, reference string) (image.Source, error) {
	app := a.lease.App
	if app.ImageOnHub {
		return image.Fetch(func(ctx context.Context, d spare.Digest, offset int64, w io.Writer) error {
			err := a.desk.transfers.Get(ctx, d, offset, w)
			if errors.Is(err, protocol.ErrNotFound) {
				err = fmt.Errorf("%w: the hub has no part %s of it any more (%w)", image.ErrNotFound, d.Short(), err)
			}
			return err
		}), nil
	}
	ref, err := image.ParseRef(reference)
	if err != nil {
		return nil, err
	}
	var cred image.Credential
	if len(app.PlatformConfig) > 0 {
		if err := json.Unmarshal(app.PlatformConfig, &cred); err != nil {
			return nil, fmt.Errorf("the App's platform_config cannot be read: %w", err)
		}
	}
	return e.cfg.Registries.Source(ref, cred), nil
}
