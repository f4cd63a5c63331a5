package api

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare/hub/store"
)

func signer(now *time.Time) *server {
	return &server{Config: Config{
		Secret: []byte(strings.Repeat("s", 32)), Now: func() time.Time { return *now }, Log: slog.New(slog.DiscardHandler), HubName: "h",
	}}
}

func TestLink_IsGoodForItsPathPurposeAndTimeOnly(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	s := signer(&now)
	link := s.link(httptest.NewRequest("GET", "http://hub.example:8080/x", nil), "file", "/v1/a/ä b", time.Hour)
	u, err := url.Parse(link)
	if err != nil || u.Host != "hub.example:8080" || u.Scheme != "http" {
		t.Fatalf("link %q: %v", link, err)
	}
	try := func(edit func(*http.Request), purpose string) (bool, error) {
		r := httptest.NewRequest("GET", link, nil)
		if edit != nil {
			edit(r)
		}
		return s.signed(r, purpose)
	}
	if ok, err := try(nil, "file"); !ok || err != nil {
		t.Fatalf("its own link was refused: %v %v", ok, err)
	}
	for name, edit := range map[string]func(*http.Request){
		"another path": func(r *http.Request) { r.URL.Path = "/v1/a/b" },
		"a later end": func(r *http.Request) {
			q := r.URL.Query()
			q.Set("expires", "1999999999")
			r.URL.RawQuery = q.Encode()
		},
		"an empty end": func(r *http.Request) {
			q := r.URL.Query()
			q.Del("expires")
			r.URL.RawQuery = q.Encode()
		},
		"too late": func(*http.Request) { now = now.Add(time.Hour + time.Second) },
	} {
		before := now
		if ok, err := try(edit, "file"); ok || err == nil {
			t.Errorf("%s was taken", name)
		}
		now = before
	}
	if ok, err := try(nil, "upload"); ok || err == nil {
		t.Error("a link to read was taken for one to write")
	}
	bare := httptest.NewRequest("GET", "/v1/a/b", nil)
	if ok, err := s.signed(bare, "file"); ok || err != nil {
		t.Errorf("no signature: %v %v, want neither yes nor an error", ok, err)
	}
}

func TestToken_EndsAfterAnHourAndTakesNoOtherHandwriting(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	s := signer(&now)
	_, key := NewKey("k", "o", store.RoleViewer, now, 0)
	token, err := s.token(key)
	if err != nil {
		t.Fatal(err)
	}
	if hash, err := s.readToken(token); err != nil || hash != key.Hash {
		t.Fatalf("own token: %v %v", hash, err)
	}
	parts := strings.Split(token, ".")
	none := b64.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))
	for name, forged := range map[string]string{
		"no signature":    parts[0] + "." + parts[1] + ".",
		"algorithm none":  none + "." + parts[1] + ".",
		"other claims":    parts[0] + "." + b64.EncodeToString([]byte(`{"scope":"admin"}`)) + "." + parts[2],
		"cut off":         token[:len(token)-2],
		"not one at all":  "hello",
		"nothing":         "",
		"only the header": parts[0],
	} {
		if _, err := s.readToken(forged); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	other := signer(&now)
	other.Secret = []byte(strings.Repeat("x", 32))
	if _, err := other.readToken(token); err == nil {
		t.Error("another hub took the token")
	}
	now = now.Add(time.Hour)
	if _, err := s.readToken(token); err == nil {
		t.Error("the token was taken after its hour")
	}
}
