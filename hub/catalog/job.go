package catalog

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spare-compute/spare"
)

// longest is the longest time a submitter may set, in seconds: thirty days.
const longest = 30 * 24 * 3600

// configKeys are the fields of a job's config that are enforced. isTestJob is a label.
var configKeys = []string{"taskTimeout", "jobTimeout", "maxTaskRetries", "isTestJob"}

// unenforced are fields of a job, its config and its params that the contract knows and
// nothing enforces yet, with what each would have promised.
var (
	unenforcedJob = map[string]string{
		"priority": "jobs are served fairly by owner, in the order they are run",
		"startat":  "a job starts when it is run",
		"deadline": "config.jobTimeout limits how long a job may take",
		"regions":  "pools of nodes are chosen by the template",
	}
	unenforcedConfig = map[string]string{
		"minchunksize":         "the partitioner's own settings say how the input is cut",
		"maxchunksize":         "the partitioner's own settings say how the input is cut",
		"partitioningsettings": "the partitioner's own settings say how the input is cut",
		"replicationfactor":    "each chunk's result is taken from one node",
	}
	unenforcedParams = map[string]string{
		"selectedoutputs": "all outputs are made",
		"schema":          "the template names the schema",
	}
)

// CheckJob reports the first field of a job or template, as a client wrote it, that
// nothing enforces yet. Such a field is refused and never stored in silence: who set it
// would rely on it.
func CheckJob(raw []byte) error {
	job := readObject("", raw)
	if err := checkUnenforced(job, unenforcedJob); err != nil {
		return err
	}
	config := job.object("config")
	if err := checkUnenforced(config, unenforcedConfig); err != nil {
		return err
	}
	params := job.object("params")
	if err := checkUnenforced(params, unenforcedParams); err != nil {
		return err
	}
	job.adopt(config)
	job.adopt(params)
	return job.err
}

func checkUnenforced(o *object, table map[string]string) error {
	if o.err != nil {
		return o.err
	}
	keys := make([]string, 0, len(o.fields))
	for c := range o.fields {
		keys = append(keys, c)
	}
	slices.Sort(keys)
	for _, c := range keys {
		instead, listed := table[c]
		f := o.fields[c]
		if !listed || unset(c, f.value) {
			continue
		}
		return &FieldError{
			Path:    o.at(f.key),
			Message: fmt.Sprintf("%s is refused: nothing enforces this field yet (%s); leave it out", shorten(f.value), instead),
		}
	}
	return nil
}

// unset reports whether a value asks for nothing: null, or what the older era's own
// answers hold in fields that nobody set.
func unset(key string, raw json.RawMessage) bool {
	switch s := string(compact(raw)); s {
	case "", "null", `""`, "0", `"0"`, "false", "{}", "[]", `"EXECUTION_PRIORITY_UNDEFINED"`:
		return true
	case "1", `"1"`:
		return key == "replicationfactor" // one copy is what there is
	default:
		if key != "regions" {
			return false
		}
		var lists map[string][]json.RawMessage
		if json.Unmarshal(raw, &lists) != nil {
			return false
		}
		for _, list := range lists {
			if len(list) > 0 {
				return false
			}
		}
		return true
	}
}

// ParseConfig reads a job's "config" object; numbers may be written as texts.
func ParseConfig(raw []byte) (spare.JobConfig, error) {
	return parseConfig(readObject("config", raw))
}

func parseConfig(o *object) (spare.JobConfig, error) {
	c := spare.JobConfig{
		TaskTimeout:    o.whole(longest, "taskTimeout"),
		JobTimeout:     o.whole(longest, "jobTimeout"),
		MaxTaskRetries: o.whole(1000, "maxTaskRetries"),
		IsTestJob:      o.flag("isTestJob"),
	}
	if o.err != nil {
		return spare.JobConfig{}, o.err
	}
	if err := checkUnenforced(o, unenforcedConfig); err != nil {
		return spare.JobConfig{}, err
	}
	for _, key := range o.unknown() {
		if _, known := unenforcedConfig[canonical(key)]; !known {
			return spare.JobConfig{}, unknownField(o.at(key), key, configKeys)
		}
	}
	return c, nil
}

// unknownField refuses a key that is none of the known ones.
func unknownField(path, key string, known []string) *FieldError {
	known = slices.Sorted(slices.Values(known))
	message := "there is no such field here"
	if near := nearest(key, known); near != "" {
		message += fmt.Sprintf("; did you mean %q?", near)
	} else if len(known) > 0 {
		message += "; known are " + strings.Join(known[:min(len(known), 24)], ", ")
	} else {
		message += "; none are known"
	}
	return &FieldError{Path: path, Message: message, Allowed: known}
}

// ParseParams reads a job's "params" object.
func ParseParams(raw []byte) (spare.Params, error) {
	return parseParams(readObject("params", raw))
}

func parseParams(o *object) (spare.Params, error) {
	p := spare.Params{
		Preset:      o.text("preset"),
		Data:        o.settings("data"),
		App:         o.settings("app"),
		Partitioner: o.settings("partitioner"),
		Assembler:   o.settings("assembler"),
	}
	if o.err != nil {
		return spare.Params{}, o.err
	}
	if err := checkUnenforced(o, unenforcedParams); err != nil {
		return spare.Params{}, err
	}
	if filled(p.Data) && filled(p.App) {
		return spare.Params{}, &FieldError{Path: o.at("data"), Message: "data and app mean the same; give one of them"}
	}
	for _, key := range o.unknown() {
		if _, known := unenforcedParams[canonical(key)]; !known && key != "@type" {
			return spare.Params{}, unknownField(o.at(key), key, []string{"preset", "data", "app", "partitioner", "assembler"})
		}
	}
	return p, nil
}

// filled reports whether settings say anything.
func filled(raw json.RawMessage) bool { return !isNull(raw) && string(compact(raw)) != "{}" }

// ParseDataPoint reads a data source or destination: null and {} are none.
func ParseDataPoint(raw []byte) (spare.DataPoint, error) {
	return parseDataPoint(readObject("", raw))
}

func parseDataPoint(o *object) (spare.DataPoint, error) {
	dp := spare.DataPoint{Descriptor: strings.ToLower(o.text("dataSourceDescriptor", "dataDestinationDescriptor", "descriptor"))}
	params := o.object("params")
	for _, f := range params.fields {
		if isNull(f.value) {
			continue
		}
		var v any
		if err := decode(f.value, &v); err != nil {
			return dp, &FieldError{Path: params.at(f.key), Message: notThis(f.value, err, "a text")}
		}
		switch v := v.(type) {
		case string:
			setParam(&dp, f.key, v)
		case json.Number:
			setParam(&dp, f.key, v.String())
		case bool:
			setParam(&dp, f.key, fmt.Sprint(v))
		default:
			return dp, &FieldError{Path: params.at(f.key), Message: shorten(f.value) + " is not a text"}
		}
	}
	o.adopt(params)
	if o.err == nil && dp.Descriptor == "" && len(dp.Params) > 0 {
		o.err = &FieldError{Path: o.at("dataSourceDescriptor"), Message: "missing; say what kind of place this is, such as file or url"}
	}
	return dp, o.err
}

func setParam(dp *spare.DataPoint, key, value string) {
	if dp.Params == nil {
		dp.Params = map[string]string{}
	}
	dp.Params[key] = value
}
