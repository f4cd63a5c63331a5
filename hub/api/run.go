package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/catalog"
)

// setSource answers PATCH …/datasource: {dataSource, dataDestination}.
func (s *server) setSource(w http.ResponseWriter, r *http.Request) error {
	obj, err := readObject(w, r, maxBody)
	if err != nil {
		return err
	}
	for field := range obj {
		switch plain(field) {
		case "datasource", "datadestination":
		default:
			return refuseField(field, "this path takes dataSource and dataDestination")
		}
	}
	c, err := s.parseChange(obj)
	if err != nil {
		return err
	}
	return s.changeJob(w, r, c, false)
}

// setParams answers PATCH …/params; the parameters may also be wrapped in "params".
func (s *server) setParams(w http.ResponseWriter, r *http.Request) error {
	b, err := readBody(w, r, maxBody)
	if err != nil {
		return err
	}
	obj, err := parseObject("params", b)
	if err != nil {
		return err
	}
	if inner, ok := obj["params"]; ok && len(obj) == 1 {
		b = inner
	}
	p, err := catalog.ParseParams(b)
	if err != nil {
		return err
	}
	return s.changeJob(w, r, change{params: &p}, false)
}

// setName answers PATCH …/jobname: a JSON string, bare text, or {"name": …}.
func (s *server) setName(w http.ResponseWriter, r *http.Request) error {
	b, err := readBody(w, r, maxBody)
	if err != nil {
		return err
	}
	b = bytes.TrimSpace(b)
	var name string
	switch {
	case bytes.HasPrefix(b, []byte("{")):
		var obj map[string]json.RawMessage
		if obj, err = parseObject("body", b); err != nil {
			return err
		}
		for _, field := range []string{"name", "jobName", "jobname"} {
			if raw, ok := obj[field]; ok {
				if name, err = text(field, raw); err != nil {
					return err
				}
			}
		}
	case bytes.HasPrefix(b, []byte(`"`)):
		if name, err = text("body", b); err != nil {
			return err
		}
	default:
		name = string(b)
	}
	if name = strings.TrimSpace(name); name == "" {
		return refuseField("name", "missing: send the new name as a JSON string")
	}
	if err := checkName("name", name); err != nil {
		return err
	}
	return s.changeJob(w, r, change{name: &name}, false)
}

// setConfig answers PATCH …/configs.
func (s *server) setConfig(w http.ResponseWriter, r *http.Request) error {
	c, err := s.readConfig(w, r)
	if err != nil {
		return err
	}
	return s.changeJob(w, r, c, false)
}

// readConfig reads a config in all the forms that clients send it: {"config": {…}}, its
// fields bare, an empty object, or no body.
func (s *server) readConfig(w http.ResponseWriter, r *http.Request) (change, error) {
	obj, err := readObject(w, r, maxBody)
	if err != nil {
		return change{}, err
	}
	if inner, ok := obj["config"]; ok {
		if obj, err = parseObject("config", inner); err != nil {
			return change{}, err
		}
	}
	if len(obj) == 0 {
		return change{}, nil
	}
	if _, err := mergeConfig(spare.JobConfig{}, obj); err != nil {
		return change{}, err
	}
	raw, err := json.Marshal(map[string]any{"config": obj})
	if err != nil {
		return change{}, err
	}
	return change{config: obj}, catalog.CheckJob(raw)
}

func (s *server) runJob(w http.ResponseWriter, r *http.Request) error {
	c, err := s.readConfig(w, r)
	if err != nil {
		return err
	}
	j, err := s.jobOf(r, true)
	if err != nil {
		return err
	}
	if c.config != nil {
		if _, err := s.Store.UpdateJob(r.Context(), j.ID, c.apply); err != nil {
			return err
		}
	}
	if err := s.Jobs.Run(r.Context(), j.ID); err != nil {
		return err
	}
	message := ""
	if j, err := s.Store.Job(r.Context(), j.ID); err == nil && j.Plan != nil {
		if warning := s.Catalog.UnsignedIn(*j.Plan); warning != "" {
			message = "warning: " + warning
		}
	}
	return s.ok(w, r, message)
}

func (s *server) abortJob(w http.ResponseWriter, r *http.Request) error {
	j, err := s.jobOf(r, true)
	if err != nil {
		return err
	}
	if err := s.Jobs.Abort(r.Context(), j.ID); err != nil {
		return err
	}
	if j.State == spare.JobDraft { // the contract: it is deleted
		return s.forgetUpload(w, r, j.ID)
	}
	return s.ok(w, r, "")
}

func (s *server) deleteJob(w http.ResponseWriter, r *http.Request) error {
	j, err := s.jobOf(r, true)
	if err != nil {
		return err
	}
	if err := s.Jobs.Delete(r.Context(), j.ID); err != nil {
		return err
	}
	return s.forgetUpload(w, r, j.ID)
}

func (s *server) forgetUpload(w http.ResponseWriter, r *http.Request, id spare.JobID) error {
	if err := s.uploads.remove(id); err != nil {
		s.Log.Error("cannot remove a deleted job's upload", "job", id, "err", err)
	}
	return s.ok(w, r, "")
}
