package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/catalog"
	"github.com/spare-compute/spare/hub/store"
)

// A link to a bundle that holds a registry's token is of its own purpose: one that was
// made while the version held none does not open it.
const (
	purposeBundle = "bundle"
	purposeSecret = "bundle with a token"
)

// appJSON is a pushed App or engine as the contract shows it, and the older era's fields.
type appJSON struct {
	ID                 string       `json:"id"`
	Name               string       `json:"name"`
	Version            string       `json:"version"`
	Type               string       `json:"type"`
	Owner              string       `json:"owner"`
	UserName           string       `json:"userName"`
	Status             string       `json:"status"`
	Description        string       `json:"description"`
	DeviceRequirements needsJSON    `json:"deviceRequirements"`
	IsPublic           bool         `json:"isPublic"`
	CreatedAt          *string      `json:"createdAt"`
	UpdatedAt          *string      `json:"updatedAt"`
	DeletedAt          *string      `json:"deletedAt"`
	Platform           string       `json:"platform"`
	PlatformConfig     platformJSON `json:"platformConfig"`
	Hash               string       `json:"hash"` // of the bundle, base64 SHA-256
	Link               string       `json:"link"`
	Entrypoint         string       `json:"entrypoint"`
	Revision           string       `json:"revision"` // int64
	InputType          string       `json:"inputType"`
	OutputType         string       `json:"outputType"`
	Tag                string       `json:"tag"`
	Warnings           []string     `json:"warnings,omitempty"`

	Signature *signatureJSON `json:"signature,omitempty"` // its publisher's
}

type needsJSON struct {
	MinCPU    int      `json:"minCpu"`
	MinMemory float64  `json:"minMemory"`
	MinDisk   float64  `json:"minDisk"`
	GPU       []string `json:"gpu"`
	Tools     []string `json:"tools"`
	OS        []string `json:"os"`
	Arch      []string `json:"arch"`
}

// platformJSON never carries the registry's token: it is a secret, and so is a bundle
// with it in its manifest.
type platformJSON struct {
	Container    string   `json:"container"`
	PrivateImage bool     `json:"privateImage"`
	Username     string   `json:"username"`
	Token        string   `json:"token"`
	Secrets      []string `json:"secrets"`
}

func showApp(a spare.App) appJSON {
	status := "inactive"
	if a.Active {
		status = "active"
	}
	out := appJSON{
		ID: a.ID, Name: a.Name, Version: a.Version, Type: string(a.Kind), Owner: a.Owner, UserName: a.Owner,
		Status: status, Description: a.Description, IsPublic: a.Public, CreatedAt: stamp(a.CreatedAt),
		UpdatedAt: stamp(a.UpdatedAt), Platform: string(a.Platform), PlatformConfig: showPlatform(a.Config),
		Entrypoint: a.Entrypoint, Revision: strconv.Itoa(a.Revision), InputType: a.InputType,
		OutputType: a.OutputType, Tag: a.Tag(), Signature: showSignature(a),
		DeviceRequirements: needsJSON{
			MinCPU: a.Needs.MinCPU, MinMemory: a.Needs.MinMemory, MinDisk: a.Needs.MinDisk,
			GPU: listOf(a.Needs.GPU), Tools: listOf(a.Needs.Tools), OS: listOf(a.Needs.OS), Arch: listOf(a.Needs.Arch),
		},
	}
	if sum, err := hex.DecodeString(string(a.Bundle)); err == nil {
		out.Hash = base64.StdEncoding.EncodeToString(sum)
	}
	return out
}

// listOf makes an absent list an empty one: clients index it without looking.
func listOf(l []string) []string { return append([]string{}, l...) }

func showPlatform(raw json.RawMessage) platformJSON {
	var in struct {
		platformJSON
		PrivateImageE1 bool `json:"private_image"`
	}
	if len(raw) > 0 {
		_ = json.Unmarshal(raw, &in) // checked when it was pushed
	}
	in.Token = ""
	in.PrivateImage = in.PrivateImage || in.PrivateImageE1
	in.Secrets = listOf(in.Secrets)
	return in.platformJSON
}

// dev is the handlers of one sort of pushed code: Apps, or engines of both kinds.
type dev struct {
	*server
	plural  string // of the path
	data    string // field of a push that holds the archive
	engines bool
}

func (d dev) kinds() []spare.Kind {
	if d.engines {
		return []spare.Kind{spare.KindPartitioner, spare.KindAssembler}
	}
	return []spare.Kind{spare.KindApp}
}

// push takes an archive in base64, in the body or, as one client sends it, the query.
func (d dev) push(w http.ResponseWriter, r *http.Request) error {
	obj, err := readObject(w, r, maxPush)
	if err != nil {
		return err
	}
	data, err := text(d.data, obj[d.data])
	if err != nil {
		return err
	}
	if data == "" {
		data = r.URL.Query().Get(d.data)
	}
	if data == "" {
		return refuseField(d.data, "missing: send the folder as a tar or zip archive in base64")
	}
	archive, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return refuseField(d.data, "not base64 (%s)", err)
	}
	kind := spare.KindApp
	if d.engines {
		kind = "" // the manifest says which
	}
	signed, err := signedOf(obj)
	if err != nil {
		return err
	}
	pushed, err := d.Catalog.PushSigned(r.Context(), kind, bytes.NewReader(archive), caller(r.Context()).Owner, signed)
	if err != nil {
		return err
	}
	a := pushed.App
	d.Log.Info("pushed", "kind", a.Kind, "tag", a.Tag(), "revision", a.Revision, "by", caller(r.Context()).Name)
	out := showApp(a)
	out.Link, out.Warnings = d.bundleLink(r, a), pushed.Warnings
	return writeJSON(w, http.StatusOK, out)
}

