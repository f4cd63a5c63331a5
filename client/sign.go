package client

import (
	"context"
	"time"
)

// A Signature is what the hub says of an App's signed manifest.
type Signature struct {
	Publisher string    `json:"publisher"` // id of the key
	Revision  uint64    `json:"revision"`  // the publisher's own
	Oldest    uint64    `json:"oldest,omitempty"`
	Issued    time.Time `json:"issued"`
	Expires   time.Time `json:"expires"`
}

// PushSigned sends a packed folder with its publisher's signed manifest. Nil is none.
func (c *Client) PushSigned(ctx context.Context, what string, archive, signed []byte) (App, error) {
	field := "data"
	if what == Engines {
		field = "engineData"
	}
	body := map[string][]byte{field: archive}
	if signed != nil {
		body["signed"] = signed
	}
	var out App
	err := c.callOn(ctx, c.slow, post, "/v1/dev/"+what, body, &out)
	return out, err
}

// Sign attaches a publisher's signed manifest to a version that the hub has.
func (c *Client) Sign(ctx context.Context, what, tag string, signed []byte) (App, error) {
	var out App
	err := c.call(ctx, post, devPath(what, tag, "signature"), map[string][]byte{"signed": signed}, &out)
	return out, err
}

// Switch activates or deactivates a version, and returns what the hub warns of.
func (c *Client) Switch(ctx context.Context, what, tag string, active bool) (warning string, err error) {
	verb := "deactivate"
	if active {
		verb = "activate"
	}
	return c.warned(ctx, devPath(what, tag, verb), nil)
}
