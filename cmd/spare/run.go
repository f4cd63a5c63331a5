package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/spare-compute/spare/client"
)

// runOptions are the flags of spare run.
type runOptions struct {
	template, preset, out, name string
	params, partition, merge    []string
	detach, overwrite           bool
	timeout                     time.Duration
}

func (c *cli) runCommand() *cobra.Command {
	var opt runOptions
	cmd := &cobra.Command{
		Use:   "run [FILE|URL] --template T -o DIR",
		Short: "Run a job: send the input, follow the work, fetch the results",
		Long: `run sends FILE to the hub (or has the hub fetch URL), runs it through a template,
shows how it goes, and writes the results into DIR. Without FILE the template's own
input is used, or none.

Ctrl-C asks whether to detach, which leaves the job running, or to abort it. Where
nobody can be asked it detaches. A hub that goes away meanwhile is waited for.`,
		Example: `  spare run video.mp4 --template video-transcoding@v0.2 --preset web-720p -o out
  spare run video.mp4 --template video-transcoding@v0.2 -o out \
      --param outputs.0.output_type=mp4 --param outputs.0.output_params.video.codec=libx265
  spare run https://example.org/clip.mp4 --template video-transcoding@v0.2 --preset web-480p --detach
  spare run --template montecarlo --partition num_replicas=16 -o out`,
		Args: args("[FILE or URL]"),
		RunE: func(_ *cobra.Command, given []string) error {
			input := ""
			if len(given) == 1 {
				input = given[0]
			}
			return c.run(input, opt)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&opt.template, "template", "t", "", "template to run the input through")
	f.StringVarP(&opt.preset, "preset", "p", "", "named parameter set of the template")
	f.StringArrayVar(&opt.params, "param", nil, "App parameter key=value; dotted path, value JSON or text; may be repeated")
	f.StringArrayVar(&opt.partition, "partition", nil, "setting of the partition strategy, key=value; may be repeated")
	f.StringArrayVar(&opt.merge, "merge", nil, "setting of the merge strategy, key=value; may be repeated")
	f.StringVarP(&opt.out, "out", "o", "", "folder for the results")
	f.StringVar(&opt.name, "name", "", "name of the job (the input's name)")
	f.BoolVar(&opt.detach, "detach", false, "leave once the job runs, and print its id")
	f.BoolVar(&opt.overwrite, "overwrite", false, "replace files of other content in DIR")
	f.DurationVar(&opt.timeout, "timeout", 0, "time the job may take before the hub ends it")
	return cmd
}

// input is what a job works on.
type input struct {
	file string // to send
	url  string // for the hub to fetch
}

func (i input) name() string {
	base := filepath.Base(i.file)
	if i.url != "" {
		base, _, _ = strings.Cut(i.url[strings.LastIndexByte(i.url, '/')+1:], "?")
	}
	return strings.TrimSuffix(base, filepath.Ext(base))
}

// parseInput checks the input before the hub is troubled with it.
func parseInput(given string) (input, error) {
	if strings.HasPrefix(given, "http://") || strings.HasPrefix(given, "https://") {
		return input{url: given}, nil
	}
	info, err := os.Stat(given)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return input{}, fmt.Errorf("there is no file %s: check the path, or give a URL that begins with http:// or https://", given)
	case err != nil:
		return input{}, err
	case info.IsDir():
		return input{}, fmt.Errorf("%s is a folder: name a file, or pack the folder into an archive first", given)
	case !info.Mode().IsRegular():
		return input{}, fmt.Errorf("%s is no ordinary file: write it to one first", given)
	case info.Size() == 0:
		return input{}, fmt.Errorf("%s is empty: there is nothing to work on; name a file with something in it", given)
	}
	return input{file: given}, nil
}

// newJob turns arguments and flags into a job to create.
func (opt runOptions) newJob(in input) (client.NewJob, error) {
	j := client.NewJob{ID: uuid.NewString(), Name: opt.name, Template: opt.template, Params: map[string]any{}}
	for stage, given := range map[string][]string{"app": opt.params, "partitioner": opt.partition, "assembler": opt.merge} {
		if len(given) == 0 {
			continue
		}
		values, err := parseParams(given)
		if err != nil {
			return j, usage("%w", err)
		}
		j.Params[stage] = values
	}
	if opt.preset != "" {
		j.Params["preset"] = opt.preset
	}
	if opt.timeout != 0 {
		if opt.timeout < time.Second {
			return j, usage("--timeout %s: want at least 1s", opt.timeout)
		}
		j.Config = map[string]any{"jobTimeout": int(opt.timeout.Round(time.Second) / time.Second)}
	}
	switch {
	case in.url != "":
		j.Source = &client.DataPoint{Descriptor: "url", Params: map[string]string{"url": in.url}}
	case in.file != "":
		j.Source = &client.DataPoint{Descriptor: "file", Params: map[string]string{"name": filepath.Base(in.file)}}
	}
	if j.Name == "" && j.Source != nil {
		j.Name = in.name()
	}
	return j, nil
}

