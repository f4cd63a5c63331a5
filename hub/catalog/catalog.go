// Package catalog knows what can be run: Apps and engines as they were pushed, the
// templates that tie them together, parameter schemas and presets. It reads their files
// in both eras' spellings, resolves tags, and turns a job into a plan with every choice
// made. It never runs anything and never follows a job. The API and the pipeline call
// it; what it keeps lies in the store and in the blob store.
package catalog

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/publisher"
)

// Official owns what is built into the hub.
const Official = "spare"

// Blobs is where bundles lie; blob.Disk is one.
type Blobs interface {
	PutFile(ctx context.Context, path string) (spare.Digest, int64, error)
	Open(d spare.Digest, offset int64) (io.ReadCloser, int64, error)
	Stat(d spare.Digest) (int64, error)
}

// Strategies tells which partition and merge strategies the hub has built in.
type Strategies interface {
	// ConfigSchema is the JSON Schema of a strategy's settings, and whether there is one
	// of that kind and name. An empty schema takes anything.
	ConfigSchema(kind spare.Kind, name string) (schema []byte, known bool)
	// Names lists a kind's strategies.
	Names(kind spare.Kind) []string
}

// Config is what a Catalog works with.
type Config struct {
	Store      store.Catalogue
	Blobs      Blobs
	Strategies Strategies
	Images     Images // nil: Apps that name images are refused

	// Publishers are those whose signatures are taken, as they stand now; nil: none are.
	Publishers func() []publisher.Pin
	Key        *publisher.Key // signs the Apps that come with the hub; nil: they stay unsigned

	Work string // existing scratch folder, best on the volume of the blobs; "" means the system's
	Log  *slog.Logger
}

// A Catalog answers for one hub. It is safe for concurrent use.
type Catalog struct {
	store      store.Catalogue
	blobs      Blobs
	strategies Strategies
	images     Images
	trusted    func() []publisher.Pin
	key        *publisher.Key
	work       string
	log        *slog.Logger
}

// New makes a Catalog over a store.
func New(cfg Config) *Catalog {
	c := &Catalog{store: cfg.Store, blobs: cfg.Blobs, strategies: cfg.Strategies, images: cfg.Images, trusted: cfg.Publishers, key: cfg.Key, work: cfg.Work, log: cfg.Log}
	if c.work == "" {
		c.work = os.TempDir()
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c
}

// word is what people call a kind.
func word(kind spare.Kind) string {
	if kind == spare.KindApp {
		return "App"
	}
	return string(kind)
}

// List returns the newest revision of every version of a kind, by name, lowest version
// first.
func (c *Catalog) List(ctx context.Context, kind spare.Kind) ([]spare.App, error) {
	apps, err := c.store.Apps(ctx, kind)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(apps, func(a, b spare.App) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), spare.CompareVersions(a.Version, b.Version))
	})
	return apps, nil
}

// Resolve finds the App or engine that a tag means, active or not.
func (c *Catalog) Resolve(ctx context.Context, kind spare.Kind, tag string) (spare.App, error) {
	return c.resolve(ctx, kind, tag, false)
}

// ResolveActive finds what a job gets by this tag: the highest active version.
func (c *Catalog) ResolveActive(ctx context.Context, kind spare.Kind, tag string) (spare.App, error) {
	return c.resolve(ctx, kind, tag, true)
}

func (c *Catalog) resolve(ctx context.Context, kind spare.Kind, text string, active bool) (spare.App, error) {
	tag, err := spare.ParseTag(text)
	if err != nil {
		return spare.App{}, &Refused{Sentence: err.Error(), Err: err}
	}
	apps, err := c.List(ctx, kind)
	if err != nil {
		return spare.App{}, err
	}
	var names, versions []string
	var best, idle spare.App
	for _, app := range apps { // lowest version first
		names = append(names, app.Name)
		if app.Name != tag.Name {
			continue
		}
		versions = append(versions, app.Version)
		v, err := spare.ParseVersion(app.Version)
		if err != nil || !tag.Matches(v) {
			continue
		}
		exact := app.Version == tag.Text
		switch {
		case active && !app.Active:
			idle = app
			if exact {
				return spare.App{}, inactive(app)
			}
		case exact:
			return app, nil
		default:
			best = app
		}
	}
	switch {
	case best.Name != "":
		return best, nil
	case idle.Name != "":
		return spare.App{}, inactive(idle)
	case len(versions) > 0:
		return spare.App{}, &UnknownError{What: word(kind), Name: text, Hint: "its versions are " + strings.Join(versions, ", ")}
	}
	near := nearest(tag.Name, names)
	return spare.App{}, &UnknownError{What: word(kind), Name: text, Nearest: near, Hint: "push it first"}
}

func inactive(app spare.App) error {
	return refuse("%s %s is not active and takes no jobs; activate it first", word(app.Kind), app.Tag())
}

// Activate makes the version that a tag means take jobs. What nothing can run yet is
// refused.
func (c *Catalog) Activate(ctx context.Context, kind spare.Kind, tag string) (spare.App, error) {
	return c.setActive(ctx, kind, tag, true)
}

// Deactivate makes a version take no more jobs; those that run go on.
func (c *Catalog) Deactivate(ctx context.Context, kind spare.Kind, tag string) (spare.App, error) {
	return c.setActive(ctx, kind, tag, false)
}

func (c *Catalog) setActive(ctx context.Context, kind spare.Kind, tag string, active bool) (spare.App, error) {
	app, err := c.Resolve(ctx, kind, tag)
	if err != nil {
		return spare.App{}, err
	}
	if active {
		if err := runnable(app); err != nil {
			return spare.App{}, err
		}
		if app, err = c.pinned(ctx, app); err != nil {
			return spare.App{}, err
		}
	}
	if err := c.store.SetActive(ctx, kind, app.Name, app.Version, active); err != nil {
		return spare.App{}, fmt.Errorf("change %s %s: %w", word(kind), app.Tag(), err)
	}
	app.Active = active
	return app, nil
}

// Download opens the bundle (tar.zst) of what a tag means. The caller closes it.
func (c *Catalog) Download(ctx context.Context, kind spare.Kind, tag string) (spare.App, io.ReadCloser, error) {
	app, err := c.Resolve(ctx, kind, tag)
	if err != nil {
		return spare.App{}, nil, err
	}
	r, _, err := c.blobs.Open(app.Bundle, 0)
	if err != nil {
		return spare.App{}, nil, fmt.Errorf("open the bundle of %s %s: %w", word(kind), app.Tag(), err)
	}
	return app, r, nil
}
