package api

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spare-compute/spare/hub/store"
)

// apiKey is a key as the contract shows it, with its role.
type apiKey struct {
	ID          string  `json:"id"`
	Name        string  `json:"name"`
	IssuedAt    *string `json:"issuedAt"`
	ExpiresAt   *string `json:"expiresAt"`
	UserID      string  `json:"userId"`
	Revoked     bool    `json:"revoked"`
	Fingerprint string  `json:"fingerprint"`
	Role        string  `json:"role"`
}

func showKey(k store.Key) apiKey {
	out := apiKey{
		ID: k.ID, Name: k.Name, IssuedAt: stamp(k.Issued), UserID: k.Owner,
		Revoked: k.Revoked, Fingerprint: k.Hash.Short(), Role: string(k.Role),
	}
	if k.Expires != nil {
		out.ExpiresAt = stamp(*k.Expires)
	}
	return out
}

func (s *server) listKeys(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Store.Keys(r.Context())
	if err != nil {
		return err
	}
	me, out := caller(r.Context()), []apiKey{}
	for _, k := range all {
		if me.Role == store.RoleAdmin || k.Owner == me.Owner {
			out = append(out, showKey(k))
		}
	}
	return writeJSON(w, http.StatusOK, map[string]any{"apiKeys": out})
}

var roles = []string{string(store.RoleAdmin), string(store.RoleSubmitter), string(store.RoleContributor), string(store.RoleViewer)}

func (s *server) createKey(w http.ResponseWriter, r *http.Request) error {
	obj, err := readObject(w, r, maxBody)
	if err != nil {
		return err
	}
	in := map[string]string{}
	for _, f := range []string{"name", "owner", "role"} {
		if in[f], err = text(f, obj[f]); err != nil {
			return err
		}
	}
	if in["name"] == "" {
		return refuseField("name", "missing: say what the key is for")
	}
	if err := checkName("name", in["name"]); err != nil {
		return err
	}
	role := store.Role(in["role"])
	if in["role"] == "" {
		role = store.RoleSubmitter
	} else if !validRole(role) {
		p := refuseField("role", "no role %q; the roles are %s", in["role"], strings.Join(roles, ", "))
		p.allowed = roles
		return p
	}
	owner := in["owner"]
	if owner == "" {
		owner = in["name"] // a key of its own: its jobs belong to nobody else
	}
	if err := checkName("owner", owner); err != nil {
		return err
	}
	var life time.Duration
	if raw := obj["expiresIn"]; !isNull(raw) {
		seconds, err := number("expiresIn", raw, 1, 10*365*24*3600)
		if err != nil {
			return err
		}
		life = time.Duration(seconds) * time.Second
	}
	secret, k := NewKey(in["name"], owner, role, s.Now(), life)
	if err := s.Store.PutKey(r.Context(), k); err != nil {
		return fmt.Errorf("store key: %w", err)
	}
	s.Log.Info("API key made", "name", k.Name, "role", k.Role, "owner", k.Owner, "by", caller(r.Context()).Name)
	return writeJSON(w, http.StatusOK, map[string]any{"token": secret, "apiKey": showKey(k)})
}

func validRole(r store.Role) bool {
	switch r {
	case store.RoleAdmin, store.RoleSubmitter, store.RoleContributor, store.RoleViewer:
		return true
	}
	return false
}

func (s *server) revokeKey(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Store.Keys(r.Context())
	if err != nil {
		return err
	}
	id, me := r.PathValue("id"), caller(r.Context())
	var found *store.Key
	admins := 0
	for i, k := range all {
		if k.ID == id && (me.Role == store.RoleAdmin || k.Owner == me.Owner) {
			found = &all[i]
		}
		if k.Role == store.RoleAdmin && !k.Revoked && (k.Expires == nil || s.Now().Before(*k.Expires)) {
			admins++
		}
	}
	switch {
	case found == nil:
		return refuse(http.StatusNotFound, "no API key %.60q: GET /v1/auth/api_keys lists them", id)
	case found.Revoked:
		return s.ok(w, r, "already revoked")
	case found.Role == store.RoleAdmin && admins == 1:
		return refuse(http.StatusConflict, "key %q is the last admin key: make another one first", found.Name)
	}
	found.Revoked = true
	if err := s.Store.PutKey(r.Context(), *found); err != nil {
		return fmt.Errorf("store key: %w", err)
	}
	s.Log.Info("API key revoked", "name", found.Name, "by", me.Name)
	return s.ok(w, r, "revoked")
}

func (s *server) user(w http.ResponseWriter, r *http.Request) error {
	k := caller(r.Context())
	return writeJSON(w, http.StatusOK, map[string]any{"user": map[string]any{
		"id": k.Owner, "displayName": k.Owner, "role": "ROLE_" + strings.ToUpper(string(k.Role)), "createdAt": stamp(k.Issued),
	}})
}
