package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/egress"
)

// RegistryOptions say how registries are called.
type RegistryOptions struct {
	// Rule says which addresses may be called: names of registries come from strangers.
	Rule egress.Rule
	// Proxy is http.ProxyFromEnvironment if nil. Behind a proxy the rule holds for what can
	// be told from a host's name alone; what else a name means is the proxy's choice.
	Proxy func(*http.Request) (*url.URL, error)
	// Mirrors are asked before the registry they stand for, by its host: "host:port", or
	// "http://host:port" for one without TLS. They never get credentials.
	Mirrors map[string][]string
	// Named are the registries, by host as images name them, that the owner of this machine
	// named. The rule does not hold for them, nor for mirrors, as long as no other registry
	// leads there.
	Named []string
	// Hint is how to name one: "its owner can allow it with … allow_registries".
	Hint string
	// Stall is how long a call may stand still; default 1 min.
	Stall time.Duration
}

// A Credential lets into a registry. Both empty is anybody's way in; a token alone is
// sent as it is, as a bearer.
type Credential struct{ Username, Token string }

func (c Credential) authenticator() authn.Authenticator {
	switch {
	case c.Username != "":
		return &authn.Basic{Username: c.Username, Password: c.Token}
	case c.Token != "":
		return &authn.Bearer{Token: c.Token}
	}
	return authn.Anonymous
}

const (
	defaultStall  = time.Minute
	documentTime  = 5 // times the stall; for a manifest
	dialTime      = 15 * time.Second
	maxRedirects  = 5
	maxHeader     = 64 << 10 // bytes
	agent         = "Spare/"
	acceptedTypes = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, " +
		"application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
)

// Registries calls registries under one set of options. It is safe for concurrent use.
type Registries struct {
	opt       RegistryOptions
	transport http.RoundTripper
}

// NewRegistries makes a caller of registries.
func NewRegistries(opt RegistryOptions) *Registries {
	if opt.Stall == 0 {
		opt.Stall = defaultStall
	}
	if opt.Proxy == nil {
		opt.Proxy = http.ProxyFromEnvironment
	}
	mirrors := map[string][]string{}
	for host, all := range opt.Mirrors {
		mirrors[canonical(host)] = all
	}
	opt.Mirrors = mirrors
	return &Registries{opt: opt, transport: transport.NewUserAgent(newWays(opt), agent+spare.Version)}
}

// Source is the registry that a name points to, and its mirrors.
func (r *Registries) Source(ref Ref, cred Credential) Source {
	s := &registry{all: r}
	for _, m := range r.opt.Mirrors[ref.Host()] {
		host, plain := mirrorHost(m)
		var opts []name.Option
		if plain {
			opts = append(opts, name.Insecure)
		}
		if reg, err := name.NewRegistry(host, opts...); err == nil {
			s.places = append(s.places, newPlace(reg.Repo(ref.repo.RepositoryStr()), authn.Anonymous))
		}
	}
	s.places = append(s.places, newPlace(ref.repo, cred.authenticator()))
	return s
}

// Resolve asks the registry what a name without a digest means now.
func (r *Registries) Resolve(ctx context.Context, ref Ref, cred Credential) (Ref, error) {
	if ref.Digest != "" {
		return ref, nil
	}
	s := r.Source(ref, cred).(*registry)
	var digest spare.Digest
	err := s.each(ctx, "look up", func(ctx context.Context, w *watch, p *place) error {
		resp, err := s.send(ctx, w, p, http.MethodHead, "manifests/"+ref.tag, "")
		if err != nil {
			return err
		}
		drop(resp)
		if digest, err = parseDigest(resp.Header.Get("Docker-Content-Digest")); err == nil {
			return nil
		}
		// Not every registry says it: the manifest itself does.
		raw, err := s.document(ctx, w, p, "manifests/"+ref.tag)
		digest = spare.Sum(raw)
		return err
	})
	if err != nil {
		return ref, fmt.Errorf("image %s: %w", ref, err)
	}
	return ref.Pin(digest), nil
}

// registry is the Source of one repository: mirrors first, the registry itself last.
type registry struct {
	all *Registries

	mu     sync.Mutex
	places []*place
}

// place is a repository at one host.
type place struct {
	repo   name.Repository
	auth   authn.Authenticator
	turn   chan struct{} // held while client is looked at, and while it is made
	client *http.Client  // once it has let us in
}

func newPlace(repo name.Repository, auth authn.Authenticator) *place {
	return &place{repo: repo, auth: auth, turn: make(chan struct{}, 1)}
}

// distrust drops the mirrors: one of them gave what was not asked for.
func (s *registry) distrust() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.places = s.places[len(s.places)-1:]
}

