package api

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

const keyPrefix = "spare_"

// NewKey makes an API key: its text, which is shown once, and the record to store. A
// life of zero never ends.
func NewKey(name, owner string, role store.Role, now time.Time, life time.Duration) (string, store.Key) {
	secret := make([]byte, 32)
	rand.Read(secret)
	text := keyPrefix + b64.EncodeToString(secret)
	k := store.Key{
		ID: uuid.NewString(), Name: name, Owner: owner, Role: role,
		Hash: spare.Sum([]byte(text)), Issued: now.UTC(),
	}
	if life > 0 {
		end := now.Add(life).UTC()
		k.Expires = &end
	}
	return text, k
}

// access is what a path asks of its caller.
type access int

const (
	public  access = iota // anyone
	known                 // any key
	viewer                // may read jobs: viewer, submitter, admin
	submits               // may change jobs and push code: submitter, admin
	admin
)

func (a access) allows(role store.Role) bool {
	switch a {
	case public, known:
		return true
	case viewer:
		return role == store.RoleViewer || role == store.RoleSubmitter || role == store.RoleAdmin
	case submits:
		return role == store.RoleSubmitter || role == store.RoleAdmin
	}
	return role == store.RoleAdmin
}

func (a access) String() string {
	return [...]string{"anyone", "any key", "viewer, submitter or admin", "submitter or admin", "admin"}[a]
}

// caller is whose key the request carries. It is the zero Key on public paths.
func caller(ctx context.Context) store.Key {
	k, _ := ctx.Value(keyPrincipal).(store.Key)
	return k
}

// sees reports whether the caller may read what owner owns.
func sees(k store.Key, owner string) bool {
	return k.Role == store.RoleAdmin || k.Role == store.RoleViewer || k.Owner == owner
}

// changes reports whether the caller may change what owner owns.
func changes(k store.Key, owner string) bool {
	return k.Role == store.RoleAdmin || (k.Role == store.RoleSubmitter && k.Owner == owner)
}

// authenticate finds the key behind the Authorization header, which holds a key or an
// access token, bare or after "Bearer".
func (s *server) authenticate(r *http.Request) (store.Key, error) {
	h := strings.TrimSpace(r.Header.Get("Authorization"))
	if scheme, rest, ok := strings.Cut(h, " "); ok && strings.EqualFold(scheme, "Bearer") {
		h = strings.TrimSpace(rest)
	}
	if h == "" {
		return store.Key{}, refuse(http.StatusUnauthorized, "no API key: send one in the Authorization header (the program spare takes it from SPARE_KEY or --key)")
	}
	hash := spare.Sum([]byte(h))
	if !strings.HasPrefix(h, keyPrefix) {
		var err error
		if hash, err = s.readToken(h); err != nil {
			return store.Key{}, err
		}
	}
	return s.keyOf(r.Context(), hash)
}

// keyOf looks up a key that is still good.
func (s *server) keyOf(ctx context.Context, hash spare.Digest) (store.Key, error) {
	k, err := s.Store.KeyByHash(ctx, hash)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return store.Key{}, refuse(http.StatusUnauthorized, "this hub does not know the API key: check that it was made by this hub and copied whole")
	case err != nil:
		return store.Key{}, err
	case k.Revoked:
		return store.Key{}, refuse(http.StatusUnauthorized, "API key %q was revoked: ask the hub's admin for a new one", k.Name)
	case k.Expires != nil && !s.Now().Before(*k.Expires):
		return store.Key{}, refuse(http.StatusUnauthorized, "API key %q expired on %s: ask the hub's admin for a new one", k.Name, k.Expires.Format(time.DateOnly))
	}
	return k, nil
}

func (s *server) accessToken(w http.ResponseWriter, r *http.Request) error {
	obj, err := readObject(w, r, maxBody)
	if err != nil {
		return err
	}
	given, err := text("apiKey", obj["apiKey"])
	if err != nil {
		return err
	}
	if given == "" {
		return refuseField("apiKey", "missing: send {\"apiKey\": \"…\"}")
	}
	k, err := s.keyOf(r.Context(), spare.Sum([]byte(strings.TrimSpace(given))))
	if err != nil {
		return err
	}
	t, err := s.token(k)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]string{
		"token": t, "expiresIn": strconv.Itoa(int(tokenLife / time.Second)), "scope": string(k.Role),
	})
}