// bundleLink is "" for whom the bundle is kept from.
func (d dev) bundleLink(r *http.Request, a spare.App) string {
	purpose := purposeBundle
	if catalog.HoldsSecret(a) {
		if !changes(caller(r.Context()), a.Owner) {
			return ""
		}
		purpose = purposeSecret
	}
	return d.link(r, purpose, "/v1/dev/"+d.plural+"/"+a.Tag()+"/bundle", linkLife)
}

func keptFrom(a spare.App) error {
	return refuse(http.StatusForbidden, "the bundle of %s holds a registry's token: only %s or an admin may fetch it; have them put the image on this hub (`spare image push`), take the token out of manifest.json and push again", a.Tag(), a.Owner)
}

func (d dev) list(w http.ResponseWriter, r *http.Request) error {
	p, err := pageOf(r)
	if err != nil {
		return err
	}
	wantPublic, all := r.URL.Query().Get("isPublic"), []appJSON{}
	for _, kind := range d.kinds() {
		apps, err := d.Catalog.List(r.Context(), kind)
		if err != nil {
			return err
		}
		for _, a := range apps {
			if usable(caller(r.Context()), a.Owner, a.Public) && (wantPublic == "" || wantPublic == strconv.FormatBool(a.Public)) {
				all = append(all, showApp(a))
			}
		}
	}
	return writeJSON(w, http.StatusOK, map[string]any{d.plural: cut(p, all), "data": cut(p, all), "pagination": p.answer(len(all))})
}

// find returns what the path's tag means, if the caller may read it.
func (d dev) find(r *http.Request) (spare.App, error) {
	tag := r.PathValue("tag")
	var first error
	for _, kind := range d.kinds() {
		a, err := d.Catalog.Resolve(r.Context(), kind, tag)
		if err == nil && usable(caller(r.Context()), a.Owner, a.Public) {
			return a, nil
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return a, err
		}
		if err == nil {
			err = &catalog.UnknownError{What: string(kind), Name: tag, Hint: "GET /v1/dev/" + d.plural + " lists what there is"}
		}
		// A suggestion is worth more than none.
		var unknown *catalog.UnknownError
		if first == nil || (errors.As(err, &unknown) && unknown.Nearest != "") {
			first = err
		}
	}
	return spare.App{}, first
}

func (d dev) get(w http.ResponseWriter, r *http.Request) error {
	a, err := d.find(r)
	if err != nil {
		return err
	}
	out := showApp(a)
	out.Link = d.bundleLink(r, a)
	if d.engines {
		return writeJSON(w, http.StatusOK, out)
	}
	return writeJSON(w, http.StatusOK, map[string]any{"app": out})
}

// engineAnswer is what the contract answers about one engine.
type engineAnswer struct {
	EngineID     string `json:"engineId"`
	EngineTag    string `json:"engineTag"`
	EngineData   string `json:"engineData"`
	EngineLink   string `json:"engineLink"`
	EngineStatus string `json:"engineStatus"`
}

func (d dev) answer(w http.ResponseWriter, r *http.Request, a spare.App, message, link string) error {
	if d.engines {
		return writeJSON(w, http.StatusOK, engineAnswer{
			EngineID: a.ID, EngineTag: a.Tag(), EngineLink: link, EngineStatus: showApp(a).Status,
		})
	}
	return writeJSON(w, http.StatusOK, generic{OK: true, RequestID: requestID(r.Context()), Message: message, Link: link})
}

func (d dev) status(w http.ResponseWriter, r *http.Request) error {
	a, err := d.find(r)
	if err != nil {
		return err
	}
	return d.answer(w, r, a, showApp(a).Status, "")
}

func (d dev) download(w http.ResponseWriter, r *http.Request) error {
	a, err := d.find(r)
	if err != nil {
		return err
	}
	link := d.bundleLink(r, a)
	if link == "" {
		return keptFrom(a)
	}
	return d.answer(w, r, a, link, link)
}

// setActive changes whether jobs may use a version.
func (d dev) setActive(active bool) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		a, err := d.find(r)
		if err != nil {
			return err
		}
		if k := caller(r.Context()); !changes(k, a.Owner) {
			return refuse(http.StatusForbidden, "%s belongs to %s: only they or an admin may change it", a.Tag(), a.Owner)
		}
		change := d.Catalog.Deactivate
		if active {
			change = d.Catalog.Activate
		}
		if a, err = change(r.Context(), a.Kind, a.Tag()); err != nil {
			return err
		}
		message := a.Tag() + " is " + showApp(a).Status
		if active {
			warning, err := d.Catalog.Unsigned(r.Context(), a)
			if err != nil {
				return err
			}
			if warning != "" {
				message += "; warning: " + warning
			}
		}
		return d.answer(w, r, a, message, "")
	}
}

// bundle sends the packed folder that a link of download names.
func (d dev) bundle(w http.ResponseWriter, r *http.Request) error {
	signed, err := d.signed(r, purposeBundle)
	owners := false
	if err != nil {
		if owners, _ = d.signed(r, purposeSecret); !owners {
			return err
		}
	}
	if signed || owners {
		// The link was made for someone who may read it.
		r = r.WithContext(context.WithValue(r.Context(), keyPrincipal, store.Key{Role: store.RoleViewer}))
	} else if r, err = d.admit(r, viewer); err != nil {
		return err
	}
	a, err := d.find(r)
	if err != nil {
		return err
	}
	if catalog.HoldsSecret(a) && !owners && !changes(caller(r.Context()), a.Owner) {
		return keptFrom(a)
	}
	name := fmt.Sprintf("%s.tar.zst", strings.ReplaceAll(a.Tag(), "@", "-"))
	return d.sendBlob(w, r, spare.File{Name: name, Digest: a.Bundle, Size: a.BundleSize})
}
