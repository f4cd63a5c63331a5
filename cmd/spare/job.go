package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/client"
)

func (c *cli) jobCommand() *cobra.Command {
	return group("job", "List, follow and end jobs",
		c.jobList(), c.jobShow(), c.jobWatch(), c.jobLogs(), c.jobWhy(), c.jobAbort(), c.jobResults(), c.jobDelete())
}

func (c *cli) jobList() *cobra.Command {
	var opt client.ListOptions
	cmd := &cobra.Command{
		Use: "list", Short: "List jobs, newest first", Args: args(),
		Example: "  spare job list\n  spare job list --state running --json",
		RunE: func(*cobra.Command, []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				jobs, total, err := cl.Jobs(ctx, opt)
				if err != nil {
					return err
				}
				err = show(c, jobs, []string{"ID", "NAME", "STATE", "CHUNKS", "CREATED", "TEMPLATE"}, func(j client.Job) []string {
					return []string{j.ID, j.Name, stateWord(j.State), fmt.Sprintf("%d/%d", j.ChunksDone, j.Chunks), when(j.CreatedAt), j.Template}
				})
				if rest := total - opt.Offset - len(jobs); err == nil && rest > 0 && !c.json {
					c.note(fmt.Sprintf("%s more; --offset %d shows the next", plural(rest, "job"), opt.Offset+len(jobs)))
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&opt.State, "state", "", "only jobs in this state: new, partitioning, running, assembling, complete, failed, aborted")
	cmd.Flags().StringVar(&opt.Template, "template", "", "only jobs of this template")
	cmd.Flags().IntVar(&opt.Limit, "limit", 50, "at most so many")
	cmd.Flags().IntVar(&opt.Offset, "offset", 0, "leave out the first so many")
	cmd.PreRun = func(*cobra.Command, []string) {
		if opt.State != "" && !strings.HasPrefix(opt.State, "JOB_STATE_") {
			opt.State = "JOB_STATE_" + strings.ToUpper(opt.State)
		}
	}
	return cmd
}

func (c *cli) jobShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a job, its attempts and what it waits for", Args: args("a job's ID"),
		Example: "  spare job show 0f0e9d3c-6a3b-4c1d-9e2f-1b2c3d4e5f60",
		RunE: func(_ *cobra.Command, given []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				j, err := cl.Job(ctx, given[0])
				if err != nil {
					return err
				}
				attempts, err := cl.Attempts(ctx, j.ID)
				if err != nil {
					return err
				}
				if c.json {
					return c.printJSON(map[string]any{"job": j, "attempts": append([]spare.Attempt{}, attempts...)})
				}
				p, err := cl.Progress(ctx, j.ID)
				if err != nil {
					return err
				}
				return c.showJob(j, p, attempts)
			})
		},
	}
}

func (c *cli) showJob(j client.Job, p client.Progress, attempts []spare.Attempt) error {
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(c.out, "%-10s %s\n", name, value)
		}
	}
	line("job", j.ID)
	line("name", j.Name)
	line("template", j.Template)
	line("owner", j.Owner)
	line("state", stateWord(j.State))
	line("error", j.Error)
	line("created", when(j.CreatedAt))
	if j.Duration != nil {
		line("took", span(seconds(*j.Duration)))
	}
	if !client.Final(j.State) {
		_, progress := progressLine(p)
		line("progress", progress)
	} else if j.Chunks > 0 {
		line("chunks", fmt.Sprintf("%d of %d done", j.ChunksDone, j.Chunks))
	}
	for _, k := range slices.Sorted(maps.Keys(j.Summary)) {
		line(k, fmt.Sprint(j.Summary[k]))
	}
	if len(attempts) == 0 {
		return nil
	}
	fmt.Fprintln(c.out)
	rows := [][]string{}
	for _, a := range notable(attempts) {
		outcome, took := string(a.Outcome), a.Usage.Wall
		if a.Ended == nil {
			outcome, took = "running", time.Since(a.Granted)
		}
		rows = append(rows, []string{strconv.Itoa(a.Chunk), strconv.Itoa(a.Number), a.Node.Short(), outcome, span(took), a.Message})
	}
	if left := len(attempts) - len(rows); left > 0 {
		defer fmt.Fprintf(c.out, "and %s; --json shows all\n", plural(left, "other attempt"))
	}
	return c.table([]string{"CHUNK", "TRY", "NODE", "OUTCOME", "TOOK", "MESSAGE"}, rows)
}

// notable picks the attempts to show where there are many: first those that did not
// succeed, then the newest.
func notable(attempts []spare.Attempt) []spare.Attempt {
	const most = 40
	if len(attempts) <= most {
		return attempts
	}
	picked := slices.Clone(attempts)
	slices.SortStableFunc(picked, func(a, b spare.Attempt) int {
		return cmp.Or(rank(a)-rank(b), b.Granted.Compare(a.Granted))
	})
	return picked[:most]
}

func rank(a spare.Attempt) int {
	if a.Outcome == spare.Succeeded {
		return 1
	}
	return 0
}

