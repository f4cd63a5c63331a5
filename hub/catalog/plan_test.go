package catalog_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/catalog"
)

func job(params string) spare.Job {
	p, err := catalog.ParseParams([]byte(params))
	if err != nil {
		panic(err)
	}
	return spare.Job{ID: "j", Template: "greyer@v1", Params: p}
}

func TestPlan_PinsEveryChoice(t *testing.T) {
	s := shelved(t)
	j := job(`{"preset":"quick","app":{"depth":12,"look":{"grain":2.50},"list":[3],"codec":"libx265"},"partitioner":{"num_replicas":9}}`)
	j.Config = spare.JobConfig{JobTimeout: 600}
	plan, err := s.Plan(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	if plan.App.Tag() != "greyer@0.1" || plan.App.Revision != 1 || !plan.App.Bundle.Valid() || plan.App.Root != "app" || plan.Pool != "lab" {
		t.Errorf("%+v", plan)
	}
	if plan.Partitioner != "replicate" || string(plan.PartitionCfg) != `{"num_replicas":9}` || plan.Assembler != "concat" || string(plan.AssembleCfg) != `{"format":"jsonl"}` {
		t.Errorf("%s %s, %s %s", plan.Partitioner, plan.PartitionCfg, plan.Assembler, plan.AssembleCfg)
	}
	// template, then preset, then job: objects merged, lists replaced, numbers as written
	want := `{"codec":"libx265","depth":12,"list":[3],"look":{"grain":2.50,"tone":"cold"},"mode":"fast"}`
	if string(plan.AppParams) != want {
		t.Errorf("parameters %s, want %s", plan.AppParams, want)
	}
	if plan.TaskTimeout != time.Minute || plan.JobTimeout != 10*time.Minute || plan.MaxRetries != catalog.DefaultRetries {
		t.Errorf("limits %v, %v, %d", plan.TaskTimeout, plan.JobTimeout, plan.MaxRetries)
	}
	if plan.Needs.MinCPU != 2 || !slices.Equal(plan.Needs.Tools, []string{"ffmpeg", "ffmpeg:libx265"}) {
		t.Errorf("needs %+v", plan.Needs)
	}
	if !slices.Equal(plan.App.Needs.Tools, []string{"ffmpeg"}) {
		t.Errorf("the App's own needs were changed: %+v", plan.App.Needs)
	}
}

func TestPlan_ALaterPushChangesNothing(t *testing.T) {
	s := shelved(t)
	before, err := s.Plan(t.Context(), job(`{"preset":"quick"}`))
	if err != nil {
		t.Fatal(err)
	}
	kept, _ := json.Marshal(before)
	s.push(t, greyer.with(files{"app/main.py": "print('new')", "presets/quick.json": `{"data":{"mode":"good"}}`}))
	after, err := s.Plan(t.Context(), job(`{"preset":"quick"}`))
	if err != nil {
		t.Fatal(err)
	}
	if after.App.Revision != 2 || after.App.Bundle == before.App.Bundle || bytes.Equal(after.AppParams, before.AppParams) {
		t.Errorf("the push had no effect: %+v", after)
	}
	if again, _ := json.Marshal(before); !bytes.Equal(kept, again) {
		t.Error("the earlier plan was changed")
	}
}

func TestPlan_ParametersFitIntoALease(t *testing.T) {
	s := shelved(t)
	_, err := s.Plan(t.Context(), job(`{"app":{"mode":"fast","list":[1`+strings.Repeat(",1", 200_000)+`]}}`))
	var field *catalog.FieldError
	if !errors.As(err, &field) || field.Path != "params.app" || !strings.Contains(err.Error(), "put what is long into the input") {
		t.Errorf("400 KB of parameters: %v", err)
	}
	if _, err := s.Plan(t.Context(), job(`{"app":{"mode":"fast","list":[1`+strings.Repeat(",1", 100_000)+`]}}`)); err != nil {
		t.Errorf("200 KB of parameters: %v", err)
	}
}

func TestPlan_NoPresetIsNoPreset(t *testing.T) {
	s := shelved(t)
	for _, preset := range []string{`""`, `"unpackaged"`, `null`} {
		plan, err := s.Plan(t.Context(), job(`{"preset":`+preset+`,"data":{"mode":"good"}}`))
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]any{"mode": "good", "depth": 8.0, "look": map[string]any{"tone": "cold"}}
		if got := object(t, plan.AppParams); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v", preset, got)
		}
	}
}

