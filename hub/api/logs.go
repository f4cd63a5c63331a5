package api

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spare-compute/spare"
)

// logLine is one line as the contract sends it.
type logLine struct {
	Log       string  `json:"log"`
	Timestamp *string `json:"timestamp"` // of the attempt's end: lines carry no time of their own
	Level     string  `json:"level"`
	Container string  `json:"container"` // the attempt
}

type taskLogs struct {
	Logs []logLine `json:"logs"`
}

// logs answers POST /logs with what the attempts of a job printed, and with the job's
// own last words where the hub's stages failed.
func (s *server) logs(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		JobID    string   `json:"jobId"`
		TaskIDs  []string `json:"taskIds"`
		Levels   []string `json:"levels"`
		Services []string `json:"services"`
	}
	b, err := readBody(w, r, maxBody)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &body); err != nil {
		return badJSON("body", err)
	}
	r.SetPathValue("id", body.JobID)
	j, err := s.jobOf(r, false)
	if err != nil {
		return err
	}
	attempts, err := s.Store.Attempts(r.Context(), j.ID)
	if err != nil {
		return err
	}
	wants := func(service string) bool {
		return len(body.Services) == 0 || slices.ContainsFunc(body.Services, func(v string) bool { return strings.EqualFold(v, service) })
	}
	keep := func(lines []logLine) []logLine {
		return slices.DeleteFunc(lines, func(l logLine) bool {
			return len(body.Levels) > 0 && !slices.ContainsFunc(body.Levels, func(v string) bool { return strings.EqualFold(v, l.Level) })
		})
	}
	stages := map[string][]logLine{"partitioner": {}, "assembler": {}}
	if stage := failedStage(j); stage != "" && wants(stage) {
		stages[stage] = keep(linesOf(j.Error, j.Times[j.State], stage, "ERROR"))
	}
	tasks := map[string]*taskLogs{}
	for _, a := range attempts {
		if !wants("taskrunner") || (len(body.TaskIDs) > 0 && !slices.Contains(body.TaskIDs, string(a.Task))) {
			continue
		}
		of := tasks[string(a.Task)]
		if of == nil {
			of = &taskLogs{Logs: []logLine{}}
			tasks[string(a.Task)] = of
		}
		of.Logs = append(of.Logs, keep(attemptLines(a))...)
	}
	return writeJSON(w, http.StatusOK, map[string]any{
		"partitioner": stages["partitioner"], "assembler": stages["assembler"], "taskrunner": tasks,
	})
}

// failedStage names the hub's own stage in which a job failed, or "".
func failedStage(j spare.Job) string {
	switch {
	case j.State != spare.JobFailed:
		return ""
	case !j.Times[spare.JobAssembling].IsZero():
		return "assembler"
	case j.Times[spare.JobRunning].IsZero():
		return "partitioner"
	}
	return ""
}

func attemptLines(a spare.Attempt) []logLine {
	at := a.Granted
	if a.Ended != nil {
		at = *a.Ended
	}
	lines := linesOf(a.Log, at, string(a.ID), "")
	if a.Message != "" && a.Outcome != spare.Succeeded {
		lines = append(lines, linesOf(a.Message, at, string(a.ID), "ERROR")...)
	}
	return lines
}

// linesOf splits text; level "" reads each line's own.
func linesOf(text string, at time.Time, container, level string) []logLine {
	out := []logLine{}
	for line := range strings.Lines(text) {
		l := logLine{Log: strings.TrimRight(line, "\r\n"), Timestamp: stamp(at), Level: level, Container: container}
		if level == "" {
			l.Level = levelOf(line)
		}
		out = append(out, l)
	}
	return out
}

var levelWord = regexp.MustCompile(`(?i)\b(trace|debug|info|warn|warning|error|fatal|panic)\b`)

// levelOf reads the level from the first word of a line that is one.
func levelOf(line string) string {
	word := strings.ToUpper(levelWord.FindString(line[:min(len(line), 80)]))
	switch word {
	case "":
		return "UNKNOWN"
	case "WARNING":
		return "WARN"
	}
	return word
}
