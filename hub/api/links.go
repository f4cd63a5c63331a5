package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

// How long what the hub signs is good for.
const (
	tokenLife  = time.Hour
	linkLife   = 4 * time.Hour // as the contract's download links
	uploadLife = 24 * time.Hour
)

// mac authenticates parts for one purpose: a signature for one is none for another.
func (s *server) mac(purpose string, parts ...string) []byte {
	h := hmac.New(sha256.New, s.Secret)
	for _, p := range append([]string{purpose}, parts...) {
		// The length in front keeps ("a", "bc") apart from ("ab", "c").
		h.Write([]byte(strconv.Itoa(len(p)) + ":" + p))
	}
	return h.Sum(nil)
}

var b64 = base64.RawURLEncoding

// link returns the absolute address of path, signed for purpose until life has passed.
func (s *server) link(r *http.Request, purpose, path string, life time.Duration) string {
	expires := strconv.FormatInt(s.Now().Add(life).Unix(), 10)
	q := url.Values{
		"expires":   {expires},
		"signature": {b64.EncodeToString(s.mac(purpose, path, expires))},
	}
	u := url.URL{Scheme: "http", Host: r.Host, Path: path, RawQuery: q.Encode()}
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		u.Scheme = "https" // the header only changes the link of who sends it
	}
	return u.String()
}

// signed reports whether the request carries a signature for purpose and its own path.
// A signature that is wrong or too old is an error: the caller meant to use it.
func (s *server) signed(r *http.Request, purpose string) (bool, error) {
	q := r.URL.Query()
	given := q.Get("signature")
	if given == "" {
		return false, nil
	}
	expires := q.Get("expires")
	sig, err := b64.DecodeString(given)
	if err != nil || !hmac.Equal(sig, s.mac(purpose, r.URL.Path, expires)) {
		return false, refuse(http.StatusForbidden, "this link was not made by this hub or was changed: ask the job for a new one")
	}
	at, err := strconv.ParseInt(expires, 10, 64)
	if err != nil || s.Now().Unix() > at {
		return false, refuse(http.StatusForbidden, "this link has expired: ask the job for a new one")
	}
	return true, nil
}

// jwtHeader is the only header that tokens of this hub have, so none is ever parsed.
var jwtHeader = b64.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`))

// claims are what an access token says. The key is looked up again at each use, so
// that a token ends with its key.
type claims struct {
	Issuer  string       `json:"iss,omitempty"`
	Subject string       `json:"sub"`
	Scope   string       `json:"scope"`
	Key     spare.Digest `json:"key"` // hash of the API key
	Issued  int64        `json:"iat"`
	Expires int64        `json:"exp"`
}

// token makes a JSON web token for the holder of k.
func (s *server) token(k store.Key) (string, error) {
	now := s.Now()
	body, err := json.Marshal(claims{
		Issuer: s.HubName, Subject: k.Owner, Scope: string(k.Role), Key: k.Hash,
		Issued: now.Unix(), Expires: now.Add(tokenLife).Unix(),
	})
	if err != nil {
		return "", err
	}
	head := jwtHeader + "." + b64.EncodeToString(body)
	return head + "." + b64.EncodeToString(s.mac("token", head)), nil
}

// readToken returns the hash of the key that a token stands for.
func (s *server) readToken(t string) (spare.Digest, error) {
	invalid := refuse(http.StatusUnauthorized, "the access token is not one of this hub: get a new one from POST /v1/auth/access_token")
	i := strings.LastIndexByte(t, '.')
	if i < 0 || !strings.HasPrefix(t, jwtHeader+".") {
		return "", invalid
	}
	sig, err := b64.DecodeString(t[i+1:])
	if err != nil || !hmac.Equal(sig, s.mac("token", t[:i])) {
		return "", invalid
	}
	body, err := b64.DecodeString(t[len(jwtHeader)+1 : i])
	if err != nil {
		return "", invalid
	}
	var c claims
	if json.Unmarshal(body, &c) != nil {
		return "", invalid
	}
	if s.Now().Unix() >= c.Expires {
		return "", refuse(http.StatusUnauthorized, "the access token has expired: get a new one from POST /v1/auth/access_token")
	}
	return c.Key, nil
}
