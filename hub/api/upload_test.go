package api_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/api"
	"github.com/spare-compute/spare/hub/api/apitest"
	"github.com/spare-compute/spare/hub/store"
)

// draft makes a job that waits for a file, and returns its path and upload link.
func (c caller) draft() (at, link string) {
	c.t.Helper()
	j := job(c.ok("POST", "/v1/computing/jobs", map[string]any{
		"templateId": apitest.Template, "dataSource": map[string]any{"dataSourceDescriptor": "file"},
	}))
	return "/v1/computing/jobs/" + j["id"].(string), j["dataSource"].(map[string]any)["params"].(map[string]any)["tempUrl"].(string)
}

func TestUpload_GoesOnWhereItWasCut(t *testing.T) {
	h, c := start(t)
	at, link := c.draft()
	anyone := caller{t, "", ""}
	offset := func(want, length string) {
		t.Helper()
		resp, _ := anyone.do("HEAD", link, nil)
		if got := resp.Header.Get("Upload-Offset"); resp.StatusCode != 200 || got != want || resp.Header.Get("Upload-Length") != length {
			t.Fatalf("HEAD: %s, offset %q of %q, want %q of %q", resp.Status, got, resp.Header.Get("Upload-Length"), want, length)
		}
	}
	offset("0", "")
	anyone.ok("PUT", link, "hello ", "Content-Range", "bytes 0-5/11", "Content-Disposition", `attachment; filename="g.txt"`)
	offset("6", "11")
	c.refused(409, "6 of 11 bytes", "PATCH", at+"/uploadcompleted", nil)
	resp, b := anyone.do("PUT", link, "xx", "Content-Range", "bytes 8-9/11")
	if resp.StatusCode != http.StatusConflict || resp.Header.Get("Upload-Offset") != "6" {
		t.Fatalf("wrong offset: %s %s", resp.Status, b)
	}
	anyone.refused(409, "start it again", "PUT", link, "xx", "Content-Range", "bytes 6-7/99")
	h.Stop()
	h.Resume()
	anyone.ok("PUT", link, "world", "Content-Range", "bytes 6-10/11")
	offset("11", "11")
	c.ok("PATCH", at+"/uploadcompleted", map[string]any{"sha256": string(spare.Sum([]byte("hello world")))})
	c.ok("PATCH", at+"/uploadcompleted", nil) // the answer may have been lost
	j, err := h.Store.Job(t.Context(), spare.JobID(strings.TrimPrefix(at, "/v1/computing/jobs/")))
	if err != nil || j.Input == nil || j.Input.Name != "g.txt" || j.Input.Digest != spare.Sum([]byte("hello world")) || j.Input.Size != 11 {
		t.Fatalf("input: %+v, %v", j.Input, err)
	}
	left, err := os.ReadDir(h.Config.Uploads)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestUpload_RefusesWhatCannotBeAnInput(t *testing.T) {
	_, c := start(t)
	at, link := c.draft()
	c.refused(400, "nothing was uploaded", "PATCH", at+"/uploadcompleted", nil)
	c.refused(400, "the file is empty", "PUT", link, "")
	c.refused(400, "Content-Range", "PUT", link, "x", "Content-Range", "bytes x")
	c.refused(400, "spans 5 bytes", "PUT", link, "x", "Content-Range", "bytes 0-4/5")
	c.refused(400, "Content-Range", "PUT", link, "xxxxx", "Content-Range", "bytes 0-4/3")
	c.refused(400, "no file", "PUT", link, "--b\r\n\r\n--b--\r\n", "Content-Type", "multipart/form-data; boundary=b")
	c.ok("PUT", link, "abc")
	c.refused(409, "differs", "PATCH", at+"/uploadcompleted", map[string]any{"sha256": string(spare.Sum([]byte("abd")))})
	c.refused(400, "nothing was uploaded", "PATCH", at+"/uploadcompleted", nil)
}

func TestUpload_LargerThanTheHubTakesIsRefused(t *testing.T) {
	h, c := start(t)
	h.Stop()
	h.Config.MaxUpload = 4
	h.Resume()
	_, link := c.draft()
	c.refused(413, "this hub takes 4", "PUT", link, "12345")
	c.refused(413, "this hub takes 4", "PUT", link, "5", "Content-Range", "bytes 4-4/*")
	c.ok("PUT", link, "1234")
}

func TestUpload_NeedsTheLinkOrTheOwnersKey(t *testing.T) {
	h, c := start(t)
	at, link := c.draft()
	caller{t, h.URL, ""}.refused(401, "no API key", "PUT", at+"/upload", "x")
	caller{t, h.URL, h.Key("bob", store.RoleSubmitter)}.refused(404, "no job", "PUT", at+"/upload", "x")
	caller{t, h.URL, h.Key("eve", store.RoleViewer)}.refused(403, "viewer", "PUT", at+"/upload", "x")
	caller{t, "", ""}.refused(403, "link", "PUT", strings.Replace(link, "signature=", "signature=A", 1), "x")
	c.ok("PUT", at+"/upload", "by key")
	c.ok("PATCH", at+"/uploadcompleted", nil)
	h.Jobs.Hold()
	c.ok("POST", at+"/run", nil)
	caller{t, "", ""}.refused(409, "can no longer change", "PUT", link, "late")
}

func TestUpload_ClientThatComesAgainTakesOverFromItsDeadConnection(t *testing.T) {
	h, c := start(t)
	at, link := c.draft()
	// A connection that sends the beginning and then nothing, as after a network cut.
	dead, err := net.Dial("tcp", strings.TrimPrefix(h.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	fmt.Fprintf(dead, "PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello", strings.TrimPrefix(link, h.URL))
	deadline := time.Now().Add(10 * time.Second)
	for {
		resp, _ := c.do("HEAD", link, nil)
		if resp.Header.Get("Upload-Offset") == "5" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("offset %q, want 5", resp.Header.Get("Upload-Offset"))
		}
		time.Sleep(2 * time.Millisecond) // between two looks
	}
	begun := time.Now()
	c.ok("PUT", link, "world", "Content-Range", "bytes 5-9/10")
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the dead connection was waited for: %v", took)
	}
	c.ok("PATCH", at+"/uploadcompleted", map[string]any{"sha256": string(spare.Sum([]byte("helloworld")))})
}

func TestUpload_GoesWithItsJob(t *testing.T) {
	h, c := start(t)
	at, link := c.draft()
	c.ok("PUT", link, "abc")
	c.ok("POST", at+"/abort", nil) // a draft is deleted
	c.refused(404, "no job", "GET", at, nil)
	if left, err := os.ReadDir(h.Config.Uploads); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	keep, link := c.draft()
	c.ok("PUT", link, "abc")
	_, gone := c.draft()
	c.ok("PUT", gone, "abc")
	id := strings.Split(gone, "/")[6]
	if err := h.Store.DeleteJob(t.Context(), spare.JobID(id)); err != nil {
		t.Fatal(err)
	}
	if err := api.SweepUploads(t.Context(), h.Store, h.Config.Uploads); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(h.Config.Uploads)
	if err != nil || len(left) != 2 {
		t.Errorf("%d files are left, want the 2 of the job that is still there; %v", len(left), err)
	}
	c.ok("PATCH", keep+"/uploadcompleted", nil)
}

func TestUpload_NamesComeOutTame(t *testing.T) {
	h, c := start(t)
	for given, want := range map[string]string{
		`attachment; filename="../../etc/passwd"`: "passwd",
		`attachment; filename="C:\\x\\y.mp4"`:     "y.mp4",
		`attachment`:                              "input",
		`attachment; filename=".."`:               "",
	} {
		at, link := c.draft()
		c.ok("PUT", link, "x", "Content-Disposition", given)
		c.ok("PATCH", at+"/uploadcompleted", nil)
		j, err := h.Store.Job(t.Context(), spare.JobID(strings.TrimPrefix(at, "/v1/computing/jobs/")))
		if err != nil {
			t.Fatal(err)
		}
		if got := j.Input.Name; (want != "" && got != want) || got == "" || got == ".." || strings.ContainsAny(got, `/\`) {
			t.Errorf("%s became %q, want %q", given, got, want)
		}
	}
}