func TestPlan_NamesTheFieldAndWhatIsAllowed(t *testing.T) {
	s := shelved(t)
	for params, want := range map[string][2]string{
		`{}`:                                                  {"params.app.mode", "required, but missing"},
		`{"app":{"mode":"slow"}}`:                             {"params.app.mode", `"slow" is not allowed; use one of "fast", "good"`},
		`{"data":{"mode":"slow"}}`:                            {"params.data.mode", `"slow" is not allowed`},
		`{"app":{"mode":"fast","depth":17}}`:                  {"params.app.depth", "17 is too large; it must be from 1 to 16"},
		`{"app":{"mode":"fast","depth":"8"}}`:                 {"params.app.depth", "it is a string, but must be an integer"},
		`{"app":{"mode":"fast","look":{"tone":3}}}`:           {"params.app.look.tone", "must be a string"},
		`{"app":{"mode":"fast","look":{"grain":-0.5}}}`:       {"params.app.look.grain", "-0.5 is too small; it must be at least 0"},
		`{"app":{"mode":"fast","look":{"tome":"x"}}}`:         {"params.app.look.tome", `did you mean "tone"?`},
		`{"app":{"mode":"fast","zzzzzzzz":1}}`:                {"params.app.zzzzzzzz", "known are codec, depth, list, look, mode"},
		`{"app":{"mode":"fast","list":[1,"b"]}}`:              {"params.app.list[1]", "must be an integer"},
		`{"preset":"quik"}`:                                   {"params.preset", `has no preset "quik"; did you mean "quick"?`},
		`{"preset":"something"}`:                              {"params.preset", "use one of best, quick"},
		`{"preset":"quick","partitioner":{"num_replicas":0}}`: {"params.partitioner.num_replicas", "from 1 to 10000"},
		`{"preset":"quick","partitioner":{"replicas":2}}`:     {"params.partitioner.replicas", `did you mean "num_replicas"?`},
		`{"preset":"quick","assembler":{"format":"xml"}}`:     {"params.assembler.format", `use one of "text", "csv", "jsonl"`},
		`{"preset":"quick","assembler":{"header":"yes"}}`:     {"params.assembler.header", "a boolean"},
	} {
		_, err := s.Plan(t.Context(), job(params))
		if err == nil {
			t.Errorf("%s was planned", params)
			continue
		}
		wrong(t, err, want[0], want[1])
		if params != `{}` {
			wrong(t, s.ValidateParams(t.Context(), "greyer@v1", job(params).Params), want[0], want[1])
		}
	}
}

func TestPlan_SaysAllThatIsWrongAtOnce(t *testing.T) {
	_, err := shelved(t).Plan(t.Context(), job(`{"app":{"depth":99,"codec":"av1"}}`))
	says(t, err, "params.app.mode: required", "params.app.depth: 99 is too large", `params.app.codec: "av1" is not allowed`)
}

