package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/bundle"
	"github.com/spare-compute/spare/hub/assemble"
	"github.com/spare-compute/spare/hub/blob"
	"github.com/spare-compute/spare/hub/partition"
	"github.com/spare-compute/spare/hub/scheduler"
)

const taskBatch = 1000 // tasks written to the store in one transaction

// partition cuts a job's input and opens the job to the scheduler.
func (p *Pipeline) partition(act *activity, id spare.JobID) {
	release, ok := act.slot(p.fetches)
	if !ok {
		return
	}
	job, err := p.input(act.ctx, id)
	release()
	if err == nil {
		if release, ok = act.slot(p.slots); !ok {
			return
		}
		err = p.cut(act.ctx, job)
		release()
	}
	if err != nil {
		p.fail(act, id, "partition", explain(err))
		return
	}
	p.open(act, id)
}

// cut runs the partition strategy: every chunk becomes a blob and a task.
func (p *Pipeline) cut(ctx context.Context, job spare.Job) error {
	id := job.ID
	strategy, ok := partition.Lookup(job.Plan.Partitioner)
	if !ok {
		return fmt.Errorf("this hub has no partition strategy %q; choose one of %v", job.Plan.Partitioner, partition.Names())
	}
	dir, remove, err := p.scratch(id, "partition")
	if err != nil {
		return err
	}
	defer remove()
	in := partition.Input{Dir: filepath.Join(dir, "source"), Config: job.Plan.PartitionCfg, Work: filepath.Join(dir, "work"), Media: p.cfg.Media}
	for _, d := range []string{in.Dir, in.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := p.place(*job.Input, in.Dir); err != nil {
		return err
	}
	in.Files = []string{job.Input.Name}

	sink := &taskSink{p: p, job: id}
	if err := p.cfg.Store.ReplaceTasks(ctx, id, nil); err != nil {
		return err
	}
	notes, err := strategy.Partition(ctx, in, sink.chunk)
	if err != nil {
		return err
	}
	if err := sink.flush(ctx); err != nil {
		return err
	}
	if sink.n == 0 {
		return errors.New("the partitioner left no chunk; check the input and the partitioner's parameters")
	}
	job, err = p.cfg.Store.UpdateJob(ctx, id, func(j *spare.Job) error {
		j.Chunks, j.Done, j.Notes = sink.n, 0, notes
		return j.Move(spare.JobRunning, time.Now())
	})
	if err != nil {
		return err
	}
	p.announce(job)
	return nil
}

// input returns the job with its source in the blob store.
func (p *Pipeline) input(ctx context.Context, id spare.JobID) (spare.Job, error) {
	job, err := p.cfg.Store.Job(ctx, id)
	if err != nil || job.Input != nil {
		return job, err
	}
	file, err := p.cfg.Fetch.Fetch(ctx, job.Source, p.cfg.Blobs)
	if err != nil {
		return job, err
	}
	return p.cfg.Store.UpdateJob(ctx, id, func(j *spare.Job) error {
		j.Input = &file
		return nil
	})
}

// place puts a blob into a folder under its file's name, without copying where the file
// system can do so.
func (p *Pipeline) place(file spare.File, dir string) error {
	dst := filepath.Join(dir, filepath.Base(file.Name))
	src := p.cfg.Blobs.Path(file.Digest)
	if err := os.Link(src, dst); err == nil {
		return nil
	}
	from, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("open input %q: %w", file.Name, err)
	}
	defer from.Close()
	to, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := to.ReadFrom(from); err != nil {
		to.Close()
		return fmt.Errorf("copy input %q: %w", file.Name, err)
	}
	return to.Close()
}

// taskSink turns the chunks of a partition into tasks.
type taskSink struct {
	p     *Pipeline
	job   spare.JobID
	n     int
	batch []spare.Task
}

func (s *taskSink) chunk(ctx context.Context, c partition.Chunk) error {
	input, err := s.p.keep(ctx, c.Path)
	if err != nil {
		return err
	}
	var params json.RawMessage
	if len(c.Params) > 0 {
		if params, err = json.Marshal(c.Params); err != nil {
			return err
		}
	}
	s.batch = append(s.batch, spare.Task{
		ID: spare.NewTaskID(s.job, s.n), Job: s.job, Chunk: s.n, State: spare.TaskReady,
		Input: input, Params: params,
	})
	s.n++
	if len(s.batch) < taskBatch {
		return nil
	}
	return s.flush(ctx)
}

// keep stores a chunk: with its task if it is small, else as a blob.
func (p *Pipeline) keep(ctx context.Context, path string) (spare.File, error) {
	file := spare.File{Name: "data.bin"}
	info, err := os.Lstat(path)
	if err != nil {
		return file, err
	}
	if info.Size() > 0 && info.Size() <= spare.InlineLimit {
		if file.Inline, err = os.ReadFile(path); err != nil {
			return file, err
		}
		file.Digest, file.Size = spare.Sum(file.Inline), int64(len(file.Inline))
		return file, nil
	}
	file.Digest, file.Size, err = p.cfg.Blobs.PutFile(ctx, path)
	return file, err
}