func (c *cli) jobWatch() *cobra.Command {
	var out string
	var overwrite bool
	cmd := &cobra.Command{
		Use: "watch ID [-o DIR]", Short: "Follow a job to its end, and fetch its results", Args: args("a job's ID"),
		Example: "  spare job watch 0f0e9d3c-6a3b-4c1d-9e2f-1b2c3d4e5f60 -o out",
		RunE: func(_ *cobra.Command, given []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			return c.finish(cl, given[0], out, overwrite)
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "folder for the results")
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace files of other content in DIR")
	return cmd
}

func (c *cli) jobLogs() *cobra.Command {
	var chunks []int
	cmd := &cobra.Command{
		Use: "logs ID", Short: "Print what a job's work printed", Args: args("a job's ID"),
		Example: "  spare job logs 0f0e9d3c-6a3b-4c1d-9e2f-1b2c3d4e5f60 --chunk 3",
		RunE: func(_ *cobra.Command, given []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				tasks := []string{}
				for _, n := range chunks {
					tasks = append(tasks, string(spare.NewTaskID(spare.JobID(given[0]), n)))
				}
				logs, err := cl.Logs(ctx, given[0], tasks...)
				if err != nil {
					return err
				}
				if c.json {
					return c.printJSON(logs)
				}
				c.printLogs(logs)
				return nil
			})
		},
	}
	cmd.Flags().IntSliceVar(&chunks, "chunk", nil, "only of this chunk; may be repeated")
	return cmd
}

// printLogs writes the lines of each stage and then of each chunk, in chunk order.
func (c *cli) printLogs(logs client.Logs) {
	lines := func(name string, all []client.LogLine) {
		for _, l := range all {
			fmt.Fprintf(c.out, "%s | %s\n", name, l.Log)
		}
	}
	lines("partition", logs.Partitioner)
	chunkOf := func(task string) int {
		n, _ := strconv.Atoi(task[strings.LastIndexByte(task, '.')+1:])
		return n
	}
	for _, task := range slices.SortedFunc(maps.Keys(logs.Tasks), func(a, b string) int { return chunkOf(a) - chunkOf(b) }) {
		for _, l := range logs.Tasks[task].Logs {
			try := l.Container[strings.LastIndexByte(l.Container, '.')+1:]
			lines(fmt.Sprintf("chunk %d try %s", chunkOf(task), try), []client.LogLine{l})
		}
	}
	lines("assemble", logs.Assembler)
}

func (c *cli) jobWhy() *cobra.Command {
	return &cobra.Command{
		Use: "why ID", Short: "Say what a job waits for", Args: args("a job's ID"),
		Example: "  spare job why 0f0e9d3c-6a3b-4c1d-9e2f-1b2c3d4e5f60",
		RunE: func(_ *cobra.Command, given []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				w, err := cl.Why(ctx, given[0])
				if err != nil {
					return err
				}
				if c.json {
					return c.printJSON(w)
				}
				fmt.Fprintln(c.out, w.Summary)
				for _, r := range w.Reasons {
					fmt.Fprintf(c.out, "  %s: %s\n", plural(r.Tasks, "chunk"), firstOf(r.Detail, r.Code))
				}
				return nil
			})
		},
	}
}

func (c *cli) jobAbort() *cobra.Command {
	return &cobra.Command{
		Use: "abort ID", Short: "End a job; one that never ran is deleted", Args: args("a job's ID"),
		Example: "  spare job abort 0f0e9d3c-6a3b-4c1d-9e2f-1b2c3d4e5f60",
		RunE: func(_ *cobra.Command, given []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				if err := cl.Abort(ctx, given[0]); err != nil {
					return err
				}
				return c.done(fmt.Sprintf("job %s is aborted", given[0]))
			})
		},
	}
}

func (c *cli) jobResults() *cobra.Command {
	var out string
	var overwrite bool
	cmd := &cobra.Command{
		Use: "results ID [-o DIR]", Short: "List a job's results, or fetch them into DIR", Args: args("a job's ID"),
		Example: "  spare job results 0f0e9d3c-6a3b-4c1d-9e2f-1b2c3d4e5f60\n  spare job results 0f0e9d3c-6a3b-4c1d-9e2f-1b2c3d4e5f60 -o out",
		RunE: func(_ *cobra.Command, given []string) error {
			if out != "" {
				return c.fetchResults(given[0], out, overwrite)
			}
			return c.do(func(ctx context.Context, cl *client.Client) error {
				results, err := cl.Results(ctx, given[0])
				if err != nil {
					return err
				}
				return show(c, results, []string{"NAME", "SIZE", "SHA-256"}, func(r client.Result) []string {
					return []string{r.Name, size(r.Size), string(r.Digest)}
				})
			})
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "folder for the results")
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace files of other content in DIR")
	return cmd
}

func (c *cli) fetchResults(id, out string, overwrite bool) error {
	cl, err := c.connect()
	if err != nil {
		return err
	}
	j, err := cl.Job(context.Background(), id)
	if err != nil {
		return err
	}
	return c.fetch(cl, j, out, overwrite)
}

func (c *cli) jobDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete ID", Short: "Delete a job that has ended, with its results", Args: args("a job's ID"),
		Example: "  spare job delete 0f0e9d3c-6a3b-4c1d-9e2f-1b2c3d4e5f60",
		RunE: func(_ *cobra.Command, given []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				if err := cl.Delete(ctx, given[0]); err != nil {
					return err
				}
				return c.done(fmt.Sprintf("job %s is deleted", given[0]))
			})
		},
	}
}
