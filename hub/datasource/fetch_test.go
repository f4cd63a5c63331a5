package datasource_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/blob"
	"github.com/spare-compute/spare/hub/datasource"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// quick are options for servers of the test.
func quick() datasource.Options {
	return datasource.Options{Allow: loopback, Backoff: time.Millisecond, Stall: 10 * time.Second, Retries: 4}
}

func source(url string) spare.DataPoint {
	return spare.DataPoint{Descriptor: "url", Params: map[string]string{"url": url}}
}

func content(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// serve answers with b, each request by the next of the handlers, the last for all after.
func serve(t *testing.T, handlers ...http.HandlerFunc) (url string, requests *atomic.Int32) {
	t.Helper()
	requests = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(requests.Add(1))
		handlers[min(n, len(handlers))-1](w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, requests
}

func whole(b []byte, etag string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if etag != "" {
			w.Header().Set("ETag", etag)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
}

// cutAfter promises all of b and breaks the line after n bytes of it.
func cutAfter(b []byte, n int, header map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for k, v := range header {
			w.Header().Set(k, v)
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		_, _ = w.Write(b[:n])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func blobs(t *testing.T) *blob.Disk {
	t.Helper()
	d, err := blob.OpenDisk(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// fetched fetches and checks that exactly b arrived.
func fetched(t *testing.T, opt datasource.Options, dp spare.DataPoint, b []byte) spare.File {
	t.Helper()
	d := blobs(t)
	file, err := datasource.New(opt).Fetch(t.Context(), dp, d)
	if err != nil {
		t.Fatal(err)
	}
	if file.Digest != spare.Sum(b) || file.Size != int64(len(b)) {
		t.Fatalf("fetched %d bytes, %s; want %d, %s", file.Size, file.Digest.Short(), len(b), spare.Sum(b).Short())
	}
	if _, err := d.Stat(file.Digest); err != nil {
		t.Fatal(err)
	}
	return file
}

// refused fetches and checks that the error says all of words.
func refused(t *testing.T, opt datasource.Options, dp spare.DataPoint, words ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	file, err := datasource.New(opt).Fetch(ctx, dp, blobs(t))
	if err == nil {
		t.Fatalf("fetched %+v", file)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
	return err
}

func TestFetch_BringsTheContent(t *testing.T) {
	for _, n := range []int{0, 1, 3 << 20} {
		b := content(n)
		url, requests := serve(t, whole(b, `"v1"`))
		file := fetched(t, quick(), source(url+"/films/clip.mp4?signature=secret"), b)
		if file.Name != "clip.mp4" {
			t.Errorf("it is called %q", file.Name)
		}
		if requests.Load() != 1 {
			t.Errorf("%d requests", requests.Load())
		}
	}
}

func TestFetch_GoesOnWhereTheLineWasCut(t *testing.T) {
	b := content(1 << 20)
	var ranges []string
	var mu sync.Mutex
	rest := func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		ranges = append(ranges, r.Header.Get("Range")+" if "+r.Header.Get("If-Range"))
		mu.Unlock()
		whole(b, `"v1"`)(w, r)
	}
	url, requests := serve(t, cutAfter(b, 400_000, map[string]string{"ETag": `"v1"`}), rest)
	fetched(t, quick(), source(url), b)
	if requests.Load() != 2 || len(ranges) != 1 || ranges[0] != `bytes=400000- if "v1"` {
		t.Errorf("%d requests, the rest asked for as %q", requests.Load(), ranges)
	}
}

func TestFetch_GoesOnByDateWhereThereIsNoETag(t *testing.T) {
	b := content(300_000)
	when := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	modified := func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", when, bytes.NewReader(b))
	}
	header := map[string]string{"Last-Modified": when.Format(http.TimeFormat)}
	url, requests := serve(t, cutAfter(b, 100_000, header), modified)
	fetched(t, quick(), source(url), b)
	if requests.Load() != 2 {
		t.Errorf("%d requests", requests.Load())
	}
}

func TestFetch_SkipsWhatIsHereWhereTheServerKnowsNoRanges(t *testing.T) {
	b := content(300_000)
	all := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		_, _ = w.Write(b)
	}
	url, requests := serve(t, cutAfter(b, 100_000, map[string]string{"ETag": `"v1"`}), all)
	fetched(t, quick(), source(url), b)
	if requests.Load() != 2 {
		t.Errorf("%d requests", requests.Load())
	}
}

func TestFetch_BeginsAnewWhenTheContentChanged(t *testing.T) {
	before, after := content(300_000), content(300_001)[1:]
	url, _ := serve(t, cutAfter(before, 100_000, map[string]string{"ETag": `"v1"`}), whole(after, `"v2"`))
	fetched(t, quick(), source(url), after)
}

func TestFetch_BeginsAnewWhereNothingProvesTheContentTheSame(t *testing.T) {
	b := content(300_000)
	url, _ := serve(t, cutAfter(b, 100_000, nil), whole(b, ""))
	fetched(t, quick(), source(url), b)
}

func TestFetch_GivesUpOnALineThatIsAlwaysCut(t *testing.T) {
	b := content(300_000)
	url, requests := serve(t, cutAfter(b, 100_000, map[string]string{"ETag": `"v1"`}), func(w http.ResponseWriter, r *http.Request) {
		panic(http.ErrAbortHandler)
	})
	refused(t, quick(), source(url), "fetch "+url)
	if n := requests.Load(); n > 40 {
		t.Errorf("%d requests", n)
	}
	url, requests = serve(t, cutAfter(b, 100_000, nil))
	refused(t, quick(), source(url), "cannot go on", "try again later")
	if n := requests.Load(); n > 40 {
		t.Errorf("%d requests", n)
	}
}

func TestFetch_AnAnswerInChunksThatBreaksIsNotTheWhole(t *testing.T) {
	url, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(content(100_000))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	refused(t, quick(), source(url))
}

func TestFetch_TriesAgainWhereThatMayHelp(t *testing.T) {
	b := content(1000)
	url, requests := serve(t, status(503), status(429), status(502), whole(b, ""))
	fetched(t, quick(), source(url), b)
	if requests.Load() != 4 {
		t.Errorf("%d requests", requests.Load())
	}
}

func TestFetch_SaysWhatTheServerSays(t *testing.T) {
	for code, words := range map[int][]string{
		404: {"404 Not Found", "check the address"},
		403: {"403 Forbidden", "username and password"},
		410: {"410 Gone"},
		204: {"204 No Content"},
		418: {"418"},
	} {
		url, requests := serve(t, status(code))
		err := refused(t, quick(), source(url+"/a?token=hidden"), append(words, "fetch "+url+"/a:")...)
		if strings.Contains(err.Error(), "hidden") {
			t.Errorf("%q shows the query", err)
		}
		if requests.Load() != 1 {
			t.Errorf("%d: %d requests", code, requests.Load())
		}
	}
	url, requests := serve(t, status(500))
	refused(t, quick(), source(url), "500 Internal Server Error", "later")
	if requests.Load() != 5 {
		t.Errorf("500: %d requests, want one and four more", requests.Load())
	}
}

func TestFetch_WaitsNoLongerThanAllowedForWhatStandsStill(t *testing.T) {
	opt := quick()
	opt.Stall, opt.Retries = 50*time.Millisecond, 1
	hang := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write(content(10))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	url, _ := serve(t, hang)
	refused(t, opt, source(url), "stood still for 50ms")
	url, _ = serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	refused(t, opt, source(url), "timeout awaiting response headers")
}

func TestFetch_EndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write(content(10))
		_ = http.NewResponseController(w).Flush()
		cancel()
		<-r.Context().Done()
	})
	if _, err := datasource.New(quick()).Fetch(ctx, source(url), blobs(t)); !errors.Is(err, context.Canceled) {
		t.Fatalf("Fetch = %v, want Canceled", err)
	}
}

func TestFetch_AnInputMayNotBeLargerThanAllowed(t *testing.T) {
	opt := quick()
	opt.MaxBytes = 1000
	url, _ := serve(t, whole(content(1001), ""))
	refused(t, opt, source(url), "larger than the 1000 bytes")
	url, _ = serve(t, func(w http.ResponseWriter, _ *http.Request) { // does not say how long
		for range 100 {
			_, _ = w.Write(content(100))
			_ = http.NewResponseController(w).Flush()
		}
	})
	refused(t, opt, source(url), "larger than the 1000 bytes")
	url, _ = serve(t, whole(content(1000), ""))
	fetched(t, opt, source(url), content(1000))
}

func TestFetch_SendsThePasswordOnlyWhereItBelongs(t *testing.T) {
	b := content(100)
	guarded := func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "ada" || password != "engine" {
			w.WriteHeader(401)
			return
		}
		whole(b, "")(w, r)
	}
	url, _ := serve(t, guarded)
	dp := source(url)
	dp.Params["username"], dp.Params["password"] = "ada", "engine"
	fetched(t, quick(), dp, b)
	fetched(t, quick(), source(strings.Replace(url, "http://", "http://ada:engine@", 1)), b)
	err := refused(t, quick(), source(strings.Replace(url, "http://", "http://ada:wrong-secret@", 1)), "401")
	if strings.Contains(err.Error(), "wrong-secret") {
		t.Errorf("%q shows the password", err)
	}

	var leaked atomic.Bool
	elsewhere, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _, got := r.BasicAuth()
		leaked.Store(got)
		whole(b, "")(w, r)
	})
	elsewhere = strings.Replace(elsewhere, "127.0.0.1", "localhost", 1)
	url, _ = serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere, http.StatusFound) })
	dp = source(url)
	dp.Params["username"], dp.Params["password"] = "ada", "engine"
	fetched(t, quick(), dp, b)
	if leaked.Load() {
		t.Error("another server was sent the password")
	}
}

