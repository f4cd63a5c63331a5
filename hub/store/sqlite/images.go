package sqlite

import (
	"context"

	"github.com/ncruces/go-sqlite3"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

// PutImage stores a push of an image.
func (s *Store) PutImage(ctx context.Context, im store.Image) error {
	return s.put(ctx, `INSERT OR REPLACE INTO images (name, digest, pushed, body) VALUES (?, ?, ?, ?)`,
		im, im.Name, string(im.Digest), stamp(im.PushedAt))
}

// Images returns all images by name, of each name the last push first.
func (s *Store) Images(ctx context.Context) ([]store.Image, error) {
	return list[store.Image](ctx, s, `SELECT body FROM images ORDER BY name, pushed DESC, digest`)
}

// DeleteImage removes what a name means by one digest.
func (s *Store) DeleteImage(ctx context.Context, name string, digest spare.Digest) error {
	return s.write(ctx, func(c *conn) error {
		if err := c.exec(`DELETE FROM images WHERE name = ? AND digest = ?`, name, string(digest)); err != nil {
			return err
		}
		if c.Changes() == 0 {
			return missing(store.ErrNotFound, "image", name+"@sha256:"+string(digest))
		}
		return nil
	})
}

// imageParts adds every blob that an image is made of.
func imageParts(c *conn, to map[spare.Digest]struct{}) error {
	return c.rows(func(st *sqlite3.Stmt) error {
		var im store.Image
		if err := body(st, 0, &im); err != nil {
			return err
		}
		for _, d := range im.Parts {
			to[d] = struct{}{}
		}
		return nil
	}, `SELECT body FROM images`)
}
