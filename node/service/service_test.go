package service

import (
	"context"
	"errors"
	"os"
	"runtime"
	"testing"
)

func TestRun_EndsWithTheProgram(t *testing.T) {
	broken := errors.New("broken")
	if err := Run(func(context.Context) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("Run = %v, want the program's own error", err)
	}
}

func TestRun_EndsWithASignal(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // there nobody can send one
	}
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	err = Run(func(ctx context.Context) error {
		if err := self.Signal(os.Interrupt); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	})
	if err != nil {
		t.Errorf("Run = %v", err)
	}
}