func TestFetch_ALoopbackAddressIsRefusedUnlessAllowed(t *testing.T) {
	url, requests := serve(t, whole(content(10), ""))
	opt := quick()
	opt.Allow = nil
	refused(t, opt, source(url), "127.0.0.1 is a loopback address", "an operator can allow it with --allow-fetch 127.0.0.1/32")
	// A name that leads there is caught when it is dialled, not when it is read.
	byName := strings.Replace(url, "127.0.0.1", "localhost", 1)
	if err := datasource.New(opt).Check(source(byName)); err != nil {
		t.Errorf("a name was looked up early: %v", err)
	}
	refused(t, opt, source(byName), "is a loopback address")
	if requests.Load() != 0 {
		t.Errorf("%d requests got through", requests.Load())
	}
}

func TestFetch_ARedirectIsHeldToTheSameRule(t *testing.T) {
	inside, requests := serve(t, whole(content(10), ""))
	_, port, err := net.SplitHostPort(strings.TrimPrefix(inside, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	opt := quick()
	opt.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")} // 127.0.0.2 is not
	for target, word := range map[string]string{
		"http://127.0.0.2:" + port + "/":          "127.0.0.2 is a loopback address",
		"http://[::ffff:127.0.0.2]:" + port + "/": "127.0.0.2 is a loopback address",
		"http://169.254.169.254/latest/":          "metadata address",
		"http://10.0.0.1/":                        "10.0.0.1 is a private address",
		"file:///etc/passwd":                      `"file:" cannot be fetched`,
		"gopher://127.0.0.1/":                     "only http and https",
	} {
		url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target, http.StatusFound) })
		refused(t, opt, source(url), word)
	}
	if requests.Load() != 0 {
		t.Errorf("%d requests got through", requests.Load())
	}
}

