package image

import (
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/spare-compute/spare"
)

const maxRef = 512 // bytes

// A Ref is the name of an image as people write it, understood.
type Ref struct {
	Name   string       // in full, "registry/repository:tag", or without a tag if only a digest was given
	Digest spare.Digest // "" if the name says none
	repo   name.Repository
	tag    string
}

// ParseRef reads "debian", "registry.example:5000/tools/video:2" or either with
// "@sha256:…" behind it.
func ParseRef(text string) (Ref, error) {
	bad := func(why string) (Ref, error) {
		return Ref{}, fmt.Errorf("image name %.100q: %s; write it as NAME:TAG or NAME@sha256:DIGEST", text, why)
	}
	if len(text) > maxRef {
		return bad(fmt.Sprintf("it has more than %d bytes", maxRef))
	}
	base, digest, pinned := strings.Cut(text, "@")
	var ref Ref
	if pinned {
		hex, ok := strings.CutPrefix(digest, "sha256:")
		d, err := spare.ParseDigest(hex)
		if !ok || err != nil {
			return bad("what follows the @ is no SHA-256 digest")
		}
		ref.Digest = d
	}
	tag, err := name.NewTag(base, name.WeakValidation)
	if err != nil {
		return bad("it cannot be understood")
	}
	host, _, _ := strings.Cut(tag.RegistryStr(), ":")
	if strings.HasPrefix(host, ".") || strings.HasSuffix(host, ".") || strings.Contains(host, "..") {
		return bad("its registry is no host")
	}
	// They become parts of a web address, where these would mean another one.
	for part := range strings.SplitSeq(tag.RepositoryStr(), "/") {
		if part == "" || part == "." || part == ".." {
			return bad("it has an empty part")
		}
	}
	if strings.HasPrefix(tag.TagStr(), ".") || strings.HasPrefix(tag.TagStr(), "-") {
		return bad("its tag begins with a dot or a dash")
	}
	ref.repo, ref.tag, ref.Name = tag.Repository, tag.TagStr(), tag.Name()
	if pinned && !strings.HasSuffix(base, ":"+ref.tag) {
		ref.tag, ref.Name = "", tag.Repository.Name()
	}
	return ref, nil
}

// String is the name in full, with its digest.
func (r Ref) String() string {
	if r.Digest == "" {
		return r.Name
	}
	return r.Name + "@sha256:" + string(r.Digest)
}

// Pin is the name with a digest: what it means from now on.
func (r Ref) Pin(d spare.Digest) Ref {
	r.Digest = d
	return r
}

// Host is the registry that the name points to.
func (r Ref) Host() string { return r.repo.RegistryStr() }

// parseDigest reads "sha256:…".
func parseDigest(text string) (spare.Digest, error) {
	hex, ok := strings.CutPrefix(text, "sha256:")
	d, err := spare.ParseDigest(hex)
	if !ok || err != nil {
		return "", refuse("it names its parts by %.80q, and only SHA-256 digests are taken", text)
	}
	return d, nil
}
