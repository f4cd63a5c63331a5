package datasource

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestRedirect_APasswordIsNotShownInTheClear(t *testing.T) {
	request := func(url, user string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, url, nil)
		if user != "" {
			r.SetBasicAuth(user, "x")
		}
		return r
	}
	for _, test := range []struct {
		from, user, to string
		want           bool
	}{
		{"https://a.example/x", "ada", "https://a.example/y", true},
		{"https://a.example/x", "ada", "http://a.example/y", false},
		{"https://a.example/x", "", "http://a.example/y", true},
		{"http://a.example/x", "ada", "http://a.example/y", true},
	} {
		err := checkRedirect(request(test.to, ""), []*http.Request{request(test.from, test.user)})
		if (err == nil) != test.want {
			t.Errorf("%+v: %v", test, err)
		}
		if err != nil && !strings.Contains(err.Error(), "password") {
			t.Errorf("%q does not say why", err)
		}
	}
}

func TestBackoff_IsBoundedAndHeedsTheServer(t *testing.T) {
	for try := range 70 {
		if d := backoff(time.Second, 30*time.Second, try, nil); d <= 0 || d > 30*time.Second+time.Millisecond {
			t.Errorf("try %d waits %v", try, d)
		}
	}
	for header, want := range map[string]time.Duration{"7": 7 * time.Second, "0": 0, "86400": time.Minute} {
		res := &http.Response{Header: http.Header{"Retry-After": {header}}}
		if got := backoff(time.Second, 30*time.Second, 1, res); got != want {
			t.Errorf("Retry-After %s waits %v, want %v", header, got, want)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, seed := range []string{"bytes 10-99/100", "bytes 0-0/*", "bytes */5", "", "bytes 5", "bytes -1-2/3", "bytes 0-/-2", "bytes 9-10/5"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		start, total, err := contentRange(s)
		if err == nil && (start < 0 || total < -1 || total >= 0 && total < start) {
			t.Fatalf("%q gives %d of %d", s, start, total)
		}
	})
}