func TestPlan_RefusesWhatDoesNotExist(t *testing.T) {
	s := shelved(t)
	_, err := s.Plan(t.Context(), spare.Job{Template: "greyr@v1"})
	says(t, err, `there is no template "greyr@v1"; did you mean "greyer@v1"?`)
	if _, err := s.Deactivate(t.Context(), spare.KindApp, "greyer"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Plan(t.Context(), job(`{"preset":"quick"}`))
	says(t, err, "greyer@0.1 is not active")
}

func TestPlan_WithoutASchemaTakesAnything(t *testing.T) {
	s := newShelf(t)
	s.push(t, app("free", "0.1").with(files{"template.json": `{"id":"free","partitioner":"free","assembler":"passthrough"}`}))
	s.activate(t, "free")
	plan, err := s.Plan(t.Context(), spare.Job{Template: "free"})
	if err != nil {
		t.Fatal(err)
	}
	if string(plan.AppParams) != "{}" || string(plan.PartitionCfg) != "{}" || plan.Pool != catalog.DefaultPool || plan.TaskTimeout != catalog.DefaultTaskTimeout || plan.JobTimeout != catalog.DefaultJobTimeout {
		t.Errorf("%+v", plan)
	}
	plan, err = s.Plan(t.Context(), spare.Job{Template: "free", Params: spare.Params{App: []byte(`{"any":[1,{"x":null}]}`), Partitioner: []byte(`{"y":1}`)}})
	if err != nil || string(plan.AppParams) != `{"any":[1,{"x":null}]}` || string(plan.PartitionCfg) != `{"y":1}` {
		t.Errorf("%s, %s, %v", plan.AppParams, plan.PartitionCfg, err)
	}
	// A schema that comes and goes with a push.
	s.push(t, app("free", "0.1").with(files{"schema.json": `{"type":"object","required":["must"]}`}))
	_, err = s.Plan(t.Context(), spare.Job{Template: "free"})
	wrong(t, err, "params.app.must", "missing")
	s.push(t, app("free", "0.1"))
	if _, err = s.Plan(t.Context(), spare.Job{Template: "free"}); err != nil {
		t.Error(err)
	}
}

func TestValidateParams_SaysNothingBeforeThereAreAny(t *testing.T) {
	s := shelved(t)
	for _, p := range []spare.Params{{}, {App: []byte("{}")}, {Data: []byte("null"), Partitioner: []byte(" { } ")}} {
		if err := s.ValidateParams(t.Context(), "greyer@v1", p); err != nil {
			t.Error(err)
		}
	}
	if err := s.ValidateParams(t.Context(), "nosuch", spare.Params{}); err == nil {
		t.Error("an unknown template was taken")
	}
}

func TestPutTemplate_CustomEnginesAreRefused(t *testing.T) {
	s := shelved(t)
	engine := app("fanout-urls", "0.5")
	if _, err := s.Push(t.Context(), spare.KindPartitioner, bytes.NewReader(tarOf(t, engine)), "ada"); err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string][2]string{
		`{"id":"t","app":"greyer","partitioner":"fanout-urls@0.5","assembler":"concat"}`:                               {"partitioner", "custom partitioners are not run yet; use one of free, passthrough, replicate"},
		`{"id":"t","app":"greyer","partitioner":"fanout-replica","assembler":"concat"}`:                                {"partitioner", "custom partitioners are not run yet"},
		`{"id":"t","app":"greyer","partitioner":"pasthrough","assembler":"concat"}`:                                    {"partitioner", `did you mean "passthrough"?`},
		`{"id":"t","app":"greyer","partitioner":"free","assembler":"zipper"}`:                                          {"assembler", "custom assemblers are not run yet"},
		`{"id":"t","app":"greyer","partitioner":"free"}`:                                                               {"assembler", "missing; use one of concat, passthrough"},
		`{"id":"t","partitioner":"free","assembler":"concat"}`:                                                         {"app", "missing"},
		`{"id":"t","app":"greyer","partitioner":"free","assembler":"concat","merge_strategy_config":{"fromat":"csv"}}`: {"params.assembler.fromat", `"format"`},
		`{"id":"t","app":"greyer","partitioner":"free","assembler":"concat","params":{"app":{"depth":0}}}`:             {"params.app.depth", "from 1 to 16"},
	} {
		_, _, err := s.PutTemplate(t.Context(), []byte(raw), "ada")
		wrong(t, err, want[0], want[1])
	}
	_, _, err := s.PutTemplate(t.Context(), []byte(`{"id":"t","app":"grayer","partitioner":"free","assembler":"concat"}`), "ada")
	says(t, err, `there is no App "grayer"; did you mean "greyer"?`)
	_, _, err = s.PutTemplate(t.Context(), []byte(`{"id":"t","app":"greyer","partitioner":"free","assembler":"concat","schema_id":"gryer"}`), "ada")
	says(t, err, `there is no schema "gryer"; did you mean "greyer"?`)
}

func TestPutTemplate_BuiltInStrategiesMayBeWrittenAsTags(t *testing.T) {
	s := shelved(t)
	tpl, _, err := s.PutTemplate(t.Context(), []byte(`{"id":"t","app":"greyer@0","partitioner":"passthrough@0.1","assembler":"concat@1"}`), "ada")
	if err != nil || tpl.Partitioner != "passthrough" || tpl.Assembler != "concat" || tpl.Owner != "ada" {
		t.Errorf("%+v, %v", tpl, err)
	}
}

func TestPutPreset_IsHeldAgainstTheSchema(t *testing.T) {
	s := shelved(t)
	p, err := s.PutPreset(t.Context(), "greyer@v1", []byte(`{"id":"deep","description":"d","data":{"depth":16}}`))
	if err != nil || p.ID != "deep" || string(p.Data) != `{"depth":16}` { // mode is the job's to say
		t.Fatalf("%+v, %v", p, err)
	}
	for raw, path := range map[string]string{
		`{"id":"x","data":{"depth":17}}`:           "preset.data.depth",
		`{"id":"x","data":{"dept":1}}`:             "preset.data.dept",
		`{"id":"unpackaged","data":{}}`:            "preset.id",
		`{"data":{}}`:                              "preset.id",
		`{"id":"x","data":[]}`:                     "preset.data",
		`{"id":"x","data":{},"dscription":"typo"}`: "preset.dscription",
	} {
		_, err := s.PutPreset(t.Context(), "greyer@v1", []byte(raw))
		wrong(t, err, path, "")
	}
	_, err = s.PutPreset(t.Context(), "greyer", []byte(`{"id":"x","data":{}}`))
	says(t, err, `did you mean "greyer@v1"?`)
	list, err := s.Presets(t.Context(), "greyer@v1")
	if err != nil || len(list) != 3 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestPutTemplate_BelongsToWhoPutItFirst(t *testing.T) {
	s := shelved(t)
	raw := []byte(`{"id":"mine","app":"greyer","partitioner":"free","assembler":"concat"}`)
	for range 2 {
		if _, _, err := s.PutTemplate(t.Context(), raw, "ada"); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := s.PutTemplate(t.Context(), raw, "eve")
	says(t, err, `template "mine" belongs to ada`)
}
