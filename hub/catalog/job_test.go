package catalog_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/catalog"
)

// wrong checks that err names a field and says something.
func wrong(t *testing.T, err error, path, word string) {
	t.Helper()
	var field *catalog.FieldError
	if !errors.As(err, &field) {
		t.Fatalf("%v, want an error about %s", err, path)
	}
	if field.Path != path || !strings.Contains(err.Error(), word) {
		t.Errorf("%v (about %s), want %q about %s", err, field.Path, word, path)
	}
}

func TestCheckJob_WhatNothingEnforcesIsRefused(t *testing.T) {
	for raw, path := range map[string]string{
		`{"priority": "EXECUTION_PRIORITY_HIGH"}`:                  "priority",
		`{"deadline": "2030-01-01T00:00:00Z"}`:                     "deadline",
		`{"startAt": "2030-01-01T00:00:00Z"}`:                      "startAt",
		`{"start_at": "2030-01-01T00:00:00Z"}`:                     "start_at",
		`{"regions": {"whitelist": ["eu"], "blacklist": []}}`:      "regions",
		`{"config": {"replicationFactor": 2}}`:                     "config.replicationFactor",
		`{"config": {"replication_factor": "3"}}`:                  "config.replication_factor",
		`{"config": {"minChunkSize": "1000"}}`:                     "config.minChunkSize",
		`{"config": {"partitioningSettings": {"a": 1}}}`:           "config.partitioningSettings",
		`{"params": {"selectedOutputs": ["a"]}}`:                   "params.selectedOutputs",
		`{"params": {"schema": "other"}, "config": {"x": [1, 2]}}`: "params.schema",
	} {
		wrong(t, catalog.CheckJob([]byte(raw)), path, "nothing enforces this field yet")
	}
}