func TestFetch_FollowsAFewRedirects(t *testing.T) {
	b := content(100)
	for hops, want := range map[int]bool{5: true, 6: false} {
		url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
			var n int
			_, _ = fmt.Sscanf(r.URL.Path, "/%d", &n)
			if n < hops {
				http.Redirect(w, r, fmt.Sprintf("/%d", n+1), http.StatusFound)
				return
			}
			whole(b, "")(w, r)
		})
		if want {
			fetched(t, quick(), source(url+"/0"), b)
		} else {
			refused(t, quick(), source(url+"/0"), "redirect is not followed")
		}
	}
}

func TestFetch_KnowsNoProxy(t *testing.T) {
	proxy, asked := serve(t, status(200))
	t.Setenv("HTTP_PROXY", proxy)
	t.Setenv("http_proxy", proxy)
	opt := quick()
	opt.Retries = 1
	refused(t, opt, source("http://name.invalid/x"))
	if asked.Load() != 0 {
		t.Error("the proxy of the environment was asked")
	}
}

func TestFetch_AServerThatIsNotThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String() + "/x"
	l.Close()
	refused(t, quick(), source(url), "fetch "+url+":", "refused")
}

type brokenBlobs struct{}

func (brokenBlobs) Put(_ context.Context, r io.Reader) (spare.Digest, int64, error) {
	_, _ = r.Read(make([]byte, 10))
	return "", 0, blob.ErrFull
}

