package partition

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// lines cuts text at line ends: plain text, CSV with its header on every chunk, JSON
// Lines. It reads gzip and zstd, streams, and never holds more than one buffer and the
// header in memory.
type lines struct{}

type linesConfig struct {
	Lines  int64  `json:"lines_per_chunk"`
	Chunks int64  `json:"chunks"`
	Size   int64  `json:"chunk_size"`
	Format string `json:"format"`
	Header *bool  `json:"header"`
}

const (
	defaultChunkSize = 16 << 20
	maxHeader        = 1 << 20 // bytes of a CSV header; it is repeated on every chunk
	lineBuffer       = 256 << 10
)

func (lines) ConfigSchema() []byte {
	return []byte(`{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "lines",
  "description": "Cuts text at line ends: plain text, CSV (each chunk gets the header; line ends inside quotes are no cut), JSON Lines. Input may be packed with gzip or zstd. Each input file starts a chunk of its own. Give at most one of lines_per_chunk, chunks and chunk_size.",
  "type": "object",
  "properties": {
    "lines_per_chunk": {"type": "integer", "minimum": 1, "title": "Lines per chunk", "description": "Records in each chunk, headers not counted."},
    "chunks": {"type": "integer", "minimum": 1, "maximum": 1000000, "title": "Chunks", "description": "How many chunks to make, as even in lines as can be. The input is read twice."},
    "chunk_size": {"type": "integer", "minimum": 1, "default": 16777216, "title": "Chunk size", "description": "Bytes (unpacked) after which the next line starts a new chunk."},
    "format": {"enum": ["auto", "text", "csv", "jsonl"], "default": "auto", "title": "Format", "description": "auto goes by the file's name: .csv and .tsv are csv, anything else is cut line by line."},
    "header": {"type": "boolean", "default": true, "title": "CSV header", "description": "Whether a CSV file's first record is a header."}
  },
  "additionalProperties": false
}
`)
}

func (cfg linesConfig) check() error {
	set := 0
	for _, v := range []int64{cfg.Lines, cfg.Chunks, cfg.Size} {
		if v < 0 {
			return errors.New("partition settings: lines_per_chunk, chunks and chunk_size must be positive")
		}
		if v > 0 {
			set++
		}
	}
	if set > 1 {
		return errors.New("partition settings: give only one of lines_per_chunk, chunks and chunk_size")
	}
	switch cfg.Format {
	case "", "auto", "text", "csv", "jsonl":
		return nil
	}
	return fmt.Errorf("partition settings: format %q; choose auto, text, csv or jsonl", cfg.Format)
}

