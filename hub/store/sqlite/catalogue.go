package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/ncruces/go-sqlite3"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

// list reads the JSON of every row of a query.
func list[T any](ctx context.Context, s *Store, sql string, args ...any) (all []T, err error) {
	err = s.read(ctx, func(c *conn) error {
		return c.rows(func(st *sqlite3.Stmt) error {
			var v T
			err := body(st, 0, &v)
			all = append(all, v)
			return err
		}, sql, args...)
	})
	return all, err
}

// get reads the JSON of one row.
func get[T any](ctx context.Context, s *Store, kind, name, sql string, args ...any) (v T, err error) {
	err = s.read(ctx, func(c *conn) error {
		return c.one(func(st *sqlite3.Stmt) error { return body(st, 0, &v) }, sql, args...)
	})
	return v, missing(err, kind, name)
}

// PutApp stores a push of name@version, one revision above the last.
func (s *Store) PutApp(ctx context.Context, app spare.App) (spare.App, error) {
	err := s.write(ctx, func(c *conn) error {
		var last spare.App
		switch err := readApp(c, app.Kind, app.Name, app.Version, &last); {
		case err == nil:
			app.ID, app.CreatedAt, app.Active = last.ID, last.CreatedAt, last.Active
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		app.Revision = last.Revision + 1
		if app.ID == "" {
			app.ID = uuid.NewString()
		}
		return writeApp(c, app)
	})
	return app, err
}

func readApp(c *conn, kind spare.Kind, name, version string, app *spare.App) error {
	err := c.one(func(st *sqlite3.Stmt) error { return body(st, 0, app) },
		`SELECT body FROM apps WHERE kind = ? AND name = ? AND version = ?`, string(kind), name, version)
	return missing(err, string(kind), name+"@"+version)
}

func writeApp(c *conn, app spare.App) error {
	text, err := jsonText(app)
	if err != nil {
		return err
	}
	return c.exec(`INSERT OR REPLACE INTO apps (kind, name, version, active, bundle, body) VALUES (?, ?, ?, ?, ?, ?)`,
		string(app.Kind), app.Name, app.Version, app.Active, string(app.Bundle), text)
}

// App returns the newest revision of an exact kind, name and version.
func (s *Store) App(ctx context.Context, kind spare.Kind, name, version string) (app spare.App, err error) {
	err = s.read(ctx, func(c *conn) error { return readApp(c, kind, name, version, &app) })
	return app, err
}

// Apps returns the newest revision of every name and version of a kind.
func (s *Store) Apps(ctx context.Context, kind spare.Kind) ([]spare.App, error) {
	return list[spare.App](ctx, s, `SELECT body FROM apps WHERE kind = ? ORDER BY name, version`, string(kind))
}

// SetActive changes whether a version takes jobs.
func (s *Store) SetActive(ctx context.Context, kind spare.Kind, name, version string, active bool) error {
	return s.write(ctx, func(c *conn) error {
		var app spare.App
		if err := readApp(c, kind, name, version, &app); err != nil {
			return err
		}
		app.Active = active
		return writeApp(c, app)
	})
}

// PutTemplate stores a template. CreatedAt stays that of the first of its id.
func (s *Store) PutTemplate(ctx context.Context, t spare.Template) (spare.Template, error) {
	err := s.write(ctx, func(c *conn) error {
		var last spare.Template
		err := c.one(func(st *sqlite3.Stmt) error { return body(st, 0, &last) }, `SELECT body FROM templates WHERE id = ?`, t.ID)
		switch {
		case err == nil:
			t.CreatedAt = last.CreatedAt
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		text, err := jsonText(t)
		if err != nil {
			return err
		}
		return c.exec(`INSERT OR REPLACE INTO templates (id, body) VALUES (?, ?)`, t.ID, text)
	})
	return t, err
}

// Template returns one template.
func (s *Store) Template(ctx context.Context, id string) (spare.Template, error) {
	return get[spare.Template](ctx, s, "template", id, `SELECT body FROM templates WHERE id = ?`, id)
}

// Templates returns all templates by id.
func (s *Store) Templates(ctx context.Context) ([]spare.Template, error) {
	return list[spare.Template](ctx, s, `SELECT body FROM templates ORDER BY id`)
}

// PutSchema stores a schema.
func (s *Store) PutSchema(ctx context.Context, sc spare.Schema) error {
	return s.put(ctx, `INSERT OR REPLACE INTO schemas (id, version, body) VALUES (?, ?, ?)`, sc, sc.ID, sc.Version)
}

// put stores v as JSON behind the columns of its key.
func (s *Store) put(ctx context.Context, sql string, v any, key ...any) error {
	text, err := jsonText(v)
	if err != nil {
		return err
	}
	return s.write(ctx, func(c *conn) error { return c.exec(sql, append(key, text)...) })
}

// Schema returns one schema.
func (s *Store) Schema(ctx context.Context, id, version string) (spare.Schema, error) {
	return get[spare.Schema](ctx, s, "schema", id+" version "+version, `SELECT body FROM schemas WHERE id = ? AND version = ?`, id, version)
}

// Schemas returns all schemas by id and version.
func (s *Store) Schemas(ctx context.Context) ([]spare.Schema, error) {
	return list[spare.Schema](ctx, s, `SELECT body FROM schemas ORDER BY id, version`)
}

// PutPreset stores a preset.
func (s *Store) PutPreset(ctx context.Context, p spare.Preset) error {
	return s.put(ctx, `INSERT OR REPLACE INTO presets (template, id, body) VALUES (?, ?, ?)`, p, p.Template, p.ID)
}

// Presets returns a template's presets by id.
func (s *Store) Presets(ctx context.Context, template string) ([]spare.Preset, error) {
	return list[spare.Preset](ctx, s, `SELECT body FROM presets WHERE template = ? ORDER BY id`, template)
}

// PutNode stores a node, new or known.
func (s *Store) PutNode(ctx context.Context, n spare.Node) error {
	return s.put(ctx, `INSERT OR REPLACE INTO nodes (id, body) VALUES (?, ?)`, n, string(n.ID))
}

// Node returns one node.
func (s *Store) Node(ctx context.Context, id spare.NodeID) (spare.Node, error) {
	return get[spare.Node](ctx, s, "node", id.Short(), `SELECT body FROM nodes WHERE id = ?`, string(id))
}

// Nodes returns all nodes by id.
func (s *Store) Nodes(ctx context.Context) ([]spare.Node, error) {
	return list[spare.Node](ctx, s, `SELECT body FROM nodes ORDER BY id`)
}

// DeleteNode removes a node and its records.
func (s *Store) DeleteNode(ctx context.Context, id spare.NodeID) error {
	return s.write(ctx, func(c *conn) error {
		if err := c.exec(`DELETE FROM records WHERE node = ?`, string(id)); err != nil {
			return err
		}
		if err := c.exec(`DELETE FROM nodes WHERE id = ?`, string(id)); err != nil {
			return err
		}
		if c.Changes() == 0 {
			return missing(store.ErrNotFound, "node", id.Short())
		}
		return nil
	})
}

// PutToken stores an enrolment token.
func (s *Store) PutToken(ctx context.Context, t store.Token) error {
	return s.put(ctx, `INSERT OR REPLACE INTO tokens (hash, body) VALUES (?, ?)`, t, string(t.Hash))
}

// Enrol takes one use of a token and stores the node with its pool and owner.
func (s *Store) Enrol(ctx context.Context, hash spare.Digest, n spare.Node, now time.Time) (spare.Node, error) {
	err := s.write(ctx, func(c *conn) error {
		var known spare.Node
		err := c.one(func(st *sqlite3.Stmt) error { return body(st, 0, &known) }, `SELECT body FROM nodes WHERE id = ?`, string(n.ID))
		switch {
		case err == nil: // it keeps the pool and owner it was admitted with
			n.Pool, n.Owner, n.Joined = known.Pool, known.Owner, known.Joined
		case !errors.Is(err, store.ErrNotFound):
			return err
		default:
			if err := takeUse(c, hash, &n, now); err != nil {
				return err
			}
		}
		text, err := jsonText(n)
		if err != nil {
			return err
		}
		return c.exec(`INSERT OR REPLACE INTO nodes (id, body) VALUES (?, ?)`, string(n.ID), text)
	})
	return n, err
}

func takeUse(c *conn, hash spare.Digest, n *spare.Node, now time.Time) error {
	var t store.Token
	err := c.one(func(st *sqlite3.Stmt) error { return body(st, 0, &t) }, `SELECT body FROM tokens WHERE hash = ?`, string(hash))
	switch {
	case err != nil:
		return missing(err, "enrolment token", hash.Short())
	case !t.Expires.IsZero() && !now.Before(t.Expires):
		return fmt.Errorf("%w on %s: make a new ticket", store.ErrTokenExpired, t.Expires.UTC().Format(time.RFC3339))
	case t.Uses <= 0:
		return fmt.Errorf("%w: make a new ticket", store.ErrTokenUsed)
	}
	t.Uses--
	n.Pool, n.Owner = t.Pool, t.Owner
	if n.Joined.IsZero() {
		n.Joined = now
	}
	text, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return c.exec(`UPDATE tokens SET body = ? WHERE hash = ?`, raw(text), string(hash))
}

// PutKey stores an API key.
func (s *Store) PutKey(ctx context.Context, k store.Key) error {
	err := s.put(ctx, `INSERT INTO keys (id, hash, body) VALUES (?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET hash = excluded.hash, body = excluded.body`, k, k.ID, string(k.Hash))
	if errors.Is(err, sqlite3.CONSTRAINT_UNIQUE) {
		return fmt.Errorf("key %s: %w: another key has the same secret", k.ID, store.ErrConflict)
	}
	return err
}

// KeyByHash returns the key with this hash.
func (s *Store) KeyByHash(ctx context.Context, hash spare.Digest) (store.Key, error) {
	return get[store.Key](ctx, s, "key", hash.Short(), `SELECT body FROM keys WHERE hash = ?`, string(hash))
}

// Keys returns all keys by id.
func (s *Store) Keys(ctx context.Context) ([]store.Key, error) {
	return list[store.Key](ctx, s, `SELECT body FROM keys ORDER BY id`)
}

// Secret returns the named secret, storing fresh if there is none yet.
func (s *Store) Secret(ctx context.Context, name string, fresh []byte) (value []byte, err error) {
	err = s.write(ctx, func(c *conn) error {
		if err := c.exec(`INSERT OR IGNORE INTO secrets (name, value) VALUES (?, ?)`, name, fresh); err != nil {
			return err
		}
		return c.one(func(st *sqlite3.Stmt) error { value = st.ColumnBlob(0, nil); return nil }, `SELECT value FROM secrets WHERE name = ?`, name)
	})
	return value, err
}