func (c *cli) run(given string, opt runOptions) error {
	if opt.template == "" {
		return usage("spare run needs --template; `spare template list` shows what there is")
	}
	if opt.out == "" && !opt.detach {
		return usage("spare run needs a folder for the results: add -o DIR, or --detach to fetch them later")
	}
	var in input
	var err error
	if given != "" {
		if in, err = parseInput(given); err != nil {
			return err
		}
	}
	if info, err := os.Stat(opt.out); err == nil && !info.IsDir() {
		return fmt.Errorf("-o %s is a file: name a folder for the results", opt.out)
	}
	want, err := opt.newJob(in)
	if err != nil {
		return err
	}
	cl, err := c.connect()
	if err != nil {
		return err
	}
	j, err := c.start(cl, want, in)
	if err != nil {
		return err
	}
	if opt.detach {
		if c.json {
			return c.printJSON(map[string]any{"job": j})
		}
		fmt.Fprintln(c.out, j.ID)
		c.note(howToFollow(j.ID, opt.out))
		return nil
	}
	return c.finish(cl, j.ID, opt.out, opt.overwrite)
}

func howToFollow(id, out string) string {
	return fmt.Sprintf("job %s goes on; follow it with `spare job watch %s -o %s`", id, id, firstOf(out, "DIR"))
}

// start creates the job, sends its input and runs it. A job that cannot be started is
// taken away again.
func (c *cli) start(cl *client.Client, want client.NewJob, in input) (client.Job, error) {
	ctx, cancel := c.context()
	defer cancel()
	if in == (input{}) {
		if err := c.noInput(ctx, cl, &want); err != nil {
			return client.Job{}, err
		}
	}
	j, err := cl.CreateJob(ctx, want)
	if err != nil {
		return j, stopped(ctx, err)
	}
	if in.file != "" {
		err = c.send(ctx, cl, j, in.file)
	}
	if err == nil {
		var warning string
		warning, err = cl.Run(ctx, j.ID)
		c.warn(warning)
	}
	if err == nil {
		return cl.Job(ctx, j.ID)
	}
	// What is left is a draft that nobody wants. Ctrl-C must not keep it.
	clean, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	if cleanErr := cl.Abort(clean, j.ID); cleanErr != nil && !client.IsNotFound(cleanErr) {
		c.note(fmt.Sprintf("the job stays at the hub; take it away with `spare job delete %s`", j.ID))
	}
	return j, stopped(ctx, err)
}

// noInput leaves a job without input to the template's own, or says that there is none.
func (c *cli) noInput(ctx context.Context, cl *client.Client, want *client.NewJob) error {
	t, err := cl.Template(ctx, want.Template)
	if err != nil {
		return stopped(ctx, err)
	}
	var has struct{ DataSource *client.DataPoint }
	if err := json.Unmarshal(t, &has); err != nil {
		return fmt.Errorf("read template %s: %w", want.Template, err)
	}
	if has.DataSource == nil {
		want.Source = &client.DataPoint{Descriptor: "bypass"}
	}
	return nil
}

// stopped tells an error that Ctrl-C caused from one that was there.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &coded{exitAborted, errors.New("stopped before the job ran")}
	}
	return err
}

// send uploads the input and shows how it goes.
func (c *cli) send(ctx context.Context, cl *client.Client, j client.Job, file string) error {
	m, since := c.meter(), time.Now()
	defer m.clear()
	_, err := cl.Upload(ctx, j, file, func(sent, total int64) {
		m.set("upload", transferLine("sending", filepath.Base(file), sent, total, since, time.Now()))
	})
	return err
}

// finish follows a job to its end and fetches what it made.
func (c *cli) finish(cl *client.Client, id, out string, overwrite bool) error {
	j, err := c.follow(cl, id, out)
	if err != nil {
		return err
	}
	switch j.State {
	case client.StateFailed:
		return &coded{exitJobFailed, fmt.Errorf("job %s failed: %s; `spare job logs %[1]s` shows what was printed", id, firstOf(j.Error, "the hub does not say why"))}
	case client.StateAborted:
		return &coded{exitAborted, fmt.Errorf("job %s was aborted", id)}
	}
	took := ""
	if j.Duration != nil {
		took = " in " + span(seconds(*j.Duration))
	}
	c.note(fmt.Sprintf("job %s is complete%s: %s", id, took, plural(j.Chunks, "chunk")))
	if out == "" {
		if c.json {
			return c.printJSON(map[string]any{"job": j})
		}
		return nil
	}
	return c.fetch(cl, j, out, overwrite)
}

// fetched is a result that now lies here.
type fetched struct {
	client.Result
	Path string `json:"path"`
}

// fetch downloads a complete job's results and prints where they are.
func (c *cli) fetch(cl *client.Client, j client.Job, out string, overwrite bool) error {
	ctx, cancel := c.context()
	defer cancel()
	again := fmt.Sprintf("the results stay at the hub: fetch them with `spare job results %s -o DIR`", j.ID)
	results, err := cl.Results(ctx, j.ID)
	all := []fetched{}
	m := c.meter()
	for i := 0; i < len(results) && err == nil; i++ {
		r, since := results[i], time.Now()
		var path string
		path, err = cl.Download(ctx, j.ID, r, out, client.DownloadOptions{
			Overwrite: overwrite,
			Progress: func(have, total int64) {
				m.set("download"+r.Name, transferLine("fetching", r.Name, have, total, since, time.Now()))
			},
		})
		all = append(all, fetched{r, path})
	}
	m.clear()
	switch {
	case ctx.Err() != nil:
		return &coded{exitDetached, errors.New(again)}
	case errors.Is(err, client.ErrExists):
		return err
	case err != nil:
		return fmt.Errorf("%w; %s", err, again)
	case c.json:
		return c.printJSON(map[string]any{"job": j, "results": all})
	}
	for _, f := range all {
		fmt.Fprintln(c.out, f.Path)
	}
	return nil
}