func (lines) Partition(ctx context.Context, in Input, emit Emit) (json.RawMessage, error) {
	var cfg linesConfig
	if err := decode(in.Config, &cfg); err != nil {
		return nil, err
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Lines == 0 && cfg.Chunks == 0 && cfg.Size == 0 {
		cfg.Size = defaultChunkSize
	}
	if cfg.Chunks > 0 {
		total, err := countRecords(ctx, in, cfg)
		if err != nil {
			return nil, err
		}
		cfg.Lines = max(1, (total+cfg.Chunks-1)/cfg.Chunks)
	}
	cut := &lineCutter{ctx: ctx, in: in, cfg: cfg, emit: emit}
	for _, name := range in.Files {
		if err := cut.file(name); err != nil {
			cut.discard()
			return nil, err
		}
	}
	if cut.records == 0 {
		return nil, refuse("input %q holds no line: there is nothing to cut", strings.Join(in.Files, ", "))
	}
	return nil, nil
}

// csv reports whether a file of this name is read as CSV.
func (cfg linesConfig) csv(name string) bool {
	switch cfg.Format {
	case "csv":
		return true
	case "", "auto":
		name = strings.ToLower(name)
		for _, packed := range []string{".gz", ".zst"} {
			name = strings.TrimSuffix(name, packed)
		}
		return strings.HasSuffix(name, ".csv") || strings.HasSuffix(name, ".tsv")
	}
	return false
}

func (cfg linesConfig) hasHeader(name string) bool {
	return cfg.csv(name) && (cfg.Header == nil || *cfg.Header)
}

// countRecords reads everything once to know how many records there are.
func countRecords(ctx context.Context, in Input, cfg linesConfig) (int64, error) {
	var total int64
	for _, name := range in.Files {
		var n int64
		err := eachPiece(ctx, in, name, cfg.csv(name), func(_ []byte, ends bool) error {
			if ends {
				n++
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
		if cfg.hasHeader(name) && n > 0 {
			n--
		}
		total += n
	}
	return total, nil
}

// lineCutter writes records into the chunk being filled.
type lineCutter struct {
	ctx  context.Context
	in   Input
	cfg  linesConfig
	emit Emit

	n       int   // chunks begun
	records int64 // in all chunks
	header  []byte
	out     *os.File
	w       *bufio.Writer
	lines   int64 // in this chunk
	size    int64 // bytes of this chunk
}

func (c *lineCutter) file(name string) error {
	c.header = nil
	wantHeader := c.cfg.hasHeader(name)
	err := eachPiece(c.ctx, c.in, name, c.cfg.csv(name), func(piece []byte, ends bool) error {
		if wantHeader {
			if len(c.header)+len(piece) > maxHeader {
				return refuse("input %q: its CSV header is longer than %d bytes; set header to false if it has none", name, maxHeader)
			}
			c.header = append(c.header, piece...)
			wantHeader = !ends
			return nil
		}
		return c.add(piece, ends)
	})
	if err != nil {
		return err
	}
	return c.finish()
}

func (c *lineCutter) add(piece []byte, ends bool) error {
	if c.out == nil {
		if err := c.begin(); err != nil {
			return err
		}
	}
	if _, err := c.w.Write(piece); err != nil {
		return fmt.Errorf("write chunk %d: %w", c.n-1, err)
	}
	c.size += int64(len(piece))
	if !ends {
		return nil
	}
	c.lines++
	c.records++
	if (c.cfg.Lines > 0 && c.lines >= c.cfg.Lines) || (c.cfg.Size > 0 && c.size >= c.cfg.Size) {
		return c.finish()
	}
	return nil
}

func (c *lineCutter) begin() error {
	f, err := os.OpenFile(filepath.Join(c.in.Work, fmt.Sprintf("lines-%d", c.n)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("begin chunk %d: %w", c.n, err)
	}
	c.out, c.w, c.lines, c.size = f, bufio.NewWriterSize(f, lineBuffer), 0, 0
	c.n++
	if _, err := c.w.Write(c.header); err != nil {
		return fmt.Errorf("write chunk %d: %w", c.n-1, err)
	}
	return nil
}

func (c *lineCutter) finish() error {
	if c.out == nil {
		return nil
	}
	out := c.out
	c.out = nil
	if err := errors.Join(c.w.Flush(), out.Close()); err != nil {
		return fmt.Errorf("write chunk %d: %w", c.n-1, err)
	}
	return hand(c.ctx, c.emit, Chunk{Path: out.Name()})
}

// discard drops a chunk that will not be finished.
func (c *lineCutter) discard() {
	if c.out != nil {
		c.out.Close()
		os.Remove(c.out.Name())
		c.out = nil
	}
}

// eachPiece gives a text's bytes in order. ends marks the piece that closes a record; a
// record longer than the buffer comes in several pieces.
func eachPiece(ctx context.Context, in Input, name string, csv bool, piece func(b []byte, ends bool) error) error {
	src, err := in.openText(name)
	if err != nil {
		return err
	}
	defer src.Close()
	r := bufio.NewReaderSize(src, lineBuffer)
	var quoted, inside bool
	line, opened := int64(1), int64(1)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) && !errors.Is(err, io.EOF) {
			return textFault(name, err)
		}
		eof := errors.Is(err, io.EOF)
		if len(b) > 0 {
			if csv && bytes.Count(b, []byte{'"'})%2 == 1 {
				if !quoted {
					opened = line
				}
				quoted = !quoted
			}
			newline := b[len(b)-1] == '\n'
			inside = !newline || quoted
			if err := piece(b, !inside || (eof && !quoted)); err != nil {
				return err
			}
			if newline {
				line++
			}
		}
		if !eof {
			continue
		}
		if len(b) == 0 && inside && !quoted {
			if err := piece(nil, true); err != nil { // the buffer ended where the file does
				return err
			}
		}
		if quoted {
			return refuse("input %q: the quote in line %d is never closed; mend it, or set format to text", name, opened)
		}
		return nil
	}
}
