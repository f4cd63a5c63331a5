package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"os"
	"runtime"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/spare-compute/spare/protocol/pb"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestReadFrame_ChecksTheLengthBeforeItAllocates(t *testing.T) {
	for _, declared := range []uint32{MaxFrame + 1, 1 << 30, 1<<32 - 1} {
		header := binary.BigEndian.AppendUint32(nil, declared)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ReadFrame(bytes.NewReader(header), 1<<40)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrFrameTooLarge) {
			t.Fatalf("%d bytes declared: %v, want ErrFrameTooLarge", declared, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 64<<10 {
			t.Fatalf("%d bytes declared: %d were allocated", declared, got)
		}
	}
}

func TestReadFrame_TellsAnEndFromACut(t *testing.T) {
	var whole bytes.Buffer
	if err := WriteFrame(&whole, &pb.Frame{Body: &pb.Frame_Drain{Drain: &pb.Drain{Reason: "r"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFrame(bytes.NewReader(nil), MaxFrame); !errors.Is(err, io.EOF) {
		t.Fatalf("at the end: %v, want io.EOF", err)
	}
	for n := 1; n < whole.Len(); n++ {
		if _, err := ReadFrame(bytes.NewReader(whole.Bytes()[:n]), MaxFrame); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut after %d bytes: %v, want io.ErrUnexpectedEOF", n, err)
		}
	}
}

func TestReadFrame_TakesNothingThatFollows(t *testing.T) {
	var b bytes.Buffer
	if err := WriteFrame(&b, &pb.Frame{Body: &pb.Frame_BlobAnswer{BlobAnswer: &pb.BlobAnswer{Size: 4}}}); err != nil {
		t.Fatal(err)
	}
	b.WriteString("rest")
	if _, err := ReadFrame(&b, MaxFrame); err != nil {
		t.Fatal(err)
	}
	if b.String() != "rest" {
		t.Fatalf("%q is left, want the bytes that followed", b.String())
	}
}

func TestReadFrame_UnknownMessageHasNoBody(t *testing.T) {
	// Field 1000 of Frame, a message: what a later release may send.
	b := append(binary.BigEndian.AppendUint32(nil, 3), 0xc2, 0x3e, 0)
	f, err := ReadFrame(bytes.NewReader(b), MaxFrame)
	if err != nil || f.GetBody() != nil {
		t.Fatalf("got %v, %v, want a frame without a body", f, err)
	}
}

// v1Session is one message of each kind, as release 1 of the protocol sends them.
func v1Session() []*pb.Frame {
	digest := "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	fraction := 0.5
	return []*pb.Frame{
		{Body: &pb.Frame_Hello{Hello: &pb.Hello{
			MinVersion: 1, MaxVersion: 1, Features: []string{"f"}, Software: "0.1.0", EnrolmentToken: []byte("token"),
			Device: []byte(`{}`), Attempts: []string{"job.0.1"}, Instance: []byte("instance"),
		}}},
		{Body: &pb.Frame_Welcome{Welcome: &pb.Welcome{
			Version: 1, HubName: "hub", Pool: "trusted", HeartbeatBusyMs: 2000, HeartbeatIdleMs: 20000, LeaseMs: 8000, Drop: []string{"job.0.1"},
		}}},
		{Body: &pb.Frame_DeviceUpdate{DeviceUpdate: &pb.DeviceUpdate{Device: []byte(`{}`)}}},
		{Body: &pb.Frame_Want{Want: &pb.Want{Run: 2, Prefetch: 1}}},
		{Body: &pb.Frame_Grant{Grant: &pb.Grant{Leases: []*pb.Lease{{
			Attempt: "job.1.1", Chunk: 1, ExpiresMs: 8000, Params: []byte(`{}`), TimeoutS: 60, JobName: "j", Owner: "o", MemoryBytes: 1 << 30, Cores: 1,
			App:   &pb.App{Name: "a", Version: "1.0", Revision: 1, Entrypoint: "main.py", Platform: "python", PlatformConfig: []byte(`{}`), Bundle: &pb.Blob{Digest: digest, Size: 4}, Root: "."},
			Input: &pb.Blob{Digest: digest, Size: 4, Inline: []byte("test"), Name: "input"},
		}}}}},
		{Body: &pb.Frame_Heartbeat{Heartbeat: &pb.Heartbeat{
			Sequence: 1, Attempts: []string{"job.1.1"}, Progress: []*pb.Progress{{Attempt: "job.1.1", Fraction: &fraction, WallMs: 10}}, State: "working", ReasonCode: "working",
		}}},
		{Body: &pb.Frame_HeartbeatAck{HeartbeatAck: &pb.HeartbeatAck{Sequence: 1}}},
		{Body: &pb.Frame_Report{Report: &pb.Report{Ended: []*pb.Ended{{
			Attempt: "job.1.1", Outcome: pb.Outcome_OUTCOME_SUCCEEDED, ExitCode: -1, Message: "m", Log: []byte("l"), Result: &pb.Blob{Digest: digest, Size: 4},
			Content: digest, Files: 1, Bytes: 4, WallMs: 1, CpuMs: 2, PeakMemory: 3, Written: 4,
		}}}}},
		{Body: &pb.Frame_Accepted{Accepted: &pb.Accepted{Verdicts: []*pb.Verdict{{Attempt: "job.1.1", Taken: true, Reason: "r"}}}}},
		{Body: &pb.Frame_Cancel{Cancel: &pb.Cancel{Attempts: []string{"job.1.1"}, Reason: "r"}}},
		{Body: &pb.Frame_Suggest{Suggest: &pb.Suggest{Preferences: []byte(`{}`)}}},
		{Body: &pb.Frame_Drain{Drain: &pb.Drain{Reason: "r"}}},
		{Body: &pb.Frame_RetryAfter{RetryAfter: &pb.RetryAfter{DelayMs: 1000, Reason: "r"}}},
		{Body: &pb.Frame_Goodbye{Goodbye: &pb.Goodbye{Code: "shutdown", Reason: "r", Retry: true}}},
		{Body: &pb.Frame_BlobGet{BlobGet: &pb.BlobGet{Digest: digest, Offset: 2}}},
		{Body: &pb.Frame_BlobPut{BlobPut: &pb.BlobPut{Digest: digest, Size: 4}}},
		{Body: &pb.Frame_BlobAnswer{BlobAnswer: &pb.BlobAnswer{Size: 4, Offset: 2, ErrorCode: "full", Error: "e"}}},
		{Body: &pb.Frame_BlobDone{BlobDone: &pb.BlobDone{ErrorCode: "mismatch", Error: "e"}}},
	}
}

// What release 1 of the protocol wrote must be understood for good, so the file is
// written anew only while that release is in the making.
func TestWire_V1IsUnderstood(t *testing.T) {
	const golden = "testdata/session-v1.golden"
	if *update {
		var b bytes.Buffer
		for _, f := range v1Session() {
			if err := WriteFrame(&b, f); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.Open(golden)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for i, want := range v1Session() {
		got, err := ReadFrame(file, MaxFrame)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if !proto.Equal(got, want) {
			t.Fatalf("message %d: got %v, want %v", i, got, want)
		}
	}
	if _, err := ReadFrame(file, MaxFrame); !errors.Is(err, io.EOF) {
		t.Fatalf("after the last message: %v", err)
	}
}
