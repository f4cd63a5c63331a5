package image

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/spare-compute/spare"
)

// A Blob is a part of an image.
type Blob struct {
	Digest spare.Digest `json:"digest"`
	Size   int64        `json:"size"` // bytes
}

// document is a manifest or an index, whichever its fields make it.
type document struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     types.MediaType `json:"mediaType"`
	Config        *descriptor     `json:"config"`
	Layers        []descriptor    `json:"layers"`
	Manifests     []descriptor    `json:"manifests"`
	FSLayers      json.RawMessage `json:"fsLayers"` // of the format before
}

type descriptor struct {
	MediaType types.MediaType `json:"mediaType"`
	Digest    string          `json:"digest"`
	Size      int64           `json:"size"`
	Platform  *platform       `json:"platform,omitempty"`
}

type platform struct {
	OS      string `json:"os"`
	Arch    string `json:"architecture"`
	Variant string `json:"variant"`
}

func (p platform) String() string {
	s := p.OS + "/" + p.Arch
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

func parsePlatform(text string) (platform, error) {
	parts := strings.Split(text, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return platform{}, fmt.Errorf("platform %.40q: want OS/ARCHITECTURE, as linux/arm64", text)
	}
	return platform{OS: parts[0], Arch: parts[1], Variant: strings.Join(parts[2:], "")}, nil
}

// usual is what a platform without a variant means.
var usual = map[string]string{"arm64": "v8", "amd64": "v1", "arm": "v7"}

// serves reports whether what is built for p runs on a machine that is want.
func (p platform) serves(want platform) bool {
	variant := func(q platform) string {
		if q.Variant == "" {
			return usual[q.Arch]
		}
		return q.Variant
	}
	// A lower variant runs on a higher machine: "v6" < "v7".
	return p.OS == want.OS && p.Arch == want.Arch && variant(p) <= variant(want)
}

// readDocument understands a manifest or index. One that could be taken for both is
// refused: programs would disagree on what it says.
func readDocument(raw []byte) (document, error) {
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		return d, refuse("its manifest is not valid JSON (%v)", err)
	}
	image, index := d.Config != nil || d.Layers != nil, d.Manifests != nil
	switch {
	case d.FSLayers != nil || d.SchemaVersion == 1:
		return d, refuse("its manifest is of the first Docker format, which names no digests of layers; push it again with a current tool")
	case image == index:
		return d, refuse("its manifest is neither that of an image nor an index of several")
	case index && d.MediaType != "" && !d.MediaType.IsIndex():
		return d, refuse("its index says that it is %.80q", d.MediaType)
	case image && d.MediaType != "" && !d.MediaType.IsImage():
		return d, refuse("its manifest says that it is %.80q", d.MediaType)
	case image && d.Config == nil:
		return d, refuse("its manifest names no configuration")
	case len(d.Layers) > maxLayers:
		return d, refuse("it has %d layers; %d are the most", len(d.Layers), maxLayers)
	}
	return d, nil
}

// choose finds the manifest for a machine in an index.
func (d document) choose(want platform) (descriptor, error) {
	var best *descriptor
	var offered []string
	for i, m := range d.Manifests {
		if m.Platform == nil || m.Platform.OS == "unknown" || m.Platform.OS == "" {
			continue // an attestation, or something else that does not run
		}
		offered = append(offered, m.Platform.String())
		if !m.Platform.serves(want) {
			continue
		}
		if best == nil || best.Platform.Variant < m.Platform.Variant {
			best = &d.Manifests[i]
		}
	}
	if best == nil {
		return descriptor{}, wrongPlatform(want, offered)
	}
	return *best, nil
}

func wrongPlatform(want platform, offered []string) error {
	if len(offered) > 12 {
		offered = append(offered[:12:12], "others")
	}
	for i := range offered {
		offered[i] = fmt.Sprintf("%.40s", offered[i])
	}
	return refuse("it is built for %s, and this machine needs %s; name an image that is built for both, or ask for other machines in device_requirements.arch",
		firstOf(strings.Join(offered, ", "), "no platform that it names"), want)
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// maxBlob is more bytes than any part of an image has. It keeps sums over all parts of an
// index of indexes below what 63 bits hold.
const maxBlob = 1 << 44

// blob checks a descriptor.
func (d descriptor) blob() (Blob, error) {
	digest, err := parseDigest(d.Digest)
	if err != nil {
		return Blob{}, err
	}
	if d.Size < 0 || d.Size > maxBlob {
		return Blob{}, refuse("its part %s has %d bytes, it says", digest.Short(), d.Size)
	}
	return Blob{Digest: digest, Size: d.Size}, nil
}

// parts lists an image's configuration and layers.
func (d document) parts() (config Blob, layers []Blob, err error) {
	if config, err = d.Config.blob(); err != nil {
		return config, nil, err
	}
	switch d.Config.MediaType {
	case types.DockerConfigJSON, types.OCIConfigJSON:
	default:
		return config, nil, refuse("it is no image to run: its configuration is of the type %.80q", d.Config.MediaType)
	}
	if config.Size > maxDocument {
		return config, nil, refuse("its configuration has more than %d MiB", maxDocument>>20)
	}
	for i, l := range d.Layers {
		switch l.MediaType {
		case types.DockerLayer, types.DockerUncompressedLayer, types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer, dockerZStd:
		case types.DockerForeignLayer, types.OCIRestrictedLayer, types.OCIUncompressedRestrictedLayer, "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd":
			return config, nil, refuse("its layer %d lies elsewhere, at an address that it names; push the image again with all its layers", i+1)
		default:
			return config, nil, refuse("its layer %d is of the type %.80q, which is no layer of files", i+1, l.MediaType)
		}
		b, err := l.blob()
		if err != nil {
			return config, nil, err
		}
		layers = append(layers, b)
	}
	return config, layers, nil
}

const dockerZStd = "application/vnd.docker.image.rootfs.diff.tar.zstd"

// settings are what matters of an image's configuration.
type settings struct {
	platform
	env     []string
	diffIDs []spare.Digest
}

func readSettings(raw []byte, layers int) (settings, error) {
	var c struct {
		platform
		Config struct {
			Env []string
		} `json:"config"`
		RootFS struct {
			Type    string   `json:"type"`
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return settings{}, refuse("its configuration is not valid JSON (%v)", err)
	}
	if c.RootFS.Type != "layers" && c.RootFS.Type != "" || len(c.RootFS.DiffIDs) != layers {
		return settings{}, refuse("its manifest has %d layers and its configuration %d", layers, len(c.RootFS.DiffIDs))
	}
	s := settings{platform: c.platform, env: c.Config.Env}
	for _, text := range c.RootFS.DiffIDs {
		d, err := parseDigest(text)
		if err != nil {
			return s, err
		}
		s.diffIDs = append(s.diffIDs, d)
	}
	var bytes int
	for _, v := range s.env {
		name, _, ok := strings.Cut(v, "=")
		if bytes += len(v); !ok || name == "" || strings.ContainsRune(v, 0) {
			return s, refuse("it sets a variable %.80q, which is none", v)
		}
	}
	if len(s.env) > maxVariables || bytes > maxEnvironment {
		return s, refuse("it sets %d variables of %d bytes; %d of %d KiB are the most", len(s.env), bytes, maxVariables, maxEnvironment>>10)
	}
	return s, nil
}