// each tries the places until one serves, and leaves one that stands still.
func (s *registry) each(ctx context.Context, doing string, try func(context.Context, *watch, *place) error) error {
	s.mu.Lock()
	places := s.places
	s.mu.Unlock()
	var err error
	for _, p := range places {
		host := p.repo.RegistryStr()
		call, w := watched(context.WithValue(ctx, askedKey{}, host), s.all.opt.Stall)
		err = causeOf(call, try(call, w, p))
		w.end()
		if err == nil || ctx.Err() != nil {
			break
		}
		err = fmt.Errorf("%s at %s: %w", doing, host, explainCall(host, err))
		if errors.Is(err, egress.ErrRefused) && s.all.opt.Hint != "" {
			err = fmt.Errorf("%w; %s=%s", err, s.all.opt.Hint, host)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Manifest implements Source.
func (s *registry) Manifest(ctx context.Context, d spare.Digest) (raw []byte, err error) {
	err = s.each(ctx, "fetch the manifest "+d.Short(), func(ctx context.Context, w *watch, p *place) error {
		raw, err = s.document(ctx, w, p, "manifests/sha256:"+string(d))
		if err == nil && spare.Sum(raw) != d {
			err = ErrCorrupt
		}
		return err
	})
	return raw, err
}

func (s *registry) document(ctx context.Context, w *watch, p *place, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, documentTime*s.all.opt.Stall, errStalled)
	defer cancel()
	resp, err := s.send(ctx, w, p, http.MethodGet, path, "")
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	defer drop(resp)
	var b bounded
	_, err = io.Copy(&b, w.over(resp.Body))
	return b.bytes, causeOf(ctx, err)
}

// Blob implements Source.
func (s *registry) Blob(ctx context.Context, b Blob, offset int64, w io.Writer) error {
	return s.each(ctx, "fetch "+b.Digest.Short(), func(ctx context.Context, still *watch, p *place) error {
		n, err := s.blob(ctx, still, p, b, offset, w)
		offset += n
		return err
	})
}

func (s *registry) blob(ctx context.Context, still *watch, p *place, b Blob, offset int64, w io.Writer) (int64, error) {
	path := "blobs/sha256:" + string(b.Digest)
	span := ""
	if offset > 0 {
		span = fmt.Sprintf("bytes=%d-", offset)
		if b.Size > offset { // not every registry takes a range without an end
			span += strconv.FormatInt(b.Size-1, 10)
		}
	}
	resp, err := s.send(ctx, still, p, http.MethodGet, path, span)
	var answer *transport.Error
	if span != "" && errors.As(err, &answer) && answer.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		resp, err = s.send(ctx, still, p, http.MethodGet, path, "")
	}
	if err != nil {
		return 0, err
	}
	if from := fmt.Sprintf("bytes %d-", offset); resp.StatusCode == http.StatusPartialContent && !strings.HasPrefix(resp.Header.Get("Content-Range"), from) {
		drop(resp)
		return 0, fmt.Errorf("asked for bytes from %d on, it sends %.60q", offset, resp.Header.Get("Content-Range"))
	}
	defer func() { _ = resp.Body.Close() }() // what is left of a layer is not waited for
	if resp.StatusCode == http.StatusOK && offset > 0 {
		if _, err := io.CopyN(io.Discard, still.over(resp.Body), offset); err != nil {
			return 0, err
		}
	}
	return io.CopyBuffer(w, still.over(resp.Body), make([]byte, copyBuffer))
}

// send makes one request in a repository. An answer is a sign of life.
func (s *registry) send(ctx context.Context, w *watch, p *place, method, path, span string) (*http.Response, error) {
	client, err := p.enter(ctx, s.all.transport)
	if err != nil {
		return nil, err
	}
	w.putOff()
	u := url.URL{Scheme: p.repo.Scheme(), Host: p.repo.RegistryStr(), Path: "/v2/" + p.repo.RepositoryStr() + "/" + path}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	if strings.HasPrefix(path, "manifests/") {
		req.Header.Set("Accept", acceptedTypes)
	}
	if span != "" {
		req.Header.Set("Range", span)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	w.putOff()
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		drop(resp)
		return nil, err
	}
	return resp, nil
}

// enter asks the host how it wants to be asked, once.
func (p *place) enter(ctx context.Context, t http.RoundTripper) (*http.Client, error) {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-p.turn }()
	if p.client != nil {
		return p.client, nil
	}
	inside, err := transport.NewWithContext(ctx, p.repo.Registry, p.auth, t, []string{p.repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, err
	}
	p.client = &http.Client{Transport: inside, CheckRedirect: checkRedirect}
	return p.client, nil
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("it redirects more than %d times", maxRedirects)
	case req.URL.Scheme != "https" && req.URL.Scheme != "http":
		return fmt.Errorf("it redirects to %.20q", req.URL.Scheme)
	case via[0].URL.Scheme == "https" && req.URL.Scheme == "http":
		return errors.New("it redirects from https to http")
	}
	return nil
}

func drop(resp *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxHeader))
	_ = resp.Body.Close()
}

// explainCall says what to do about a registry's answer, and leaves out addresses with
// signatures in them.
func explainCall(host string, err error) error {
	var answer *transport.Error
	var call *url.Error
	var address *egress.AddressError
	switch {
	case errors.As(err, &answer) && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden):
		return &answered{fmt.Errorf("it answers %d %s; write a username and token that may read it in platform_config, or check the name", answer.StatusCode, http.StatusText(answer.StatusCode)), answer}
	case errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w there; check the name", ErrNotFound)
	case errors.As(err, &answer):
		return &answered{fmt.Errorf("it answers %d %s", answer.StatusCode, http.StatusText(answer.StatusCode)), answer}
	case errors.As(err, &address):
		return fmt.Errorf("registry %s: %w", host, address)
	case errors.As(err, &call):
		return fmt.Errorf("%s: %w", strings.ToLower(call.Op), call.Err)
	}
	return err
}

// answered keeps a registry's answer behind a sentence.
type answered struct {
	error
	answer *transport.Error
}

func (a *answered) Unwrap() error { return a.answer }

// lasting reports whether trying again is no use.
func lasting(err error) bool {
	var refused *Refused
	var answer *transport.Error
	switch {
	case errors.As(err, &refused), errors.Is(err, ErrNotFound), errors.Is(err, egress.ErrRefused), errors.Is(err, ErrFull):
		return true
	case errors.As(err, &answer):
		return answer.StatusCode < 500 && answer.StatusCode != http.StatusTooManyRequests && answer.StatusCode != http.StatusRequestTimeout
	}
	return false
}
