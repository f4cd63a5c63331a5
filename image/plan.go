package image

import (
	"context"

	"github.com/spare-compute/spare"
)

// plan is an image as its manifest and configuration tell it.
type plan struct {
	docs   []spare.Digest // index, manifest
	config Blob
	layers []Blob
	settings
}

func (p plan) things() (keys []string) {
	for _, d := range append(p.docs, p.config.Digest) {
		keys = append(keys, blobs+"/"+string(d))
	}
	for i, l := range p.layers {
		keys = append(keys, blobs+"/"+string(l.Digest), layers+"/"+string(p.diffIDs[i]))
	}
	return append(keys, trees+"/"+string(p.config.Digest), packeds+"/"+string(p.config.Digest))
}

// plan reads the documents that a digest leads to.
func (s *Store) plan(ctx context.Context, d spare.Digest, from Source) (p plan, err error) {
	var doc document
	for len(p.docs) < 3 {
		raw, err := s.document(ctx, d, func() ([]byte, error) { return from.Manifest(ctx, d) })
		if err != nil {
			return p, err
		}
		p.docs = append(p.docs, d)
		if doc, err = readDocument(raw); err != nil {
			return p, err
		}
		if doc.Manifests == nil {
			break
		}
		chosen, err := doc.choose(s.platform)
		if err != nil {
			return p, err
		}
		b, err := chosen.blob()
		if err != nil {
			return p, err
		}
		d = b.Digest
	}
	if doc.Manifests != nil {
		return p, refuse("it is an index of indexes of indexes")
	}
	if p.config, p.layers, err = doc.parts(); err != nil {
		return p, err
	}
	raw, err := s.document(ctx, p.config.Digest, func() ([]byte, error) { return configuration(ctx, p.config, from) })
	if err != nil {
		return p, err
	}
	if p.settings, err = readSettings(raw, len(p.layers)); err != nil {
		return p, err
	}
	if !p.serves(s.platform) {
		return p, wrongPlatform(s.platform, []string{p.platform.String()})
	}
	return p, nil
}
