package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

func (s *server) listJobs(w http.ResponseWriter, r *http.Request) error {
	p, err := pageOf(r)
	if err != nil {
		return err
	}
	return s.sendJobs(w, r, p, nil)
}

// filterJobs answers POST /jobs/filter: equality on the fields of a job.
func (s *server) filterJobs(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Pagination struct{ Limit, Offset json.RawMessage }
		Filters    []jobFilter
		OrderBy    string
	}
	b, err := readBody(w, r, maxBody)
	if err != nil {
		return err
	}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &body); err != nil {
			return badJSON("body", err)
		}
	}
	p := page{orderBy: body.OrderBy}
	for name, raw := range map[string]json.RawMessage{"limit": body.Pagination.Limit, "offset": body.Pagination.Offset} {
		if isNull(raw) {
			continue
		}
		n, err := number("pagination."+name, raw, 0, 1<<31-1)
		if err != nil {
			return err
		}
		if name == "limit" {
			p.limit = n
		} else {
			p.offset = n
		}
	}
	for i, f := range body.Filters {
		if err := f.check(fmt.Sprintf("filters[%d]", i)); err != nil {
			return err
		}
	}
	return s.sendJobs(w, r, p.bounded(), body.Filters)
}

// A jobFilter asks that one field has one value.
type jobFilter struct {
	Field     string          `json:"field"`
	Condition string          `json:"condition"`
	Value     json.RawMessage `json:"value"`
}

var filterFields = map[string]func(spare.Job) string{
	"id":          func(j spare.Job) string { return string(j.ID) },
	"name":        func(j spare.Job) string { return j.Name },
	"description": func(j spare.Job) string { return j.Description },
	"templateId":  func(j spare.Job) string { return j.Template },
	"state":       func(j spare.Job) string { return stateNames[j.State] },
	"owner":       func(j spare.Job) string { return j.Owner },
}

// value is what the field must equal; clients send it bare or in a protobuf Any.
func (f jobFilter) value() string {
	var wrapped struct {
		Value json.RawMessage `json:"value"`
	}
	raw := f.Value
	if json.Unmarshal(raw, &wrapped) == nil && wrapped.Value != nil {
		raw = wrapped.Value
	}
	var v string
	if json.Unmarshal(raw, &v) != nil {
		v = strings.TrimSpace(string(raw))
	}
	if f.Field == "state" {
		if state, ok := stateOf(v); ok {
			return stateNames[state]
		}
	}
	return v
}

func (f jobFilter) check(path string) error {
	if f.Condition != "" && f.Condition != "FILTER_CONDITION_EQ" {
		return refuseField(path+".condition", "no condition %.60q; FILTER_CONDITION_EQ is the one there is", f.Condition)
	}
	if filterFields[f.Field] == nil {
		return refuseField(path+".field", "jobs are not filtered by %.60q; the fields are %s", f.Field,
			strings.Join(slices.Sorted(maps.Keys(filterFields)), ", "))
	}
	return nil
}

func (s *server) sendJobs(w http.ResponseWriter, r *http.Request, p page, filters []jobFilter) error {
	less, err := orderOf(p.orderBy)
	if err != nil {
		return err
	}
	q := store.JobQuery{Offset: p.offset, Limit: p.limit}
	if k := caller(r.Context()); k.Role == store.RoleSubmitter {
		q.Owner = k.Owner
	}
	whole := len(filters) > 0 || less != nil
	if whole {
		q.Offset, q.Limit = 0, 0
	}
	jobs, total, err := s.Store.ListJobs(r.Context(), q)
	if err != nil {
		return err
	}
	if whole {
		jobs = slices.DeleteFunc(jobs, func(j spare.Job) bool {
			return slices.ContainsFunc(filters, func(f jobFilter) bool { return filterFields[f.Field](j) != f.value() })
		})
		if less != nil {
			slices.SortStableFunc(jobs, less)
		}
		total = len(jobs)
		jobs = cut(p, jobs)
	}
	infos := map[string]*templateInfo{}
	data := make([]jobJSON, 0, len(jobs))
	for _, j := range jobs {
		if _, asked := infos[j.Template]; !asked {
			if infos[j.Template], err = s.infoFor(r.Context(), j.Template); err != nil {
				return err
			}
		}
		data = append(data, s.showJob(r, j, infos[j.Template]))
	}
	return writeJSON(w, http.StatusOK, map[string]any{"pagination": p.answer(total), "data": data})
}

// orderOf reads orderBy: a field, and perhaps "asc" or "desc". Nil is the store's own
// order, newest first.
func orderOf(orderBy string) (func(a, b spare.Job) int, error) {
	field, direction, _ := strings.Cut(strings.TrimSpace(orderBy), " ")
	direction = strings.ToLower(strings.TrimSpace(direction))
	var less func(a, b spare.Job) int
	switch field {
	case "":
		return nil, nil
	case "createdAt":
		less = func(a, b spare.Job) int { return a.CreatedAt.Compare(b.CreatedAt) }
	case "name":
		less = func(a, b spare.Job) int { return cmp.Compare(a.Name, b.Name) }
	case "state":
		less = func(a, b spare.Job) int { return cmp.Compare(a.State, b.State) }
	}
	switch {
	case less == nil:
		return nil, refuseField("orderBy", "jobs are ordered by createdAt, name or state, not by %.60q", field)
	case direction == "" || direction == "asc":
		return less, nil
	case direction == "desc":
		return func(a, b spare.Job) int { return less(b, a) }, nil
	}
	return nil, refuseField("orderBy", "after the field comes asc or desc, not %.60q", direction)
}