func TestFetch_AFullDiskIsSaidAsItIs(t *testing.T) {
	url, requests := serve(t, whole(content(100_000), ""))
	if _, err := datasource.New(quick()).Fetch(t.Context(), source(url), brokenBlobs{}); !errors.Is(err, blob.ErrFull) {
		t.Fatalf("Fetch = %v, want ErrFull", err)
	}
	if requests.Load() != 1 {
		t.Errorf("%d requests", requests.Load())
	}
}

func TestFetch_BypassIsASmallFile(t *testing.T) {
	file := fetched(t, quick(), spare.DataPoint{Descriptor: "bypass"}, []byte("bypass\n"))
	if file.Name != "bypass" {
		t.Errorf("it is called %q", file.Name)
	}
}

func TestCheck_SaysWhatIsServed(t *testing.T) {
	f := datasource.New(datasource.Options{})
	for descriptor, word := range map[string]string{
		"aws": `data source "aws" is not served yet; use file or url`, "s3": "not served yet", "gcp": "not served yet", "": "use file or url",
	} {
		if err := f.Check(spare.DataPoint{Descriptor: descriptor}); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: %v, want %q", descriptor, err, word)
		}
	}
	for url, word := range map[string]string{
		"":                         "missing",
		"ftp://a/b":                "only http and https",
		"/etc/passwd":              "only http and https",
		"http://":                  "names no server",
		"http://user:geheim@[::1":  "cannot be read",
		"http://[::1]/x":           "--allow-fetch ::1/128",
		"http://169.254.169.254/x": "metadata",
	} {
		err := f.Check(source(url))
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: %v, want %q", url, err, word)
		}
		if err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q shows the password", err)
		}
	}
	for _, dp := range []spare.DataPoint{{Descriptor: "file"}, {Descriptor: "local"}, {Descriptor: "bypass"}, source("https://example.org/a")} {
		if err := f.Check(dp); err != nil {
			t.Errorf("%v: %v", dp, err)
		}
	}
	if err := f.Check(spare.DataPoint{Descriptor: "url", Params: map[string]string{"url": "https://a/b", "headers": "x"}}); err == nil {
		t.Error("an unknown parameter was taken")
	}
	if _, err := f.Fetch(t.Context(), spare.DataPoint{Descriptor: "file"}, blobs(t)); err == nil || !strings.Contains(err.Error(), "uploadcompleted") {
		t.Errorf("a file that was not uploaded: %v", err)
	}
}

func TestCheckDestination_OnlyTheHubsOwnStoreIsServed(t *testing.T) {
	for descriptor, want := range map[string]bool{"": true, "bucket": true, "aws": false, "bypass": false, "gcp": false} {
		if got := datasource.CheckDestination(spare.DataPoint{Descriptor: descriptor}) == nil; got != want {
			t.Errorf("%q is served: %v, want %v", descriptor, got, want)
		}
	}
}