func TestCheckJob_WhatAnOlderAnswerHoldsUnsetIsTaken(t *testing.T) {
	raw := `{"id":"x","config":{"minChunkSize":"0","maxChunkSize":"0","replicationFactor":0,"partitioningSettings":{}},
		"priority":"EXECUTION_PRIORITY_UNDEFINED","startAt":null,"deadline":null,"regions":null,
		"params":{"schema":"","data":{},"preset":"","selectedOutputs":[]}}`
	if err := catalog.CheckJob([]byte(raw)); err != nil {
		t.Error(err)
	}
	for _, raw := range []string{``, `null`, `{}`, `{"regions":{"blacklist":[],"whitelist":null}}`, `{"config":{"replicationFactor":1}}`} {
		if err := catalog.CheckJob([]byte(raw)); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func TestParseConfig_NumbersMayBeTexts(t *testing.T) {
	want := spare.JobConfig{TaskTimeout: 3600, JobTimeout: 84200, MaxTaskRetries: 3, IsTestJob: true}
	for _, raw := range []string{
		`{"taskTimeout":3600,"jobTimeout":84200,"maxTaskRetries":3,"isTestJob":true}`,
		`{"task_timeout":"3600","job_timeout":"84200","max_task_retries":"3","is_test_job":"true","minChunkSize":"0"}`,
	} {
		if got, err := catalog.ParseConfig([]byte(raw)); err != nil || got != want {
			t.Errorf("%s: %+v, %v", raw, got, err)
		}
	}
	for raw, path := range map[string]string{
		`{"taskTimeout":-1}`:       "config.taskTimeout",
		`{"taskTimeout":1.5}`:      "config.taskTimeout",
		`{"taskTimeout":"1h"}`:     "config.taskTimeout",
		`{"jobTimeout":99999999}`:  "config.jobTimeout",
		`{"replicationFactor":2}`:  "config.replicationFactor",
		`{"isTestJob":"perhaps"}`:  "config.isTestJob",
		`{"maxTaskRetries":"1e9"}`: "config.maxTaskRetries",
	} {
		_, err := catalog.ParseConfig([]byte(raw))
		wrong(t, err, path, "")
	}
	_, err := catalog.ParseConfig([]byte(`{"tasktimeouts":1}`))
	wrong(t, err, "config.tasktimeouts", `did you mean "taskTimeout"?`)
}

func TestParseParams_KeepsWhatIsGivenAsItIs(t *testing.T) {
	p, err := catalog.ParseParams([]byte(`{"@type":"x","preset":"web","app":{"n": 12345678901234567890, "S_k": "<&>"},"partitioner":{"a":1},"assembler":{},"schema":""}`))
	if err != nil {
		t.Fatal(err)
	}
	if p.Preset != "web" || string(p.App) != `{"n":12345678901234567890,"S_k":"<&>"}` || string(p.Partitioner) != `{"a":1}` || p.Data != nil {
		t.Errorf("%+v", p)
	}
	for raw, path := range map[string]string{
		`{"app":[1]}`:                    "params.app",
		`{"data":{"a":1},"app":{"b":2}}`: "params.data",
		`{"aap":{}}`:                     "params.aap",
		`{"preset":1}`:                   "params.preset",
		`[]`:                             "params",
	} {
		_, err := catalog.ParseParams([]byte(raw))
		wrong(t, err, path, "")
	}
}

func TestParseDataPoint_ReadsBothEras(t *testing.T) {
	dp, err := catalog.ParseDataPoint([]byte(`{"dataSourceDescriptor":"URL","params":{"@type":"t/bytes","url":"https://a/b","size":12,"deep":true,"gone":null}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"@type": "t/bytes", "url": "https://a/b", "size": "12", "deep": "true"}
	if dp.Descriptor != "url" || !maps.Equal(dp.Params, want) {
		t.Errorf("%+v", dp)
	}
	for _, raw := range []string{``, `null`, `{}`, `{"dataSourceDescriptor":"","params":{}}`} {
		if dp, err := catalog.ParseDataPoint([]byte(raw)); err != nil || dp.Descriptor != "" {
			t.Errorf("%q: %+v, %v", raw, dp, err)
		}
	}
	for raw, path := range map[string]string{
		`{"params":{"url":"x"}}`:                                      "dataSourceDescriptor",
		`{"dataSourceDescriptor":"url","params":{"url":["x"]}}`:       "params.url",
		`{"dataSourceDescriptor":3}`:                                  "dataSourceDescriptor",
		`{"dataSourceDescriptor":"url","params":"https://a"}`:         "params",
		`{"dataSourceDescriptor":"url","data_source_descriptor":"x"}`: "dataSourceDescriptor",
	} {
		_, err := catalog.ParseDataPoint([]byte(raw))
		wrong(t, err, path, "")
	}
}

func TestParseTemplate_BothFormsLoad(t *testing.T) {
	older := `{"id":"video-transcoding@v0.2","app":"video-transcoding","schema_id":"video-transcoding","schema_version":9,
		"partitioning_strategy":"video","partitioning_strategy_config":{"segment":4},"merge_strategy":"video","merge_strategy_config":{},
		"scheduling_strategy_config":{"pool":"lab"},"streamable":false,"public":true,"owner":"me"}`
	a, warnings, err := catalog.ParseTemplate([]byte(older))
	if err != nil || len(warnings) != 0 {
		t.Fatalf("%v, %v", warnings, err)
	}
	if a.ID != "video-transcoding@v0.2" || a.SchemaVersion != "9" || a.Partitioner != "video" || string(a.PartitionCfg) != `{"segment":4}` || !a.Public || a.Owner != "" {
		t.Errorf("%+v", a)
	}
	newer := `{"id":"hello","app":"hello-world@0.1","partitioner":"passthrough","assembler":"passthrough",
		"dataSource":{"dataSourceDescriptor":"url","params":{"url":"https://a/b"}},"dataDestination":{"dataSourceDescriptor":"bucket"},
		"params":{"partitioner":{"n":1},"app":{"case":"upper"},"assembler":{}},
		"config":{"jobTimeout":7200,"taskTimeout":"7200","isTestJob":true,"maxTaskRetries":3},
		"default_params":{"partitioner":{}},"createdAt":"x"}`
	b, warnings, err := catalog.ParseTemplate([]byte(newer))
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "default_params") {
		t.Fatalf("%v, %v", warnings, err)
	}
	if b.Source == nil || b.Source.Params["url"] != "https://a/b" || b.Destination == nil || b.Config.TaskTimeout != 7200 || string(b.Params.App) != `{"case":"upper"}` {
		t.Errorf("%+v", b)
	}
}

func TestParseTemplate_NamesTheFieldThatIsWrong(t *testing.T) {
	for raw, path := range map[string]string{
		`{}`:                           "id",
		`{"id":"a/b"}`:                 "id",
		`{"id":"a","streamable":true}`: "streamable",
		`{"id":"a","scheduling_strategy_config":{"quorum":2}}`:   "scheduling_strategy_config.quorum",
		`{"id":"a","scheduling_strategy_config":{"pool":"a b"}}`: "scheduling_strategy_config.pool",
		`{"id":"a","config":{"replicationFactor":3}}`:            "config.replicationFactor",
		`{"id":"a","priority":"EXECUTION_PRIORITY_HIGH"}`:        "priority",
		`{"id":"a","partitioning_strategy_config":"x"}`:          "partitioning_strategy_config",
		`{"id":"a","params":{"app":{"a":1},"data":{"a":1}}}`:     "params.data",
		`{"id":"a","dataSource":{"params":{"url":"x"}}}`:         "dataSource.dataSourceDescriptor",
		`{"id":"a","app":7}`: "app",
	} {
		_, _, err := catalog.ParseTemplate([]byte(raw))
		wrong(t, err, path, "")
	}
}

func FuzzParseTemplate(f *testing.F) {
	f.Add([]byte(`{"id":"a","app":"b@1","partitioner":"lines","assembler":"concat","params":{"app":{"x":[1,{"y":null}]}}}`))
	f.Add([]byte(`{"id":"a@v0.2","partitioning_strategy":"video","config":{"taskTimeout":"1"},"dataSource":{"dataSourceDescriptor":"url","params":{"url":"u"}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		tpl, _, err := catalog.ParseTemplate(raw)
		if err != nil {
			return
		}
		if tpl.ID == "" || strings.ContainsAny(tpl.ID, "/\\\x00 ") || tpl.Streamable || tpl.Config.TaskTimeout < 0 {
			t.Fatalf("%q gives %+v", raw, tpl)
		}
	})
}

func FuzzCheckJob(f *testing.F) {
	f.Add([]byte(`{"priority":"x","config":{"replicationFactor":"2"},"params":{"selectedOutputs":[]},"regions":{"a":[]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_ = catalog.CheckJob(raw)
		_, _ = catalog.ParseConfig(raw)
		_, _ = catalog.ParseParams(raw)
		if dp, err := catalog.ParseDataPoint(raw); err == nil && dp.Descriptor == "" && len(dp.Params) > 0 {
			t.Fatalf("%q gives %+v; %v", raw, dp, slices.Sorted(maps.Keys(dp.Params)))
		}
	})
}