func (s *taskSink) flush(ctx context.Context) error {
	if len(s.batch) == 0 {
		return nil
	}
	err := s.p.cfg.Store.AddTasks(ctx, s.batch)
	s.batch = s.batch[:0:0]
	return err
}

// assemble puts the results together and completes the job.
func (p *Pipeline) assemble(act *activity, id spare.JobID) {
	release, ok := act.slot(p.slots)
	if !ok {
		return
	}
	defer release()
	if err := p.join(act.ctx, id); err != nil {
		p.fail(act, id, "assemble", explain(err))
		return
	}
	p.forget(id, nil)
}

func (p *Pipeline) join(ctx context.Context, id spare.JobID) error {
	job, err := p.cfg.Store.Job(ctx, id)
	if err != nil {
		return err
	}
	strategy, ok := assemble.Lookup(job.Plan.Assembler)
	if !ok {
		return fmt.Errorf("this hub has no merge strategy %q; choose one of %v", job.Plan.Assembler, assemble.Names())
	}
	dir, remove, err := p.scratch(id, "assemble")
	if err != nil {
		return err
	}
	defer remove()
	in := assemble.Input{
		Notes: job.Notes, Config: job.Plan.AssembleCfg, JobName: job.Name, Media: p.cfg.Media,
		Out: filepath.Join(dir, "out"), Work: filepath.Join(dir, "work"), Source: filepath.Join(dir, "source"),
	}
	for _, d := range []string{in.Out, in.Work, in.Source} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := p.place(*job.Input, in.Source); err != nil {
		return err
	}
	if in.Parts, err = p.unpack(ctx, id, filepath.Join(dir, "results")); err != nil {
		return err
	}
	summary, err := strategy.Assemble(ctx, in)
	if err != nil {
		return err
	}
	results, err := p.collect(ctx, in.Out)
	if err != nil {
		return err
	}
	job, err = p.cfg.Store.UpdateJob(ctx, id, func(j *spare.Job) error {
		j.Results, j.Summary, j.Done = results, summary, j.Chunks
		return j.Move(spare.JobComplete, time.Now())
	})
	if err != nil {
		return err
	}
	p.announce(job)
	return p.cfg.Dispatch.Post(ctx, scheduler.JobClosed{Job: id, Reason: "complete"})
}

// unpack lays every accepted result out in a folder of its own.
func (p *Pipeline) unpack(ctx context.Context, id spare.JobID, dir string) ([]assemble.Part, error) {
	var parts []assemble.Part
	for from := 0; ; {
		tasks, err := p.cfg.Store.Tasks(ctx, id, from, taskBatch)
		if err != nil {
			return nil, err
		}
		if len(tasks) == 0 {
			return parts, nil
		}
		for _, t := range tasks {
			if t.State != spare.TaskDone || t.Result == nil {
				return nil, fmt.Errorf("chunk %d is %s and has no result", t.Chunk, t.State)
			}
			part := assemble.Part{Chunk: t.Chunk, Dir: filepath.Join(dir, fmt.Sprint(t.Chunk))}
			if err := p.unpackOne(ctx, *t.Result, part.Dir); err != nil {
				return nil, fmt.Errorf("result of chunk %d: %w", t.Chunk, err)
			}
			parts = append(parts, part)
		}
		from = tasks[len(tasks)-1].Chunk + 1
	}
}

func (p *Pipeline) unpackOne(ctx context.Context, r spare.Result, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	packed := io.NopCloser(bytes.NewReader(r.Blob.Inline))
	if len(r.Blob.Inline) == 0 {
		var err error
		if packed, _, err = p.cfg.Blobs.Open(r.Blob.Digest, 0); err != nil {
			return err
		}
	}
	defer packed.Close()
	// A node may only have packed what it declared, whoever wrote the node.
	return bundle.Unpack(ctx, packed, dir, bundle.Limits{Files: max(r.Files, 1), Bytes: max(r.Bytes, 1)})
}

// collect moves the output folder's files into the blob store.
func (p *Pipeline) collect(ctx context.Context, dir string) ([]spare.File, error) {
	var files []spare.File
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("output %q is no regular file", d.Name())
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		digest, size, err := p.cfg.Blobs.PutFile(ctx, path)
		if err != nil {
			return err
		}
		files = append(files, spare.File{Name: filepath.ToSlash(name), Digest: digest, Size: size})
		return nil
	})
	return files, err
}

// explain adds what to do to errors that are the hub's, not the input's.
func explain(err error) error {
	if errors.Is(err, blob.ErrFull) {
		return fmt.Errorf("%w: the operator must free space on the hub's data volume; then run the job again", err)
	}
	return err
}
