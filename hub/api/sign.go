package api

import (
	"encoding/base64"
	"encoding/json"
	"net/http"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/publisher"
)

// signatureJSON is what an App's signed manifest says, for people: nodes check the
// manifest itself.
type signatureJSON struct {
	Publisher string  `json:"publisher"` // id of the key
	Revision  uint64  `json:"revision"`  // the publisher's own
	Oldest    uint64  `json:"oldest,omitempty"`
	Issued    *string `json:"issued"`
	Expires   *string `json:"expires"`
}

func showSignature(a spare.App) *signatureJSON {
	if len(a.Signed) == 0 {
		return nil
	}
	m, signer, err := publisher.Peek(a.Signed)
	if err != nil {
		return nil // it was checked when it was pushed
	}
	return &signatureJSON{
		Publisher: string(signer), Revision: m.Revision, Oldest: m.Oldest, Issued: stamp(m.Issued), Expires: stamp(m.Expires),
	}
}

// signedOf reads the signed manifest in a body, in base64; nil if there is none.
func signedOf(obj map[string]json.RawMessage) ([]byte, error) {
	data, err := text("signed", obj["signed"])
	if err != nil || data == "" {
		return nil, err
	}
	signed, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return nil, refuseField("signed", "not base64 (%s)", err)
	}
	return signed, nil
}

// sign attaches a publisher's signed manifest to a version that is stored.
func (d dev) sign(w http.ResponseWriter, r *http.Request) error {
	obj, err := readObject(w, r, maxBody)
	if err != nil {
		return err
	}
	signed, err := signedOf(obj)
	if err != nil {
		return err
	}
	if signed == nil {
		return refuseField("signed", "missing: send the signed manifest in base64")
	}
	a, err := d.find(r)
	if err != nil {
		return err
	}
	if k := caller(r.Context()); !changes(k, a.Owner) {
		return refuse(http.StatusForbidden, "%s belongs to %s: only they or an admin may change it", a.Tag(), a.Owner)
	}
	if a, err = d.Catalog.Attach(r.Context(), a.Kind, a.Tag(), signed); err != nil {
		return err
	}
	d.Log.Info("signed", "kind", a.Kind, "tag", a.Tag(), "revision", a.Revision, "by", caller(r.Context()).Name)
	return writeJSON(w, http.StatusOK, showApp(a))
}
